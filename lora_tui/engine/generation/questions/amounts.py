"""Templates that ask for times, durations and quantities: when, how long, how often, how many, how much, how high."""

import re
from collections.abc import Iterator, Sequence, Set
from itertools import pairwise

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import UNITS, measure_of
from lora_tui.engine.generation.questions.clauses import Clause
from lora_tui.engine.generation.questions.forms import (
    ask,
    joined,
    phrases_text,
    predicate,
    unclear_beside,
    unclear_words,
)
from lora_tui.engine.generation.questions.phrases import Phrase, is_time
from lora_tui.engine.generation.questions.reading import (
    QuestionAnswer,
    Reading,
    complement,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import Token, holds_a_clause, text_of


def _when(reading: Reading) -> Iterator[QuestionAnswer]:
    lead = reading.clause.lead
    times = [phrase for phrase in (*reading.phrases, *([lead] if lead else [])) if phrase.kind == "time"]
    for phrase in times:
        word = _time_word(phrase)
        if word is None or _cannot_be_asked(phrase, reading) or _times_clash(phrase, word, times, reading):
            continue
        beside = [other for other in times if other is not phrase and (word == "How often") != _is_often(other)]
        rest = reading.rest(phrase, keep=("object", "preposition", "time", "comparison"), without=beside)
        if reading.clause.verb_form is not None and reading.clause.verb_form.base in ("bear", "die"):
            rest = ""
        if rest is None or (reading.clause.is_copula and not rest):
            continue
        question = ask(word, reading.clause, reading.subject, rest)
        kind = {"When": "time", "How long": "duration", "How often": "frequency"}.get(word, "time")
        yield from make_pair(question, reading.text(phrase.tokens), "fact", kind)


def _cannot_be_asked(phrase: Phrase, reading: Reading) -> bool:
    """Tell whether a phrase with a word for a time says no time, or none that is clear by itself."""
    head, second = phrase.head, phrase.tokens[1].low if len(phrase.tokens) > 1 else ""
    if head == "in" and second in ("a", "an", "one", "more", "less"):
        return True
    if head in ("after", "before") and second in english.PREPOSITIONS:
        return True  # "is looked after by teachers"
    if head in ("after", "before", "during") and second in ("a", "an", "some"):
        return True  # "after a long discussion"
    if head in ("after", "before") and phrase in reading.phrases[:1] and not reading.clause.is_passive:
        return True
    if unclear_beside(phrase.tokens, reading.subject) or (
        not holds_a_clause(phrase.tokens[1:]) and unclear_words(phrase.tokens)
    ):
        return True
    if reading.subject.text == "you" or _is_timeless(reading, phrase):
        return True
    if _is_counted(reading):  # "How many people ...?" is what such a sentence answers
        return True
    return _is_no_point(phrase.tokens) or _belongs_elsewhere(phrase, reading)


def _times_clash(phrase: Phrase, word: str, times: Sequence[Phrase], reading: Reading) -> bool:
    """Tell whether a time, asked for by `word`, is part of another time or measure of its clause, or one of several."""
    place = reading.phrases.index(phrase) if phrase in reading.phrases else 0
    if place and phrase.head in ("before", "after") and is_time(reading.phrases[place - 1].tokens):
        return True  # "an hour before the tide"
    points = [one for one in times if _time_word(one) == "When"]
    if word == "When" and len(points) > 1 and not _is_finer(phrase, points, reading):
        return True
    measured = bool(reading.phrases) and measure_of(reading.phrases[0].tokens) is not None
    if word == "When" and measured and phrase.head in ("when", "if"):
        return True  # "takes eighteen minutes when the weather is calm"
    others = [other for other in times if other is not phrase]
    if word in ("When", "Until when") and any(other.head in ("until", "till", "since") for other in others):
        return True  # "When do cars depart until noon?"
    return word == "Until when" and bool(others)


def _is_often(phrase: Phrase) -> bool:
    return _time_word(phrase) == "How often"


def _belongs_elsewhere(phrase: Phrase, reading: Reading) -> bool:
    """Tell whether a time may belong to another verb: "told them to close it until ...", "cars parked during ..."."""
    place = reading.phrases.index(phrase) if phrase in reading.phrases else 0
    before = reading.phrases[:place]
    if any(p.kind == "purpose" for p in before):
        return True
    return (
        phrase.head == "during"
        and bool(before)
        and any(v.tense in ("past", "participle") for t in before[-1].tokens for v in english.verbs_of(t.low))
    )


_NO_POINTS = frozenset("normal same next following given particular good bad usual average single".split())


def _is_no_point(words: Sequence[Token]) -> bool:
    """Tell whether a phrase with a word for a time in it does not say when: "on a normal day", "in patients older"."""
    lows = [token.low for token in words]
    return (
        any(low in _NO_POINTS for low in lows[:3])
        or (lows[0] == "from" and not any(low in ("to", "until", "till", "on", "onwards") for low in lows))
        or any(low == "and" and after in english.PREPOSITIONS | english.DETERMINERS for low, after in pairwise(lows))
        or "intervals" in lows
        or (lows[0] == "on" and len(words) > 2 and words[1].is_number and lows[-1].endswith("s"))  # "on six evenings"
        or any(low in ("older", "younger", "aged", "old", "absence") for low in lows)
        or lows in (["on", "the", "hour"], ["at", "a", "time"], ["at", "the", "time"], ["at", "times"])
    )


def _is_finer(phrase: Phrase, points: Sequence[Phrase], reading: Reading) -> bool:
    """Tell whether of two times one leads in and this is the other: "In winter the service ends at 9"."""
    return len(points) == 2 and reading.clause.lead in points and phrase is not reading.clause.lead


def _is_timeless(reading: Reading, phrase: Phrase) -> bool:
    """Tell whether a form of "be" says what something is, and its time belongs to that: "was the closure in 1998"."""
    if not reading.clause.is_copula or not reading.phrases or reading.phrases[0].kind != "object":
        return False
    first = reading.phrases[0].tokens
    state = len(first) == 1 and english.is_adjective(first[0].low)  # "is open from October to April"
    return not state and phrase.head not in ("since", "until")


def _is_counted(reading: Reading) -> bool:
    """Tell whether the subject is a bare number of things: "seventeen people"."""
    return measure_of(reading.clause.subject) is not None


def _time_word(phrase: Phrase) -> str | None:
    head, words = phrase.head, phrase.tokens
    if head in ("every", "daily", "weekly", "twice", "once", "yearly"):
        return "How often" if head != "once" or (len(words) > 1 and words[1].low in ("a", "an", "every")) else None
    measure = measure_of(words[1:]) if len(words) > 1 else None
    if head == "for":
        long = measure == "duration" or words[1].low in ("a", "many", "several") or words[1].low in _PERIODS
        return "How long" if long else None
    if head in ("over", "about", "around", "within") or (
        measure == "duration" and head in ("in", "after", "before", "by", "at")
    ):
        return None
    if head == "since":
        return "Since when"
    if head in ("until", "till"):
        return "Until when"
    if head in ("while", "once"):
        return None
    if head in ("every",):
        return "How often"
    return "When"


_PERIODS = frozenset("minutes hours days weeks months years decades centuries".split())
_COPULA_MEASURES = frozenset("long high deep wide tall old thick heavy broad".split())

_MEASURE_NOUNS = frozenset(
    "length height depth width fee price cost fare temperature speed gauge capacity limit age weight number distance "
    "gradient slope altitude rent salary population area size toll ticket".split()
)

_MOVING = frozenset("climb run travel rise fly stretch extend drop descend reach swim walk".split())
_COUNTED = frozenset("count duration length volume weight temperature".split())


def _how_much(reading: Reading) -> Iterator[QuestionAnswer]:
    """The measure after a verb: "The ride takes six minutes." gives "How long does the ride take?"."""
    clause, first = reading.clause, reading.phrases[0] if reading.phrases else None
    if first is None or first.kind not in ("object", "preposition"):
        return
    if first.head in ("at", "in", "by") and (len(first.tokens) < 2 or first.tokens[1].low not in ("least", "most")):
        return
    measure = measure_of(first.tokens)
    if measure is None:
        return
    if clause.is_copula:
        yield from _how_much_is(reading, first, measure)
        return
    rest = reading.rest(first, keep=("object", "preposition", "time", "comparison", "purpose"))
    if clause.is_passive or clause.verb_form is None or rest is None or clause.verb_form.base == "measure":
        return  # "measures fifty metres by twenty"
    rest = re.sub(r" and (?:\d|[a-z]+ for ).*$", "", rest)  # "38 francs for adults and 19 for children"
    for opening, answer, shown in _openings(reading, first, measure, rest):
        kind = "duration" if opening == "How long" else "quantity"
        yield from make_pair(ask(opening, clause, reading.subject, shown), answer, "fact", kind)


def _how_much_is(reading: Reading, first: Phrase, measure: str) -> Iterator[QuestionAnswer]:
    """The measure after "is": "The line is 412 metres long.", "The fee is two crowns."."""
    words = first.tokens
    if words[-1].low in _COPULA_MEASURES and measure in ("length", "duration", "count", "temperature"):
        if reading.rest(first, keep=("time", "condition")) is None:
            return  # "was nineteen years old when he got him"
        question = ask(f"How {words[-1].low}", reading.clause, reading.subject, reading.rest(first, keep=()) or "")
        yield from make_pair(question, reading.text(words[:-1]), "fact", "quantity")
    elif reading.subject.head.casefold() in _MEASURE_NOUNS:
        question = ask("What", reading.clause, reading.subject, "")
        yield from make_pair(question, reading.text(complement(reading)), "fact", "quantity")


def _openings(reading: Reading, first: Phrase, measure: str, rest: str) -> Iterator[tuple[str, str, str]]:
    """Yield a question's first words for a measure, the answer, and what follows the verb."""
    words, verb = first.tokens, reading.clause.verb_form
    base = verb.base if verb is not None else ""
    comma = next((n for n, token in enumerate(words) if token.text == ","), len(words))
    if measure in ("money", "weight") and not any(token.low in ("and", "or") for token in words):
        words = words[:comma]  # "96 euros a year, juniors half"
    answer, of = reading.text(words), next((n for n, token in enumerate(words) if token.low == "of"), None)
    if base in ("take", "last", "require") and measure == "duration":
        if base != "require":
            yield "How long", answer, rest
    elif measure == "money" or base == "weigh":
        yield "How much", answer, rest
    elif measure == "length" and base in _MOVING:
        yield "How high" if base in ("climb", "rise") else "How far", answer, rest
    elif of is not None:
        if any(token.low in ("and", "or") or token.text == "," for token in words):
            return
        stuff, plural = words[of + 1 :], _is_plural(words[-1])
        if measure in ("volume", "weight") and not unclear_words(stuff) and not plural:
            yield f"How much {reading.text(stuff)}", reading.text(words[:of]), rest
        elif measure == "count" and words[-1].low not in english.PRONOUNS and of >= 2 and _is_plural(words[of - 1]):
            yield f"How many {reading.text(_without_number(words))}", reading.text(words[:of]), rest
    elif measure in _COUNTED and not any(token.low in ("and", "or", ",") for token in words):
        counted, rate = _without_number(_per(words)), words[len(_per(words)) :]
        if _is_plural(_per(words)[-1]) and counted and len(counted) <= 4 and not unclear_words(counted):
            shown = f"{reading.text(rate)} {rest}" if rate else rest
            yield f"How many {reading.text(counted)}", reading.text(_per(words)), shown


def _is_plural(noun: Token) -> bool:
    return english.is_plural(noun.text)


def _per(words: Sequence[Token]) -> Sequence[Token]:
    """Return a measure without its rate: "25 kilograms" of "25 kilograms a year"."""
    rate = next((n for n, token in enumerate(words) if n and token.low in ("a", "an", "per", "each")), len(words))
    return words[:rate]


def _in_how_many(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "dies after about six weeks" gives "After how many weeks does ... die?"."""
    for phrase in reading.phrases:
        words = phrase.tokens[1:]
        if phrase.head not in ("in", "within", "after") or phrase.tokens[0].low != phrase.head or not words:
            continue
        if (
            measure_of(words) != "duration"
            or any(token.low == "and" for token in words)
            or UNITS.get(words[-1].low) != "duration"
            or not english.is_plural(words[-1].text)
            or reading.clause.is_copula
        ):
            continue
        rest = reading.rest(phrase, keep=("object", "preposition", "time"))
        if rest is not None and not _is_counted(reading) and reading.subject.text != "you":
            word = f"{phrase.head.capitalize()} how many {words[-1].text}"
            yield from make_pair(
                ask(word, reading.clause, reading.subject, rest), reading.text(words), "fact", "duration"
            )


def _what_measure(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "has a gauge of one metre" gives "What is the gauge of the track?"."""
    form, first = reading.clause.verb_form, reading.phrases[0] if reading.phrases else None
    if form is None or form.base != "have" or form.tense != "third" or first is None or first.kind != "object":
        return
    words = first.tokens
    if len(words) > 3 and words[0].low in ("a", "an") and words[2].low == "of" and measure_of(words[3:]) is not None:
        if any(token.low in ("and", "or") or token.text == "," for token in words[3:]):
            return
        question = joined("What is the", words[1].text, "of", reading.subject.text)
        yield from make_pair(question, reading.text(words[3:]), "fact", "quantity")


def _how_many_times(reading: Reading) -> Iterator[QuestionAnswer]:
    clause = reading.clause
    for phrase in reading.phrases[:2]:
        words = phrase.tokens
        if (
            phrase.kind == "object"
            and words[-1].low == "times"
            and measure_of(words) == "count"
            and clause.verb_form is not None
        ):
            rest = reading.rest(phrase, keep=("preposition", "time"))
            if rest is not None:
                yield from make_pair(
                    ask("How many times", clause, reading.subject, rest), reading.text(words), "fact", "quantity"
                )


def _how_high(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "stands at 640 metres", "is kept at 27 degrees", "at a speed of ..."."""
    clause = reading.clause
    for phrase in reading.phrases:
        words = phrase.tokens[1:]
        if phrase.kind not in ("preposition", "time") or phrase.head != "at" or not words or clause.is_copula:
            continue
        measure = measure_of(words)
        word = {"length": "At what height", "temperature": "At what temperature"}.get(measure or "")
        if measure == "length" and any(t.low in ("a", "an", "per") and t is not words[0] for t in words):
            word = "At what speed"
        rest = reading.rest(phrase, keep=("object", "preposition", "time"))
        if word is not None and rest is not None:
            yield from make_pair(ask(word, clause, reading.subject, rest), reading.text(words), "fact", "quantity")


_ASKED_MEASURES = {"temperature": "what temperature", "money": "how much", "share": "how much"}


def _to_what_measure(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "is warmed to 32 degrees" gives "To what temperature is ...?", "for eight pounds" "For how much ...?"."""
    clause = reading.clause
    for place, phrase in enumerate(reading.phrases[:3]):
        words = phrase.tokens[1:]
        if phrase.kind != "preposition" or phrase.head not in ("to", "by", "for", "below", "above") or not words:
            continue
        measure = measure_of(words)
        if phrase.head == "for" and not clause.is_passive:
            continue  # "asked for 4,300 pounds"
        if phrase.tokens[0].low != phrase.head or clause.is_copula or any(t.low in ("and", "or") for t in words):
            continue
        asked = _ASKED_MEASURES.get(measure or "")
        if measure in ("length", "weight", "duration") and UNITS.get(words[-1].low) and _is_plural(words[-1]):
            asked = f"how many {words[-1].text}"
        if asked is None or (asked == "what temperature" and phrase.head == "by"):
            continue
        rest = reading.rest(phrase, keep=("object", "preposition", "time"), without=reading.phrases[place + 1 :])
        if rest is not None and reading.subject.text != "you":
            question = ask(f"{phrase.head.capitalize()} {asked}", clause, reading.subject, rest)
            yield from make_pair(question, reading.text(words), "fact", "quantity")


def _without_number(words: Sequence[Token]) -> Sequence[Token]:
    place = 0
    while place < len(words) and (
        words[place].is_number or (measure_of(words[place:]) is not None and not words[place].is_number)
    ):
        place += 1
    return words[place:]


def _how_many_subjects(reading: Reading) -> Iterator[QuestionAnswer]:
    words = reading.clause.subject
    if measure_of(words) != "count" or not english.is_plural(reading.subject.head) or words[0].low == "one":
        return
    if any(token.text.endswith(("'s", "’s", "s'", "s’")) for token in words):
        return  # "Twelve men's wives"
    counted = _without_number(words)
    rest = reading.rest(None, keep=("object", "preposition", "time", "comparison", "purpose"))
    if counted and rest and len(counted) <= 6 and "not" not in [token.low for token in reading.clause.adverbs]:
        number = words[: len(words) - len(counted)]
        yield from make_pair(
            joined(f"How many {reading.text(counted)}", predicate(reading.clause), rest),
            f"{reading.text(number)} {counted[0].text}" if len(counted) == 1 else reading.text(number),
            "fact",
            "quantity",
        )


def existence(clause: Clause, names: Set[str]) -> Iterator[QuestionAnswer]:
    """ "There are two waiting rooms in the lower station." """
    first = clause.phrases[0] if clause.phrases else None
    if first is None or not clause.is_copula or first.kind != "object" or measure_of(first.tokens) != "count":
        return
    counted = _without_number(first.tokens)
    rest = [phrase for phrase in clause.phrases[1:] if phrase.kind in ("preposition", "time")]
    if not counted or not rest or not english.is_plural(counted[-1].text) or any(unclear_words(p.tokens) for p in rest):
        return
    what = text_of(counted, clause.sentence)
    question = joined(f"How many {what}", clause.auxiliaries[0].text, "there", phrases_text(rest, clause.sentence))
    yield from make_pair(question, text_of(first.tokens, clause.sentence), "fact", "quantity")


TEMPLATES = (
    _when,
    _how_much,
    _in_how_many,
    _what_measure,
    _how_many_times,
    _how_high,
    _to_what_measure,
    _how_many_subjects,
)
