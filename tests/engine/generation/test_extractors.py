"""A command that the configuration names reads the files of its suffix; what goes wrong with it is named."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from lora_tui.config.command_consent import allow_commands, command_question
from lora_tui.config.generation import DataGeneration
from lora_tui.config.load import load_settings
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.extraction.blocks import UnusableFile
from lora_tui.engine.generation.extraction.command import command_text
from lora_tui.errors import ConfigError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from tests.engine.generation.whole_folder import read_folder


def script(folder: Path, body: str) -> str:
    """A command: Python with this body, `name` being the file that it is given."""
    path = folder / "reader.py"
    path.write_text(f"import os, sys, time\nname = sys.argv[-1]\n{body}\n")
    return f"{sys.executable} {path}"


def test_its_output_is_the_text_and_the_file_comes_where_the_command_says(tmp_path: Path) -> None:
    file = tmp_path / "-rf a'b.rtf"
    file.write_bytes(b"{\\rtf1 Bees.}")
    command = script(tmp_path, "print('# Bees\\n\\n' + open(name).read()[7:-1])")
    assert command_text(command, file) == "# Bees\n\nBees.\n"
    assert command_text(f"{sys.executable} -c 'import sys; print(sys.argv[1:])' --in={{file}} --out", file) == (
        f"{[f'--in={file}', '--out']}\n"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('bad bytes', file=sys.stderr); sys.exit(3)", "ended with status 3: bad bytes"),
        ("time.sleep(60)", "took longer than 1 s"),
        ("sys.stdout.buffer.write(bytes(500))", "it is binary"),
    ],
)
def test_what_goes_wrong_is_named(tmp_path: Path, body: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnusableFile, match=reason):
        command_text(script(tmp_path, body), tmp_path / "a.rtf", deadline=1.0)
    assert time.monotonic() - began < 20
    with pytest.raises(UnusableFile, match="nosuchprogram cannot be started"):
        command_text("nosuchprogram {file}", tmp_path / "a.rtf")


def test_what_it_leaves_running_ends_with_it(tmp_path: Path) -> None:
    body = "import subprocess\nprint(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"
    left = int(command_text(script(tmp_path, body), tmp_path / "a.rtf"))
    for _ in range(100):
        try:
            if Path(f"/proc/{left}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail("it runs on")


def test_it_is_given_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghijklmnop1234")
    monkeypatch.setenv("MY_THING", "sk-abcdefghijklmnop1234")
    monkeypatch.setenv("MY_PASSWORD", "rosebud")
    said = command_text(script(tmp_path, "print(sorted(os.environ))"), tmp_path / "a.rtf")
    assert "PATH" in said
    assert not [name for name in ("OPENAI_API_KEY", "MY_THING", "MY_PASSWORD") if name in said]


def read(folder: Path, **values: object) -> Corpus:
    async def story() -> Corpus:
        async with await Store.open(folder.parent / "store.db") as store:
            run_id = await runs.create(store, "generate", {}, {})
            chosen = DataGeneration(input_folder=str(folder), **values)  # type: ignore[arg-type]
            return await read_folder(store, run_id, chosen, lambda _: None, lambda done, total: None)

    return asyncio.run(story())


def test_a_folder_is_read_with_it_and_a_file_that_is_known_is_not_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "a.rtf").write_text("Bees dance.")
    (folder / "b.xyz").write_text("Nothing.")
    command = script(tmp_path, "open(name + '.log', 'a').write('x')\nprint('## Dance\\n\\n' + open(name).read())")
    found = read(folder, extractors={"rtf": command})
    assert [source.path for source in found.sources] == ["a.rtf"]
    assert found.topics == ("a", "Dance")
    assert "data_generation.extractors" in dict(found.skipped)["b.xyz"]
    again = read(folder, extractors={"rtf": command})
    assert again.sources == found.sources
    assert again.topics == found.topics
    assert (folder / "a.rtf.log").read_text() == "x"
    other = read(folder, extractors={".RTF": f"{command} --other"})
    assert other.sources[0].document_id != found.sources[0].document_id
    assert (folder / "a.rtf.log").read_text() == "xx"


def test_a_command_of_a_file_is_asked_about_once_and_one_that_was_typed_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "own"))
    Path("config.toml").write_text('[data_generation.extractors]\nrtf = "unrtf {file}"\n')

    def question(*overrides: str) -> object:
        found = load_settings(None, overrides, environment={})
        return command_question(found.settings.data_generation, found.commands_named_in)

    assert question('data_generation.extractors.rtf="mine {file}"') is None
    asked = question('data_generation.extractors.doc="mine {file}"')
    assert asked is not None, "the file's own command is still to be run"
    asked = question()
    assert asked is not None
    assert "rtf: unrtf {file}" in asked.text  # type: ignore[attr-defined]
    assert len(asked.refusal.splitlines()) == 2  # type: ignore[attr-defined]
    allow_commands(asked)  # type: ignore[arg-type]
    assert question() is None
    Path("config.toml").write_text('[data_generation.extractors]\nrtf = "rm {file}"\n')
    assert question() is not None


@pytest.mark.parametrize("line", ["'r f' = 'x'", "rtf = ''", "rtf = 'a \"b'", "rtf = 1"])
def test_an_impossible_command_is_refused_by_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "c.toml").write_text(f"[data_generation.extractors]\n{line}\n")
    with pytest.raises(ConfigError, match=r"data_generation\.extractors"):
        load_settings(tmp_path / "c.toml", environment=dict(os.environ))
