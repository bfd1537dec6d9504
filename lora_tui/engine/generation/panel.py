"""The panel of judges: asks several judges about a pair, and each judge about the canary pairs.

Of several judges the first two are asked about every pair, at once; the next one only where they disagree: where one
would have the pair accepted and the other not, or their levels of groundedness or correctness lie two or more apart.
(Usefulness is mostly taste.) The judgement is the mean of the two that agree best, or, where no two agree, the median.
The idea is that several small judges agree better with people than one large one, for less money (arXiv 2404.18796).

A judge that fails costs its opinion, not the pair. Each answer is stored in the transaction that ends its call, so that
whoever takes the task up again asks only for those that are missing. What each judge said and how far they are apart
become metrics of the pair, beside the joint levels.
"""

import asyncio
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lora_tui.engine.generation.canaries import KNOWN_PAIRS, JudgeCheck, KnownPair, check_of
from lora_tui.engine.generation.generation_model import CallFailed, Judge, Judgement, ProposedPair
from lora_tui.engine.generation.ledger import StoredCall, run_shielded
from lora_tui.scoring.judge import DIMENSIONS
from lora_tui.scoring.priors import JUDGE_DISAGREEMENT
from lora_tui.store import judgements
from lora_tui.store.connection import Store

APART = 0.5 - 1e-9
"""Two levels, on 0-1."""

_LEVELS = tuple(f"judge_{name}" for name in DIMENSIONS)
_DECISIVE = _LEVELS[:2]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge says about a pair, and whether it would have it accepted."""

    judge: str
    judgement: Judgement
    accepted: bool

    def distance(self, other: "Opinion") -> float:
        """Return the largest difference of two judges' groundedness and correctness, 0-1."""
        ours, theirs = self.judgement.metrics, other.judgement.metrics
        return max(abs(ours[name] - theirs[name]) for name in _DECISIVE)

    def agrees_with(self, other: "Opinion") -> bool:
        """Tell whether two judges would decide alike, with less than two levels between them."""
        return self.accepted == other.accepted and self.distance(other) < APART


@dataclass(frozen=True, slots=True)
class PanelJudgement:
    """The joint judgement of several judges; `metrics` (0-1) and `details` also hold each judge's own."""

    judgement: Judgement
    metrics: Mapping[str, float]
    details: Mapping[str, str]


def metric_of(judge: str, name: str) -> str:
    """Return the name under which a judge's own rating is stored: "judge_correctness@gpt-4o-mini"."""
    return f"{name}@{judge}"


def agreeing(opinions: Sequence[Opinion]) -> tuple[Opinion, Opinion] | None:
    """Return the two judges that agree best, or None where no two agree; of equals the first."""
    pairs = [(one, other) for one, other in combinations(opinions, 2) if one.agrees_with(other)]
    return min(pairs, key=lambda pair: pair[0].distance(pair[1]), default=None)


def combine(opinions: Sequence[Opinion], silent: Mapping[str, str]) -> PanelJudgement:
    """Return the joint judgement of one judge or more; `silent` says of others why they gave none."""
    together = agreeing(opinions)
    joint = together or tuple(opinions)
    # Of two numbers the median is the mean.
    levels = {name: statistics.median(one.judgement.metrics[name] for one in joint) for name in _LEVELS}
    names = " and ".join(one.judge for one in joint)
    if len(opinions) == 1:
        note = f"only {names} judged it"
    elif together is not None:
        note = f"{names} agree, their mean" + (f"; {len(opinions)} were asked" if len(opinions) > 2 else "")
    else:
        note = f"{names} disagree, " + ("their mean" if len(joint) == 2 else "their median")
    note += "".join(f"; {judge} gave no judgement: {reason}" for judge, reason in silent.items())
    metrics, details = dict(levels), dict.fromkeys(levels, f"panel: {note}")
    if len(opinions) > 1:
        spread = [_range([one.judgement.metrics[name] for one in opinions]) for name in _LEVELS]
        metrics[JUDGE_DISAGREEMENT] = statistics.fmean(spread)
    for one in opinions:
        own = {metric_of(one.judge, name): one.judgement.metrics[name] for name in _LEVELS}
        metrics |= own
        details |= dict.fromkeys(own, f"{one.judge}, {one.judgement.mode}: {one.judgement.note}")
    return PanelJudgement(Judgement(levels, note, "panel"), metrics, details)


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)


