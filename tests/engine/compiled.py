"""Compiled code in tests: a machine without a C compiler skips what is about it; CI must have one."""

import os

import pytest

from lora_tui.engine.compiled.library import DECODING, load_library

needs_compiler = pytest.mark.skipif(
    isinstance(load_library(DECODING), str) and not os.environ.get("CI"), reason="there is no C compiler"
)
