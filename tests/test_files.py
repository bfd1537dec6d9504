"""Files and folders appear whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lora_tui.errors import LoraTuiError
from lora_tui.files import atomic_folder, atomic_writer, write_atomically


@pytest.fixture
def read_only_folder(folder_of_nobody: Path) -> Path:
    """A folder that cannot be written to, not even by tests that run as root."""
    (folder_of_nobody / "raw.txt").write_text("What is LoRA? A method.\n")
    folder_of_nobody.chmod(0o555)
    return folder_of_nobody


def only_entry(folder: Path, name: str) -> bool:
    return [entry.name for entry in folder.iterdir()] == [name]


def test_text_is_written_as_utf8_with_its_line_ends_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "ä\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "ä\r\nb\n".encode()
    assert only_entry(tmp_path, "a.txt")


def test_bytes_replace_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a much longer older content")
    write_atomically(tmp_path / "a.bin", b"\x00\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"


def test_missing_parent_folders_are_created(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_a_new_file_is_private_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "a.txt", "x")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


_KILLED = """
import os, signal, sys
from pathlib import Path
from lora_tui.files import atomic_folder, atomic_writer
with atomic_writer(Path(sys.argv[1], "a.txt")) as file, atomic_folder(Path(sys.argv[1], "folder")) as folder:
    file.write("half")
    (folder / "b.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_cleared_by_the_next_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False, cwd=Path(__file__).parents[1])
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_writer(tmp_path / "b.txt") as living, atomic_folder(tmp_path / "other") as folder:
        write_atomically(tmp_path / "c.txt", "x")
        living.write("whole")
        (folder / "d.txt").write_text("y")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.txt", "c.txt", "other"]
    assert (tmp_path / "b.txt").read_text() == "whole"
    assert (tmp_path / "other" / "d.txt").read_text() == "y"


def test_an_older_file_keeps_its_mode_and_a_given_mode_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o604)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    write_atomically(path, "newer", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_is_never_readable_by_others_while_it_is_written(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "key", mode=0o600) as file:
        file.write("s3cret")
        (temporary,) = tmp_path.iterdir()
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "config.toml"
    target.parent.mkdir()
    target.write_text("old")
    link = tmp_path / "config.toml"
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


def test_the_old_content_is_there_until_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_writer(path) as file:
        file.write("new ")
        file.write(b"and more")
        assert path.read_text() == "old"
    assert path.read_text() == "new and more"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError, OSError])
def test_an_exception_in_the_block_leaves_the_old_content_and_goes_through_unchanged(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_writer(path) as file:
            file.write("half")
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert path.read_text() == "old"
    assert only_entry(tmp_path, "a.txt")


def test_discarded_content_is_thrown_away(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "a.txt") as file:
        file.write("x")
        file.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraTuiError, match=f"cannot write {tmp_path}: it is a folder; name a file in it"):
        write_atomically(tmp_path, "x")


def test_a_device_is_refused_and_not_replaced() -> None:
    with pytest.raises(LoraTuiError, match="cannot write /dev/null: it is a device or a pipe"):
        write_atomically(Path("/dev/null"), "x")
    assert not Path("/dev/null").is_file()


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LoraTuiError, match=r"cannot write .*/file/a\.txt: "):
        write_atomically(tmp_path / "file" / "a.txt", "x")


def test_a_read_only_folder_is_an_error_that_says_what_to_do(read_only_folder: Path) -> None:
    with pytest.raises(LoraTuiError) as caught:
        write_atomically(read_only_folder / "a.txt", "x")
    message = f"cannot write {read_only_folder}/a.txt: Permission denied; choose another place or change the folder's"
    assert str(caught.value) == f"{message} permissions"


def test_a_folder_that_cannot_be_created_is_an_error(read_only_folder: Path) -> None:
    with pytest.raises(LoraTuiError, match=r"/new/a\.txt: Permission denied"):
        write_atomically(read_only_folder / "new" / "a.txt", "x")


@pytest.mark.skipif(
    not Path("/dev/full").exists() and not os.environ.get("CI"), reason="the device that is always full is Linux'"
)
def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    really_open = os.open

    def open_full(name: str | Path, flags: int, mode: int = 0o777) -> int:
        os.close(really_open(name, flags, mode))
        return really_open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr("lora_tui.files.os.open", open_full)
    with pytest.raises(LoraTuiError, match="No space left on device; free some space and run again"):
        write_atomically(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert only_entry(tmp_path, "a.txt")


def test_a_failed_sync_is_an_error_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("lora_tui.files.os.fsync", fail)
    with pytest.raises(LoraTuiError, match="Input/output error"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert only_entry(tmp_path, "a.txt")


def test_file_and_folder_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr("lora_tui.files.os.fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    write_atomically(tmp_path / "a.txt", "x")
    assert synced == [False, True]


def test_half_a_surrogate_pair_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(LoraTuiError, match="half of a surrogate pair"):
        write_atomically(tmp_path / "a.txt", "broken \ud83d")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "above" / "model"
    with atomic_folder(target) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "weights").write_text("1")
        assert not target.exists()
    assert (target / "inner" / "weights").read_text() == "1"
    assert only_entry(target.parent, "model")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_fails_leaves_the_old_one_and_no_rubbish(tmp_path: Path, failure: BaseException) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()

    def fill() -> None:
        with atomic_folder(tmp_path / "model", replace=True) as scratch:
            (scratch / "new").touch()
            raise failure

    with pytest.raises(type(failure)):
        fill()
    assert only_entry(tmp_path, "model")
    assert only_entry(tmp_path / "model", "old")


def test_a_folder_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "model") as scratch:
        (scratch / "new").touch()
    assert only_entry(tmp_path / "model", "old")
    with atomic_folder(tmp_path / "model", replace=True) as scratch:
        (scratch / "new").touch()
    assert only_entry(tmp_path, "model")
    assert only_entry(tmp_path / "model", "new")


def test_what_a_killed_process_left_of_the_same_folder_is_removed(tmp_path: Path) -> None:
    for name in (".model [1].4711.tmp", ".model 1.4711.tmp"):
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "model [1]"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".model 1.4711.tmp", "model [1]"]


def test_a_folder_and_all_in_it_are_forced_to_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("lora_tui.files.os.fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with atomic_folder(tmp_path / "model") as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "weights").touch()
        inside = [scratch / "inner", scratch / "inner" / "weights", scratch]
        numbers = [path.stat().st_ino for path in inside]
    assert synced == [*numbers, tmp_path.stat().st_ino]
