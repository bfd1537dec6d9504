"""However a file is written, and whatever is changed in it: the values are right and the rest of the text stays."""

import random
import tomllib
from pathlib import Path
from typing import Any

from lora_tui.config.edit import _parse_statements
from lora_tui.config.keys import all_keys
from lora_tui.config.load import load_settings, with_values
from lora_tui.config.models import Settings
from lora_tui.config.reference import toml_key, toml_value
from lora_tui.config.save import save_keys

A, C = {"prompt": "a", "expected": "b"}, {"prompt": "c", "avoid": "d"}
NEW = {"prompt": "n", "expected": "m"}

CHANGES: list[tuple[str, list[Any]]] = [
    ("fine_tuning.lora.r", [1, 16, None]),
    ("fine_tuning.lora.alpha", [2, 99, None]),
    ("fine_tuning.lora.target_modules", ["all-linear", ["a"], ["a", "b", "c"], None]),
    ("fine_tuning.device", ["cpu", "mps", None]),
    ("fine_tuning.optimizer.lora_lr", [1e-3, 3e-5, 0.5, None]),
    ("fine_tuning.optimizer.eps", [1e-12, None]),
    ("fine_tuning.evaluation.test_prompts", [[A], [A, C], [C, NEW], ["x", "y"], ["x", A], None]),
    ("fine_tuning.chat.commands", [{}, {"a": "b"}, {"a": "c", "d e": "f"}, None]),
    ("data_generation.topics", [[], ["a"], ["b", "c"], None]),
    ("data_generation.model", ["x", "y'z", 'q"\n', None]),
    ("logging.level", ["DEBUG", "INFO", None]),
    ("app.keys", [{"a.b": "f1"}, {"a.b": "f2", "c": "f3"}, None]),
]


def written_somehow(values: dict[str, Any], rng: random.Random) -> str:
    """Write values as people might: in any order, with headers, dotted keys, inline tables, comments and blanks."""

    def note() -> str:
        return rng.choice(["", "", "\n", f"# note {rng.random()}\n", f"\n# note {rng.random()}\n\n"])

    def pair(path: tuple[str, ...], value: Any) -> str:
        spaces = rng.choice([" = ", "=", "  =   "])
        end = rng.choice(["\n", f" # of {rng.random()}\n"])
        return note() + toml_key(*path) + spaces + toml_value(value) + end

    sections: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, value in values.items():
        *section, leaf = name.split(".")
        sections.setdefault(tuple(section), {})[leaf] = value
    root, blocks = "", []
    for section, keys in sections.items():
        tables, pairs = "", ""
        for leaf, value in keys.items():
            if (
                isinstance(value, list)
                and value
                and all(isinstance(item, dict) for item in value)
                and rng.random() < 0.7
            ):
                for item in value:
                    tables += note() + f"[[{toml_key(*section, leaf)}]]\n"
                    tables += "".join(pair((name,), text) for name, text in item.items())
            elif isinstance(value, dict) and value and rng.random() < 0.7:
                tables += note() + f"[{toml_key(*section, leaf)}]\n"
                tables += "".join(pair((name,), text) for name, text in value.items())
            else:
                pairs += pair((leaf,), value)
        if not tables and pairs and len(section) == 1 and rng.random() < 0.2 and len(sections) == 1:
            root += "".join(pair((*section, leaf), value) for leaf, value in keys.items())
        else:
            blocks.append(
                note() + (f"[{toml_key(*section)}]\n" if pairs or rng.random() < 0.5 else "") + pairs + tables
            )
    rng.shuffle(blocks)
    return root + "".join(blocks) + note()


def test_any_change_of_any_file_is_right_and_leaves_the_rest(folder: Path) -> None:
    file = folder / "config.toml"
    for seed in range(400):
        rng = random.Random(seed)
        chosen = rng.sample(CHANGES, rng.randint(1, len(CHANGES)))
        text = written_somehow(
            {name: value for name, values in chosen if (value := rng.choice(values)) is not None}, rng
        )
        file.write_text(text)
        changed = rng.sample(CHANGES, rng.randint(1, 4))
        changes = {name: rng.choice(values) for name, values in changed}
        outcome = save_keys(file, changes)
        expected = with_values(Settings(), _flat(text) | {name: v for name, v in changes.items() if v is not None})
        expected = with_values(expected, {n: _default(n) for n, value in changes.items() if value is None})
        assert load_settings(file, environment={}).settings == expected, (seed, text, changes)
        assert outcome.kept_style, (seed, text, changes)
        left = file.read_text()
        touched = [tuple(name.split(".")) for name in changes]
        for statement in _parse_statements(text):
            ours = any(statement.path[: len(path)] == path for path in touched)
            if statement.kind in ("note", "pair") and statement.text.strip() and not ours:
                assert statement.text in left, (seed, statement, left)


def _default(name: str) -> Any:
    return all_keys()[name].default


def _flat(text: str) -> dict[str, Any]:
    values = tomllib.loads(text)
    found = {}
    for name, _ in CHANGES:
        inner: Any = values
        for part in name.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if inner is not None:
            found[name] = inner
    return found
