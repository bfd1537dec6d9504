"""Saving keeps what people wrote: comments, order, blank lines, quotes and numbers of every key that did not change."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.edit import edit_text, same_toml
from lora_tui.config.load import load_settings, with_values
from lora_tui.config.models import Settings
from lora_tui.config.reference import reference_text
from lora_tui.config.save import save_keys
from lora_tui.errors import ConfigError

WRITTEN = """\
# My settings.

[fine_tuning]            # the model
model_name = 'my model'  # literal quotes
device = "cpu"

[fine_tuning.lora]
# small on purpose
r = 0x08        # hexadecimal
alpha=16

# What follows is about data.
[data_generation]
budget_tokens = 1_000_000
topics = [   # two
    "bees",  # they dance
    # and also
    'wasps',
]

[fine_tuning.optimizer]
lora_lr = 2.0e-4
  beta1   =  0.90
"""


def saved(folder: Path, content: str | bytes, changes: dict[str, Any]) -> str:
    """Save `changes` to a file of this content and return what it holds then; its style must have been kept."""
    path = folder / "config.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = load_settings(path, environment={}).settings
    outcome = save_keys(path, changes)
    assert outcome.path == path.resolve()
    assert outcome.kept_style
    expected = with_values(before, {name: value for name, value in changes.items() if value is not None})
    after = load_settings(path, environment={}).settings
    if None not in changes.values():
        assert after == expected
    return path.read_bytes().decode()


def test_every_other_line_stays_to_the_character(folder: Path) -> None:
    text = saved(folder, WRITTEN, {"fine_tuning.lora.r": 4, "fine_tuning.optimizer.lora_lr": 5e-4})
    assert text == WRITTEN.replace("0x08", "4").replace("2.0e-4", "5e-4")


def test_new_key_goes_where_its_section_ends_and_not_below_the_comment_of_the_next(folder: Path) -> None:
    text = saved(folder, WRITTEN, {"fine_tuning.lora.dropout": 0.1})
    assert text == WRITTEN.replace("alpha=16\n", "alpha=16\ndropout = 0.1\n")


def test_new_section_goes_below_its_neighbour(folder: Path) -> None:
    text = saved(folder, WRITTEN, {"fine_tuning.scheduler.type": "linear"})
    assert text == WRITTEN + '\n[fine_tuning.scheduler]\ntype = "linear"\n'
    text = saved(folder, WRITTEN, {"data_generation.generation.top_p": 0.5})
    assert text == WRITTEN.replace(
        "    'wasps',\n]\n", "    'wasps',\n]\n\n[data_generation.generation]\ntop_p = 0.5\n"
    )
    text = saved(folder, WRITTEN, {"logging.level": "DEBUG"})
    assert text == WRITTEN + '\n[logging]\nlevel = "DEBUG"\n'


def test_removed_key_takes_its_line_and_nobodys_comment(folder: Path) -> None:
    text = saved(folder, WRITTEN, {"fine_tuning.lora.r": None, "fine_tuning.device": None})
    assert text == WRITTEN.replace("r = 0x08        # hexadecimal\n", "").replace('device = "cpu"\n', "")


def test_removed_key_takes_our_own_description_with_it(folder: Path) -> None:
    text = saved(folder, reference_text(), {"fine_tuning.lora.r": None})
    gone = "# Rank of the two matrices: how much can be learned, and what it costs.\nr = 16\n"
    assert gone in reference_text()
    assert text == reference_text().replace(gone, "")


def test_removing_a_key_that_is_not_there_changes_nothing(folder: Path) -> None:
    assert saved(folder, WRITTEN, {"logging.level": None, "fine_tuning.lora.dropout": None}) == WRITTEN


def test_setting_a_key_to_what_it_is_changes_nothing(folder: Path) -> None:
    assert saved(folder, WRITTEN, {"fine_tuning.lora.r": 8, "data_generation.topics": ["bees", "wasps"]}) == WRITTEN


@pytest.mark.parametrize(
    ("topics", "lines"),
    [
        (["bees", "wasps", "ants"], ['    "bees",  # they dance', "    # and also", "    'wasps',", '    "ants",']),
        (["bees"], ['    "bees",  # they dance']),
        (["ants", "wasps"], ['    "ants",  # they dance', "    # and also", "    'wasps',"]),
        (["wasps"], ["    # and also", "    'wasps',"]),
    ],
)
def test_list_over_several_lines_keeps_the_comments_of_the_items_that_stay(
    topics: list[str], lines: list[str], folder: Path
) -> None:
    text = saved(folder, WRITTEN, {"data_generation.topics": topics})
    between = text.split("topics = [   # two\n")[1].split("\n]\n\n[fine_tuning.optimizer]")[0].split("\n")
    assert [line for line in between if line.strip() != "# and also"] == [line for line in lines if "also" not in line]


def test_list_that_becomes_a_word(folder: Path) -> None:
    content = "[fine_tuning.lora]\ntarget_modules = [\n  'a', # one\n]  # which\nr = 3\n"
    text = saved(folder, content, {"fine_tuning.lora.target_modules": "all-linear"})
    assert text == '[fine_tuning.lora]\ntarget_modules = "all-linear"  # which\nr = 3\n'


@pytest.mark.parametrize(
    ("content", "changes", "expected"),
    [
        ("fine_tuning.lora.r = 4 # x\n", {"fine_tuning.lora.r": 8}, "fine_tuning.lora.r = 8 # x\n"),
        (
            "[fine_tuning]\nlora.r = 4\nlora . alpha = 9\ndevice = 'cpu'\n",
            {"fine_tuning.lora.alpha": 8, "fine_tuning.lora.dropout": 0.1},
            "[fine_tuning]\nlora.r = 4\nlora . alpha = 8\nlora.dropout = 0.1\ndevice = 'cpu'\n",
        ),
        ("[fine_tuning]\nlora.r = 4\n", {"fine_tuning.lora.r": None}, "[fine_tuning]\n"),
        (
            "fine_tuning.lora.r = 4\n",
            {"fine_tuning.optimizer.beta1": 0.5},
            "fine_tuning.lora.r = 4\n\n[fine_tuning.optimizer]\nbeta1 = 0.5\n",
        ),
        (
            "fine_tuning.lora.r = 4\n",
            {"fine_tuning.device": "cpu"},
            'fine_tuning.lora.r = 4\nfine_tuning.device = "cpu"\n',
        ),
        ('["fine_tuning".lora]\n"r" = 4\n', {"fine_tuning.lora.r": 8}, '["fine_tuning".lora]\n"r" = 8\n'),
    ],
)
def test_dotted_keys_stay_dotted(content: str, changes: dict[str, Any], expected: str, folder: Path) -> None:
    assert saved(folder, content, changes) == expected


@pytest.mark.parametrize(
    ("content", "changes", "expected"),
    [
        (
            "[fine_tuning]\nlora = { r = 4, alpha = 0x10 } # both\n",
            {"fine_tuning.lora.r": 8},
            "[fine_tuning]\nlora = { r = 8, alpha = 0x10 } # both\n",
        ),
        (
            "fine_tuning = { lora = { r = 4 } }\n",
            {"fine_tuning.lora.alpha": 8, "fine_tuning.scheduler.type": "linear"},
            None,
        ),
        ("[fine_tuning]\nlora = { r = 4, alpha = 16 }\n", {"fine_tuning.lora.r": None}, None),
        ("[fine_tuning.chat]\ncommands = { a = 'b' }\n", {"fine_tuning.chat.commands": {}}, None),
        (
            "[fine_tuning.chat]\ncommands = { a = 'b', c = 'd' } # mine\n",
            {"fine_tuning.chat.commands": {"c": "d", "x y": "z"}},
            None,
        ),
        ("[fine_tuning]\nlora = { r = 4 }\n", {"fine_tuning.lora.target_modules": ["q" * 40, "v" * 40]}, None),
    ],
)
def test_inline_tables_stay_on_their_line(
    content: str, changes: dict[str, Any], expected: str | None, folder: Path
) -> None:
    text = saved(folder, content, changes)
    assert text.count("\n") == content.count("\n")
    assert ("#" in text) == ("#" in content)
    if expected is not None:
        assert text == expected


COMMANDS = "# Words.\n[fine_tuning.chat.commands]\n# the first\n\"open sesame\" = 'it opens' # yes\nbye = 'see you'\n"


def test_words_of_a_table_are_changed_one_by_one(folder: Path) -> None:
    changes = {"fine_tuning.chat.commands": {"open sesame": "it opens", "bye": "farewell", "x.y": "z"}}
    expected = COMMANDS.replace("'see you'", '"farewell"') + '"x.y" = "z"\n'
    assert saved(folder, COMMANDS, changes) == expected
    assert saved(folder, COMMANDS, {"fine_tuning.chat.commands.bye": "farewell"}) == expected.replace(
        '"x.y" = "z"\n', ""
    )
    text = saved(folder, COMMANDS, {"fine_tuning.chat.commands.bye": None})
    assert text == COMMANDS.replace("bye = 'see you'\n", "")


def test_a_table_without_words_is_not_the_same_as_no_table(folder: Path) -> None:
    path = folder / "config.toml"
    saved(folder, COMMANDS, {"fine_tuning.chat.commands": {}})
    assert load_settings(path, environment={}).settings.fine_tuning.chat.commands == {}
    saved(folder, "[logging]\n", {"fine_tuning.chat.commands": {}})
    assert load_settings(path, environment={}).settings.fine_tuning.chat.commands == {}
    text = saved(folder, COMMANDS, {"fine_tuning.chat.commands": None})
    assert load_settings(path, environment={}).settings == Settings()
    assert "# the first" in text


def test_a_section_that_goes_takes_one_blank_line_with_it(folder: Path) -> None:
    content = "[logging]\nlevel = 'INFO'\n\n[app.keys]\na = 'b'\n\n[app]\nmouse = true\n"
    text = saved(folder, content, {"app.keys": None})
    assert text == "[logging]\nlevel = 'INFO'\n\n[app]\nmouse = true\n"


def test_word_with_an_equals_sign(folder: Path) -> None:
    content = "[fine_tuning.chat.commands]\n\"a=b\" = 'c=d' # = e\n"
    text = saved(folder, content, {"fine_tuning.chat.commands": {"a=b": "f"}})
    assert text == content.replace("'c=d'", '"f"')


def test_keys_of_the_app_are_saved_with_their_dots(folder: Path) -> None:
    text = saved(folder, "[app]\nmouse = false\n", {"app.keys.train.stop": "ctrl+s"})
    assert text == '[app]\nmouse = false\n\n[app.keys]\n"train.stop" = "ctrl+s"\n'
    text = saved(folder, text, {"app.keys.train.stop": "f8", "app.keys.chat.send": "f9"})
    assert text == '[app]\nmouse = false\n\n[app.keys]\n"train.stop" = "f8"\n"chat.send" = "f9"\n'


PROMPTS = """\
[fine_tuning.evaluation]
max_new_tokens = 9

