"""Questions about single sentences, as the built-in model can write them, and the rules they must obey.

A 135M-parameter model cannot read a passage and keep a format, but it can complete a question about one sentence. So
the program chooses the sentence (the evidence), begins the question in a form that the sentence's grammar allows, and
keeps the model's completion only if it asks for what the sentence says. The answer is the sentence itself.

Pure functions of text, apart from `builtin_model` so that they can be tested without torch.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

EXAMPLES: Sequence[tuple[str, str]] = (
    ("Tides rise because the moon pulls on the water of the sea.", "Why do tides rise?"),
    ("A thermometer is an instrument that measures temperature.", "What is a thermometer?"),
    ("The kidneys remove waste from the blood.", "What do the kidneys do?"),
    ("A compass shows the way to the north.", "What does a compass do?"),
)
"""The examples in the prompt before each sentence: one of each form."""

_MIN_WORDS, _MAX_WORDS = 6, 30

_UNCLEAR_STARTS = frozenset(
    (
        "it its this that these those they their them he she his her we our you your i my both each such here there "
        "then so but and or also instead however otherwise if when while whenever because since for in on at by with "
        "without to as from after before during what why how which who where not only even still yet give take let "
        "try set use see"
    ).split()
)
"""Words a sentence may not begin with: it would depend on the one before it, or be an instruction."""

_UNCLEAR_WORDS = frozenset(("above below earlier later former latter following here lesson chapter section").split())
_NOT_A_SUBJECT = re.compile(
    r"\b(this|these|those|that|which|who|because|when|if|while|is|are|was|were|and so|but|than|such as)\b|[,;:(]"
)
# What a thing *is* begins with an article; "is measured" and "is lenient" are no definitions.
_DEFINITION = re.compile(r"^(?P<subject>.{2,60}?) (?P<verb>is|are|was|were) (?P<rest>(?:a|an|the|half|one) .+)")
_MEANING = re.compile(r"^(?P<subject>.{2,60}?) (?P<verb>means|mean) (?P<rest>.+)")
_REASON = re.compile(r"^(?P<claim>.{15,}?),? (?:because|so that|, since) (?P<reason>.{10,})$")
_NOT_AN_ACTION = frozenset(
    "needs need has have starts start wants want tends tend costs cost belongs belong seems seem".split()
)
"""Verbs after which "What does X do?" is not what the sentence answers."""

_NEGATIONS = frozenset("not no never cannot nothing nobody none without".split())
_FUNCTION_WORDS = frozenset(
    (
        "a an the of in on at to for from by with and or is are was were be been do does did has have had can could "
        "will would may might must should it its that which who this these those as not no than then so why what how "
        "when where"
    ).split()
)


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """A form of question: its type, the text it begins with, and the whole of it if no model is needed."""

    kind: str
    opening: str
    whole: str | None = None


def evidence_sentences(passage: str) -> Iterator[str]:
    """Yield the sentences of a Markdown passage that state one fact and do not depend on their neighbours."""
    prose = re.sub(r"(?ms)^```.*?^```|^(?: {4}|\t).*?$|^ *#.*?$|^ *\|.*?$|^ *>.*?$", "", passage)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.)\s)", prose):
        paragraph = " ".join(re.sub(r"^\s*(?:[-*+]|\d+\.)\s+", "", block).split())
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"“])", paragraph):
            if _stands_alone(sentence):
                yield sentence


def _stands_alone(sentence: str) -> bool:
    words = sentence.split()
    if not _MIN_WORDS <= len(words) <= _MAX_WORDS or not sentence.endswith(".") or not sentence[0].isupper():
        return False
    lowered = [word.strip(".,;:!?\"'()").casefold() for word in words]
    if lowered[0] in _UNCLEAR_STARTS or _UNCLEAR_WORDS.intersection(lowered):
        return False
    return not re.search(r"[=|<>{}\[\]*#]| --|https?:|\b(?:you|your|we|our)\b", sentence)


def forms_of(sentence: str, wanted: str) -> list[QuestionForm]:
    """Return the forms of question that `sentence` answers, that of the question type `wanted` first."""
    forms: list[QuestionForm] = []
    body = sentence.rstrip(".")
    if (match := _REASON.match(body)) is not None:
        forms.append(QuestionForm("reason", " Why"))
    if (match := _MEANING.match(body)) is not None and _is_subject(match["subject"]):
        does = "does" if match["verb"] == "means" else "do"
        forms.append(QuestionForm("definition", "", f"What {does} {_within_question(match['subject'])} mean?"))
    elif (match := _DEFINITION.match(body)) is not None and _is_subject(match["subject"]):
        forms.append(QuestionForm("definition", "", f"What {match['verb']} {_within_question(match['subject'])}?"))
    else:
        forms.append(QuestionForm("fact", " What does" if _looks_singular(body) else " What do"))
    return sorted(forms, key=lambda form: form.kind != wanted)


def _is_subject(text: str) -> bool:
    return len(text.split()) <= 8 and not _NOT_A_SUBJECT.search(text)


def _looks_singular(body: str) -> bool:
    """Guess whether the subject is singular, from its first word and the first word that ends like a verb."""
    words = body.split()
    if words[0].casefold() in ("a", "an", "every", "each"):
        return True
    return not (words[0].casefold().endswith("s") and not words[0].casefold().endswith("ss")) and any(
        word.endswith("s") and not word.endswith("ss") for word in words[1:5]
    )


def _within_question(subject: str) -> str:
    """Return a sentence's subject for use within a question: its first letter in lower case, unless it is a name."""
    first, _, rest = subject.partition(" ")
    is_name = any(letter.isupper() for letter in first[1:]) or not first.replace("-", "").isalpha()
    common = first.casefold() in ("a", "an", "the", "every", "each", "one", "some", "most", "two")
    return subject if is_name and not common else f"{first[0].lower()}{first[1:]}{' ' if rest else ''}{rest}"


