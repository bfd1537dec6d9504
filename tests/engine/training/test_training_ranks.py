"""Ranks: a step's examples divided, its gradient summed, and a training run of two processes that is that of one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lora_tui.engine.models.adapters import adapter_weights
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks
from lora_tui.engine.training.launch import ParallelPlan, RankProcesses
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.rank_worker import serve_steps
from lora_tui.engine.training.ranks import (
    LostRankError,
    RankGroup,
    connect,
    pack_examples,
    share_examples,
    unpack_examples,
)
from lora_tui.engine.training.step import GradientStep, StepShare
from tests.engine.tiny import make_model, tiny_settings
from tests.engine.training.test_training_packing import gradients, largest_difference

CPU = torch.device("cpu")


def test_a_steps_tokens_are_divided_evenly_and_each_example_once() -> None:
    shares = share_examples([20, 14, 25, 14, 23, 15, 13, 26, 12, 22], 3)
    assert sorted(item for share in shares for item in share) == list(range(10))
    assert shares == share_examples([20, 14, 25, 14, 23, 15, 13, 26, 12, 22], 3)
    lengths = [20, 14, 25, 14, 23, 15, 13, 26, 12, 22]
    assert max(sum(lengths[i] for i in share) for share in shares) <= 1.1 * sum(lengths) / 3
    assert share_examples([5, 7], 4) == [[1], [0], [], []]


def test_examples_arrive_as_they_were_sent(examples: list[EncodedExample]) -> None:
    content, there = pack_examples(examples), {}
    for rank in range(3):
        there |= dict(zip(*unpack_examples(content, rank, 3), strict=True))
    assert [(there[place].input_ids, there[place].is_label) for place in range(len(examples))] == [
        (one.input_ids, one.is_label) for one in examples
    ]
    assert unpack_examples(pack_examples(examples[:1]), 1, 2) == ([], []), "none for the second of two"


class Companions:
    """Ranks other than 0 as threads of this process, each with a model of its own; `join` raises what they raised."""

    def __init__(self, serve: Callable[[RankGroup], None], world: int) -> None:
        store = dist.HashStore()  # type: ignore[attr-defined]  # not in torch's list of names
        self.problems: list[BaseException] = []
        self.gone: str | None = None

        def be(rank: int) -> None:
            try:
                serve(connect(store, rank, world, CPU, lambda: None, one_machine=True))
            except BaseException as problem:  # noqa: BLE001  # for the thread that waits
                self.problems.append(problem)

        self.threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(1, world)]
        for thread in self.threads:
            thread.start()
        self.group = connect(store, 0, world, CPU, lambda: self.gone, one_machine=True)

    def join(self) -> None:
        self.group.close()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        if self.problems:
            raise self.problems[0]


@contextmanager
def ranks_of(new: Callable[[], Any], world: int, tokens_per_row: int = 64) -> Iterator[RankGroup]:
    """Rank 0's end of a group whose other ranks have models of `new` and compute what they are told."""
    models = [new() for _ in range(1, world)]  # here: torch's random state is the process's

    def serve(group: RankGroup) -> None:
        serve_steps(group, GradientStep.of(models[group.rank - 1], tokens_per_row, 42, group))

    companions = Companions(serve, world)
    yield companions.group
    companions.join()


@pytest.mark.parametrize("world", [2, 3])
def test_the_gradient_of_several_ranks_is_that_of_one(
    new_model: Callable[..., Any], examples: list[EncodedExample], world: int
) -> None:
    def new() -> Any:
        return new_model(dropout=0.1).train()

    alone = new()
    wanted = GradientStep.of(alone, 64).accumulate(examples, 3)
    found: list[Any] = []
    for _ in range(2):
        with ranks_of(new, world) as group:
            model = new()
            loss = GradientStep.of(model, 64, 42, group).accumulate(examples, 3)
            found.append((float(loss), gradients(model)))
            assert sum(load.tokens for load in group.loads) == sum(len(one.input_ids) for one in examples)
    assert found[0][0] == pytest.approx(float(wanted), rel=1e-6)
    assert largest_difference(found[0][1], gradients(alone)) < 1e-5
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], value) for name, value in found[1][1].items())


