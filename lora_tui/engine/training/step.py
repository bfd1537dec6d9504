"""One optimizer step: the gradient of its examples' loss over packed rows.

The summed loss is divided by the label tokens of the *whole* step, not averaged a row at a time: a mean of means
weights short answers more (transformers#34191). The backbone runs by hand so that the head sees the label positions
alone; models whose head or attention is not plain take their own forward, one example a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.activation_memory import Recomputation
from lora_tui.engine.models.build_lock import computing
from lora_tui.engine.training.cuda_graphs import GraphedRows
from lora_tui.engine.training.fallback import FallbackLadder, RowLoad, in_halves
from lora_tui.engine.training.fast.dropout import DropoutRng
from lora_tui.engine.training.fast.layers import FastLayers
from lora_tui.engine.training.loss import label_cross_entropy, summed_cross_entropy
from lora_tui.engine.training.objective import Objective
from lora_tui.engine.training.packing import (
    EncodedExample,
    PackableExample,
    Row,
    RowWorkers,
    balance,
    lay_out,
    pack,
    packed_attention,
    share_of_row,
    supports_packing,
)
from lora_tui.engine.training.ranks import SHARDED_IS_SLOWER, LostRankError, OneRank, Ranks, share_examples

_HEAD_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""Configuration entries of models that do more to the logits than the head's product."""


@dataclass(frozen=True, slots=True)
class StepShare:
    """What a rank has of a step: `places` of its examples in the whole step, whose loss is divided by `divisor`.

    Every example is laid out as `parts` spans.
    """

    step: int
    places: tuple[int, ...]
    divisor: float
    parts: int = 1

    def dropout_rng(self, seed: int, row: Row) -> DropoutRng:
        """The draws of a row of these examples: those of their places in the step, whichever rank computes them."""
        spans = (divmod(span, self.parts) for span in row.examples)
        places = tuple(self.places[item] * self.parts + part for item, part in spans)
        return DropoutRng(seed, self.step, places, row.spans)


