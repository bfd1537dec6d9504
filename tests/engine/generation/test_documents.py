"""Every file of a folder is read or named with the reason why not; none of them is fatal."""

import hashlib
import os
from pathlib import Path

import pytest

from lora_tui.engine.generation import documents
from lora_tui.engine.generation.documents import UnusableFile, list_files, read_document
from lora_tui.engine.generation.encodings import decode
from lora_tui.errors import LoraTuiError, UsageError
from tests.extras import needed


def skipped(folder: Path) -> dict[str, str | None]:
    return {candidate.name: candidate.skipped for candidate in list_files(folder)}


def test_text_files_are_found_recursively_and_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.txt", "B.TXT", "c.markdown"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    found = list_files(tmp_path)
    assert [candidate.name for candidate in found] == ["B.TXT", "a/b/c.txt", "a/z.md", "b.txt", "c.markdown"]
    assert not any(candidate.skipped for candidate in found)


def test_what_is_not_used_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config.txt").write_text("x")
    (folder / ".hidden.txt").write_text("x")
    (folder / "empty.txt").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "good.txt").write_text("good")
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "leaves.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "inner.txt").symlink_to(folder / "good.txt")
    (folder / "folder.link").symlink_to(tmp_path)
    (folder / "dangling.txt").symlink_to(folder / "nowhere.txt")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    os.mkfifo(folder / "pipe.txt")
    reasons = skipped(folder)
    assert reasons.pop("good.txt") is None
    assert "hidden" in (reasons.pop(".git") or "")
    assert "hidden" in (reasons.pop(".hidden.txt") or "")
    assert "empty" in (reasons.pop("empty.txt") or "")
    assert ".txt, .md" in (reasons.pop("picture.png") or "")
    assert "leaves the folder" in (reasons.pop("leaves.txt") or "")
    assert "good.txt" in (reasons.pop("inner.txt") or "")
    assert "link" in (reasons.pop("folder.link") or "")
    assert "cannot be read" in (reasons.pop("dangling.txt") or "")
    assert "cannot be read" in (reasons.pop("loop.txt") or "")
    assert "pipe" in (reasons.pop("pipe.txt") or "")
    assert not reasons


def test_the_output_of_an_earlier_run_is_not_read(tmp_path: Path) -> None:
    kept = [f"accepted{part}.txt" for part in ("", ".1", ".run-2", ".runs-1-2")]
    for name in kept:
        (tmp_path / name).write_text("Question: x\nAnswer: y")
    for name in ("notes.txt", "accepted.final.txt"):
        (tmp_path / name).write_text("notes")
    reasons = {one.name: one.skipped for one in list_files(tmp_path, tmp_path / "." / "accepted.txt")}
    own = dict.fromkeys(kept, "the output of generation itself")
    assert reasons == {**own, "accepted.final.txt": None, "notes.txt": None}


def test_a_huge_file_is_skipped_with_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(documents.MAX_BYTES + 1)
    assert "20 MB" in (skipped(tmp_path)["huge.txt"] or "")
    with pytest.raises(UnusableFile, match="20 MB"):  # it may have grown since it was found
        read_document(path)


def test_an_unreadable_file_is_skipped(folder_of_nobody: Path) -> None:
    path = folder_of_nobody / "locked.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(UnusableFile, match="Permission"):
        read_document(path)


def test_a_vanished_file_is_unusable_not_fatal(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="No such file"):
        read_document(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("naïve".encode(), "naïve", "utf-8"),
        ("naïve".encode("utf-8-sig"), "naïve", "utf-8-sig"),
        ("naïve 東京".encode("utf-16"), "naïve 東京", "utf-16"),
        (b"\xfe\xff" + "naïve".encode("utf-16-be"), "naïve", "utf-16"),
        ("naïve".encode("utf-32"), "naïve", "utf-32"),
    ],
)
def test_encodings_with_a_mark_and_utf8_are_certain(data: bytes, text: str, encoding: str) -> None:
    assert decode(data) == (text, encoding, None)


@pytest.mark.parametrize("shown", ["ein Müller, eine Größe", "The “Gull” is the harbour’s tug – 40 € a day"])
def test_other_bytes_are_read_as_windows_1252_with_a_doubt(shown: str) -> None:
    text, encoding, doubt = decode(shown.encode("windows-1252"))
    assert (text, encoding) == (shown, "windows-1252")
    assert doubt is not None
    assert "Windows-1252" in doubt


