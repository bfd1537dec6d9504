"""Compiled code in tests: a machine without a C compiler skips what is about it; CI must have one."""

import os
from pathlib import Path

import pytest

from lora_tui.config.paths import cache_folder, private_folder
from lora_tui.engine.compiled.library import DECODING, load_library

needs_compiler = pytest.mark.skipif(
    isinstance(load_library(DECODING), str) and not os.environ.get("CI"), reason="there is no C compiler"
)


def share_compiled(cache: Path) -> None:
    """Give an empty cache what is compiled already: a run with a cache of its own compiles for four seconds."""
    private_folder(cache).joinpath("compiled").symlink_to(private_folder(cache_folder() / "compiled"))