def test_the_gradient_of_ranks_is_that_of_a_process_with_as_many_row_workers_to_the_last_bit(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.training.packing._LEAST_TOKENS_PER_WORKER", 16)

    def new() -> Any:
        return new_model(dropout=0.1).train()

    examples = [one for one in examples if len(one.input_ids) <= 48]
    alone = new()
    torch.set_num_threads(2)
    try:
        one = GradientStep.of(alone, 96)
        assert one.rows_at_once(examples) == 2
        assert len(one.assign_rows(examples)) > 2
        loss = one.accumulate(examples, 3)
        one.row_workers.close()
    finally:
        torch.set_num_threads(1)
    with ranks_of(new, 2, 96) as group:
        model = new()
        assert float(GradientStep.of(model, 96, 42, group).accumulate(examples, 3)) == pytest.approx(
            float(loss), rel=1e-6
        )
    wanted = gradients(alone)
    assert all(torch.equal(value, wanted[name]) for name, value in gradients(model).items())


def train(
    model: Any,
    dataset: TextDataset,
    folder: Path,
    *,
    ranks: Any = None,
    resume: bool = False,
    steps: int = 0,
    **hooks: Any,
) -> dict[int, str]:
    losses: dict[int, str] = {}
    settings = tiny_settings({"lora.dropout": 0.2, "training.max_epochs": 3, "training.save_steps": 2}).fine_tuning
    stop = hooks.pop("should_stop", lambda: bool(steps) and len(losses) >= steps)
    given = Hooks(on_step=lambda report: losses.update({report.step: report.loss.hex()}), should_stop=stop, **hooks)
    train_model(model, dataset, settings, folder, given, resume=resume, ranks=ranks)
    return losses


@pytest.fixture
def fresh(new_model: Callable[..., Any], tokenizer: Any) -> Callable[[], Any]:
    return lambda: new_model(base=make_model(tokenizer), dropout=0.2, stirred=False)


def test_a_stopped_run_of_two_ranks_goes_on_bit_for_bit(
    fresh: Callable[[], Any], dataset: TextDataset, tmp_path: Path
) -> None:
    whole_model, model = fresh(), fresh()
    with ranks_of(fresh, 2) as group:
        whole = train(whole_model, dataset, tmp_path / "whole", ranks=group)
    with ranks_of(fresh, 2) as group:
        before = train(fresh(), dataset, tmp_path / "parts", ranks=group, steps=4)
    with ranks_of(fresh, 2) as group:
        after = train(model, dataset, tmp_path / "parts", ranks=group, resume=True)
    assert before | after == whole
    assert sorted(after) == [5, 6, 7, 8, 9]
    wanted = adapter_weights(whole_model)
    assert all(torch.equal(value, wanted[name]) for name, value in adapter_weights(model).items())


def test_a_run_goes_on_with_another_number_of_ranks_and_says_so(
    fresh: Callable[[], Any], dataset: TextDataset, tmp_path: Path
) -> None:
    with ranks_of(fresh, 2) as group:
        train(fresh(), dataset, tmp_path, ranks=group, steps=4)
    warnings: list[str] = []
    assert sorted(train(fresh(), dataset, tmp_path, resume=True, warn=warnings.append)) == [5, 6, 7, 8, 9]
    assert warnings == ["The run began on 2 devices and goes on with 1: not to the last bit as it would have."]


def test_a_process_with_half_of_the_weights_trains_and_evaluates_with_this_one(
    base_folder: Path, dataset: TextDataset, tmp_path: Path
) -> None:
    """The only test with a second process: FSDP2 needs one. The evaluation computes on this one alone."""
    changes = {"lora.dropout": 0.2, "training.max_epochs": 3, "training.save_steps": 2, "model_name": str(base_folder)}
    settings = tiny_settings({**changes, "gradient_checkpointing": True})
    tuning, adapters, losses = settings.fine_tuning, [], []

    def run(model: Any, folder: Path, ranks: Any = None) -> None:
        seen: list[float] = []
        prompt = torch.tensor([[5, 6, 7]])

        @torch.inference_mode()
        def evaluate(step: int) -> float:
            return float(model(input_ids=prompt).logits.mean())

        hooks = Hooks(on_step=lambda report: seen.append(report.loss), evaluate=evaluate)
        train_model(model, dataset, tuning, folder, hooks, ranks=ranks)
        losses.append(seen)
        adapters.append(adapter_weights(model))

    processes = RankProcesses(ParallelPlan("fsdp", ("cpu", "cpu"), 2, 1), settings)
    try:
        base = AutoModelForCausalLM.from_pretrained(base_folder)
        whole = [parameter.numel() for parameter in base.model.layers.parameters()]
        model = create_lora_model(base, tuning.lora, tuning.training.seed)
        group = processes.connect(model)
        parts = [p for p in model.get_base_model().model.layers.parameters() if not p.requires_grad]
        assert sum(part.to_local().numel() for part in parts) == sum(whole) // 2
        run(model, tmp_path / "sharded", group)
    finally:
        processes.close()
    alone = create_lora_model(AutoModelForCausalLM.from_pretrained(base_folder), tuning.lora, tuning.training.seed)
    run(alone, tmp_path / "alone")
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, value in adapters[0].items():
        assert float((value - adapters[1][name]).norm() / adapters[1][name].norm()) < 2e-6
    saved = load_file(tmp_path / "sharded" / "best" / "adapter_model.safetensors")
    assert {name: value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in adapters[1].items()
    }, "whole, not the part of one rank (accelerate#4206)"


def test_a_rank_that_is_gone_ends_the_run_with_everything_saved(
    fresh: Callable[[], Any], dataset: TextDataset, tmp_path: Path
) -> None:
    whole = train(fresh(), dataset, tmp_path / "whole")

    model = fresh()

    def leaves_at_step_4(group: RankGroup) -> None:
        gradient_step = GradientStep.of(model, 64, 42, group)
        group.receive()
        for _ in range(3):
            message = group.receive()
            share = StepShare(message.step, tuple(message.places), message.divisor)
            gradient_step.accumulate_share(message.examples, share)
        group.receive()
        companions.gone = "Rank 1 was killed."

    companions = Companions(leaves_at_step_4, 2)
    with pytest.raises(LostRankError, match="Rank 1 was killed"):
        train(fresh(), dataset, tmp_path / "lost", ranks=companions.group)
    after = train(fresh(), dataset, tmp_path / "lost", resume=True)
    assert sorted(after) == list(range(4, 10)), "the three steps before are kept, though two had been saved"
    assert float.fromhex(after[9]) == pytest.approx(float.fromhex(whole[9]), rel=1e-5)
