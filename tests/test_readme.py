"""What the README names is there: bindings, pictures, benchmarks."""

import importlib
import pkgutil
import re
from pathlib import Path

from textual.binding import Binding
from textual.dom import DOMNode

import lora_tui.tui

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BENCHMARKS = (ROOT / "tests" / "bench" / "README.md").read_text()


def bindings() -> set[str]:
    """The names of all bindings of the app and its screens."""
    for module in pkgutil.walk_packages(lora_tui.tui.__path__, "lora_tui.tui."):
        importlib.import_module(module.name)
    found, classes = set(), [DOMNode]
    while classes:
        node = classes.pop()
        classes += node.__subclasses__()
        if node.__module__.startswith("lora_tui."):
            found |= {binding.id for binding in Binding.make_bindings(node.__dict__.get("BINDINGS", ())) if binding.id}
    return found


def test_the_bindings_that_can_be_given_other_keys_exist() -> None:
    listed = README.partition("Names of bindings")[2].partition("</details>")[0]
    named = set(re.findall(r"`([a-z]+\.[a-z0-9.-]+)`", listed))
    assert len(named) > 50
    assert named - bindings() == set()


def test_pictures_and_benchmarks_exist() -> None:
    pictures = re.findall(r"\]\((\.pictures/[^)]+)\)", README)
    assert len(pictures) == 4
    benchmarks = re.findall(r"tests\.bench\.(\w+)|tests/bench/(\w+)\.py", README + BENCHMARKS)
    assert len(benchmarks) > 5
    files = [*pictures, *(f"tests/bench/{one or other}.py" for one, other in benchmarks)]
    assert [name for name in files if not (ROOT / name).is_file()] == []
