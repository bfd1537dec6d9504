"""A folder becomes stored passages; what is skipped is told."""

import asyncio
from pathlib import Path

import pytest

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.corpus import Corpus, title_of
from lora_tui.errors import LoraTuiError
from lora_tui.store import generation as store_generation
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import source_lines
from tests.engine.generation.whole_folder import read_folder


def read(folder: Path, warnings: list[str] | None = None, sent_to: str | None = None, size: int = 40) -> Corpus:
    async def story() -> Corpus:
        async with await Store.open(folder.parent / "store.db") as store:
            run_id = await runs.create(store, "generate", {}, {})
            told = warnings if warnings is not None else []
            chosen = DataGeneration(input_folder=str(folder), chunk_tokens=size, chunk_overlap=8)
            return await read_folder(store, run_id, chosen, told.append, lambda done, total: None, sent_to)

    return asyncio.run(story())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "bees.md").write_text("# Dance\n\n" + "Bees dance in the hive. " * 20 + "\n\n# Wings\n\nFour of them.")
    (folder / "how-ants_walk.txt").write_text("Ants walk in lines.")
    return folder


def test_passages_are_stored_with_their_exact_places(folder: Path) -> None:
    corpus = read(folder)
    assert [source.path for source in corpus.sources] == ["bees.md", "how-ants_walk.txt"]

    async def story() -> None:
        async with await Store.open(folder.parent / "store.db") as store:
            text = (folder / "bees.md").read_text()
            source = corpus.sources[0]
            assert source.chunks > 3
            for position in range(source.chunks):
                row = await store_generation.chunk_at(store, source.document_id, corpus.chunking, position)
                assert row is not None
                assert row.text == text[row.first_character : row.last_character]
            assert await store_generation.chunk_at(store, source.document_id, corpus.chunking, source.chunks) is None
            assert [file.chunks for file in await source_lines(store, 1)] == [source.chunks, 1]

    asyncio.run(story())


def test_topics_are_names_and_headings(folder: Path) -> None:
    assert read(folder).topics == ("bees", "Dance", "Wings", "how ants walk")
    assert title_of("deep/how-ants_walk.txt") == "how ants walk"


def test_another_size_cuts_the_same_document_anew(folder: Path) -> None:
    one, two = read(folder), read(folder, size=20)
    assert one.chunking != two.chunking
    assert one.sources[0].document_id == two.sources[0].document_id
    assert two.sources[0].chunks > one.sources[0].chunks
    assert read(folder).sources == one.sources


def test_what_is_skipped_is_told_and_stored(folder: Path) -> None:
    (folder / "copy.txt").write_text("Ants walk in lines.")
    (folder / "binary.txt").write_bytes(b"\0\1\2")
    (folder / "latin.txt").write_bytes("Größe".encode("latin-1"))
    warnings: list[str] = []
    corpus = read(folder, warnings)
    assert ("binary.txt", "it is binary") in corpus.skipped
    assert ("how-ants_walk.txt", "the same content as copy.txt") in corpus.skipped
    assert "binary.txt is skipped: it is binary." in warnings
    assert any(warning.startswith("latin.txt: byte 3 is not UTF-8") for warning in warnings)


def test_many_skipped_files_are_not_all_told(folder: Path) -> None:
    for number in range(30):
        (folder / f"{number}.png").touch()
    warnings: list[str] = []
    assert len(read(folder, warnings).skipped) == 30
    assert len(warnings) == 13
    assert warnings[-1] == "18 more files are skipped; the store lists them all."


def test_a_folder_without_a_usable_file_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "a.png").touch()
    (folder / "b.txt").write_bytes(b"\0")
    with pytest.raises(
        LoraTuiError, match=r"no file in .* can be used \(a\.png: not a kind of file.*; 1 more\)"
    ) as raised:
        read(folder)
    assert raised.value.exit_status == 1
    assert len(str(raised.value).splitlines()) == 2


def test_secrets_are_warned_of_where_the_text_leaves_this_machine(folder: Path) -> None:
    (folder / "notes.txt").write_text("key: sk-abcdefghijklmnop1234")
    warnings: list[str] = []
    read(folder, warnings)
    assert warnings == []
    read(folder, warnings, "https://api.example.org")
    assert warnings == ["notes.txt seems to hold an OpenAI-style key; its text is sent to https://api.example.org."]


def test_a_hostile_name_cannot_act_on_the_terminal(folder: Path) -> None:
    (folder / "\x1b[2Jevil.png").touch()
    warnings: list[str] = []
    read(folder, warnings)
    assert "\x1b" not in "".join(warnings)
