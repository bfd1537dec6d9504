"""What the README and the page of keys name is there: bindings, pictures, benchmarks."""

import re
from pathlib import Path

from lora_tui.cli.main import command
from lora_tui.config.keys import all_keys, all_sections
from tests.bench.keys_page import named_bindings, page

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / ".github" / "GUIDE.md").read_text()
KEYS = (ROOT / ".github" / "KEYS.md").read_text()
BENCHMARKS = (ROOT / "tests" / "bench" / "README.md").read_text()


def test_the_keys_that_the_page_names_exist() -> None:
    named = set(re.findall(r"\| `([a-z]+\.[a-z0-9.-]+)` \|$", KEYS, re.MULTILINE))
    assert len(named) > 50
    assert named - named_bindings().keys() == set(), "write the page anew: see tests/bench/keys_page.py"
    assert set(named_bindings()) == set(re.findall(r"\| `([a-z]+\.[a-z0-9.-]+)` \|$", page(), re.MULTILINE))


def test_the_readme_is_no_longer_than_people_read() -> None:
    assert len(README.encode()) < 11_000


def test_options_and_keys_that_the_pages_name_exist() -> None:
    options = {name for parameter in command.params for name in parameter.opts}
    code = "\n".join(re.findall(r"lora-tui (--[^\n#`]*)", README + GUIDE))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)) - options == set()
    named = set(re.findall(r"\b(?:data_generation|fine_tuning|scoring|notify)(?:\.[a-z_0-9]+)+", README + GUIDE))
    assert len(named) > 10
    assert named - all_keys().keys() - all_sections().keys() == set()
    for link in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / ".github" / link).exists(), link


def test_pictures_and_benchmarks_exist() -> None:
    pictures = re.findall(r"\]\((\.pictures/[^)]+)\)", README)
    assert len(pictures) == 4
    benchmarks = re.findall(r"tests\.bench\.(\w+)|tests/bench/(\w+)\.py", README + BENCHMARKS)
    assert len(benchmarks) > 5
    files = [*pictures, *(f"tests/bench/{one or other}.py" for one, other in benchmarks)]
    assert [name for name in files if not (ROOT / name).is_file()] == []
