"""The generation model on this machine: the built-in model writes and judges, without a network.

What a model of this size cannot do, the program carries: the facts of a passage and their questions are found by rule
(`passage_facts`), the model completes questions about the answers that are left (`completions`), and it judges by
the round trip (`round_trip`): how probable question and answer are with the passage in view. A passage is read
once; its questions are scored a few at a time, and the best are handed out first.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Self

from lora_tui.engine.generation.analysis import describe
from lora_tui.engine.generation.contrasts import rivals
from lora_tui.engine.generation.fact_choice import AskedQuestions, by_promise
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    CallStopped,
    Judgement,
    PairRequest,
    Proposals,
    ProposedPair,
    Slot,
)
from lora_tui.engine.generation.questions.answer_spans import simple_spans
from lora_tui.engine.generation.questions.completions import (
    BegunQuestion,
    begun_questions,
    completed_pair,
    fault_of,
    finished_question,
    writing_prompt,
)
from lora_tui.engine.generation.questions.passage_facts import Fact, PassageFacts, facts_of, is_usable
from lora_tui.engine.generation.questions.reading import QuestionAnswer
from lora_tui.engine.generation.questions.signs import of_words, signs_of
from lora_tui.engine.generation.round_trip import RoundTrip
from lora_tui.engine.generation.texts.rule_texts import RuleTexts
from lora_tui.engine.inference.decode import answers
from lora_tui.engine.inference.ranking import ReadText, read_text, read_texts, score_continuations
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.protocol.reply import Decoding
from lora_tui.store.rows import AttemptEnd

_BATCH = 8
_SLICE = 6
"""Questions that are scored at a time: enough to choose among, few enough that the first pairs come soon."""

_MOST_BEGUN = _BATCH
"""Questions of a passage that the model completes: eight take it as long as scoring four facts."""

_QUESTION = Decoding(max_new_tokens=28, until=("?", "\n"))
_PASSAGES_READ = 4
"""Passages whose keys and values are kept, some 46 kB a token each."""

_ANY_SLOT = Slot("", "fact", "easy", "a beginner")
"""What a single statement is asked about."""

_GOOD = 0.7
"""Level of the round trip from which a pair is handed out before the rest of its passage is scored."""


@dataclass
class _Passage:
    """What is known of a passage: facts without a score, and facts that wait to be handed out."""

    found: PassageFacts
    unscored: list[Fact]
    ready: list[tuple[float, Fact]] = field(default_factory=list)
    completed: bool = False

    def leave_out(self, asked: Set[str], answered: Set[tuple[str, str]]) -> None:
        """Forget facts whose question was `asked` or that are `answered`, here or in a passage that overlaps."""

        def is_open(fact: Fact) -> bool:
            return fact.pair.question.casefold() not in asked and fact.key not in answered

        self.unscored = [fact for fact in self.unscored if is_open(fact)]
        self.ready = [(level, fact) for level, fact in self.ready if is_open(fact)]


@dataclass
class _ReadPassage:
    """A passage that the model has read, with "Question" and with "Answer:" after it.

    `unasked` are the log-probabilities (nats) of answers without a question.
    """

    question: ReadText
    answer: ReadText
    unasked: dict[str, float] = field(default_factory=dict)


class BuiltinModel:
    """`GenerationModel` on SmolLM2-135M-Instruct, on the engine's torch thread."""

    name = BUILTIN
    concurrency = 4 * _BATCH
    endpoint_load = None
    endpoints = ()
    check_key = ""
    """It is not asked about canary pairs: the round trip tells 1 of 12 (``tests.bench.builtin_judge``)."""

    def __init__(self, ctx: RunContext, base: BaseModel) -> None:
        self._ctx = ctx
        self._base = base
        self._lock = asyncio.Lock()
        self._passages: dict[str, _Passage] = {}
        self._asked: set[str] = set()
        self._answered: set[tuple[str, str]] = set()  # keys of the facts that were handed out
        self._questions = AskedQuestions()
        self._read: OrderedDict[str, _ReadPassage] = OrderedDict()
        self._scores: dict[tuple[str, str, str], RoundTrip] = {}
        self.texts = RuleTexts()

    @classmethod
    async def load(cls, ctx: RunContext) -> Self:
        """Fetch the model if it is not cached yet, and load it."""
        base = await ctx.in_torch_thread(load_base, ctx.settings, progress_events(ctx.emit), BUILTIN)
        return cls(ctx, base)

    @property
    def judges(self) -> "tuple[BuiltinModel]":
        """It judges what it wrote, by the round trip."""
        return (self,)

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Return up to ``request.count`` pairs of the passage that have not been proposed yet, the best first."""
        attempt = await call.begin_attempt()
        async with self._lock:
            facts = await self._ctx.in_torch_thread(self._next_facts, request)
        if self._ctx.stop.is_set():  # what was being scored is asked for again when the run is resumed
            raise CallStopped
        pairs = tuple(
            ProposedPair(fact.pair.question, fact.pair.answer, fact.evidence, request.slot.topic, fact.pair.type)
            for fact in facts
        )
        await call.end_attempt(attempt, AttemptEnd("ok", reply="\n".join(pair.question for pair in pairs)))
        return Proposals(pairs, () if pairs else ("the passage holds no further fact that can be asked for",))

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Measure whether the question, with the passage in view, points at its answer among the passage's others."""
        attempt = await call.begin_attempt()
        key = (passage, pair.question, pair.answer)
        if key not in self._scores:
            async with self._lock:
                found = facts_of(passage, pair.topic)
                await self._ctx.in_torch_thread(self._score, passage, [_fact_of(pair, found)])
        if key not in self._scores:
            raise CallStopped
        trip = self._scores[key]
        await call.end_attempt(attempt, AttemptEnd("ok", reply=f"{trip.level:.3f}"))
        return Judgement(trip.metrics(), trip.note(), "round trip")

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Describe the statistics by rule: the model is too small to interpret them."""
        attempt = await call.begin_attempt()
        text = describe(json.loads(statistics))
        await call.end_attempt(attempt, AttemptEnd("ok", reply=text))
        return text

    async def group_topics(self, outline: str, call: CallRecord) -> str:
        """Group nothing: the model is too small for it."""
        return ""

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Return the best question about a statement with its answer; raises `CallFailed` if none fits it."""
        sentence = " ".join(statement.split())
        sentence = sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
        sentence = sentence[0].upper() + sentence[1:]
        request = PairRequest(sentence, _ANY_SLOT, 1, (), (), ())
        async with self._lock:
            facts = await self._ctx.in_torch_thread(self._next_facts, request)
            self._passages.pop(sentence, None)  # a statement may come again
            self._asked.clear()
            self._answered.clear()
        if self._ctx.stop.is_set():
            raise CallStopped
        if not facts:
            raise CallFailed("the statement has no form that the built-in model can ask for")
        return facts[0].pair.question, facts[0].pair.answer

    async def close(self) -> None:
        """Forget what was read."""
        self._read.clear()

    # On the torch thread

    def _next_facts(self, request: PairRequest) -> list[Fact]:
        """Return the next `count` facts of a passage, scoring as many as it takes to have good ones."""
        known = self._passages.get(request.passage)
        if known is None:
            found = facts_of(request.passage, request.slot.topic, request.opening, request.beginnings)
            known = self._passages[request.passage] = _Passage(found, by_promise(found.facts, request, self._questions))
        elif request.steering.is_on:
            known.unscored = by_promise(known.unscored, request, self._questions)
        asked_before = self._asked | {question.casefold() for question in request.avoid}
        while not self._ctx.stop.is_set():
            known.leave_out(asked_before, self._answered)
            good = sum(level >= _GOOD and self._questions.crowding(fact, request) < 1 for level, fact in known.ready)
            if good >= request.count:
                break
            if known.unscored:
                self._score_facts(request.passage, known)
            elif not known.completed:
                known.completed = True
                known.unscored = self._completed_facts(known)
            else:
                break

        def promise(scored: tuple[float, Fact]) -> tuple[bool, float, float]:
            level, fact = scored
            return level < _GOOD, self._questions.crowding(fact, request), -level

        chosen: list[Fact] = []
        while known.ready and len(chosen) < request.count:
            _, fact = best = min(known.ready, key=promise)
            known.ready.remove(best)
            self._answered.add(fact.key)
            self._asked.add(fact.pair.question.casefold())
            self._questions.add(fact.pair.question)
            chosen.append(fact)
            known.leave_out(self._asked, self._answered)
        return chosen

    def _score_facts(self, passage: str, known: _Passage) -> None:
        facts, known.unscored = known.unscored[:_SLICE], known.unscored[_SLICE:]
        self._score(passage, facts)
        for fact in facts:
            trip = self._scores.get((passage, fact.pair.question, fact.pair.answer))
            if trip is not None:
                known.ready.append((trip.level, fact))

    def _score(self, passage: str, facts: Sequence[Fact]) -> None:
        """Make the round trip for each fact."""
        read = self._read_passage(passage)
        model, tokenizer = self._base.model, self._base.tokenizer
        new = list(dict.fromkeys(fact.pair.answer for fact in facts if fact.pair.answer not in read.unasked))
        questions = [f": {fact.pair.question}" for fact in facts]
        ends = [len(tokenizer(question, add_special_tokens=False)["input_ids"]) - 1 for question in questions]
        texts = [f"{question}\nAnswer:" for question in questions]
        asked = read_texts(model, tokenizer, texts, after=read.question) if texts else []
        others = [[] if fact.pair.rule else rivals(fact.pair.answer, passage) for fact in facts]
        if self._ctx.stop.is_set():
            return
        unasked, *scores = score_continuations(
            model,
            tokenizer,
            [
                (read.answer, [f" {answer}" for answer in new]),
                *(
                    (text, [f" {one}" for one in (fact.pair.answer, *own)])
                    for fact, text, own in zip(facts, asked, others, strict=True)
                ),
            ],
        )
        read.unasked |= {answer: score.total for answer, score in zip(new, unasked, strict=True)}
        for fact, text, end, (score, *rival_scores) in zip(facts, asked, ends, scores, strict=True):
            self._scores[passage, fact.pair.question, fact.pair.answer] = RoundTrip(
                score.total,
                read.unasked[fact.pair.answer],
                score.first,
                score.tokens,
                text.mean,
                text.each[end],
                fact.signs,
                max((one.total for one in rival_scores), default=None),
            )

    def _read_passage(self, passage: str) -> _ReadPassage:
        if passage in self._read:
            self._read.move_to_end(passage)
        else:
            text = read_text(self._base.model, self._base.tokenizer, f"{passage.strip()}\n\n", measured=False)
            question, answer = read_texts(
                self._base.model, self._base.tokenizer, ("Question", "Answer:"), after=text, measured=False
            )
            self._read[passage] = _ReadPassage(question, answer)
            if len(self._read) > _PASSAGES_READ:
                self._read.popitem(last=False)
        return self._read[passage]

    def _completed_facts(self, known: _Passage) -> list[Fact]:
        """Have the model complete questions about the answers that no rule has asked for."""
        asked_for = " ".join(fact.pair.answer.casefold() for fact in known.found.facts)
        begun: list[BegunQuestion] = []
        evidence: dict[str, str] = {}
        for sentence in known.found.sentences:
            if is_usable(sentence.plain):
                spans = [span for span in simple_spans(sentence.plain) if span.text.casefold() not in asked_for]
                begun += begun_questions(sentence.plain, spans)
                evidence[sentence.plain] = sentence.text
        facts = []
        del begun[_MOST_BEGUN:]
        for start in range(0, len(begun), _BATCH):
            if self._ctx.stop.is_set():
                break
            part = begun[start : start + _BATCH]
            prompts = [writing_prompt(one) for one in part]
            written = answers(self._base.model, self._base.tokenizer, prompts, _QUESTION, self._ctx.stop)
            for one, text in zip(part, written, strict=True):
                question = finished_question(one.opening, text)
                if fault_of(question, one) is None:
                    pair = completed_pair(question, one)
                    found = known.found
                    signs = signs_of(pair, one.sentence, found.counts, particular=found.particular)
                    facts.append(Fact(pair, evidence[one.sentence], signs))
        return facts


def _fact_of(pair: ProposedPair, found: PassageFacts) -> Fact:
    """Return the fact that a pair was made from; a pair of other words, a person's, has the signs that words give."""
    for fact in found.facts:
        if (fact.pair.question, fact.pair.answer) == (pair.question, pair.answer):
            return fact
    own = QuestionAnswer(pair.question, pair.answer, pair.question_type, "thing", rule="")
    return Fact(own, pair.evidence, of_words(pair.question, pair.answer, pair.evidence))
