from pathlib import Path

import pytest


@pytest.fixture
def read_only_folder(folder_of_nobody: Path) -> Path:
    """A folder that cannot be written to, not even by tests that run as root."""
    (folder_of_nobody / "raw.txt").write_text("What is LoRA? A method.\n")
    (folder_of_nobody / "unreadable.txt").write_text("Question: q\nAnswer: a\n")
    (folder_of_nobody / "unreadable.txt").chmod(0)
    folder_of_nobody.chmod(0o555)
    return folder_of_nobody
