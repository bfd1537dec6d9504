"""Templates that ask for people and things: who, what is, what is called, what does."""

from collections.abc import Iterator, Sequence

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import head_noun, measure_of, names_in, noun_kind
from lora_tui.engine.generation.questions.clauses import Clause
from lora_tui.engine.generation.questions.forms import ask, joined, phrases_text, predicate, unclear_words, within
from lora_tui.engine.generation.questions.reading import (
    TAKES_INFINITIVE,
    QuestionAnswer,
    Reading,
    complement,
    is_negated,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import Token

_LINKING = frozenset("become remain feel look seem stay appear smell taste sound get grow turn prove".split())
_LIGHT_VERBS = frozenset("take make give have let get play do keep".split())
"""Verbs that say little without their object: "took place"."""
_TAKES_CLAUSE = frozenset("leave keep see mean teach tell show".split())
_PARTICLES = frozenset("back up out off down away over on".split())


def _who_did(reading: Reading) -> Iterator[QuestionAnswer]:
    """The agent of a passive: "was opened by the mayor" gives "Who opened ...?"."""
    clause = reading.clause
    agent = next((p for p in reading.phrases if p.kind == "preposition" and p.head == "by" and len(p.tokens) > 1), None)
    if agent is None or not clause.is_passive or clause.verb_form is None or is_negated(clause):
        return
    place = reading.phrases.index(agent)
    attached = [p for p in reading.phrases[place + 1 :] if p.kind == "preposition"]
    words = (
        *agent.tokens[1:],
        *(t for p in attached[:1] if p.head == "from" and p is reading.phrases[place + 1] for t in p.tokens),
    )
    kind = noun_kind(words, reading.names)
    if (
        unclear_words(words)
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


_EMPTY_ADVERBS = frozenset("simply just merely basically essentially really actually therefore thus".split())


def _what_is(reading: Reading) -> Iterator[QuestionAnswer]:
    """A definition or an identity: "S is a ...", "The first driver was Anton Brell."."""
    clause, first = reading.clause, reading.phrases[0] if reading.phrases else None
    if not clause.is_copula or first is None or first.kind != "object" or len(clause.auxiliaries) != 1:
        return
    if any(token.low not in _EMPTY_ADVERBS for token in clause.adverbs) or clause.lead is not None:
        return
    words = complement(reading)
    start = words[0]
    named = start.is_name and not start.is_number
    if (
        not (start.low in ("a", "an", "the") or named)
        or unclear_words(first.tokens[:4])
        or measure_of(words) is not None
    ):
        return
    specific = len(clause.subject) >= 4 or any(t.is_name for t in words)
    if start.low == "the" and len(words) < 4 and not specific:
        return
    if start.low == "the" and words[1].low in ("same", "only", "case", "way", "reason", "most", "best", "right", "one"):
        return
    if any(
        token.low
        in english.PRONOUNS - {"that", "who", "which", "it", "you", "others", "all", "each", "both", "there", "whose"}
        for token in words
    ):
        return
    if head_noun(words).low in (
        "one",
        "part",
        "way",
        "good",
        "kind",
        "lot",
        "number",
        "few",
        "matter",
        "result",
        "example",
        "sign",
        "mistake",
        "idea",
        "question",
    ):
        return
    person = reading.subject.is_person and not reading.subject.is_plural
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


_WITH_PREPOSITION = {
    ("consist", "of"),
    ("make", "of"),
    ("make", "from"),
    ("depend", "on"),
    ("belong", "to"),
    ("rely", "on"),
    ("lead", "to"),
    ("build", "from"),
    ("build", "of"),
    ("refer", "to"),
    ("base", "on"),
    ("fill", "with"),
    ("cover", "with"),
    ("equip", "with"),
    ("replace", "with"),
    ("replace", "by"),
    ("form", "from"),
    ("turn", "into"),
    ("connect", "to"),
    ("power", "by"),
    ("drive", "by"),
    ("protect", "from"),
    ("feed", "with"),
    ("line", "with"),
    ("cut", "from"),
    ("carve", "from"),
    ("derive", "from"),
    ("attach", "to"),
    ("point", "to"),
    ("react", "to"),
    ("respond", "to"),
    ("apply", "to"),
    ("begin", "with"),
    ("start", "with"),
    ("end", "with"),
    ("come", "from"),
    ("convert", "to"),
    ("convert", "into"),
    ("inherit", "from"),
    ("write", "in"),
    ("paint", "in"),
    ("use", "for"),
    ("use", "as"),
    ("serve", "as"),
    ("act", "as"),
    ("mix", "with"),
    ("treat", "with"),
    ("mark", "with"),
    ("coat", "with"),
    ("heat", "with"),
    ("heat", "by"),
    ("feed", "on"),
    ("hatch", "from"),
    ("evaporate", "from"),
    ("measure", "with"),
    ("lift", "with"),
    ("handle", "with"),
    ("clean", "with"),
    ("kill", "with"),
    ("close", "with"),
    ("hang", "on"),
    ("lay", "on"),
    ("warn", "of"),
    ("deal", "with"),
    ("cut", "into"),
    ("divide", "into"),
    ("insist", "on"),
}


def _what_with_preposition(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "consists of three parts" gives "What does ... consist of?"."""
    clause = reading.clause
    if clause.verb_form is None or reading.subject.text == "you":
        return
    for place, phrase in enumerate(reading.phrases[:2]):
        words = phrase.tokens[1:]
        if (
            phrase.kind not in ("preposition", "means", "time")
            or (clause.verb_form.base, phrase.head) not in _WITH_PREPOSITION
            or not words
        ):
            continue
        if place and reading.phrases[0].kind != "object":
            continue
        if unclear_words(words) or measure_of(words) in ("length", "duration", "money") or phrase.kind == "time":
            continue
        if phrase.head == "from" and clause.verb_form.base == "come" and noun_kind(words) in ("name",):
            continue
        before = phrases_text(reading.phrases[:place], clause.sentence)
        if any(unclear_words(p.tokens) for p in reading.phrases[:place]):
            continue
        lead = clause.lead
        shown = (
            within(lead.tokens, clause.sentence, reading.names)
            if lead is not None and lead.kind in ("time", "condition") and not unclear_words(lead.tokens)
            else ""
        )
        question = ask("What", clause, reading.subject, f"{before} {phrase.head} {shown}")
        answer = [*words, *(t for p in reading.phrases[place + 1 :] if p.kind == "preposition" for t in p.tokens)]
        yield from make_pair(question, reading.text(answer), "fact", "thing")


def _what_object(reading: Reading) -> Iterator[QuestionAnswer]:
    """The object of an active verb: "What does the museum show?"."""
    clause, first = reading.clause, reading.phrases[0] if reading.phrases else None
    form = clause.verb_form
    if first is None or first.kind != "object" or form is None:
        return
    words = first.tokens
    if not _asks_for_object(reading, form, words) or _is_no_thing(words) or _is_torn(reading, form, words):
        return
    kept = ("object", "preposition", "time", "comparison")
    rest = reading.rest(first, keep=kept)
    if rest is None:
        return
    group = head_noun(words).low in english.GROUPS
    kind = noun_kind(words, reading.names)
    if kind == "person" and group:
        kind = "thing"
    word = "Who" if kind == "person" and words[0].low not in ("a", "an") and not group else "What"
    if _has_attached(reading, words):  # "a coat with a heron on the collar": what it has belongs to it
        attached = [p for p in reading.phrases[1:] if p.kind == "preposition"]
        words = (*words, *(t for p in attached for t in p.tokens))
        rest = reading.rest(first, keep=kept, without=attached)
        if rest is None:
            return
    listed = sum(token.text == "," for token in words) >= 1 and any(token.low in ("and", "or") for token in words)
    yield from make_pair(
        ask(word, clause, reading.subject, rest),
        reading.text(words),
        "fact",
        "list" if listed else kind if word == "Who" or kind == "name" else "thing",
    )


def _asks_for_object(reading: Reading, form: english.Verb, words: Sequence[Token]) -> bool:
    """Tell whether "what does ... VERB" asks for what this verb stands with, and not for half of it."""
    clause, base = reading.clause, form.base
    purpose = any(p.kind == "purpose" for p in reading.phrases)
    return not (
        (clause.is_passive and base not in ("give", "offer", "send", "grant", "award"))
        or form.tense == "ing"
        or base in _LINKING
        or reading.subject.text == "you"
        or measure_of(clause.subject) is not None
        or (base in _LIGHT_VERBS and len(words) < 3)
        or base in ("make", "let", "help")
        or (base in _TAKES_CLAUSE and any(t.low in ("that", "when", "how", "if") for t in words))
        or (base in ("stop", "start", "begin", "avoid", "finish", "continue") and words[0].low.endswith("ing"))
        or (base == "need" and any(p.head == "from" for p in reading.phrases))
        or (base in TAKES_INFINITIVE and purpose)
    )


def _is_no_thing(words: Sequence[Token]) -> bool:
    """Tell whether an object is a measure, leans on its sentence, or says how and not what."""
    first, last = words[0].low, words[-1].low
    return (
        measure_of(words) is not None
        or unclear_words(words)
        or (english.is_adjective(first) and (len(words) == 1 or any(t.low == "than" for t in words)))
        or english.is_adjective(last)
        or first in _PARTICLES
        or last in _PARTICLES | {"home", "free", "alike", "together", "instead", "internally"}
        or first in ("no", "you", "every", "that")
        or head_noun(words).low in ("time", "while", "moment")
        or last.endswith("ly")
        or any(t.low in ("more", "less") and words[n + 1].low.endswith("ly") for n, t in enumerate(words[:-1]))
        or last in english.SUBORDINATORS | english.ADVERBS | english.PREPOSITIONS | english.DETERMINERS
        or last in ("how", "what", "why", "best", "well")
        or (first == "the" and len(words) < 3 and not words[-1].is_name)  # "the car": every sentence is about it
        or any(t.low in english.PRONOUNS - {"that", "who", "which", "it", "you"} for t in words)
    )


def _is_torn(reading: Reading, form: english.Verb, words: Sequence[Token]) -> bool:
    """Tell whether a participle ends the object, or a purpose follows it, that the answer would be cut off from."""
    following = reading.phrases[1] if len(reading.phrases) > 1 else None
    participle = any(v.tense in ("past", "participle") for v in english.verbs_of(words[-1].low))
    if following is not None and participle and following.kind in ("preposition", "purpose"):
        return True
    if following is not None and following.kind == "purpose" and any(t.low in ("that", "which", "who") for t in words):
        return True
    return len(words) > 2 and participle and form.base in ("keep", "leave", "make", "have", "find", "hold")


def _has_attached(reading: Reading, words: Sequence[Token]) -> bool:
    """Tell whether the phrase that follows says what the object has: "with a", "for two"."""
    return (
        words[0].low in ("a", "an")
        and len(reading.phrases) > 1
        and reading.phrases[1].head in ("with", "for")
        and reading.phrases[1].tokens[1].low in ("a", "an", "no", "two", "three")
    )


TEMPLATES = (_who_did, _who_is_subject, _what_is, _what_called, _what_with_preposition, _what_object)
