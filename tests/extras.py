"""What the test extra brings, for tests that need it."""

import importlib
import os
from typing import Any

import pytest


def needed(module: str) -> Any:
    """The module; without it a test is skipped, and in CI it fails."""
    if os.environ.get("CI"):
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module} is not installed; it comes with the extra `test`")
