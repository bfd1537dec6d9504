"""Templates that ask for things: what it consists of, what it does something with, what it does."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import head_noun, measure_of, noun_kind
from lora_tui.engine.generation.questions.forms import ask, joined, phrases_text, predicate, unclear_words, within
from lora_tui.engine.generation.questions.phrases import is_time
from lora_tui.engine.generation.questions.reading import (
    TAKES_INFINITIVE,
    QuestionAnswer,
    Reading,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import Token

_LINKING = frozenset(
    "fall stand become remain feel look seem stay appear smell taste sound get grow turn prove".split()
)
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


_NOT_ACTIVE = {("form", "from"), ("cut", "into"), ("cut", "from"), ("build", "from"), ("lay", "on"), ("carve", "from")}
"""Of these, what is asked for only where it was done to the subject: "formed a chain from the pond to the barn"."""

_WITHOUT_OBJECT = frozenset("last arrive come go wait measure cost weigh sleep happen occur exist remain".split())


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
        if place and (reading.phrases[0].kind != "object" or any(t.text == "," for t in reading.phrases[0].tokens)):
            continue
        if not clause.is_passive and (clause.verb_form.base, phrase.head) in _NOT_ACTIVE:
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
    commas = [n for n, token in enumerate(words) if token.text == ","]
    conjunctions = [n for n, token in enumerate(words) if token.low in ("and", "or")]
    if commas and (not conjunctions or (len(commas) == 1 and commas[0] + 1 in conjunctions)):
        return  # "replaced wood, and the forests", "a length of eight centimetres, females seldom more"
    if _holds_two(reading, words):
        return
    if words[0].low.endswith("ing") and clause.sentence[: words[0].start].rstrip().endswith(","):
        return  # "decreased, demonstrating natural selection"
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
    if kind == "person" and not group and english.is_plural(head_noun(words).text) and not listed_names(words):
        return  # "swells the plastic guides"
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


def _holds_two(reading: Reading, words: Sequence[Token]) -> bool:
    """Tell whether an object is two: "give users a quick way", "render the screen and receive input events"."""
    for before, token in pairwise(words):
        joined_before = before.low in english.PREPOSITIONS | english.CONJUNCTIONS | english.SUBORDINATORS
        relative = any(t.low in ("that", "which", "who") for t in words[: words.index(token)])
        if token.low in ("a", "an") and before.is_word and not joined_before and not relative:
            return before.low not in ("such", "half", "times", "once", "twice", "what") and measure_of(words) is None
        if before.text == "," and any(v.tense == "base" for v in english.verbs_of(token.low)):
            following = words[words.index(token) + 1] if token is not words[-1] else None
            if following is not None and following.text != "," and following.low not in ("and", "or"):
                return True  # "provide companionship, reduce stress and anxiety"
        base_only = {v.tense for v in english.verbs_of(token.low)} == {"base"} and not english.is_plural(token.low)
        agrees = bool(reading.clause.auxiliaries) or reading.subject.is_plural
        if before.low == "and" and base_only and agrees and not token.is_name:
            following = words[words.index(token) + 1] if token is not words[-1] else None
            if following is not None and following.low not in english.CONJUNCTIONS | english.PREPOSITIONS:
                return True
    end = words[-1].end
    return reading.clause.sentence[end : end + 7].casefold() == ", then "


def listed_names(words: Sequence[Token]) -> bool:
    """Tell whether an object is names, "Anton Brell and Clara Hoffer"."""
    return words[0].is_name and words[-1].is_name


def _asks_for_object(reading: Reading, form: english.Verb, words: Sequence[Token]) -> bool:
    """Tell whether "what does ... VERB" asks for what this verb stands with, and not for half of it."""
    clause, base = reading.clause, form.base
    purpose = any(p.kind == "purpose" for p in reading.phrases)
    return not (
        (clause.is_passive and base not in ("give", "offer", "send", "grant", "award"))
        or form.tense == "ing"
        or base in _LINKING | _WITHOUT_OBJECT
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
    listed = any(token.text == "," for token in words) and any(token.low in ("and", "or") for token in words)
    return (
        measure_of(words) is not None
        or unclear_words(words)
        or (english.is_adjective(first) and (len(words) == 1 or any(t.low == "than" for t in words)))
        or (
            first in ("short", "free", "loose", "clear", "apart")
            or (english.is_adjective(first) and words[1].low == "of")
        )
        or (english.is_adjective(last) and not listed)
        or first in _PARTICLES
        or last in _PARTICLES | {"home", "free", "alive", "alike", "together", "instead", "internally"}
        or any(t.low == "than" for t in words[1:3])  # "ages faster than the rest"
        or first in ("no", "you", "every", "that", "how", "what", "whether", "if", "where", "when", "half", "nobody")
        or (head_noun(words).low in ("time", "while", "moment") and not listed)
        or last.endswith("ly")
        or any(t.low in ("more", "less") and words[n + 1].low.endswith("ly") for n, t in enumerate(words[:-1]))
        or last in english.SUBORDINATORS | english.ADVERBS | english.PREPOSITIONS | english.DETERMINERS
        or last in ("how", "what", "why", "best", "well")
        or (first == "the" and len(words) < 3 and not words[-1].is_name)  # "the car": every sentence is about it
        or any(t.low in ("my", "our") for t in words)
        or (
            len(words) > 2 and words[-2].low in ("last", "next", "this") and is_time(words[-1:])
        )  # "the head last autumn"
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


_ASKED_OF_PASSIVES = frozenset("with into for from to".split())
_NO_MEANS = frozenset(
    "care difficulty help success pleasure ease caution time example instance sale hire rent free charge good life use "
    "year month day week night fun work which moment while".split()
)


def _what_passive(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "is scrubbed with whey" gives "What is ... scrubbed with?": what a passive does it with, into or for."""
    clause, form = reading.clause, reading.clause.verb_form
    if form is None or not clause.is_passive or reading.subject.text == "you" or not reading.phrases:
        return
    phrase = reading.phrases[0]
    words = phrase.tokens[1:]
    if phrase.kind != "preposition" or phrase.head not in _ASKED_OF_PASSIVES or phrase.tokens[0].low != phrase.head:
        return
    if not words or unclear_words(words) or measure_of(words) is not None or head_noun(words).low in _NO_MEANS:
        return
    if words[0].low in english.PREPOSITIONS:
        return  # "were paid for by the cement works"
    if (form.base, phrase.head) in _WITH_PREPOSITION or noun_kind(words, reading.names) == "person":
        return
    if phrase.head in _FIXED and form.base not in _FIXED[phrase.head]:
        return  # "was brought to the stable" is a place
    if any(t.low in ("and", "or") and n + 1 == len(words) for n, t in enumerate(words)):
        return
    if words[-1].low in english.ADVERBS | english.PREPOSITIONS or words[0].low.endswith(("ing", "ly")):
        return
    others = reading.phrases[1:]
    kept = [p for p in others if p.kind == "time" and not unclear_words(p.tokens)]
    attached = [t for p in others if p.kind == "preposition" and p.head in ("with", "of", "for") for t in p.tokens]
    if any(p.kind == "preposition" and p.head not in ("with", "of", "for", "on", "in") for p in others):
        return
    question = ask("What", clause, reading.subject, f"{phrase.head} {phrases_text(kept, clause.sentence)}")
    yield from make_pair(question, reading.text([*words, *attached]), "fact", "thing")


