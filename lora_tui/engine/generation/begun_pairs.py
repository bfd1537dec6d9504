"""Pairs that the program begins and a small model finishes: the evidence, the answer and the question's first words.

The same facts as the built-in model's (`questions.passage_facts`). The model gets the first words of a question that
a rule has found; if what it makes of them asks for the same, the rule's wording is taken, whose grammar is better. Two
that find the same question independently are seldom both wrong. Answers that no rule asks for are left out: nothing
here could judge what the model makes of them (of 23 such pairs of SmolLM2, 6 were sensible).

Small and apart because it is pure functions of text: `remote_writer` has the questions completed, by calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.engine.generation.questions.answer_spans import AnswerSpan
from lora_tui.engine.generation.questions.completions import BegunQuestion, fault_of, finished_question, stems
from lora_tui.engine.generation.questions.passage_facts import Fact, facts_of, is_usable

_OPENING_WORDS = 2
_SAME = 0.5
"""Jaccard similarity of two questions' content words from which they ask for the same."""


@dataclass(frozen=True, slots=True)
class BegunPair:
    """A question that was begun, and the fact it should ask for."""

    begun: BegunQuestion
    fact: Fact

    def finished(self, continuation: str, topic: str) -> ProposedPair | str:
        """Return the pair that a model's continuation makes, or what is wrong with it."""
        question = finished_question(self.begun.opening, continuation)
        if fault := fault_of(question, self.begun):
            return f"{fault}: {question}"
        pair = self.fact.pair
        one, other = stems(question), stems(pair.question)
        if len(one & other) < _SAME * len(one | other):
            return f"the question asks for something else: {question}"
        return ProposedPair(pair.question, pair.answer, self.fact.evidence, topic, pair.type)


def begun_pairs(passage: str, heading: str, wanted: str) -> Iterator[BegunPair]:
    """Yield what can be begun about a passage, facts of the type `wanted` first."""
    for fact in sorted(facts_of(passage, heading).facts, key=lambda fact: fact.pair.type != wanted):
        opening = " ".join(fact.pair.question.split()[:_OPENING_WORDS])
        span = AnswerSpan(fact.pair.answer.rstrip("."), fact.pair.kind)
        yield BegunPair(BegunQuestion(fact.evidence, span, opening), fact)


def sentences_of(passage: str, heading: str) -> list[str]:
    """Return the sentences of a passage that a question can be written about."""
    return [sentence.text for sentence in facts_of(passage, heading).sentences if is_usable(sentence.text)]
