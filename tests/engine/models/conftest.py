"""The loaded models."""

from tests.engine.loaded_models import base, tuned  # noqa: F401  # fixtures
from tests.engine.training.conftest import dataset  # noqa: F401  # fixture
