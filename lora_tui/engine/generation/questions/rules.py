"""Questions made from a sentence by rule: the clause is turned round, and one of its phrases becomes the answer.

"The funicular was opened on 3 May 1897." gives "When was the funicular opened?" and "On 3 May 1897.". Templates would
rather give nothing than a question that is wrong or leans on its sentence; the round trip judges what is left.
"""

import re
from collections.abc import Set
from dataclasses import replace

from lora_tui.engine.generation.questions import amounts, english, identities, places, reasons, things
from lora_tui.engine.generation.questions.clauses import Clause, parse_clause
from lora_tui.engine.generation.questions.forms import MISREAD, Subject, names_itself, subject_of
from lora_tui.engine.generation.questions.instructions import questions_about_instruction
from lora_tui.engine.generation.questions.reading import QuestionAnswer, Reading

_MAX_QUESTION_WORDS = 20

_MAX_ANSWER_WORDS = 26

_TEMPLATES = (*amounts.TEMPLATES, *identities.TEMPLATES, *things.TEMPLATES, *reasons.TEMPLATES, *places.TEMPLATES)
_NO_ENDS = (
    english.CONJUNCTIONS
    | english.DETERMINERS - {"that", "all", "both", "each", "any", "enough"}
    | frozenset("before only shortly just that is are was were very more than also".split())
)
_POSSESSIVE_STARTS = frozenset("its his her their my our your this these those".split())


def questions_about(sentence: str, names: Set[str] = frozenset(), stand_in: str | None = None) -> list[QuestionAnswer]:
    """Return the questions that a sentence answers, the plainest first.

    `names` are words that the passage writes as names in the middle of sentences. `stand_in` says what a pronoun at the
    beginning of the sentence stands for; without it such a sentence gives no question.
    """
    if told := [replace(p, rule="instruction") for p in questions_about_instruction(sentence, names) if _is_sound(p)]:
        return told
    clause = parse_clause(sentence)
    if clause is None:
        return []
    if stand_in is not None and clause.subject[0].low in ("it", "they", "he", "she") and len(clause.subject) == 1:
        human = clause.subject[0].low in ("he", "she")
        subject = Subject(stand_in, stand_in.split()[-1], clause.subject[0].low == "they", human)
    elif clause.subject[0].low == "there" and len(clause.subject) == 1:
        return [replace(pair, rule="existence") for pair in amounts.existence(clause, names)]
    elif (
        len(clause.subject) == 1
        and clause.subject[0].text not in names
        and clause.subject[0].start == 0
        and any(verb.tense == "base" for verb in english.verbs_of(clause.subject[0].text))
    ):
        return []  # "Rate rejected pairs too.": an instruction
    elif _begins_with_order(clause, names):
        return []  # "Click on the button located on the main page."
    elif len(clause.subject) == 1 and clause.subject[0].low == "you":
        subject = Subject("you", "you", True, True)
    elif names_itself(clause.subject):
        subject = subject_of(clause, names)
    else:
        return []
    if _list_goes_on(clause):
        return []
    reading = Reading(clause, subject, names)
    found: dict[str, QuestionAnswer] = {}
    for template in _TEMPLATES:
        for pair in template(reading):
            name = template.__name__.strip("_")
            if pair.question not in found and _is_sound(pair, name):
                last = pair.question.rstrip("?").rsplit(" ", 1)[-1].casefold()
                if last in _STRANDED and name not in (
                    "what_with_preposition",
                    "what_passive",
                    "what_called",
                    "purpose",
                    "why",
                ):
                    continue  # "What does the funnel describe through?"
                if name in _ASK_FOR_SUBJECT and _OWNED.search(pair.question):
                    continue  # "How many otters wait at its upper end?"
                if _is_orphaned(pair.question, subject):
                    continue  # "When did a storm take two of his vents?"
                found[pair.question] = replace(pair, rule=name)
    return list(found.values())


def _list_goes_on(clause: Clause) -> bool:
    """Tell whether a list is cut by its own phrases: "holds 3,400 photographs, the ledgers | from 1715 | and ..."."""
    for place, phrase in enumerate(clause.phrases):
        lows = [token.low for token in phrase.tokens]
        if phrase.kind != "object" or "," not in lows or "and" in lows or "or" in lows:
            continue
        later = [token.low for other in clause.phrases[place + 1 :] for token in other.tokens]
        left = clause.sentence[phrase.tokens[-1].end :]
        return "and" in later or "or" in later or re.match(r",[^.;]* (?:and|or)\b", left) is not None
    return False


