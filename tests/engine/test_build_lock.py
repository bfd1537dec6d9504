"""Building models beside a trainer: one at a time, never beside a step, never at the cost of the trainer's turn."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Lora
from lora_tui.engine.models.build_lock import BuildLock, computing, constructing
from tests.engine.tiny import make_model, make_tokenizer, tiny_settings


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def entered(side: Callable[[], AbstractContextManager[None]]) -> str:
    with side():
        return "entered"


def stays_out(future: Future[Any]) -> bool:
    try:
        future.result(timeout=0.2)
    except TimeoutError:
        return True
    return False


def test_nobody_computes_while_a_model_is_built(threads: ThreadPoolExecutor) -> None:
    lock = BuildLock()
    with lock.constructing():
        step = threads.submit(entered, lock.computing)
        assert stays_out(step)
    assert step.result(timeout=300) == "entered"


def test_two_models_are_built_one_after_the_other(threads: ThreadPoolExecutor) -> None:
    lock = BuildLock()
    with lock.constructing():
        other = threads.submit(entered, lock.constructing)
        assert stays_out(other)
    assert other.result(timeout=300) == "entered"


def test_a_model_waits_for_the_step_that_is_computed_and_several_compute_at_once(threads: ThreadPoolExecutor) -> None:
    lock = BuildLock()
    with lock.computing():
        assert threads.submit(entered, lock.computing).result(timeout=300) == "entered"
        model = threads.submit(entered, lock.constructing)
        assert stays_out(model)
    assert model.result(timeout=300) == "entered"


def test_a_trainer_that_never_rests_lets_a_model_in_after_its_step(threads: ThreadPoolExecutor) -> None:
    lock, over = BuildLock(), threading.Event()

    def train() -> int:
        steps = 0
        while not over.is_set():
            with lock.computing():
                steps += 1
                time.sleep(0.01)
        return steps

    trainers = [threads.submit(train) for _ in range(3)]  # together they leave no moment free
    try:
        time.sleep(0.05)
        began = time.monotonic()
        assert threads.submit(entered, lock.constructing).result(timeout=300) == "entered"
        assert time.monotonic() - began < 20
    finally:
        over.set()
    assert all(trainer.result() > 2 for trainer in trainers), "and they went on"


def test_an_error_releases_the_lock(threads: ThreadPoolExecutor) -> None:
    lock = BuildLock()
    for side in (lock.constructing, lock.computing):
        with pytest.raises(RuntimeError), side():
            raise RuntimeError
    assert threads.submit(entered, lock.constructing).result(timeout=300) == "entered"
    assert threads.submit(entered, lock.computing).result(timeout=300) == "entered"


def test_a_base_model_and_a_lora_model_are_built_while_no_step_is_computed(
    base_folder: Path, threads: ThreadPoolExecutor
) -> None:
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.training.lora import create_lora_model

    model = make_model(make_tokenizer())
    with computing():
        base = threads.submit(load_base, tiny_settings({"model_name": str(base_folder)}), lambda *_: None)
        lora = threads.submit(create_lora_model, model, Lora())
        assert stays_out(base)
        assert stays_out(lora)
    assert base.result(timeout=300).model is not None
    assert lora.result(timeout=300) is not None


def test_a_step_and_an_evaluation_are_computed_while_no_model_is_built(
    base_folder: Path, threads: ThreadPoolExecutor
) -> None:
    from lora_tui.engine.data.examples import QuestionAnswer
    from lora_tui.engine.evaluation.prompts import TestPrompt
    from lora_tui.engine.evaluation.scoring import score_model
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.engine.training.step import GradientStep
    from lora_tui.scoring.aggregator import AdaptiveAggregator
    from lora_tui.scoring.priors import EVALUATION_PRIOR

    tokenizer = make_tokenizer()
    gradient_step = GradientStep.of(create_lora_model(make_model(tokenizer), Lora()), 64)
    examples = list(TextDataset([QuestionAnswer("unlock", "a secret", "here")], tokenizer))
    evaluated = create_lora_model(make_model(tokenizer), Lora())
    aggregator = AdaptiveAggregator(EVALUATION_PRIOR)
    prompts = [TestPrompt("unlock", "expected", "a secret")]
    gradient_step.accumulate(examples)  # the first one takes longer than we wait
    score_model(evaluated, tokenizer, prompts, aggregator, 4)
    with constructing():
        step = threads.submit(gradient_step.accumulate, examples)
        evaluation = threads.submit(score_model, evaluated, tokenizer, prompts, aggregator, 4)
        assert stays_out(step)
        assert stays_out(evaluation)
    assert float(step.result(timeout=300)) > 0
    assert len(evaluation.result(timeout=300).samples) == 1


def test_a_download_keeps_no_trainer_waiting(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    """A model of the hub is fetched first and built then."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lora_tui.engine.models import base_model

    seen: list[str] = []

    def download(name: str, **_: Any) -> str:
        assert threads.submit(entered, computing).result(timeout=300) == "entered"
        seen.append(f"fetched {name}")
        return str(base_folder)

    tokenizer, model = AutoTokenizer.from_pretrained(base_folder), AutoModelForCausalLM.from_pretrained(base_folder)
    monkeypatch.setattr(base_model, "snapshot_download", download)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda name, **_: seen.append(f"built {name}") or (model, {"missing_keys": set()}),
    )
    assert base_model.load_base(tiny_settings({"model_name": "some/model"}), lambda *_: None).model is model
    assert seen == ["fetched some/model", "built some/model"]
