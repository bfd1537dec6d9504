"""A clause that is ready to be asked about, and the pairs that templates make of it."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.clauses import Clause
from lora_tui.engine.generation.questions.forms import (
    Subject,
    as_answer,
    phrases_text,
    unclear_words,
    within,
)
from lora_tui.engine.generation.questions.phrases import Phrase
from lora_tui.engine.generation.questions.verbs import Token, text_of


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question and its answer; `type` is the question type (``fact``, ``reason``, ...), `kind` the answer's kind.

    `rule` is the template that made it, or ``completed`` for a question that the model completed.
    """

    question: str
    answer: str
    type: str
    kind: str
    rule: str = "completed"


_ASIDES = ("for example", "for instance", "in addition", "as well", "of course")

_DROPPED = frozenset("today now then too together alone".split())

_ALWAYS_KEPT = frozenset(("without", "except", "only", "again"))

TAKES_INFINITIVE = frozenset(
    """
    want need begin start try allow permit force help tell ask have continue decide agree refuse plan tend seem
    expect order teach learn get manage fail hope intend prefer promise choose offer enable require make believe say
    know prove appear cause lead like mean come remind go prepare attempt encourage wish instruct advise invite
    oblige compel able forbid persuade urge challenge recommend design consider suppose entitle advise
    """.split()
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A clause whose subject is clear, ready to be asked about."""

    clause: Clause
    subject: Subject
    names: Set[str]

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """The phrases after the verb."""
        return self.clause.phrases

    def text(self, tokens: Sequence[Token]) -> str:
        """Return tokens as the text they stand for."""
        return text_of(tokens, self.clause.sentence)

    def rest(
        self,
        asked: Phrase | None,
        *,
        keep: Sequence[str] = ("object", "preposition", "adverb", "comparison"),
        without: Sequence[Phrase] = (),
    ) -> str | None:
        """Return the other phrases and the lead as text; None where they cannot be understood by themselves."""
        form = self.clause.verb_form
        takes = form is not None and form.base in TAKES_INFINITIVE
        kept = [
            phrase
            for phrase in self.phrases
            if phrase is not asked
            and phrase.head not in _DROPPED
            and not self.text(phrase.tokens).casefold().startswith(_ASIDES)
            and phrase not in without
            and (phrase.kind in keep or phrase.head in _ALWAYS_KEPT or (phrase.kind == "purpose" and takes))
        ]
        if any(unclear_words(phrase.tokens) or _goes_on(phrase) for phrase in kept):
            return None
        text = phrases_text(kept, self.clause.sentence)
        lead = self.clause.lead
        if lead is not None and lead.kind != "means" and (lead.kind != "time" or "time" in keep) and lead is not asked:
            if unclear_words(lead.tokens):
                return None
            shown = within(lead.tokens, self.clause.sentence, self.names)
            text = f"{text}{',' if len(lead.tokens) > 6 else ''} {shown}"
        return text


def _goes_on(phrase: Phrase) -> bool:
    """Tell whether a time has more than itself in it: "in 1934 and the names of all ministers"."""
    lows = [token.low for token in phrase.tokens]
    return (
        phrase.kind == "time"
        and phrase.head in ("in", "on", "at")
        and any(low == "and" and after in english.DETERMINERS for low, after in pairwise(lows))
    )


def make_pair(question: str | None, answer: str, type_: str, kind: str) -> Iterator[QuestionAnswer]:
    """Yield the pair of a question, if there is one, with its answer in natural form."""
    if question is not None:
        yield QuestionAnswer(question, as_answer(answer), type_, kind)


def complement(reading: Reading) -> Sequence[Token]:
    """Return the complement with all that belongs to it: every phrase up to a reason or a time."""
    words: list[Token] = []
    for phrase in reading.phrases:
        if phrase.kind in ("reason", "condition") and words:
            break
        words += phrase.tokens
    return words


def is_negated(clause: Clause) -> bool:
    """Tell whether a clause says that something is not so."""
    return any(token.low in english.NEGATIONS for token in clause.adverbs)