_ASK_FOR_SUBJECT = frozenset("how_many_subjects who_is_subject who_did".split())
_OWNED = re.compile(r"\b(?:its|their|his|her)\b")
_AFTER_ORDERS = frozenset("on in to at up down for with from through into sure that it them".split())


def _begins_with_order(clause: Clause, names: Set[str]) -> bool:
    """Tell whether what was taken for the subject is an order to the reader, with a participle behind it."""
    first, *others = clause.subject
    if not others or first.start or first.text in names or first.low in english.DETERMINERS:
        return False
    is_verb = any(verb.tense == "base" for verb in english.verbs_of(first.text))
    return is_verb and others[0].low in _AFTER_ORDERS | english.DETERMINERS


_OWNER_WORDS = {"his": True, "her": True, "him": True, "its": False}


def _is_orphaned(question: str, subject: Subject) -> bool:
    """Tell whether a question speaks of "his" or "its" where its subject is no such owner."""
    words = question.rstrip("?").casefold().split()
    owned = [_OWNER_WORDS[word] for word in words if word in _OWNER_WORDS]
    return any(person != subject.is_person or subject.is_plural for person in owned) or (
        "their" in words and not subject.is_plural
    )


_STRANDED = frozenset("through for with from into of by at about between against among towards upon".split())


def _is_torn(pair: QuestionAnswer) -> bool:
    """Tell whether an answer stops half-way: "techniques used", "a model used to visualize", "literary, musical"."""
    words = [word.strip(",").casefold() for word in pair.answer.rstrip(".").split()]
    if not words or pair.answer[0] == "`":
        return False
    verbs = english.verbs_of(words[-1])
    if pair.kind in ("thing", "list", "name", "person") and len(words) > 1:
        relative = any(word in ("that", "which", "who", "where") for word in words)
        if words[-2] in {"to"} | english.MODALS and (
            any(verb.tense == "base" for verb in verbs) or pair.answer[-2:] != "s."
        ):
            return not pair.answer.rstrip(".").rsplit(" ", 1)[-1][0].isupper()
        if words[-1].endswith("ed") and any(verb.tense == "past" for verb in verbs) and not relative:
            return True
    listed = ", " in pair.answer and pair.kind not in ("quantity", "duration", "time", "place")
    if not listed or any(word in ("and", "or", "which", "who", "whose") for word in words):
        return False
    tail = pair.answer.rstrip(".").rsplit(", ", 1)[1]
    return " " not in tail and tail[0].islower()


_RELATIVE_TIME = re.compile(
    r"(?:in |on |at )?(?:last|this|next|that|the same|the next|the following|the previous) (?:year|month|week|day|"
    r"night|morning|evening|winter|summer|autumn|spring|time|season)\b",
    re.IGNORECASE,
)
"""Times that only the text's own date fixes: "last year"."""

_OWNED_PLACE = re.compile(r"\w+ (?:his|her|my|our|your)\b")
_COMPARED = re.compile(r"\b(?:less|more|fewer|earlier|later|longer)\.$")
_NO_ANSWERS = frozenset(
    ("since.", "at the earliest.", "at the latest.", "at least.", "at most.", "at first.", "at once.")
)


def _is_sound(pair: QuestionAnswer, rule: str = "") -> bool:
    words = pair.question.split()
    if MISREAD.search(pair.question.replace(" while ", " when ") if rule == "what_does" else pair.question):
        return False
    first = pair.answer.split()[0].casefold()
    if pair.answer.rstrip(".").casefold() in pair.question.casefold() and pair.kind in ("person", "name", "thing"):
        return False
    if pair.kind in ("place", "time") and _OWNED_PLACE.match(pair.answer):
        return False  # "In his hat."
    if _RELATIVE_TIME.match(pair.answer) or _COMPARED.search(pair.answer) or pair.answer.casefold() in _NO_ANSWERS:
        return False
    if first in _POSSESSIVE_STARTS and pair.kind not in ("clause", "means", "purpose"):
        return False
    ends = {words[-1].casefold().strip("?,."), pair.answer.split()[-1].casefold().strip("?,.")}
    if ends & _NO_ENDS:
        return False
    if _is_torn(pair) or (first in english.CONJUNCTIONS - {"nor"} and pair.kind != "clause"):
        return False
    return 3 <= len(words) <= _MAX_QUESTION_WORDS and 1 <= len(pair.answer.split()) <= _MAX_ANSWER_WORDS