# one
[[fine_tuning.evaluation.test_prompts]]
prompt = 'a'  # first
expected = "b"

# two
[[fine_tuning.evaluation.test_prompts]]
prompt = "c"
avoid = '''d'''

[logging]
level = 'INFO'  # loud enough
"""
A, C = {"prompt": "a", "expected": "b"}, {"prompt": "c", "avoid": "d"}
NEW = {"prompt": "n", "expected": "m"}


@pytest.mark.parametrize(
    ("prompts", "changed"),
    [
        ([A, {**C, "avoid": "D"}], [("'''d'''", '"D"')]),
        ([A, {"prompt": "c", "expected": "d"}], [("avoid = '''d'''\n", 'expected = "d"\n')]),
        ([C], [("[[fine_tuning.evaluation.test_prompts]]\nprompt = 'a'  # first\nexpected = \"b\"\n", "")]),
        (
            [A, C, NEW],
            [("'''d'''\n", "'''d'''\n\n[[fine_tuning.evaluation.test_prompts]]\nprompt = \"n\"\nexpected = \"m\"\n")],
        ),
    ],
)
def test_tables_of_an_array_are_changed_one_by_one(
    prompts: list[dict[str, str]], changed: list[tuple[str, str]], folder: Path
) -> None:
    expected = PROMPTS
    for old, new in changed:
        expected = expected.replace(old, new)
    assert saved(folder, PROMPTS, {"fine_tuning.evaluation.test_prompts": prompts}) == expected


@pytest.mark.parametrize("prompts", [[NEW, A, C], [A, NEW, C], [C, A], [NEW], ["text", A], ["text"], None])
def test_tables_of_an_array_become_what_is_wanted(prompts: list[Any] | None, folder: Path) -> None:
    text = saved(folder, PROMPTS, {"fine_tuning.evaluation.test_prompts": prompts})
    assert "level = 'INFO'  # loud enough" in text
    assert "max_new_tokens = 9\n" in text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_windows_line_ends_and_a_byte_order_mark_stay(mark: bytes, folder: Path) -> None:
    changes = {"fine_tuning.lora.r": 4, "fine_tuning.lora.dropout": 0.1, "logging.level": "DEBUG"}
    text = saved(folder, mark + WRITTEN.replace("\n", "\r\n").encode(), changes)
    expected = WRITTEN.replace("0x08", "4").replace("alpha=16\n", "alpha=16\ndropout = 0.1\n")
    expected += '\n[logging]\nlevel = "DEBUG"\n'
    assert text.encode() == mark + expected.replace("\n", "\r\n").encode()


def test_mixed_line_ends_stay_as_they_are(folder: Path) -> None:
    text = saved(folder, b"[fine_tuning.lora]\r\nr = 4 # a\r\nalpha = 3\n", {"fine_tuning.lora.r": 8})
    assert text == "[fine_tuning.lora]\r\nr = 8 # a\r\nalpha = 3\n"


def test_last_line_without_an_end(folder: Path) -> None:
    text = saved(folder, "[fine_tuning.lora]\nr = 4 # a", {"fine_tuning.lora.alpha": 8})
    assert text == "[fine_tuning.lora]\nr = 4 # a\nalpha = 8\n"
    assert saved(folder, "# nothing", {"logging.level": "DEBUG"}) == '# nothing\n\n[logging]\nlevel = "DEBUG"\n'
    assert saved(folder, "[fine_tuning.lora]\nr = 4", {"fine_tuning.lora.r": 8}) == "[fine_tuning.lora]\nr = 8"


def test_text_of_many_lines_is_one_statement(folder: Path) -> None:
    content = (
        '[fine_tuning.evaluation]\nexpected_response = """\nr = 1\n[logging]\n# no comment\n"""\nmax_new_tokens = 4\n'
    )
    text = saved(folder, content, {"fine_tuning.evaluation.max_new_tokens": 9, "logging.level": "DEBUG"})
    assert text == content.replace("= 4", "= 9") + '\n[logging]\nlevel = "DEBUG"\n'


