"""What rules find in a passage: its questions with their answers and evidence, and the rivals of each answer.

Reads the sentences in order, because a sentence may lean on the one before it: "It was rebuilt in 1932." is asked about
with what "it" stands for, if that is plain. Sentences of several statements are taken apart: "is 412 metres long and
climbs 138 metres", "X was sold, and Y was repaired".
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import AnswerSpan, is_person, names_in, simple_spans
from lora_tui.engine.generation.questions.clauses import parse_clause
from lora_tui.engine.generation.questions.forms import names_itself, subject_of
from lora_tui.engine.generation.questions.reading import QuestionAnswer
from lora_tui.engine.generation.questions.rules import questions_about
from lora_tui.engine.generation.questions.sentences import Sentence, sentences
from lora_tui.engine.generation.questions.verbs import Token, holds_a_clause, text_of, tokenize, verb_after_conjunction

_MIN_WORDS, _MAX_WORDS = 4, 45
_DEPENDENT = frozenset("because since when if that which who whose where while although until so".split())
_PRONOUNS = frozenset("it they he she".split())
_OWNERS = {"its": "it", "his": "he", "her": "she", "their": "they"}


@dataclass(frozen=True, slots=True)
class Fact:
    """A question and its answer, with the sentence that holds it as evidence."""

    pair: QuestionAnswer
    evidence: str

    @property
    def key(self) -> tuple[str, str]:
        """What the pair is about: two questions with the same key have the same answer in the same sentence."""
        return self.evidence, self.pair.answer.casefold()


@dataclass
class PassageFacts:
    """The facts of a passage, its answer spans by kind, and its sentences."""

    facts: list[Fact] = field(default_factory=list)
    spans: list[AnswerSpan] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Antecedents:
    """What the pronouns of the next sentence can stand for; None where that is not plain."""

    it: str | None = None
    they: str | None = None
    person: str | None = None

    def stand_in(self, pronoun: str) -> str | None:
        return {"it": self.it, "they": self.they}.get(pronoun, self.person)


def facts_of(passage: str, heading: str = "") -> PassageFacts:
    """Return what rules find in a passage that stands under `heading`."""
    found = PassageFacts(sentences=list(sentences(passage, heading)))
    names = names_of([sentence.plain for sentence in found.sentences])
    people = people_of([sentence.plain for sentence in found.sentences])
    antecedents = _Antecedents()
    seen: set[str] = set()
    for sentence in found.sentences:
        if not sentence.before:
            antecedents = _Antecedents()
        text = sentence.plain
        found.spans += simple_spans(text)
        if not is_usable(text):
            antecedents = _Antecedents(person=antecedents.person)
            continue
        within_sentence = antecedents
        for number, statement in enumerate(statements(text)):
            if number:
                within_sentence = _after(text, antecedents, names, people)
            resolved, stand_in = _resolve(statement, within_sentence)
            for pair in questions_about(resolved, names, stand_in):
                found.spans.append(AnswerSpan(pair.answer, pair.kind))
                if pair.question.casefold() not in seen:
                    seen.add(pair.question.casefold())
                    leans = resolved != statement or stand_in is not None
                    evidence = f"{sentence.before} {sentence.text}" if leans and sentence.before else sentence.text
                    found.facts.append(Fact(pair, evidence))
        antecedents = _after(text, antecedents, names, people)
    return found


def is_usable(sentence: str) -> bool:
    """Tell whether a sentence is plain prose of a length that can be read by pattern."""
    words = sentence.split()
    if not _MIN_WORDS <= len(words) <= _MAX_WORDS or not sentence.endswith("."):
        return False
    return not re.search(r"[=|<>{}\[\]#*\\_]{2}|https?:|\]\(|^\W*[a-z]", sentence)


def names_of(texts: Sequence[str]) -> frozenset[str]:
    """Return the words that are written with a capital in the middle of a sentence, and mostly so."""
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for text in texts:
        for place, token in enumerate(tokenize(re.sub(r"\]\([^)]*\)|\]\[[^\]]*\]|`[^`]*`", "", text))):
            if token.text[0].isupper() and place > 0:
                capital[token.text] += 1
            elif token.text[0].islower():
                small[token.text] += 1
    return frozenset(word for word, times in capital.items() if times > small[word.casefold()])


def statements(sentence: str) -> Iterator[str]:
    """Yield the sentence, and the statements that it joins, each as a sentence of its own."""
    sentence = re.sub(r"\s+\([^()`]*\)", "", sentence)
    for part in re.split(r"(?<=\w);\s+|(?<=\w):\s+(?=[a-z])|\s+[–—]\s+", sentence.rstrip(". ")):
        whole = (
            f"{part[0].upper()}{part[1:]}." if part and part[0].islower() and not part.startswith("`") else f"{part}."
        )
        yield whole
        yield from _joined(whole)


def _joined(sentence: str) -> Iterator[str]:
    """Yield what stands after "and" or "but", with the subject of the first verb where it has none of its own."""
    first = parse_clause(sentence)
    tokens = tokenize(sentence)[:-1]
    dependent = next((n for n, token in enumerate(tokens) if n and token.low in _DEPENDENT), len(tokens))
    for place, token in enumerate(tokens):
        if token.low not in ("and", "but", "while", "whereas") or place < 3 or place + 3 > len(tokens):
            continue
        right = tokens[place + 1 :]
        text = text_of(right, sentence)
        kind = verb_after_conjunction(right)
        if kind == "clause" and tokens[place - 1].text == "," and holds_a_clause(tokens[:place]):
            yield f"{text[0].upper()}{text[1:]}."
        elif kind == "verb" and first is not None and token.low in ("and", "but") and place < dependent:
            head = text_of(first.subject, sentence)
            if (
                any(v.tense == "participle" or v.tense == "past" for v in english.verbs_of(right[0].text))
                and first.auxiliaries
                and right[0].low not in english.FINITE_AUXILIARIES
            ):
                if not first.is_passive:
                    continue
                head = f"{head} {' '.join(a.text for a in first.auxiliaries)}"
            yield f"{head} {text}."


def _resolve(statement: str, antecedents: _Antecedents) -> tuple[str, str | None]:
    """Return the statement, an owner in place of its first "its", and what its pronoun subject stands for."""
    clause = parse_clause(statement)
    if clause is None:
        return statement, None
    first = clause.subject[0]
    if clause.lead is not None and holds_a_clause(clause.lead.tokens[1:]):
        return statement, None  # "If a colony has to be moved, it is first taken ...": its subject stands in the lead
    if len(clause.subject) == 1 and first.low in _PRONOUNS:
        return statement, antecedents.stand_in(first.low)
    if first.low in _OWNERS and len(clause.subject) > 1:
        owner = antecedents.stand_in(_OWNERS[first.low])
        if owner is not None and len(owner.split()) <= 4 and "'s" not in owner and "’s" not in owner:
            possessive = f"{owner}'" if owner.endswith("s") else f"{owner}'s"
            shown = possessive if first.start else f"{possessive[0].upper()}{possessive[1:]}"
            return f"{statement[: first.start]}{shown}{statement[first.end :]}", None
    return statement, None


def _after(sentence: str, before: _Antecedents, names: Set[str], people: Mapping[str, str]) -> _Antecedents:
    """Return what the pronouns of the sentence after this one can stand for."""
    tokens = tokenize(sentence)
    named = _people(tokens, people)
    person = named[0] if len(named) == 1 else None if named else before.person
    clause = parse_clause(sentence)
    if clause is None:
        return _Antecedents(person=person)
    first = clause.subject[0].low
    if len(clause.subject) == 1 and first in ("it", "they"):
        return _Antecedents(before.it if first == "it" else None, before.they if first == "they" else None, person)
    if not names_itself(clause.subject):
        return _Antecedents(person=person)
    subject = subject_of(clause, names)
    if (
        any(token.low in ("new", "second", "another", "each", "every") for token in clause.subject)
        and clause.subject[0].low != "the"
    ):
        return _Antecedents(person=person)
    if clause.subject[0].low in ("a", "an"):
        subject_text = f"the {subject.text.split(' ', 1)[1]}" if " " in subject.text else subject.text
    else:
        subject_text = subject.text
    if len(subject_text.split()) > 7:
        return _Antecedents(person=person)
    if subject.is_plural:
        return _Antecedents(they=subject_text, person=person)
    if subject.is_person or subject.text in people or subject.text in people.values():
        return _Antecedents(person=person)
    return _Antecedents(it=subject_text, person=person)


def people_of(texts: Sequence[str]) -> dict[str, str]:
    """Return the people of a text: full names by surname, those that a title, a first name or an occupation shows."""
    found: dict[str, str] = {}
    for text in texts:
        tokens = tokenize(text)
        for name in names_in(tokens):
            place = tokens.index(name[0])
            before = [token for token in tokens[max(0, place - 2) : place] if token.text != ","]
            shown = is_person(name) or bool(before and _is_occupation(before[-1]) and len(name) <= 3)
            if shown and len(name) >= 2 and not any(token.low in english.DETERMINERS for token in name):
                found[name[-1].text] = " ".join(token.text for token in name)
    return found


def _is_occupation(token: Token) -> bool:
    return english.is_human(token.text) or token.low in ("chair", "head", "chief", "leader")


def _people(tokens: Sequence[Token], people: Mapping[str, str]) -> list[str]:
    """Return the people that a sentence names, each by the full name."""
    return list(dict.fromkeys(people[token.text] for token in tokens if token.text in people))
