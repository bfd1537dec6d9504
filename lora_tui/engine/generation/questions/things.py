"""Templates that ask for things: what it consists of, what it does something with, what it does."""

from collections.abc import Iterator, Sequence

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import head_noun, measure_of, noun_kind
from lora_tui.engine.generation.questions.forms import ask, phrases_text, unclear_words, within
from lora_tui.engine.generation.questions.reading import (
    TAKES_INFINITIVE,
    QuestionAnswer,
    Reading,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import Token

_LINKING = frozenset("become remain feel look seem stay appear smell taste sound get grow turn prove".split())
_LIGHT_VERBS = frozenset("take make give have let get play do keep".split())
"""Verbs that say little without their object: "took place"."""
_TAKES_CLAUSE = frozenset("leave keep see mean teach tell show".split())
_PARTICLES = frozenset("back up out off down away over on".split())


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
        if place + 1 < len(reading.phrases) and reading.phrases[place + 1].kind == "purpose":
            continue  # "refers to the drive to perform"
        somewhere = (clause.verb_form.base, phrase.head) == ("come", "from") and (
            words[0].low in english.DETERMINERS or words[0].is_name
        )
        word = "Where" if somewhere else "What"
        question = ask(word, clause, reading.subject, f"{before} {phrase.head} {shown}")
        answer = [*words, *(t for p in reading.phrases[place + 1 :] if p.kind == "preposition" for t in p.tokens)]
        yield from make_pair(question, reading.text(answer), "fact", "place" if somewhere else "thing")


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
    if _leaves_some(reading, words, listed=listed):
        return
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
        or (
            first in ("short", "free", "loose", "clear", "apart")
            or (english.is_adjective(first) and words[1].low == "of")
        )
        or english.is_adjective(last)
        or first in _PARTICLES
        or last in _PARTICLES | {"home", "free", "alike", "together", "instead", "internally"}
        or first in ("no", "you", "every", "that", "how", "what", "whether", "if", "where", "when", "half", "nobody")
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


_TAKES_MORE = frozenset(
    "share claim role part interest belief ability need demand reason solution answer key access threat change "
    "increase decrease reduction rise right way look insight step contribution difference balance relationship "
    "connection".split()
)
"""Nouns that what follows belongs to: "a role in shaping the economy"."""

_HOLDING = frozenset("include contain offer provide need require involve".split())
_LOOSE = frozenset("in for about with without from on of".split())


def _leaves_some(reading: Reading, words: Sequence[Token], *, listed: bool) -> bool:
    """Tell whether what follows the object may be part of it: "payment in six parts", "soup, bread with cheese"."""
    following = next(
        (p for p in reading.phrases if p.kind == "preposition" and p.tokens[0].start > words[-1].start), None
    )
    if following is None:
        return False
    form = reading.clause.verb_form
    if form is not None and form.base in _HOLDING and words[0].low in ("a", "an") and len(words) == 2:
        return True  # "includes a ride in the driver's cabin"
    if head_noun(words).low in _TAKES_MORE and words[-1] is head_noun(words):
        return True
    if words[0].low.endswith("ing") and following.head in ("into", "onto", "to", "from", "through"):
        return True
    if words[0].low.endswith("ing") and any(verb.tense == "ing" for verb in english.verbs_of(words[0].low)):
        return True
    bare = len(words) == 1 and not words[0].is_name
    return (bare and following.head in _LOOSE) or (listed and following.head in ("in", "for", "from", "with"))


def _has_attached(reading: Reading, words: Sequence[Token]) -> bool:
    """Tell whether the phrase that follows says what the object has: "with a", "for two"."""
    return (
        words[0].low in ("a", "an")
        and len(reading.phrases) > 1
        and reading.phrases[1].head in ("with", "for")
        and reading.phrases[1].tokens[1].low in ("a", "an", "no", "two", "three")
    )


TEMPLATES = (_what_with_preposition, _what_object)