def writing_prompt(sentence: str, opening: str) -> str:
    """Return the prompt: examples, the sentence, and the beginning of the question."""
    shown = "".join(f"Sentence: {example}\nQuestion: {asked}\n\n" for example, asked in EXAMPLES)
    return f"{shown}Sentence: {sentence}\nQuestion:{opening}"


def finished_question(opening: str, continuation: str) -> str:
    """Return the question that an opening and the model's continuation of it make."""
    text = " ".join(f"{opening}{continuation}".split("\n")[0].split())
    return text[: text.index("?") + 1] if "?" in text else text


def fault_of(question: str, sentence: str, form: QuestionForm) -> str | None:
    """Return what is wrong with a question that the model wrote about a sentence, or None if it fits."""
    if not question.endswith("?"):
        return "the question has no end"
    if any(question.casefold() == asked.casefold() for _, asked in EXAMPLES):
        return "the question copies an example"
    if len(question.split()) < 3:  # "Why is it?" at the shortest
        return "the question is too short"
    if form.whole is not None:
        return None
    return _fault_of_reason(question, sentence) if form.kind == "reason" else _fault_of_action(question, sentence)


def _fault_of_action(question: str, sentence: str) -> str | None:
    """Check ``What does X do?``: the sentence must begin with X, and a verb must follow it there."""
    match = re.fullmatch(r"What (does|do) (.{2,70}) do\?", question)
    if match is None:
        return "the question is not of the form it was begun in"
    subject, body = match[2].casefold().split(), sentence.rstrip(".").casefold().split()
    if body[: len(subject)] != subject or len(body) < len(subject) + 3:
        return "the question is about something else than the sentence"
    following = body[len(subject)]
    if following in _NOT_AN_ACTION:
        return "the sentence does not say what it does"
    is_verb = (
        following.endswith("s") and not following.endswith("ss")
        if match[1] == "does"
        else following not in _FUNCTION_WORDS
    )
    ends_early = match[1] == "do" and not subject[-1].endswith("s")
    if ends_early or not is_verb or following in _FUNCTION_WORDS or _NOT_A_SUBJECT.search(match[2]):
        return "the question stops in the middle of the subject"
    return None


def _fault_of_reason(question: str, sentence: str) -> str | None:
    """Check ``Why …?``: it must ask for the claim, in its words, and give nothing of the reason away."""
    match = _REASON.match(sentence.rstrip("."))
    if match is None or not re.match(
        r"Why (do|does|is|are|can|must|should|did|was|were|has|have) (?!it that|we |you |people )", question
    ):
        return "the question is not of the form it was begun in"
    if _negates(question) != _negates(match["claim"]):
        return "the question turns the sentence round"
    asked, claim, reason = (content_stems(text) for text in (question, match["claim"], match["reason"]))
    if len(asked) < 2 or len(asked - claim) > 0:
        return "the question says what the sentence does not"
    if len(claim & asked) < 0.7 * len(claim):
        return "the question leaves out what it is about"
    if asked & (reason - claim):
        return "the question gives the reason away"
    return None


def _negates(text: str) -> bool:
    return bool(_NEGATIONS.intersection(re.findall(r"[^\W_]+", text.casefold())))


def content_stems(text: str) -> frozenset[str]:
    """Return the content words without their endings, cut to seven letters: enough to match inflections."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return frozenset(re.sub(r"(?:ies|es|s|ed|ing|e)$", "", word)[:7] for word in words if word not in _FUNCTION_WORDS)
