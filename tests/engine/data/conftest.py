import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that cannot be written to, not even by tests that run as root: they become nobody for a while."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    (folder / "raw.txt").write_text("What is LoRA? A method.\n")
    (folder / "unreadable.txt").write_text("Question: q\nAnswer: a\n")
    (folder / "unreadable.txt").chmod(0)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)
