"""What the app may not load, and what it may not hide."""

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from textual.app import App
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.widgets import Static, TextArea

HEAVY = ("torch", "transformers", "peft", "openai", "numpy", "datasets", "lora_tui.engine")
BEFORE_THE_FIRST_PAINT = ("pydantic", "click.testing", "markdown_it", "lora_tui.cli.runs", *HEAVY)


def loaded(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has after `code`."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(told.stdout.split())


@pytest.mark.parametrize("name", ["app", "screens.generate", "screens.train", "screens.chat", "screens.configure"])
def test_the_interface_loads_no_engine_and_nothing_heavy(name: str) -> None:
    modules = loaded(f"import lora_tui.tui.{name}")
    found = sorted(m for m in modules if any(m == heavy or m.startswith(f"{heavy}.") for heavy in HEAVY))
    assert found == []


def test_the_apps_entry_loads_the_engine_only_when_it_is_asked_for_something() -> None:
    modules = loaded("import lora_tui.backend.session, lora_tui.tui.app, lora_tui.tui.screens.generate")
    assert sorted(m for m in modules if m.startswith(BEFORE_THE_FIRST_PAINT)) == []


def _names(cls: type) -> set[str]:
    """Every name that a class or one of its bases defines, or sets on its instances."""
    found = set(dir(cls))
    for base in cls.__mro__:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        found |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        }
    return found


def test_no_private_name_of_ours_hides_one_of_textuals() -> None:
    of_textual = _names(App) | _names(ModalScreen) | _names(TextArea) | _names(ScrollView) | _names(Static)
    hidden = []
    for path in (Path(__file__).parents[2] / "lora_tui" / "tui").rglob("*.py"):
        for cls in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]:
            if not cls.bases or ast.unparse(cls.bases[0]) in ("Message", "Protocol", "LinuxDriver", "LineFilter"):
                continue
            own = {
                node.attr
                for node in ast.walk(cls)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            } | {node.name for node in cls.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            clashes = {n for n in own & of_textual if n.startswith("_") and not n.startswith("__")}
            meant = {name for name in clashes if f"super().{name}(" in ast.unparse(cls)}
            hidden += [f"{path.name}: {cls.name}.{name}" for name in sorted(clashes - meant)]
    assert hidden == []
