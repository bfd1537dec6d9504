"""What pronouns and bare nouns stand for: "it" after "The mill was ...", "the club" under "Rules of the chess club".

A question has to make sense to someone who has not seen its text. A pronoun becomes the subject of the sentence before,
where nothing else there could be meant; "the club" becomes the one fuller mention of a club so far, the title of the
document first. What stays bare, or could be two things, is told (`Mention`), because such questions are odd more often.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import is_person, names_in
from lora_tui.engine.generation.questions.clauses import Clause, parse_clause
from lora_tui.engine.generation.questions.forms import names_itself, subject_of
from lora_tui.engine.generation.questions.verbs import Token, holds_a_clause, may_be_finite, text_of, tokenize

_PRONOUNS = frozenset("it they he she".split())
_PERSONS_PRONOUNS = frozenset("he she him his her".split())
_GENDER_OF = {
    **dict.fromkeys("father grandfather brother uncle son grandson husband nephew".split(), "he"),
    **dict.fromkeys("mother grandmother sister aunt daughter granddaughter wife niece".split(), "she"),
}
_OWNERS = {"its": "it", "his": "he", "her": "she", "their": "they"}
_NO_MODIFIERS = frozenset(
    "same other next last first second third own such only whole very new few own more most".split()
)
_MOST_WORDS = 7
"""Words of what a pronoun may stand for, and of a fuller mention."""


@dataclass(frozen=True, slots=True)
class Antecedents:
    """What the pronouns of the next sentence can stand for; None where that is not plain.

    `doubtful`: something else of the sentence could be meant by "it" or "they". `stranger`: somebody was introduced
    who is none of the known people.
    """

    it: str | None = None
    they: str | None = None
    person: str | None = None
    doubtful: bool = False
    stranger: bool = False

    def stand_in(self, pronoun: str) -> str | None:
        """Return what a pronoun stands for."""
        return {"it": self.it, "they": self.they}.get(pronoun, self.person)


class Genders:
    """Who of a text was "he" and who was "she" so far: "She" is not the man who was named last."""

    def __init__(self, relatives: Mapping[str, str] = MappingProxyType({})) -> None:
        self._of: dict[str, str] = {}
        for who, name in relatives.items():
            if (gender := _GENDER_OF.get(who.rsplit(" ", 1)[-1])) is not None:
                self._of[name] = gender

    def settle(self, statement: str, antecedents: Antecedents) -> Antecedents:
        """Return what pronouns stand for, the person with regard to the pronoun that the statement begins with.

        Where the person named last is none or another, the only one who has been "she" before is meant.
        """
        clause = parse_clause(statement)
        first = clause.subject[0].low if clause is not None else ""
        pronoun = _OWNERS.get(first, first)
        if pronoun not in ("he", "she") or antecedents.stranger:
            return antecedents
        person = antecedents.person
        if person is not None and self._of.get(person, pronoun) == pronoun:
            self._of[person] = pronoun
            return antecedents
        known = [name for name, gender in self._of.items() if gender == pronoun]
        return replace(antecedents, person=known[0] if len(known) == 1 else None)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A statement that stands by itself as far as possible.

    `stand_in` is what its pronoun subject stands for, `how` what was done: ``pronoun`` (``doubtful`` where it could
    stand for something else, too), ``owner`` ("its wheel"), ``mention`` (a bare noun completed), ``bare`` and
    ``several`` (a bare noun left, with no or with several fuller mentions), or "" where there was nothing to do.
    """

    statement: str
    stand_in: str | None
    how: str