def test_utf8_with_a_few_damaged_bytes_stays_utf8() -> None:
    text, encoding, doubt = decode("Größe, Müller, naïve: ".encode() + b"\x93quoted\x94")
    assert (text, encoding) == ("Größe, Müller, naïve: “quoted”", "utf-8")
    assert doubt is not None
    assert "2 of its bytes" in doubt
    assert decode("naïve Größe, cut off in an ö".encode()[:-1])[0].startswith("naïve Größe")


def test_no_control_character_comes_of_a_guess() -> None:
    text, _, _ = decode(bytes(range(0x20, 0x100)))
    assert not any(0x80 <= ord(character) < 0xA0 for character in text)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_read_with_a_doubt(encoding: str) -> None:
    text, found, doubt = decode("The keeper’s dog.".encode(encoding))
    assert (text, found) == ("The keeper’s dog.", encoding)
    assert doubt is not None


def test_utf16_whose_last_byte_is_missing_is_read_with_a_doubt() -> None:
    text, _, doubt = decode(("The keeper has a dog. " * 20).encode("utf-16")[:-1])
    assert text.startswith("The keeper has a dog.")
    assert doubt is not None


def test_signs_of_windows_that_were_saved_as_controls_are_signs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\x93quoted\x94 \x96 5 \x80\x81", encoding="utf-8")
    assert read_document(tmp_path / "a.txt").text == "“quoted” – 5 €\N{REPLACEMENT CHARACTER}"


def test_soft_hyphens_and_their_kin_are_no_part_of_a_text_and_change_its_identity(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The light\u00adhouse\u200b keeper.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("The lighthouse keeper.", encoding="utf-8")
    assert read_document(tmp_path / "a.txt").text == "The lighthouse keeper."
    plain = read_document(tmp_path / "b.txt")
    assert plain.id == hashlib.sha256(b"The lighthouse keeper.").hexdigest()  # as in stores of before
    assert read_document(tmp_path / "a.txt").id != hashlib.sha256((tmp_path / "a.txt").read_bytes()).hexdigest()


@pytest.mark.parametrize("data", [b"a\0b", bytes(range(256)), b"\x7fELF\x01\x02\x03\xff" * 20, b"\xff\xfea"])
def test_binary_data_is_no_text(data: bytes) -> None:
    with pytest.raises(UnusableFile):
        decode(data)


def test_white_space_alone_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(UnusableFile, match="no text"):
        read_document(tmp_path / "blank.txt")


def test_the_same_bytes_have_the_same_id(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same")
    assert read_document(tmp_path / "a.txt").id == read_document(tmp_path / "b.txt").id


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere does not exist.\n.*--set data_generation.input_folder"):
        list_files(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        list_files(tmp_path / "file.txt")


def test_an_empty_folder_is_an_error_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(LoraTuiError, match="is empty") as raised:
        list_files(tmp_path)
    assert raised.value.exit_status == 1


def test_without_the_extra_the_command_that_adds_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paper.pdf").write_bytes(b"%PDF")
    monkeypatch.setattr(documents, "EXTRA", {".pdf": "no_such_module"})
    assert 'pip install "lora-tui[docs]"' in (skipped(tmp_path)["paper.pdf"] or "")


def test_docx_becomes_markdown(tmp_path: Path) -> None:
    docx = needed("docx")
    document = docx.Document()
    document.add_heading("Bees", 2)
    document.add_paragraph("Bees dance.")
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    document.save(str(tmp_path / "d.docx"))
    assert read_document(tmp_path / "d.docx").text == "## Bees\n\nBees dance.\n\nleft | right"


@pytest.mark.parametrize(("suffix", "module"), [(".pdf", "pypdfium2"), (".docx", "docx")])
def test_a_damaged_file_is_named_not_fatal(tmp_path: Path, suffix: str, module: str) -> None:
    needed(module)
    (tmp_path / f"broken{suffix}").write_bytes(b"%PDF-1.4 nonsense \xff\x00")
    with pytest.raises(UnusableFile, match="damaged"):
        read_document(tmp_path / f"broken{suffix}")
