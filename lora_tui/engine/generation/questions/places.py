"""Templates that ask where."""

from collections.abc import Iterator, Sequence

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import head_noun, measure_of, names_in, noun_kind
from lora_tui.engine.generation.questions.forms import (
    ask,
    phrases_text,
    unclear_words,
    within,
)
from lora_tui.engine.generation.questions.phrases import Phrase
from lora_tui.engine.generation.questions.reading import QuestionAnswer, Reading, make_pair
from lora_tui.engine.generation.questions.verbs import text_of

_LOCATED = frozenset(
    """
    stand lie live hang sit keep store locate situate find place bear begin start end hold build grow park hide
    mount install display bury meet stop work teach sell buy print make produce house stay wait nest breed sleep
    train show exhibit moor anchor store plant collect serve gather marry die leave play eat deposit post put set
    fasten tie tuck pour meet cast plant stop land require belong belongs need
    """.split()
)

_NEED_OBJECTS = frozenset("learn buy sell make build collect show produce find put set keep hold discover see".split())

_PLACE_PREPOSITIONS = frozenset(
    """
    in at on near beside behind under above below beneath between along inside outside opposite next beyond across
    against
    """.split()
)

_NO_PLACES = frozenset(
    """
    way order case form front charge addition fact general particular use service time turn favour honour memory
    agreement half two pieces part parts shape colour size danger trouble advance person public private place common
    return view operation average condition response practice principle total fire sight line need contrast winter
    summer rest spite steps stages minutes hours days weeks degrees foot hand water lead leash name names title
    direction leadership supervision guidance rule law condition conditions pressure control number numbers writing
    words english welsh german french language languages advance full detail time times sum price cost vote meeting
    age length height weight depth width speed temperature hurry rush panic silence secret
    """.split()
)


def _where(reading: Reading) -> Iterator[QuestionAnswer]:
    clause = reading.clause
    if clause.verb_form is None or reading.subject.text == "you" or measure_of(clause.subject) is not None:
        return
    told = clause.is_passive or any(p.kind == "object" for p in reading.phrases)
    if clause.verb_form.base in _NEED_OBJECTS and not told:
        return  # "Where did she learn?"
    for place, phrase in enumerate(reading.phrases):
        if phrase.kind != "preposition" or phrase.head not in _PLACE_PREPOSITIONS or len(phrase.tokens) < 2:
            continue
        before = reading.phrases[:place]
        if _is_no_place(phrase, before, reading, clause.verb_form.base):
            continue
        later = reading.phrases[place + 1 :]
        places = [p for p in later if p.kind == "preposition" and p.head in _PLACE_PREPOSITIONS | {"from"}]
        if list(later[: len(places)]) != places:
            continue  # "lies at Oss on Mondays, at Brell on Tuesdays": a list, torn
        answer = [*phrase.tokens, *(token for p in places for token in p.tokens)]
        kept = " ".join(phrases_text([p], clause.sentence) for p in before if not unclear_words(p.tokens))
        if clause.verb_form.base in ("bear", "die"):
            yield from make_pair(
                ask("Where", clause, reading.subject, ""), text_of(answer, clause.sentence), "fact", "place"
            )
            continue
        lead = clause.lead
        if lead is not None:
            if lead.kind not in ("time", "preposition", "condition") or unclear_words(lead.tokens):
                continue
            kept += f" {within(lead.tokens, clause.sentence, reading.names)}"
        times = [
            p
            for p in reading.phrases
            if p.kind == "time" and p not in before and p.head in ("in", "on") and not unclear_words(p.tokens)
        ]
        kept += f" {phrases_text(times[:1], clause.sentence)}" if times and times[0] is not phrase else ""
        yield from make_pair(
            ask("Where", clause, reading.subject, kept), text_of(answer, clause.sentence), "fact", "place"
        )


def _is_no_place(phrase: Phrase, before: Sequence[Phrase], reading: Reading, verb: str) -> bool:
    """Tell whether a phrase that may say where names no place, or one that belongs to a phrase `before` it."""
    clause, words = reading.clause, phrase.tokens[1:]
    if any(
        p.head in _PLACE_PREPOSITIONS | {"from", "to", "into", "onto"} or measure_of(p.tokens[1:])
        for p in before
        if p.kind == "preposition"
    ):
        return True
    named = (
        any(True for _ in names_in(words, reading.names, mid_sentence=words[0].start > 0))
        and noun_kind(words, reading.names) != "person"
        and phrase.head in ("in", "at", "near", *(("on",) if verb in _LOCATED else ()))
    )
    located = verb in _LOCATED and noun_kind(words) != "person" and words[0].low in english.DETERMINERS
    takes_place = verb == "take" and bool(before) and before[0].tokens[0].low == "place"
    if not (named or located or takes_place) or measure_of(words) is not None or unclear_words(words):
        return True
    noun = head_noun(words).low
    if noun in _NO_PLACES or noun.endswith("ing") or any(token.low in _NO_PLACES for token in words[:2]):
        return True
    if any(p.kind == "object" for p in before) and not clause.is_passive and not named and not takes_place:
        return True
    if clause.is_passive and any(p.head == "by" for p in before):
        return True  # "is shown by the lamp above the display"
    return len(before) > 1 or (any(token.low == "and" for token in words) and not named)


def _where_is(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "The tea room is on the ground floor." gives "Where is the tea room?"."""
    clause, first = reading.clause, reading.phrases[0] if reading.phrases else None
    if not clause.is_copula or first is None or first.kind != "preposition" or first.head not in _PLACE_PREPOSITIONS:
        return
    words = first.tokens[1:]
    if clause.adverbs or clause.lead is not None or not words or unclear_words(words) or measure_of(words) is not None:
        return
    if words[0].low not in ("the", "a", "an") or len(clause.subject) < 2 or clause.subject[0].low in ("a", "an"):
        return
    if any(token.low in _NO_PLACES for token in words[:3]) or noun_kind(words, reading.names) == "person":
        return
    attached = [p for p in reading.phrases[1:] if p.kind == "preposition" and p.head in _PLACE_PREPOSITIONS]
    if len(attached) + 1 < len(reading.phrases):
        return
    answer = [*first.tokens, *(token for p in attached for token in p.tokens)]
    yield from make_pair(ask("Where", clause, reading.subject, ""), text_of(answer, clause.sentence), "fact", "place")


TEMPLATES = (_where, _where_is)