def resolve(statement: str, antecedents: Antecedents, mentions: "Mentions") -> Resolved:
    """Return the statement with what its subject stands for."""
    clause = parse_clause(statement)
    if clause is None:
        return Resolved(statement, None, "")
    first = clause.subject[0]
    if clause.lead is not None and holds_a_clause(clause.lead.tokens[1:]):
        return Resolved(statement, None, "")  # "If a colony has to be moved, it is ...": its subject stands in the lead
    if len(clause.subject) == 1 and first.low in _PRONOUNS:
        doubtful = antecedents.doubtful and first.low in ("it", "they")
        return Resolved(statement, antecedents.stand_in(first.low), "doubtful" if doubtful else "pronoun")
    if first.low in _OWNERS and len(clause.subject) > 1:
        owner = antecedents.stand_in(_OWNERS[first.low])
        if owner is not None and len(owner.split()) <= 4 and "'s" not in owner and "’s" not in owner:
            possessive = f"{owner}'" if owner.endswith("s") else f"{owner}'s"
            doubtful = antecedents.doubtful and first.low in ("its", "their")
            return Resolved(_exchanged(statement, first, first, possessive), None, "doubtful" if doubtful else "owner")
        return Resolved(statement, None, "")
    if first.low == "the" and len(clause.subject) == 2 and clause.subject[1].text.islower():
        found = mentions.of(clause.subject[1].low)
        if len(found) == 1:
            return Resolved(_exchanged(statement, first, clause.subject[1], found[0]), None, "mention")
        return Resolved(statement, None, "several" if found else "bare")
    return Resolved(statement, None, "")


def _exchanged(statement: str, first: Token, last: Token, text: str) -> str:
    shown = text if first.start else f"{text[0].upper()}{text[1:]}"
    return f"{statement[: first.start]}{shown}{statement[last.end :]}"


class Mentions:
    """Noun phrases that a text has had so far, by their last word: "club" has "the Black Bishop chess club"."""

    def __init__(self, title: str, names: Set[str]) -> None:
        self._names = names
        self._found: dict[str, dict[str, str]] = {}
        for part in re.split(r"[:;.–—]\s+", title):
            tokens = tokenize(part)
            for token in tokens:
                self._add(tokens, token, part, in_title=True)

    def of(self, noun: str) -> list[str]:
        """Return the different fuller mentions of a noun, each as a definite noun phrase."""
        return list(self._found.get(noun, {}).values())

    def read(self, sentence: str) -> None:
        """Take in the mentions of a sentence."""
        tokens = tokenize(sentence)
        for token in tokens:
            self._add(tokens, token, sentence, in_title=False)

    def _add(self, tokens: Sequence[Token], head: Token, sentence: str, *, in_title: bool) -> None:
        place = tokens.index(head)
        if not head.text[0].isalpha() or len(head.text) < 3 or _goes_on(tokens, place + 1):
            return
        start = place
        while start and _may_modify(tokens[start - 1], name=head.text[0].isupper()):
            start -= 1
        before = tokens[start - 1] if start else None
        determined = before is not None and before.low in ("the", "a", "an", "our", "its", "this")
        named = head.text[0].isupper() and place > start and all(t.text[0].isupper() for t in tokens[start:place])
        if not (determined or named or (in_title and start == 0 and place + 1 == len(tokens) and place)):
            return
        end = _end_of_name(tokens, place)
        if (place == start and end == place) or end - start >= _MOST_WORDS:
            return
        if head.text[0].isupper() and not named and not determined:
            return
        if not in_title and not any(t.text[0].isupper() for t in tokens[max(start, 1) : end + 1]):
            return  # "the back room" need not be "the room"
        text = text_of(tokens[start : end + 1], sentence)
        if start == 0 and not named and text[0].isupper() and tokens[0].text not in self._names and not in_title:
            text = text[0].lower() + text[1:]
        shown = text if named and not determined else f"the {text}"
        self._found.setdefault(head.low, {}).setdefault(shown.casefold(), shown)