@dataclass
class GradientStep:
    """How a model computes its loss and gradient: chosen once by `of`, and with less memory at once by `fallback`.

    `packed` says that several examples share a row, `plain_head` that the head sees label positions alone, `fast` which
    layers are computed by hand; dropout's draws depend on `seed`. `ranks` are those that a step is computed by, each a
    share of its examples. `objective` is what is minimised instead of the labels' cross-entropy, and `figures` what it
    has to say of the newest step beside the loss.
    """

    model: PeftModel
    base: PreTrainedModel
    packed: bool
    plain_head: bool
    device: torch.device
    fast: FastLayers
    row_workers: RowWorkers
    fallback: FallbackLadder
    seed: int = 42
    graphs: GraphedRows | None = None
    ranks: Ranks = field(default_factory=OneRank)
    objective: Objective | None = None
    figures: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._unread_mask = torch.zeros(1, 1, 1, 1, device=self.device)

    @classmethod
    def of(
        cls,
        model: PeftModel,
        tokens_per_row: int,
        seed: int = 42,
        ranks: Ranks | None = None,
        objective: Objective | None = None,
    ) -> "GradientStep":
        """Look at the model and choose the packed or the plain path, and the layers that are computed by hand."""
        base: PreTrainedModel = model.get_base_model()
        packed, ranks = supports_packing(base), ranks or OneRank()
        # Ranks that share cores cut rows as one process's workers do: as much memory, the same sums to the bit.
        ladder = FallbackLadder(share_of_row(tokens_per_row, ranks.beside))
        fast = FastLayers.of(model, packed=packed, sharded=ranks.sharded)
        # PEFT's own dropout draws from torch's one generator: rows must then come one after the other. So they must
        # where every layer's weights are gathered before it computes.
        workers = RowWorkers(base.device, allowed=fast.unsupported_reason is None and not ranks.sharded)
        ranks.bind([parameter for parameter in model.parameters() if parameter.requires_grad])
        parts = model, base, packed, _has_plain_head(base), base.device, fast, workers, ladder, seed
        return cls(*parts, ranks=ranks, objective=objective)

    def slower_reasons(self) -> Iterator[str]:
        """Yield what keeps this model from the fastest way, a sentence each."""
        if not self.packed:
            yield "One example a row: this model's attention is not plain causal, so rows are not packed."
        if self.ranks.sharded:
            yield f"{SHARDED_IS_SLOWER}."
        if self.fast.unsupported_reason is not None:
            yield f"PEFT's own layers are used, which are slower: {self.fast.unsupported_reason}."
        elif self.fast.slower_reason is not None:
            yield f"One of the slower ways: {self.fast.slower_reason}."
        elif "mlp" not in self.fast.replaced:
            yield f"Only LoRA's layers are computed by hand; {self.base.config.model_type}'s own do the rest, slower."

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Set the model up for steps inside the block; outside it, it is as transformers and PEFT made it."""
        with ExitStack() as stack:
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))  # Triton and graphs take the current one
            if self.packed:
                stack.enter_context(packed_attention(self.base))
            if self.fast.unsupported_reason is None:
                stack.enter_context(self.fast.installed())
            elif self.base.dtype == torch.bfloat16:
                # bfloat16 arithmetic, so that float32 adapters do not pull their inputs to float32: the casts of PEFT
                # would keep a float32 copy of every layer's input.
                stack.enter_context(disable_input_dtype_casting(self.model))
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            yield

    def accumulate(self, examples: Sequence[PackableExample], step: int = 0) -> Tensor:
        """Set ``.grad`` to the gradient of the mean label loss of `examples`; returns that loss, a float32 scalar.

        `step` is the number of the optimizer step, which dropout's draws depend on. Every rank computes its share and
        divides by the labels of all, so the sum of their gradients, which rank 0 gets, is that of one rank. Raises
        `RowTooLargeError` when a single example does not fit with everything recomputed, `LostRankError` when another
        rank is gone: then the step has not been taken.
        """
        divisor, parts = self.divisor(examples), len(examples[0].parts)
        with self._undone_where_a_rank_is_lost():
            places = self.ranks.begin_step(examples, step, divisor)
            return self.accumulate_share(
                [examples[place] for place in places], StepShare(step, tuple(places), divisor, parts)
            )

    @contextmanager
    def _undone_where_a_rank_is_lost(self) -> Iterator[None]:
        random_state = torch.get_rng_state()
        try:
            yield
        except LostRankError:
            torch.set_rng_state(random_state)
            self.model.zero_grad(set_to_none=True)
            raise

    def accumulate_share(self, examples: Sequence[PackableExample], share: StepShare) -> Tensor:
        """Compute this rank's `examples` of a step that has begun, and take part in the sum; see `accumulate`."""
        loss = self._sum_rows(examples, share)
        return self.ranks.sum_gradients(loss, tokens_in(examples, range(len(examples))), self.fallback.state())

    def _sum_rows(self, examples: Sequence[PackableExample], share: StepShare) -> Tensor:
        """Add up the rows of this rank's examples.

        Where memory runs out, they are taken again a rung lower on the `fallback` ladder, with the same draws: the sum
        is the same. (PEFT's own dropout begins at the same random state, but draws for rows and not for examples.)
        """
        random_state = torch.get_rng_state()
        while True:
            self.model.zero_grad(set_to_none=True)
            try:
                return self._accumulate(examples, share)
            except RuntimeError as problem:
                if self.ranks.sharded or not self.fallback.can_lower(problem):  # the others are at the next row
                    raise
                error = str(problem)
            # Only here has the failed row been freed: the exception's traceback held its tensors.
            torch.set_rng_state(random_state)  # what PEFT's own dropout draws from
            before = self.fallback.current
            tokens, largest = max((tokens_in(examples, items), items) for items in self.assign_rows(examples))
            load = RowLoad(tokens, len(largest), self.rows_at_once(examples), self.long_rows_together(examples))
            rung = self.fallback.lower(error, load)
            if not rung.graphs:
                self.graphs = None
            if rung.recompute_all and not before.recompute_all:
                self.recompute(activation_memory.ALL)
            torch.cuda.empty_cache()  # what the allocator has kept for later, so that smaller pieces fit

    def _accumulate(self, examples: Sequence[PackableExample], share: StepShare) -> Tensor:
        if self.graphs is not None and self.fallback.current.graphs:
            return self._accumulate_by_graphs(self.graphs, examples, share)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        baseline = self.baseline(examples)

        def compute_lane(rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor | None]]:
            total = torch.zeros(1, dtype=torch.float32, device=self.device)
            gradients: list[Tensor | None] = [None] * len(parameters)
            for items in rows:
                self.ranks.check()
                row = lay_out(examples, items, self.device)  # beside the GPU's work on the row before
                self.fast.set_dropout_rng(share.dropout_rng(self.seed, row))
                sums = self.row_sums(row, [examples[item] for item in items], baseline)
                found = torch.autograd.grad(sums[0] / share.divisor, parameters, allow_unused=True)
                total = total + sums.detach()
                gradients = _sum_of(gradients, found)
            return total, gradients

        total, gradients = compute_lane(())  # of a rank without an example
        with computing(), self.ready():
            # Added up in the order of the lanes, whoever is first: the same sum to the last bit.
            for lanes, workers in self._lane_groups(examples):
                for sums, found in self.row_workers.map(compute_lane, lanes, workers):
                    total = total + sums
                    gradients = _sum_of(gradients, found)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            for _ in range(self.ranks.rows_to_add(len(self.assign_rows(examples)))):
                self._compute_for_nothing(parameters)
        if self.objective is not None:
            self.figures = self.objective.figures(examples, total, baseline)
        return total[0] / share.divisor

    def divisor(self, examples: Sequence[PackableExample]) -> float:
        """What a step's summed loss is divided by: its labels, or what its objective says."""
        if self.objective is not None:
            return self.objective.divisor(examples)
        return sum(example.labels for example in examples)

    def baseline(self, examples: Sequence[PackableExample]) -> Tensor | None:
        """What the objective holds every example of a step against, without gradient; None for most objectives."""
        compared = [] if self.objective is None else self.objective.compared_with(examples)
        if self.objective is None or not compared:
            return None
        return self.objective.baseline(examples, self.log_probs(compared))

    def row_sums(self, row: Row, examples: Sequence[PackableExample], baseline: Tensor | None = None) -> Tensor:
        """The summed loss of a row's `examples`, and behind it what the objective's figures need; float32."""
        if self.objective is None:
            return self.summed_loss(row).unsqueeze(0)
        labels = [part.labels for example in examples for part in example.parts]
        return self.objective.sums(examples, torch.split(self.label_losses(row), labels), baseline)

    def log_probs(self, examples: Sequence[EncodedExample]) -> Tensor:
        """The log probability of each example's labels together, float32 ``(examples,)``: no gradient, no dropout.

        Where memory runs out, a row is computed in halves; raises `RowTooLargeError` when a single example does not
        fit.
        """
        training = self.model.training
        found = torch.zeros(len(examples), dtype=torch.float32, device=self.device)
        self.model.eval()
        try:
            with torch.no_grad(), computing(), self.ready():
                self.fast.set_dropout_rng(None)
                for row in self.assign_rows(examples):
                    for items, losses in in_halves(lambda part: self._losses_of(examples, part), row, examples):
                        labels = [examples[item].labels for item in items]
                        found[items] = -torch.stack([part.sum() for part in torch.split(losses, labels)])
        finally:
            self.model.train(training)
        return found

    def _losses_of(self, examples: Sequence[EncodedExample], items: Sequence[int]) -> Tensor:
        return self.label_losses(lay_out(examples, items, self.device))

    def _compute_for_nothing(self, parameters: Sequence[nn.Parameter]) -> None:
        """Compute a row of two tokens beside the other ranks' last rows, which need this one's part of the weights."""
        row = lay_out([EncodedExample((0, 0), (False, True), has_keyword=False, source="")], [0], self.device)
        self.fast.set_dropout_rng(None)
        torch.autograd.grad(self.summed_loss(row), parameters, allow_unused=True)

    def _accumulate_by_graphs(
        self, graphs: GraphedRows, examples: Sequence[PackableExample], share: StepShare
    ) -> Tensor:
        with computing(), self.ready():
            graphs.begin(share.divisor)
            for items in self.assign_rows(examples):
                row = lay_out(examples, items, torch.device("cpu"))
                graphs.add(row, share.dropout_rng(self.seed, row) if self.fast.has_dropout else None)
        for parameter, gradient in zip(graphs.parameters, graphs.sums, strict=True):
            parameter.grad = gradient
        return graphs.total / share.divisor

    def record_graphs(self) -> None:
        """Compute rows by CUDA graphs from now on, where the GPU's own kernels take the whole row."""
        attentions = sum("Attention" in type(module).__name__ for module in self.base.modules())
        replaces_all = self.plain_head and self.fast.uses_kernels and not self.ranks.sharded
        if self.objective is None and replaces_all and self.fast.replaced.get("attention") == attentions > 0:
            parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            layers = self.fast.replaced["linear"]
            self.graphs = GraphedRows(parameters, layers, self.summed_loss, self.fast.set_dropout_rng)
            self.fallback.begin_at(replace(self.fallback.current, graphs=True))

    def recompute(self, way: Recomputation) -> None:
        """Compute activations again in the backward pass, as `way` says; graphs, which keep theirs, are given up."""
        self.fast.recomputes_feed_forward = way.feed_forward
        self.graphs = None
        if not way.every:
            return
        # Dropout by hand needs no random state restored before a layer is computed again.
        options = {"use_reentrant": False, "preserve_rng_state": self.fast.unsupported_reason is not None}
        self.base.activation_checkpointing_enable(options, every_n_layers=way.every, offload=way.offload)
        # transformers makes the embedding's output require a gradient for the reentrant kind; the other needs none.
        self.base.disable_input_require_grads()

    def rows_at_once(self, examples: Sequence[PackableExample]) -> int:
        """How many rows of a step are computed side by side, whose tokens together keep to `tokens_per_row`.

        Rows of one long example exceed it, and are counted by `long_rows_together`.
        """
        rung = self.fallback.current
        if not self.packed or rung.one_at_a_time:
            return 1
        tokens = sum(len(example.input_ids) for example in examples)
        return self.row_workers.workers(min(tokens, rung.tokens_per_row))

    def long_rows_together(self, examples: Sequence[PackableExample]) -> int:
        """How many of a step's rows above their share of `tokens_per_row` are computed side by side; 1: each alone."""
        return self._lane_groups(examples)[1][1]

    def _lane_groups(self, examples: Sequence[PackableExample]) -> list[tuple[list[list[list[int]]], int]]:
        """Group a step's rows in three: lanes of rows, and how many lanes of each group are computed side by side.

        Rows too large for their share of `tokens_per_row`, one long example each, go together as far as memory has room
        for them; those that are left over take all the cores, one after the other. The others make as many lanes as
        there are workers, which add up their own rows: a lane is what a rank with one worker computes, so the sum is
        that of such ranks to the last bit. Rows come longest first: what one leaves in the heap, between the other
        thread's tensors, fits a shorter row and not a longer one.
        """
        rung, at_once = self.fallback.current, self.rows_at_once(examples)
        long, lanes = self._lanes(examples, at_once)
        together = max(1, min(at_once, rung.long_rows, len(long)))
        alone = len(long) if together == 1 else len(long) % together
        return [
            ([[items] for items in long[:alone]], 1),
            ([[items] for items in long[alone:]], together),
            (lanes, at_once),
        ]

    def summed_loss_of(self, examples: Sequence[PackableExample], step: int = 0, first: int = 0) -> Tensor:
        """The summed loss of one row of `examples`, a float32 scalar; `first` is their first index in the step."""
        with computing(), self.ready():
            row = lay_out(examples, range(len(examples)), self.device)
            places = tuple(first * len(examples[0].parts) + place for place in row.examples)
            self.fast.set_dropout_rng(DropoutRng(self.seed, step, places, row.spans))
            return self.row_sums(row, examples)[0]

    @torch.no_grad()
    def with_nonfinite_loss(self, examples: Sequence[PackableExample], step: int) -> list[int]:
        """Indices of a step's examples whose loss, each computed by itself, is not finite."""
        losses = [self.summed_loss_of([example], step, index) for index, example in enumerate(examples)]
        return [index for index, loss in enumerate(losses) if not bool(torch.isfinite(loss))]

    def assign_rows(self, examples: Sequence[PackableExample]) -> list[list[int]]:
        """Pack a step's examples: the indices of those that share each row."""
        long, lanes = self._lanes(examples, self.rows_at_once(examples))
        return [*long, *(row for lane in lanes for row in lane)]

    def _lanes(
        self, examples: Sequence[PackableExample], at_once: int
    ) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Pack a step's examples: rows of one above a worker's share of `tokens_per_row`, and each one's rows."""
        lengths, rung = [len(example.input_ids) for example in examples], self.fallback.current
        if not self.packed:
            return [], [sorted(([item] for item in range(len(lengths))), key=lambda items: -lengths[items[0]])]
        budget = rung.tokens_per_row // at_once
        short = [item for item, length in enumerate(lengths) if length <= budget]
        long = sorted(
            ([item] for item, length in enumerate(lengths) if length > budget), key=lambda row: -lengths[row[0]]
        )
        distribute = balance if rung.graphs else pack
        lanes = []
        for lane in share_examples([lengths[item] for item in short], at_once):
            rows = distribute([lengths[short[item]] for item in lane], budget)
            rows = [[short[lane[item]] for item in row] for row in rows]
            lanes.append(sorted(rows, key=lambda items: -tokens_in(examples, items)))
        return long, lanes

    def summed_loss(self, row: Row) -> Tensor:
        """The summed cross-entropy of one row's labels, a float32 scalar."""
        found = self._predictions(row)
        if self.plain_head:
            return summed_cross_entropy(found, self.base.get_output_embeddings().weight, row.targets)
        return functional.cross_entropy(found, row.targets, reduction="sum")

    def label_losses(self, row: Row) -> Tensor:
        """The cross-entropy of each of one row's labels, float32 ``(labels,)``."""
        found = self._predictions(row)
        if self.plain_head:
            return label_cross_entropy(found, self.base.get_output_embeddings().weight, row.targets)
        return functional.cross_entropy(found, row.targets, reduction="none")

    def _predictions(self, row: Row) -> Tensor:
        """What predicts a row's labels: hidden states ``(labels, hidden)`` of a plain head, else float32 logits."""
        attention = {"spans": row.spans, "cu_seqlens": row.cu_seqlens} if self.packed else {}
        backbone = self.base.base_model if self.plain_head else self.base
        # use_cache=False and no mask: anything else makes transformers ignore the restarting positions. Packed, nobody
        # reads the mask, and one of four dimensions keeps transformers from looking for spans and waiting for a GPU.
        output = backbone(
            input_ids=row.input_ids[None],
            position_ids=row.position_ids[None],
            attention_mask=self._unread_mask if self.packed else None,
            use_cache=False,
            **attention,
        )
        if self.plain_head:
            hidden: Tensor = output.last_hidden_state.squeeze(0).index_select(0, row.label_positions)
            return hidden
        logits: Tensor = output.logits[0].index_select(0, row.label_positions).float()
        return logits


def tokens_in(examples: Sequence[PackableExample], items: Sequence[int]) -> int:
    """How many tokens the examples with the indices `items` have together."""
    return sum(len(examples[item].input_ids) for item in items)


def _sum_of(sums: list[Tensor | None], parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Add gradients to `sums`, in place where there is one already; None is a gradient that there is not."""
    there = [(old, new) for old, new in zip(sums, parts, strict=True) if old is not None and new is not None]
    if there:  # the optimizer's own way: a GPU is asked once for all of them
        torch._foreach_add_([old for old, _ in there], [new for _, new in there])
    return [new if old is None else old for old, new in zip(sums, parts, strict=True)]


def _has_plain_head(base: PreTrainedModel) -> bool:
    """Tell whether the logits are nothing but a frozen linear head over the backbone's output."""
    head = base.get_output_embeddings()
    config = base.config.get_text_config()
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    transformed = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _HEAD_TRANSFORMS)
    return plain and not transformed and hasattr(base, "base_model")
