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
    clause = parse_clause(sentence)
    if clause is None:
        return [replace(pair, rule="instruction") for pair in reasons.of_instruction(sentence, names)]
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
            if pair.question not in found and _is_sound(pair):
                name = template.__name__.strip("_")
                last = pair.question.rstrip("?").rsplit(" ", 1)[-1].casefold()
                if last in _STRANDED and name not in ("what_with_preposition", "what_called", "purpose", "why"):
                    continue  # "What does the funnel describe through?"
                if name in _ASK_FOR_SUBJECT and _OWNED.search(pair.question):
                    continue  # "How many otters wait at its upper end?"
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
        return "and" in later or "or" in later or re.match(r"[^.;]*, (?:and|or)\b", left) is not None
    return False


_ASK_FOR_SUBJECT = frozenset("how_many_subjects who_is_subject who_did".split())
_OWNED = re.compile(r"\b(?:its|their|his|her)\b")
_STRANDED = frozenset("through for with from into of by at about between against among towards upon".split())


def _is_torn(pair: QuestionAnswer) -> bool:
    """Tell whether an answer stops half-way: "techniques used", "a model used to visualize", "literary, musical"."""
    words = [word.strip(",").casefold() for word in pair.answer.rstrip(".").split()]
    if not words or pair.answer[0] == "`":
        return False
    verbs = english.verbs_of(words[-1])
    if pair.kind in ("thing", "list", "name", "person") and len(words) > 1:
        relative = any(word in ("that", "which", "who", "where") for word in words)
        if words[-2] in {"to"} | english.MODALS and any(verb.tense == "base" for verb in verbs):
            return True
        if words[-1].endswith("ed") and any(verb.tense == "past" for verb in verbs) and not relative:
            return True
    listed = ", " in pair.answer and pair.kind not in ("quantity", "duration", "time", "place")
    if not listed or any(word in ("and", "or", "which", "who", "whose") for word in words):
        return False
    tail = pair.answer.rstrip(".").rsplit(", ", 1)[1]
    return " " not in tail and tail[0].islower()


def _is_sound(pair: QuestionAnswer) -> bool:
    words = pair.question.split()
    if MISREAD.search(pair.question):
        return False
    first = pair.answer.split()[0].casefold()
    if first in _POSSESSIVE_STARTS and pair.kind not in ("clause", "means", "purpose"):
        return False
    ends = {words[-1].casefold().strip("?,."), pair.answer.split()[-1].casefold().strip("?,.")}
    if ends & _NO_ENDS:
        return False
    if _is_torn(pair) or (first in english.CONJUNCTIONS - {"nor"} and pair.kind != "clause"):
        return False
    return 3 <= len(words) <= _MAX_QUESTION_WORDS and 1 <= len(pair.answer.split()) <= _MAX_ANSWER_WORDS
