"""What a run is, as one hash: a checkpoint is continued exactly, or not at all."""

import hashlib
import json

from lora_tui.config.models import FineTuning
from lora_tui.engine.training.dataset import TextDataset


def run_identity(dataset: TextDataset, settings: FineTuning, dtype: str) -> str:
    """Hash everything the mathematics of a run depend on: a checkpoint of another identity is not continued.

    How long to train may change between a stop and a resumption only if the schedule does not depend on it, so the
    epochs and steps count; when to evaluate, stop early or save does not.
    """
    free = {"target_score", "patience", "eval_frequency", "eval_steps", "save_dir", "save_steps"}
    relevant = {
        "data": dataset.fingerprint(),
        "model": settings.model_name,
        "dtype": dtype,
        "qlora": settings.qlora,
        "lora": settings.lora.model_dump(mode="json"),
        "optimizer": settings.optimizer.model_dump(mode="json"),
        "scheduler": settings.scheduler.model_dump(mode="json"),
        "sampling": settings.sampling.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=free),
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
