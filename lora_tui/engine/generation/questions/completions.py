"""Questions that the built-in model completes about answers found in a sentence, and the rules that they must obey.

A 135M-parameter model cannot choose what to ask, but it can complete a question that was begun for it. So the program
finds the answer, begins the question with a word that fits it ("When was", "How many"), and keeps the completion only
if it asks in the sentence's own words, names what it is about, and does not give the answer away.

Pure functions of text, tested without torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import AnswerSpan
from lora_tui.engine.generation.questions.forms import MISREAD, as_answer, unclear_words
from lora_tui.engine.generation.questions.reading import QuestionAnswer
from lora_tui.engine.generation.questions.verbs import tokenize

EXAMPLES: Sequence[tuple[str, str, str]] = (
    ("The lighthouse at Cape Gull was finished in 1871.", "1871", "When was the lighthouse at Cape Gull finished?"),
    (
        "The composer Ada Lindt wrote two operas for the theatre in Marl.",
        "two operas",
        "How many operas did Ada Lindt write?",
    ),
    ("The mill was bought by the miller Tom Hale.", "Tom Hale", "Who bought the mill?"),
    ("The largest bell hangs in the north tower.", "the north tower", "Where does the largest bell hang?"),
)
"""Sentence, answer and question in the prompt before each sentence."""

OPENINGS = {
    "time": ("When was", "When did"),
    "quantity": ("How many", "How much"),
    "person": ("Who",),
}
"""The words that questions for each kind of answer begin with; other kinds are left to the rules."""

_FUNCTION_WORDS = (
    english.DETERMINERS
    | english.PREPOSITIONS
    | english.CONJUNCTIONS
    | english.FINITE_AUXILIARIES
    | english.BE
    | frozenset(
        "who what when where why how many much long which it its that there as year than not kind often".split()
    )
)
_SHARED = 0.34
"""Share of the sentence's content words, the answer left out, that the question has to use."""


@dataclass(frozen=True, slots=True)
class BegunQuestion:
    """A question that was begun about an answer in a sentence."""

    sentence: str
    span: AnswerSpan
    opening: str


def begun_questions(sentence: str, spans: Sequence[AnswerSpan]) -> list[BegunQuestion]:
    """Return the questions that the model is to complete about the answers found in a sentence.

    A time needs a number: to a bare "Sunday" or "October" the model finds no question that it answers.
    """
    asked = [span for span in spans if span.kind != "time" or re.search(r"\d", span.text)]
    return [BegunQuestion(sentence, span, opening) for span in asked for opening in OPENINGS.get(span.kind, ())]


def writing_prompt(begun: BegunQuestion) -> str:
    """Return the prompt: examples, the sentence, its answer, and the beginning of the question."""
    shown = "".join(
        f"Sentence: {sentence}\nAnswer: {answer}\nQuestion: {question}\n\n" for sentence, answer, question in EXAMPLES
    )
    return f"{shown}Sentence: {begun.sentence}\nAnswer: {begun.span.text}\nQuestion: {begun.opening}"


def finished_question(opening: str, continuation: str) -> str:
    """Return the question that an opening and the model's continuation of it make."""
    text = " ".join(f"{opening} {continuation}".split("\n")[0].split())
    return text[: text.index("?") + 1] if "?" in text else text


def fault_of(question: str, begun: BegunQuestion) -> str | None:
    """Return what is wrong with a question that the model completed, or None if it fits."""
    if not question.endswith("?"):
        return "the question has no end"
    if any(question.casefold() == asked.casefold() for _, _, asked in EXAMPLES):
        return "the question copies an example"
    words = question[:-1].split()
    if len(words) < 4:
        return "the question is too short"
    if MISREAD.search(question) or (begun.opening == "How much" and english.is_plural(words[2])):
        return "the question is no English"
    asked, said, answer = stems(question), stems(begun.sentence), stems(begun.span.text)
    if asked - said:
        return "the question says what the sentence does not"
    if answer & asked and begun.span.kind != "quantity":
        return "the question gives the answer away"
    if re.search(r"\d", begun.span.text) and set(re.findall(r"\d+", begun.span.text)) & set(
        re.findall(r"\d+", question)
    ):
        return "the question gives the answer away"
    if unclear_words(tokenize(question)) or re.search(r"\b(?:his|her|their|its|my|our)\b", question):
        return "the question leans on its sentence"
    if len(asked) < 2 or len(asked) < _SHARED * len(said - answer):
        return "the question leaves out what it is about"
    if {word.casefold() for word in words} & english.NEGATIONS != {
        word.casefold().strip(".,") for word in begun.sentence.split()
    } & english.NEGATIONS:
        return "the question turns the sentence round"
    return None


def completed_pair(question: str, begun: BegunQuestion) -> QuestionAnswer:
    """Return the pair of a question that fits."""
    return QuestionAnswer(question, as_answer(begun.span.text), "fact", begun.span.kind)


def stems(text: str) -> frozenset[str]:
    """Return the content words without their endings, cut to six letters: enough to match inflections."""
    words = re.findall(r"[^\W_]+", text.casefold())
    found = set()
    for word in words:
        if word not in _FUNCTION_WORDS:
            found.add(_stem(word))
    return frozenset(found)


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    bases = {verb.base for verb in english.verbs_of(word) if verb.base}
    base = min(bases, key=lambda other: (len(other), other)) if bases else word
    return re.sub(r"(?:ies|es|s|ed|ing|e)$", "", base)[:6] or base
