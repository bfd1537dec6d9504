"""The shape of the source: no circle of imports, lazy and type-only ones counted, and no module of several concepts."""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[1] / "lora_tui"
MOST_LINES = 450


def test_no_imports_go_round_in_circles() -> None:
    graph = grimp.build_graph("lora_tui", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_too_long_to_hold_one_concept(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
