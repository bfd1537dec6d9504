"""The judge behind an endpoint: asks in the form of judgement that its model can keep, and doubts small models.

Three digits are asked for first; where the endpoint gives log-probabilities, the levels are the expectation over the
judge's own distribution, which agrees better with people than the digit it happens to write (arXiv 2303.16634,
2503.03064). A model that writes no digits gives its levels under a schema, or says yes or no to each dimension.

A model that writes only about single sentences is asked to judge four sound pairs and the same with a wrong answer
before it is trusted, because a judge that cannot tell these apart decides by chance (SmolLM2's levels: an AUROC of one
half). Where no form of judgement passes, the program's gates and measures of text decide alone, and the pair's record
says so.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.canaries import MARGIN, check_key, rating
from lora_tui.engine.generation.client.refusals import FormRefused
from lora_tui.engine.generation.client.wire import ChatRequest
from lora_tui.engine.generation.endpoint_memory import EndpointNotes, recall, remember
from lora_tui.engine.generation.generation_model import CallFailed, CallRecord, Judgement, ProposedPair
from lora_tui.engine.generation.prompts import LEVELS_SCHEMA, Message
from lora_tui.engine.generation.remote_calls import RemoteCalls, ReplyCutOff
from lora_tui.engine.generation.remote_writer import TRIAL
from lora_tui.engine.generation.replies import read_judgement, read_yes_or_no
from lora_tui.engine.generation.reply_forms import JUDGE_FORMS, SINGLE_FORMS, FormLadder, JudgeForm
from lora_tui.scoring.judge import DIMENSIONS

_ORDER: tuple[JudgeForm, ...] = tuple(JUDGE_FORMS)
_TRIES, _MOST_UNUSABLE, _WINDOW = 2, 6, 8

_CONTRASTS: Sequence[tuple[str, str, str]] = (
    ("When was the observatory of Tarn Hill opened?", "It was opened in 1904.", "It was opened in 1940."),
    (
        "Why is the dome of the observatory of Tarn Hill painted white?",
        "Because dark paint would warm the air in front of the mirror and blur the stars.",
        "Because white paint is cheap and can be bought in the next village.",
    ),
    (
        "Who opened the observatory of Tarn Hill?",
        "The astronomer Edith Vane opened it.",
        "Its mirror was ground in Norway.",
    ),
    (
        "How large is the mirror of the largest telescope of Tarn Hill?",
        "It is two metres large.",
        "It is painted white.",
    ),
)
"""Question, right answer and wrong answer about the passage of `TRIAL`."""


class JudgePrompts(Protocol):
    """Builder of the messages that ask for a judgement: of pairs (`Prompts`), or of texts."""

    def judge(self, passage: str, pair: ProposedPair, *, in_json: bool = False) -> list[Message]:
        """Return the messages that ask for the three levels."""
        ...

    def judge_dimension(self, passage: str, pair: ProposedPair, dimension: str) -> list[Message]:
        """Return the messages that ask for yes or no in one dimension."""
        ...


class RemoteJudge:
    """Judges pairs with the model `name` of an endpoint; `writing` is the ladder of the model that wrote them."""

    def __init__(
        self,
        name: str,
        chosen: DataGeneration,
        calls: RemoteCalls,
        prompts: JudgePrompts,
        warn: Callable[[str], None],
        writing: FormLadder,
    ) -> None:
        self.name = name
        self._chosen = chosen
        self._calls = calls
        self._prompts = prompts
        self._warn = warn
        self._writing = writing
        self._address = calls.endpoint.shown_url
        notes = recall(self._address, name)
        known = next((form for form in JUDGE_FORMS if notes is not None and form == notes.judge), None)
        self.form: JudgeForm = known or _ORDER[0]
        self._trusted = known is not None
        self._was_usable = known is not None
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._learning = asyncio.Lock()

    @property
    def is_weak(self) -> bool:
        """Whether the model is one that writes only about single sentences."""
        return self.name == self._chosen.model and self._writing.current in SINGLE_FORMS

    @property
    def check_key(self) -> str:
        """Under which its check is remembered; empty where no model judges, or a weak one, which is tried anyway."""
        return "" if self.form == "gates" or self.is_weak else check_key(self._address, self.name, self.form)

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Return the judgement on a pair, with the passage in view."""
        if self.is_weak and not self._trusted:
            async with self._learning:
                if not self._trusted:
                    async with self._calls.at_once(call):
                        await self._find_form(call)
        while True:
            form = self.form
            try:
                judgement = await self._judge(form, passage, pair, call)
            except FormRefused as refused:
                self._lower(form, f"the endpoint does not take {JUDGE_FORMS[form]} ({refused})")
            except ReplyCutOff:
                raise
            except CallFailed as problem:
                if problem.transient or not self._record(form, str(problem)):
                    raise
            else:
                self._record(form, None)
                return judgement

    async def _find_form(self, call: CallRecord) -> None:
        """Go down to the first form in which the model tells sound pairs from wrong ones."""
        while not self._trusted:
            form = self.form
            try:
                fault = await self._fault_of(form, call)
            except FormRefused as refused:
                fault = f"the endpoint does not take {JUDGE_FORMS[form]} ({refused})"
            except CallFailed as problem:
                if problem.transient:
                    raise
                fault = str(problem)
            if fault is None:
                self._trusted = True
                self._remember()
            else:
                self._lower(form, fault)

    async def _fault_of(self, form: JudgeForm, call: CallRecord) -> str | None:
        """Return what a form of judgement gets wrong about pairs that are known to be right and wrong, or None."""
        for question, right, wrong in _CONTRASTS:
            sound, other = [
                await self._judge(form, TRIAL.passage, ProposedPair(question, answer, TRIAL.passage, ""), call)
                for answer in (right, wrong)
            ]
            if rating(sound) < rating(other) + MARGIN:
                return f"it rates «{wrong}» no lower than «{right}»"
        return None

    async def _judge(self, form: JudgeForm, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        if form == "gates":
            return Judgement({}, "no model judged it", "gates")
        chosen = self._chosen.evaluation
        sampling = {"temperature": chosen.temperature, "logprobs": True}
        if form == "yes_no":
            metrics = {}
            for dimension in DIMENSIONS:
                messages = self._prompts.judge_dimension(passage, pair, dimension)
                chat = ChatRequest(self.name, messages, chosen.max_tokens, sampling, ahead=True)
                metrics[f"judge_{dimension}"] = await self._calls.ask(chat, call, "evaluation", read_yes_or_no)
            written = ", ".join(f"{name} {metrics[f'judge_{name}']:.0%}" for name in DIMENSIONS)
            return Judgement(metrics, f"probability of yes: {written}", "yes/no")
        messages = self._prompts.judge(passage, pair)
        chat = ChatRequest(self.name, messages, chosen.max_tokens, sampling, ahead=True)
        if form == "levels":
            messages = self._prompts.judge(passage, pair, in_json=True)
            enforcement = self._writing.enforcement_of("flat") if self.name == self._chosen.model else "none"
            # Three keys and digits take some 25 tokens.
            most = max(chosen.max_tokens, 60)
            chat = ChatRequest(self.name, messages, most, sampling, LEVELS_SCHEMA, enforcement, ahead=True)
        return await self._calls.ask(chat, call, "evaluation", read_judgement)

    def _record(self, form: JudgeForm, fault: str | None) -> bool:
        """Record a judgement, unusable for a reason or not; returns whether its form was left."""
        if form != self.form:
            return True
        self._recent.append(fault is None)
        self._was_usable = self._was_usable or fault is None
        unusable = self._recent.count(False)
        if fault is None or form == "gates" or unusable < (_MOST_UNUSABLE if self._was_usable else _TRIES):
            return False
        self._lower(form, f"{unusable} of its last {len(self._recent)} judgements could not be read ({fault})")
        return True

    def _lower(self, form: JudgeForm, why: str) -> None:
        if form != self.form:
            return
        self.form = _ORDER[_ORDER.index(form) + 1]
        self._trusted = self.form == "gates"
        self._was_usable = False
        self._recent.clear()
        self._warn(f"{self._address}, {self.name} as the judge: {why}. It is asked for {JUDGE_FORMS[self.form]}.")
        if self._trusted or not self.is_weak:
            self._remember(why)

    def _remember(self, why: str = "") -> None:
        known = recall(self._address, self.name) or EndpointNotes(at=time.time())
        remember(self._address, self.name, replace(known, judge=self.form, judge_how=why))