def _goes_on(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether a noun phrase goes on at `place`: a noun, or an adjective, follows."""
    if place >= len(tokens):
        return False
    token = tokens[place]
    low = token.low
    closed = english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES | english.SUBORDINATORS
    return token.is_word and not (
        low in closed | english.ADVERBS | english.DETERMINERS | english.PRONOUNS
        or low.endswith("ly")
        or may_be_finite(token)
        or any(verb.tense == "participle" for verb in english.verbs_of(low))
    )


def _may_modify(token: Token, *, name: bool) -> bool:
    low = token.low
    if not token.is_word or (name and not token.text[0].isupper()) or token.text[0] in "`\"“'":
        return False
    closed = english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES | english.SUBORDINATORS
    return not (
        low in closed | english.DETERMINERS | english.PRONOUNS | english.ADVERBS | _NO_MODIFIERS
        or (token.is_number and not (name and token.text[0].isupper()))
        or low.endswith("ly")
    )


def _end_of_name(tokens: Sequence[Token], place: int) -> int:
    """Return the place of the last token of "of Lower Tarrow", "at Ennerhall" after a head, or the head's own."""
    if place + 2 >= len(tokens) or tokens[place + 1].low not in ("of", "at", "in", "on", "for"):
        return place
    end = place + 2
    if tokens[end].low == "the" and end + 1 < len(tokens):
        end += 1
    if not (tokens[end].text[0].isupper() and tokens[end].text[0].isalpha()) or tokens[end].text in _DATES:
        return place
    while end + 1 < len(tokens) and tokens[end + 1].text[0].isupper():
        end += 1
    return end


_DATES = frozenset(f"{english.MONTHS}|{english.WEEKDAYS}".split("|"))


def after(sentence: str, before: Antecedents, names: Set[str], people: Mapping[str, str]) -> Antecedents:
    """Return what the pronouns of the sentence after this one can stand for."""
    tokens = tokenize(sentence)
    named = people_in(tokens, people)
    person = named[0] if len(named) == 1 else None if named else before.person
    clause = parse_clause(sentence)
    if clause is None:
        return Antecedents(person=None if _has_stranger(tokens, people) else person)
    if (stranger := _stranger_subject(clause, names, people)) is not None and len(named) == 0:
        person = stranger
    elif _has_stranger(tokens, people):
        person = None
    first = clause.subject[0].low
    if first in ("he", "she") and (before.person is not None or before.stranger):
        return Antecedents(person=before.person, stranger=before.stranger)  # "She travelled with Piotr Wolny. She ..."
    if len(clause.subject) == 1 and first in ("it", "they"):
        it, they = before.it if first == "it" else None, before.they if first == "they" else None
        return Antecedents(it, they, person, before.doubtful)
    if not names_itself(clause.subject):
        return Antecedents(person=person)
    subject = subject_of(clause, names)
    if (
        any(token.low in ("new", "second", "another", "each", "every") for token in clause.subject)
        and clause.subject[0].low != "the"
    ):
        return Antecedents(person=person)
    if clause.subject[0].low in ("a", "an"):
        subject_text = f"the {subject.text.split(' ', 1)[1]}" if " " in subject.text else subject.text
    else:
        subject_text = subject.text
    if len(subject_text.split()) > _MOST_WORDS:
        return Antecedents(person=person)
    introduced = clause.is_copula and not named and any(t.text[0].isupper() for p in clause.phrases for t in p.tokens)
    if introduced:
        person = None  # "The oldest puppet is the Night Watchman. He ..."
    named_only = all(token.is_name for token in clause.subject) and not subject.is_plural
    if named_only and not subject.is_person and any(token.low in _PERSONS_PRONOUNS for token in tokens):
        person = None  # "Bishop was old when Anselm got him. He ...": the mule?
    doubtful = _has_rival(clause, tokens, plural=subject.is_plural)
    if subject.is_plural:
        return Antecedents(they=subject_text, person=person, doubtful=doubtful, stranger=introduced)
    if subject.is_person or subject.text in people or subject.text in people.values() or person == subject.text:
        return Antecedents(person=person)
    return Antecedents(it=subject_text, person=person, doubtful=doubtful, stranger=introduced)


def _has_rival(clause: Clause, tokens: Sequence[Token], *, plural: bool) -> bool:
    """Tell whether something else of the sentence could be meant next: "The flood tore off the wheel. It was found"."""
    pronoun = ("they", "them") if plural else ("it",)
    if any(token.low in pronoun for token in tokens):
        return True
    first = clause.phrases[0] if clause.phrases else None
    if clause.is_copula or clause.is_passive or first is None:
        return False
    words = first.tokens[1:] if first.tokens[0].low in ("off", "up", "out", "down", "away", "back") else first.tokens
    if not words or (first.kind != "object" and words is first.tokens):
        return False
    head = words[-1]
    determined = words[0].low in english.DETERMINERS
    return determined and english.is_plural(head.text) == plural


def _stranger_subject(clause: Clause, names: Set[str], people: Mapping[str, str]) -> str | None:
    """Return a subject that is nothing but a name of two or three words, "Karsten Voss", which no list knows."""
    tokens = clause.subject
    if not 2 <= len(tokens) <= 3 or not all(t.text[0].isupper() and t.text.isalpha() for t in tokens):
        return None
    if tokens[0].low in english.DETERMINERS or tokens[-1].low in _PLACE_ENDS or tokens[-1].text in people:
        return None
    return text_of(tokens, clause.sentence)


_PLACE_ENDS = frozenset(
    "hall street road lane hill house mill park wood bridge church school river lake valley hut cave pass station club "
    "company works brothers sons council museum".split()
)


def _has_stranger(tokens: Sequence[Token], people: Mapping[str, str]) -> bool:
    """Tell whether a name of two words stands here that could be a person's and is not known as one."""
    return any(
        len(name) == 2
        and name[0].low not in english.DETERMINERS | english.PREPOSITIONS | english.SUBORDINATORS
        and all(t.text.isalpha() and not t.text.isupper() for t in name)
        and name[-1].low not in _PLACE_ENDS
        and name[-1].text not in people
        for name in names_in(tokens)
    )


def people_of(texts: Sequence[str]) -> dict[str, str]:
    """Return the people of a text: full names by surname, those that a title, a first name or an occupation shows."""
    found: dict[str, str] = {}
    for number, text in enumerate(texts):
        tokens = tokenize(text)
        for name in names_in(tokens):
            place = tokens.index(name[0])
            before = [
                token for token in tokens[max(0, place - 2) : place] if token.text != "," and token.low != "named"
            ]
            shown = is_person(name) or bool(before and _is_occupation(before[-1]) and len(name) <= 3)
            following = tokens[place + len(name) : place + len(name) + 2]
            shown = shown or [token.low for token in following] == [",", "who"]
            shown = shown or (
                place == 0 and number + 1 < len(texts) and _OF_PERSON.match(texts[number + 1]) is not None
            )
            if shown and len(name) >= 2 and not any(token.low in english.DETERMINERS for token in name):
                found[name[-1].text] = " ".join(token.text for token in name)
    return found


_OF_PERSON = re.compile(r"(?:He|She|His|Her)\b")
"""How a sentence after one about a person begins."""


_NAME = r"[A-Z][a-z'’-]+(?: [A-Z][a-z'’-]+)?"
_RELATIVE = re.compile(rf"\b(?:[Mm]y|[Oo]ur) (?P<who>(?:[a-z-]+ )?(?P<noun>[a-z]+)) (?P<name>{_NAME})")
_BEGINS_WITH_OWN = tuple(
    re.compile(rf"(?:My|Our) (?P<who>{who})(?P<name> {_NAME})?(?=[ ,])") for who in ("[a-z-]+ [a-z]+", "[a-z-]+")
)


def relatives_of(texts: Sequence[str]) -> dict[str, str]:
    """Return whom a text calls "my aunt": the names by what they are to its author, "aunt" is "Philippa Rook"."""
    found: dict[str, str] = {}
    for text in texts:
        for match in _RELATIVE.finditer(text):
            if english.is_human(match["noun"]) and match["name"].split()[0] not in _DATES:
                known = found.get(match["who"], "")
                found[match["who"]] = max(known, match["name"], key=lambda name: len(name.split()))
    return found


def add_relatives(people: dict[str, str], relatives: Mapping[str, str]) -> None:
    """Add relatives to the people of a text: by first name, and by a surname that only one of them has."""
    full = [name for name in relatives.values() if " " in name]
    for name in full:
        first, last = name.split(" ")
        others = {other for other in (*full, people.get(last, name)) if other.endswith(f" {last}")}
        people[first] = name
        if len(others) == 1:
            people[last] = name
        else:
            people.pop(last, None)


def with_names(sentence: str, relatives: Mapping[str, str]) -> str:
    """Return a sentence that begins with "My aunt", or "My aunt Philippa", with the aunt's name in its place."""
    for pattern in _BEGINS_WITH_OWN:
        begun = pattern.match(sentence)
        name = relatives.get(begun["who"]) if begun is not None else None
        if begun is None or name is None:
            continue
        if begun["name"] is None or begun["name"].split()[0] == name.split()[0]:
            return f"{name}{sentence[begun.end() :]}"
    return sentence


def _is_occupation(token: Token) -> bool:
    return english.is_human(token.text) or token.low in ("chair", "head", "chief", "leader")


def people_in(tokens: Sequence[Token], people: Mapping[str, str]) -> list[str]:
    """Return the people that a sentence names, each by the full name."""
    return list(dict.fromkeys(people[token.text] for token in tokens if token.text in people))
