"""Templates that ask who did something, who or what something is, and what it is called."""

from collections.abc import Iterator, Sequence

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import head_noun, measure_of, names_in, noun_kind
from lora_tui.engine.generation.questions.clauses import Clause
from lora_tui.engine.generation.questions.forms import ask, joined, predicate, unclear_words, within
from lora_tui.engine.generation.questions.reading import (
    QuestionAnswer,
    Reading,
    complement,
    is_negated,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import Token

_NO_AGENTS = frozenset(
    "vote votes majority means way hand letter telephone phone post lot night day name number".split()
)
_MOVING = frozenset("reach cross travel deliver send carry transport bring visit fetch".split())
"""Verbs whose "by" names a vehicle: "can be reached by tram 3"."""


def _who_did(reading: Reading) -> Iterator[QuestionAnswer]:
    """The agent of a passive: "was opened by the mayor" gives "Who opened ...?"."""
    clause = reading.clause
    agent = next((p for p in reading.phrases if p.kind == "preposition" and p.head == "by" and len(p.tokens) > 1), None)
    if agent is None or not clause.is_passive or clause.verb_form is None or is_negated(clause):
        return
    place = reading.phrases.index(agent)
    attached = [p for p in reading.phrases[place + 1 :] if p.kind == "preposition"]
    words = (
        *agent.tokens[[t.low for t in agent.tokens].index("by") + 1 :],
        *(
            t
            for p in attached[:1]
            if p.head in ("from", "above", "below", "under", "beside", "behind", "inside")
            and p is reading.phrases[place + 1]
            for t in p.tokens
        ),
    )
    kind = noun_kind(words, reading.names) if words else "thing"
    if (
        not words
        or unclear_words(words)
        or head_noun(words).low in _NO_AGENTS
        or (clause.verb_form.base in _MOVING and kind in ("thing", "name"))
        or words[0].low
        in (
            "hand",
            "default",
            "itself",
            "then",
            "foot",
            "law",
            "mistake",
            "now",
            "car",
            "train",
            "rail",
            "sea",
            "air",
            "post",
            "law",
            "itself",
        )
        or kind in ("quantity", "duration")
    ):
        return
    auxiliaries = [token.low for token in clause.auxiliaries]
    verb = _active(auxiliaries, clause)
    rest = reading.rest(agent, keep=("object", "preposition", "time", "comparison"), without=attached)
    if kind == "thing" and len(words) < 2 and not clause.lead:
        return  # "What sells tickets?" "Machines."
    if verb is None or rest is None or reading.subject.text == "you":
        return
    if kind == "name" and len([t for t in words if t.is_name]) < 2:
        return
    word = "Who" if kind in ("person", "name") else "What"
    yield from make_pair(
        joined(word, verb, reading.subject.text, rest),
        reading.text(words),
        "fact",
        "person" if word == "Who" else "thing",
    )


def _active(auxiliaries: Sequence[str], clause: Clause) -> str | None:
    form = clause.verb_form
    assert form is not None
    assert clause.verb is not None
    if auxiliaries in (["was"], ["were"]):
        return english.past_of(form) if form.base else clause.verb.text
    if auxiliaries in (["is"], ["are"]):
        return english.third_of(form)
    if auxiliaries[-1:] == ["been"] and auxiliaries[0] in english.FINITE_HAVE:
        return f"{'had' if auxiliaries[0] == 'had' else 'has'} {clause.verb.text}"
    if auxiliaries[0] in english.MODALS and auxiliaries[1:] == ["be"] and form.base:
        return f"{auxiliaries[0]} {form.base}"
    return None


def _who_is_subject(reading: Reading) -> Iterator[QuestionAnswer]:
    """The subject of an active clause, where it is a person or a body of people: "Who designed the viaduct?"."""
    clause = reading.clause
    words = clause.subject
    form = clause.verb_form
    if form is None or clause.is_passive or not reading.subject.is_person or is_negated(clause):
        return
    named = any(True for _ in names_in(words, reading.names, mid_sentence=words[0].start > 0))
    definite = words[0].low == "the" and len([t for t in words if t.is_word]) >= 3
    first = reading.phrases[0] if reading.phrases else None
    if not (named or definite) or first is None or form.base in ("have", "be", "do", "become") or words[-1].text == ",":
        return
    specific = (
        any(t.is_name or t.is_number for p in reading.phrases for t in p.tokens)
        or (first.kind == "object" and len(first.tokens) >= 3)
        or clause.lead is not None
    )
    if first.kind != "object" and not any(t.is_name for p in reading.phrases for t in p.tokens):
        return
    rest = reading.rest(None, keep=("object", "preposition", "time", "comparison"))
    if not rest or not specific or reading.subject.text == "you":
        return
    verb = predicate(clause)
    if form.tense == "base" and not clause.auxiliaries:
        verb = english.third_of(form) or verb
    elif clause.auxiliaries and clause.auxiliaries[0].low in ("have", "are", "were", "do"):
        verb = " ".join(
            [{"have": "has", "are": "is", "were": "was", "do": "does"}[clause.auxiliaries[0].low], *verb.split()[1:]]
        )
    yield from make_pair(joined("Who", verb, rest), reading.text(words), "fact", "person")


_SAYS_LITTLE = frozenset(
    "exception success failure problem help surprise disaster must pleasure mystery mess shame".split()
)


def _turned(reading: Reading, words: Sequence[Token]) -> list[QuestionAnswer] | None:
    """Return the pair of "Lime is the enemy of every boiler.": the description is asked for, the thing answers.

    An empty list where the description describes too little, None where the subject is no plain thing.
    """
    own = reading.clause.subject
    if own[0].low in english.DETERMINERS - {"a", "an"} or len(own) > 4:
        return None
    if own[0].low not in ("a", "an") and own[0].text in reading.names and not reading.subject.is_person:
        pass
    if any(token.text == "," for token in words) or len(words) < 4:
        return [] if len(words) < 4 else None
    if unclear_words(words) or head_noun(words).low in ("result", "reason", "same", "only", "case", "way", "one"):
        return []
    person = reading.subject.is_person or noun_kind(words, reading.names) == "person"
    question = joined("Who" if person else "What", reading.clause.auxiliaries[0].text, reading.text(words))
    answer = reading.subject.text if own[0].low in english.PRONOUNS else reading.text(own)
    return list(make_pair(question, answer, "fact", "person" if person else "thing"))


_EMPTY_ADVERBS = frozenset("simply just merely basically essentially really actually therefore thus".split())


_NO_DEFINITIONS = frozenset(
    "one part way good kind lot number few matter result example sign mistake idea question".split()
)
"""Nouns that say nothing of what something is: "is a part of the process"."""

_POINTS_BACK = frozenset("same only case way reason most best right one".split())
"""What follows "the" where a sentence is about another one: "is the reason"."""

_CLEAR_PRONOUNS = frozenset("that who which it you others all each both there whose".split())


def _what_is(reading: Reading) -> Iterator[QuestionAnswer]:
    """A definition or an identity: "S is a ...", "The first driver was Anton Brell."."""
    clause, first = reading.clause, reading.phrases[0] if reading.phrases else None
    if not clause.is_copula or first is None or first.kind != "object" or len(clause.auxiliaries) != 1:
        return
    if any(token.low not in _EMPTY_ADVERBS for token in clause.adverbs) or clause.lead is not None:
        return
    words = complement(reading)
    start = words[0]
    if start.low == "the" and (turned := _turned(reading, words)) is not None:
        yield from turned
        return
    named = start.is_name and not start.is_number
    if unclear_words(first.tokens[:4]) or not (start.low in ("a", "an", "the") or named) or _says_little(clause, words):
        return
    described = english.is_human(head_noun(words).text) and head_noun(words).low not in english.GROUPS
    named_person = named and noun_kind(words, reading.names) == "person"
    capital = reading.subject.text[0].isupper()
    person = not reading.subject.is_plural and (
        (reading.subject.is_person and (described or named or named_person or capital or start.low == "the"))
        or named_person
        or (described and capital)
    )
    if person and start.low in ("a", "an") and len(words) < 4:
        return
    first_word = "Who" if person else "What"
    general = (
        reading.clause.subject[0].low in ("a", "an")
        or reading.subject.text[0] == "`"
        or reading.clause.subject[0].low not in english.DETERMINERS
    )
    type_ = "definition" if general and start.low in ("a", "an") and not person else "fact"
    kind = "person" if named and person else "name" if named else "thing"
    yield from make_pair(ask(first_word, clause, reading.subject, ""), reading.text(words), type_, kind)


def _says_little(clause: Clause, words: Sequence[Token]) -> bool:
    """Tell whether a complement does not say by itself what the subject is."""
    start, noun = words[0], head_noun(words).low
    if start.low in ("a", "an") and (len(words) < 3 or noun in _SAYS_LITTLE):
        return True  # "Rabbits are an exception."
    if noun in _NO_DEFINITIONS or measure_of(words) is not None:
        return True
    if start.low == "the":
        specific = len(clause.subject) >= 4 or any(token.is_name for token in words)
        if (len(words) < 4 and not specific) or words[1].low in _POINTS_BACK:
            return True
        superlative = any(token.low.endswith("est") or token.low in ("most", "least") for token in words[1:3])
        if superlative and not any(token.low in ("of", "in") for token in words):
            return True  # "is the largest expense": of what?
    inner = next((n for n, t in enumerate(words) if t.low in ("which", "that", "who", "where", "whose")), len(words))
    return any(token.low in english.PRONOUNS - _CLEAR_PRONOUNS for token in words[:inner])


def _what_called(reading: Reading) -> Iterator[QuestionAnswer]:
    clause, first = reading.clause, reading.phrases[0] if reading.phrases else None
    if first is None or clause.verb_form is None or not clause.is_passive:
        return
    base = clause.verb_form.base
    if base in ("call", "name") and first.kind == "object" and not unclear_words(first.tokens):
        rest = (
            ""
            if clause.lead is None or unclear_words(clause.lead.tokens)
            else within(clause.lead.tokens, clause.sentence, reading.names)
        )
        yield from make_pair(
            ask("What", clause, reading.subject, rest), reading.text(first.tokens), "definition", "name"
        )
    if base == "know" and first.head == "as":
        yield from make_pair(
            ask("What", clause, reading.subject, "as"), reading.text(first.tokens[1:]), "definition", "name"
        )
    if base == "name" and first.head in ("after", "for"):
        yield from make_pair(
            ask("What" if noun_kind(first.tokens[1:]) != "person" else "Who", clause, reading.subject, first.head),
            reading.text(first.tokens[1:]),
            "fact",
            "name",
        )


TEMPLATES = (_who_did, _who_is_subject, _what_is, _what_called)
