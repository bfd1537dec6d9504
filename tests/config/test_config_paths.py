"""The user's folders follow the platform or the environment, and are made private only when asked for."""

import stat
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from lora_tui.config.paths import cache_folder, config_folder, log_folder, private_folder

FOLDERS = [
    (config_folder, "LORA_TUI_CONFIG", platformdirs.user_config_path),
    (cache_folder, "LORA_TUI_CACHE", platformdirs.user_cache_path),
    (log_folder, "LORA_TUI_LOGS", platformdirs.user_log_path),
]


@pytest.mark.parametrize(("folder_of", "variable", "platform"), FOLDERS)
def test_folder_is_the_platforms_unless_the_environment_names_one(
    folder_of: Callable[[], Path],
    variable: str,
    platform: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert folder_of() == platform("lora-tui", appauthor=False)
    monkeypatch.setenv(variable, "")
    assert folder_of() == platform("lora-tui", appauthor=False)
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert folder_of() == tmp_path / "named"
    assert not folder_of().exists()
    monkeypatch.setenv(variable, "~/named")
    assert folder_of() == Path.home() / "named"
    monkeypatch.setenv(variable, "relative")
    assert folder_of() == Path.cwd() / "relative"


def test_private_folder_is_for_the_user_alone_and_keeps_one_that_is_there(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    assert private_folder(made) == made
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
