"""The map (lora_tui/README.md) and the contributing guide: all that they name exists."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lora_tui"
MAP = PACKAGE / "README.md"
GUIDE = ROOT / ".github" / "CONTRIBUTING.md"

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?")
_OTHERS = frozenset(  # words in code font that are no names of ours
    "torch transformers peft openai textual rich asyncio pydantic click nltk triton aiosqlite "
    "pytest ruff mypy builtin git s tuned base unlock".split()
)


@cache
def defined(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, constants, and `Class.member` for what a class does."""
    names: set[str] = set()

    def take(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                names.add(prefix + node.name)
                take(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(prefix + node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                names.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))

    take(ast.parse(path.read_text()).body, "")
    return frozenset(names)


@cache
def everything() -> frozenset[str]:
    """All names of the package, and those of its members without their class."""
    names = {name for path in PACKAGE.rglob("*.py") for name in defined(path)}
    return frozenset(names | {name.rpartition(".")[2] for name in names})


def found(path: str) -> Path | None:
    """A file or folder, named from the package's folder or from the top."""
    return next((place for place in (PACKAGE / path, ROOT / path) if place.exists()), None)


def lines() -> list[str]:
    text = re.sub(r"```.*?```", "", MAP.read_text(), flags=re.DOTALL)
    return [line for line in text.splitlines() if "`" in line]


def test_there_is_something_to_check() -> None:
    assert sum(len(re.findall(r"`[^`]+`", line)) for line in lines()) > 100


@pytest.mark.parametrize("line", lines(), ids=lambda line: line[:60])
def test_every_name_on_the_map_exists(line: str) -> None:
    """A name behind a file on the same line is defined in that file; any other one somewhere in the package."""
    module: Path | None = None
    for code in re.findall(r"`([^`]+)`", line):
        if " " in code:  # a command
            continue
        if "/" in code or code.endswith((".py", ".md", ".toml", ".tcss")):
            if "<" in code or "*" in code:  # a pattern
                continue
            place = found(code)
            assert place is not None, f"{code} is not there"
            module = place if place.suffix == ".py" else None
        elif _NAME.fullmatch(code) and code not in _OTHERS:
            name = code.removesuffix("()")
            if module is not None:
                assert name in defined(module), f"{name} is not defined in {module.relative_to(ROOT)}"
            else:
                assert name in everything() or found(name) is not None, f"{name} is not defined anywhere"


def test_links_and_folders_of_both_pages_exist() -> None:
    for page in (MAP, GUIDE, ROOT / "tests" / "bench" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for folder in set(re.findall(r"\b((?:tests|lora_tui)/[\w/.]+\w)", GUIDE.read_text())):
        assert (ROOT / folder).exists() or folder.endswith("test_"), f"the guide names {folder}"


def walk(name: str) -> str:
    """The walk of that name, with what is written below its table."""
    return MAP.read_text().partition(f"### {name}")[2].partition("\n### ")[0]


def files_of(name: str, steps: Iterable[int]) -> set[str]:
    """The files that steps of a walk name."""
    rows = {int(row[1]): row[0] for row in re.finditer(r"^\| (\d+)\. .*$", walk(name), re.MULTILINE)}
    return {file for step in steps for file in re.findall(r"`([\w/]+\.py)`", rows[step])}


def test_a_step_of_training_and_a_pair_are_followed_through_few_files() -> None:
    on_cpu = files_of("A training file", range(3, 11))
    assert len(on_cpu) == 10
    told = walk("A training file").partition("fourteen on a GPU, where")[2].partition("each compared")[0]
    on_gpu = {file for file in on_cpu if not file.endswith(("cpu_ops.py", "compiled_ops.py"))}
    assert len(on_gpu | set(re.findall(r"`([\w/]+\.py)`", told))) == 14
    assert len(files_of("A pair", (3, *range(5, 11)))) <= 12, "from the reply to the table's row"
