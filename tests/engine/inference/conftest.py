"""The loaded models."""

from tests.engine.loaded_models import base, eager_to_end, tuned  # noqa: F401  # fixtures