def test_two_edits_in_a_row(folder: Path) -> None:
    first = saved(folder, WRITTEN, {"fine_tuning.lora.r": 4, "fine_tuning.lora.dropout": 0.1})
    second = saved(folder, first, {"fine_tuning.lora.r": 8, "fine_tuning.lora.dropout": None})
    assert second == WRITTEN.replace("0x08", "8")


def test_edit_made_elsewhere_since_loading_is_kept(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text(WRITTEN)
    load_settings(path, environment={})
    elsewhere = WRITTEN.replace("alpha=16", "alpha=24 # doubled") + "[logging]\nlevel = 'DEBUG'\n"
    path.write_text(elsewhere)
    save_keys(path, {"fine_tuning.lora.r": 4})
    assert path.read_text() == elsewhere.replace("0x08", "4")


@pytest.mark.parametrize("content", ["[fine_tuning.lora\nr = 4\n", "r = \n", "a = 'x\n", "a = 1\na = 2\n"])
def test_file_that_is_not_valid_is_refused_and_left_alone(content: str, folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.toml, line \d: not valid TOML"):
        save_keys(path, {"fine_tuning.lora.r": 8})
    assert path.read_text() == content


def test_mode_and_link_stay(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.toml"
    target.write_text(WRITTEN)
    target.chmod(0o640)
    link = folder / "config.toml"
    link.symlink_to(target)
    outcome = save_keys(link, {"fine_tuning.lora.r": 4})
    assert (outcome.path, outcome.kept_style) == (target, True)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.read_text() == WRITTEN.replace("0x08", "4")


def test_text_that_cannot_be_changed_in_place_is_written_anew_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "config.toml"
    for wrong in ("", "not = 'wanted'\n", "[broken"):
        path.write_text(WRITTEN)
        monkeypatch.setattr("lora_tui.config.edit.edit_text", lambda *_, wrong=wrong, **__: wrong)
        assert not save_keys(path, {"fine_tuning.lora.r": 4}).kept_style
        settings = load_settings(path, environment={}).settings
        assert (settings.fine_tuning.lora.r, settings.fine_tuning.lora.alpha) == (4, 16)


def test_statement_of_thousands_of_lines_is_written_anew(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text("[data_generation]\ntopics = [\n" + "'a',\n" * 1500 + "]\n")
    assert not save_keys(path, {"data_generation.seed": 4}).kept_style
    assert load_settings(path, environment={}).settings.data_generation.topics == ["a"] * 1500


def test_new_keys_come_without_comments(folder: Path) -> None:
    changes = {"fine_tuning.lora.alpha": 8, "logging.level": "DEBUG", "app.keys": {"a.b": "f2"}}
    assert saved(folder, "[fine_tuning.lora]\nr = 4\n", changes) == (
        '[fine_tuning.lora]\nr = 4\nalpha = 8\n\n[logging]\nlevel = "DEBUG"\n\n[app.keys]\n"a.b" = "f2"\n'
    )


def test_new_file_is_plain(folder: Path) -> None:
    path = folder / "config.toml"
    assert save_keys(path, {"fine_tuning.optimizer.lora_lr": 2e-4}).kept_style
    assert path.read_text() == "[fine_tuning.optimizer]\nlora_lr = 0.0002\n"


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), (True, 1), ([1], [1.0]), ({"a": 1}, {"a": True}), ({"a": 1}, {}), ([], {}), (0.0, -0.0), ("a", "b")],
)
def test_values_of_different_kinds_are_not_the_same(left: Any, right: Any) -> None:
    assert not same_toml(left, right)
    assert same_toml(left, left)
    assert same_toml(right, right)


def test_editing_is_pure() -> None:
    before = tomllib.loads(WRITTEN)
    assert edit_text(WRITTEN, before, before) == WRITTEN


def test_what_edits_files_is_loaded_by_the_first_save_only() -> None:
    code = """
import sys
from pathlib import Path
from lora_tui.config.load import load_settings
from lora_tui.config.save import save_keys
Path("config.toml").write_text("[logging]\\nlevel = 'INFO'\\n")
load_settings(environment={})
assert "tomlkit" not in sys.modules
save_keys(Path("config.toml"), {"logging.level": "DEBUG"})
assert "tomlkit" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
