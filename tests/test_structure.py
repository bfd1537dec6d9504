"""The shape of the source: no circle of imports, lazy and type-only ones counted; modules of one concept, few tiny."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[1] / "lora_tui"
MOST_LINES = 450
TINY, MOST_TINY = 60, 20
SMALL = 100
REASON = re.compile(r"\b([Ss]mall,|[Ss]mall and apart|[Aa]part|[Bb]y itself)(\W|$)|^The job of ")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("lora_tui", cache_dir=None)


def test_no_imports_go_round_in_circles(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_no_module_is_too_long_to_hold_one_concept() -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > MOST_LINES]


def modules_below(lines: int) -> list[Path]:
    """The modules that have fewer lines; packages' own and the one for ``python -m`` hold nothing."""
    named = (path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__"))
    return [path for path in named if len(path.read_text().splitlines()) < lines]


def test_few_modules_are_tiny() -> None:
    found = modules_below(TINY)
    assert len(found) <= MOST_TINY, f"one of these belongs to what uses it: {sorted(map(str, found))}"


def test_a_small_module_that_one_other_imports_says_why_it_is_apart(graph: grimp.ImportGraph) -> None:
    silent = []
    for path in modules_below(SMALL):
        name = ".".join(("lora_tui", *path.relative_to(PACKAGE).with_suffix("").parts))
        reason = ast.get_docstring(ast.parse(path.read_text())) or ""
        if len(graph.find_modules_that_directly_import(name)) < 2 and not REASON.search(reason):
            silent.append(name)
    assert not silent, "merge it, or say in its docstring why it is apart"
    assert not REASON.search("Pairs that a small model finishes."), "which gives no reason"