_FIXED = {
    "from": frozenset(
        "calculate make carve cut build form weave cast extract derive obtain protect brew distil".split()
    ),
    "into": frozenset("cut divide turn convert split mould shape translate carve melt press roll".split()),
    "to": frozenset("connect attach fix limit tie link fasten screw compare apply add".split()),
}

_SAYS_LITTLE = frozenset("have do be become include contain mean make get give take let keep need want hold".split())


def _what_is_subject(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "A code of four digits protects the settings." gives "What protects the settings?"."""
    clause, form = reading.clause, reading.clause.verb_form
    words = clause.subject
    if form is None or clause.is_passive or clause.lead is not None or form.base in _SAYS_LITTLE:
        return
    if reading.subject.is_person or words[0].low not in ("a", "an") or len(words) < 3 or words[-1].text == ",":
        return
    first = reading.phrases[0] if reading.phrases else None
    if first is None or first.kind != "object" or measure_of(first.tokens) is not None or len(first.tokens) < 2:
        return
    if words[-1].low in english.ADVERBS or first.tokens[0].low in ("every", "each", "daily", "next"):
        return  # "a fence now guides", "a clock oiled every five years"
    if (
        first.tokens[0].low in ("a", "an")
        or unclear_words(first.tokens)
        or any(t.low in english.NEGATIONS for t in clause.adverbs)
    ):
        return
    rest = reading.rest(None, keep=("object", "preposition", "time"))
    if rest:
        yield from make_pair(joined("What", predicate(clause), rest), reading.text(words), "fact", "thing")


TEMPLATES = (_what_with_preposition, _what_passive, _what_object, _what_is_subject)