@dataclass
class JudgePanel:
    """Asks the judges of a run; `new_call` makes the record of a call for a task, by its id."""

    store: Store
    judges: Sequence[Judge]
    new_call: Callable[[int], StoredCall]

    async def judge(
        self,
        task_id: int,
        passage: str,
        pair: ProposedPair,
        prepare: Callable[[StoredCall], StoredCall],
        accepts: Callable[[Judgement], bool],
    ) -> PanelJudgement:
        """Return the joint judgement on a pair; `accepts` tells whether it would be accepted by a judgement alone.

        Raises `CallFailed` where no judge could be asked, and whatever ends the run.
        """
        opinions: list[Opinion] = []
        silent: dict[str, str] = {}
        failures: list[CallFailed] = []
        left = list(self.judges)
        while left and agreeing(opinions) is None:
            asked, left = left[: max(1, 2 - len(opinions))], left[max(1, 2 - len(opinions)) :]
            answers = await self._ask_all([(judge, passage, pair) for judge in asked], task_id, prepare)
            for judge, answer in zip(asked, answers, strict=True):
                if isinstance(answer, CallFailed):
                    failures.append(answer)
                    silent[judge.name] = str(answer)
                elif not answer.metrics:
                    silent[judge.name] = answer.note
                else:
                    opinions.append(Opinion(judge.name, answer, accepts(answer)))
        if opinions:
            return combine(opinions, silent)
        if failures:
            raise CallFailed(str(failures[0]), transient=any(failure.transient for failure in failures))
        nobody = Judgement({}, next(iter(silent.values())), "gates")
        return PanelJudgement(nobody, {}, {})

    async def check(self, judge: Judge, task_id: int) -> JudgeCheck | None:
        """Ask a judge about the canary pairs; None where no model judges after all, or it answered too few.

        A form of judgement that it cannot keep is left on the way; then the pairs are asked about in the next one.
        """
        while key := judge.check_key:
            asked = [(judge, known.passage, known.pair) for known in KNOWN_PAIRS]
            answers: list[Judgement | CallFailed] = []
            # Until one is answered they go one by one: in a form that cannot be kept, each of them would be paid for.
            while judge.check_key == key and len(answers) < len(asked) and not _answered(answers):
                answers += await self._ask_all(asked[len(answers) :][:1], task_id, subject=key)
            if judge.check_key == key:
                answers += await self._ask_all(asked[len(answers) :], task_id, subject=key)
            if judge.check_key != key:
                continue
            rated: dict[KnownPair, Judgement] = {
                known: answer
                for known, answer in zip(KNOWN_PAIRS, answers, strict=True)
                if not isinstance(answer, CallFailed) and answer.metrics
            }
            failures = [answer for answer in answers if isinstance(answer, CallFailed)]
            if not rated and failures:
                raise failures[0]
            return check_of(judge.name, rated, time.time())
        return None

    async def _ask_all(
        self,
        asked: Sequence[tuple[Judge, str, ProposedPair]],
        task_id: int,
        prepare: Callable[[StoredCall], StoredCall] = lambda call: call,
        subject: str = "",
    ) -> list[Judgement | CallFailed]:
        """Ask at once, wait for every answer, and raise what concerns the whole run only then."""
        known = await judgements.of_task(self.store, task_id)
        answers = await asyncio.gather(
            *(self._ask(judge, passage, pair, task_id, prepare, subject, known) for judge, passage, pair in asked),
            return_exceptions=True,
        )
        found: list[Judgement | CallFailed] = []
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, CallFailed):
                raise answer
            found.append(answer)
        return found

    async def _ask(
        self,
        judge: Judge,
        passage: str,
        pair: ProposedPair,
        task_id: int,
        prepare: Callable[[StoredCall], StoredCall],
        subject: str,
        known: Mapping[tuple[str, str], judgements.JudgementRow],
    ) -> Judgement:
        key = _hash(subject, passage, pair)
        if (row := known.get((judge.name, key))) is not None:
            return Judgement(row.metrics, row.note, row.mode)
        call = prepare(self.new_call(task_id))
        try:
            judgement = await judge.judge(passage, pair, call)
            await run_shielded(self._store(task_id, judge.name, key, judgement, call))
        finally:
            await call.abandon()
        return judgement

    async def _store(self, task_id: int, judge: str, key: str, judgement: Judgement, call: StoredCall) -> None:
        async def work(t: Store) -> None:
            await call.settle(t)
            await judgements.add(t, task_id, judge, key, judgement.metrics, judgement.note, judgement.mode)

        await self.store.together(work)


def _answered(answers: Sequence[Judgement | CallFailed]) -> bool:
    return any(isinstance(answer, Judgement) for answer in answers)


def _hash(subject: str, passage: str, pair: ProposedPair) -> str:
    asked = [subject, passage, pair.question, pair.answer]
    text = json.dumps([*asked, pair.doubts] if pair.doubts else asked)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
