"""Questions about instructions: "Soak the nozzles in vinegar for a night.", "If the hive is light, feed it.".

A manual states little and tells much. An instruction has no subject; what it says is asked for as what one should do:
where, how long, how often, with what, what to do before or after something, and how to reach an aim.
"""

from collections.abc import Iterator, Sequence, Set

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import measure_of
from lora_tui.engine.generation.questions.forms import joined, phrases_text, unclear_words, within
from lora_tui.engine.generation.questions.phrases import Phrase, phrases_after
from lora_tui.engine.generation.questions.reading import TAKES_INFINITIVE, QuestionAnswer, make_pair
from lora_tui.engine.generation.questions.verbs import Token, holds_a_clause, text_of, tokenize

_CONDITIONS = frozenset("if when before after while whenever once until unless".split())
_ASKED_CONDITIONS = frozenset("if when before after whenever once".split())
_NOTHING_DONE = frozenset(
    "see note notice remember look make be do have let keep get take read find think consider imagine "
    "suppose assume try".split()
)
"""Verbs of instructions whose half is asked for: "see that it is highlighted", "make sure", "be careful"."""

_PLACED = frozenset(
    "mount hang put place set fix keep store stand lay leave install attach fasten hold park plant bury sow insert "
    "enter write".split()
)
_PLACES = frozenset(
    "in on at above below beside under behind near inside outside between against into onto over along".split()
)
_MANNER = frozenset("care difficulty help pleasure ease caution".split())
_BEFORE_INSTRUCTIONS = frozenset("please then always next now first finally afterwards therefore".split())
_MOST_ANSWER = 14


def questions_about_instruction(sentence: str, names: Set[str]) -> Iterator[QuestionAnswer]:
    """Yield the questions about an instruction; nothing where the sentence is none, or is not plain."""
    tokens = tokenize(sentence)
    if len(tokens) < 4 or tokens[-1].text != "." or any(token.text in "();:-–—" for token in tokens):
        return
    tokens = tokens[:-1]
    while len(tokens) > 3 and tokens[0].low in _BEFORE_INSTRUCTIONS:
        tokens = tokens[2:] if tokens[1].text == "," else tokens[1:]
    lead = _lead_of(tokens)
    main = tokens[len(lead) + 1 :] if lead else tokens
    if not _begins_instruction(main, first=not lead):
        return
    if lead:
        yield from _after_lead(lead, main, sentence, names)
    elif main[0].low not in _NOTHING_DONE:
        yield from _of_instruction(main, sentence)


def _lead_of(tokens: Sequence[Token]) -> Sequence[Token]:
    comma = next((n for n, token in enumerate(tokens) if token.text == ","), None)
    if comma is None or not 3 <= comma <= 12 or comma + 2 > len(tokens):
        return ()
    return tokens[:comma] if tokens[0].low in _CONDITIONS | {"to"} else ()


def _begins_instruction(tokens: Sequence[Token], *, first: bool) -> bool:
    """Tell whether a base form begins here that something follows which no noun would be followed by."""
    if len(tokens) < 2 or not any(verb.tense == "base" for verb in english.verbs_of(tokens[0].text)):
        return False
    if tokens[0].is_name and not first:
        return False
    follows = tokens[1]
    shouted = follows.text.isupper() and len(follows.text) > 1  # "Press MENU"
    leads_on = english.DETERMINERS | {"it", "them", "up", "down", "off", "out"}
    if shouted or follows.low in leads_on or follows.is_number or follows.text[0] == "`":
        return True
    if follows.low in english.PREPOSITIONS:
        return not first  # "Water in the tank is cold": a noun begins a sentence more often
    bare = english.is_plural(follows.text) and not any(v.tense == "third" for v in english.verbs_of(follows.text))
    return bare or (not first and follows.low not in english.FINITE_AUXILIARIES)


def _after_lead(
    lead: Sequence[Token], main: Sequence[Token], sentence: str, names: Set[str]
) -> Iterator[QuestionAnswer]:
    """An instruction after its condition or aim: "To calm the bees, use smoke.", "If the hive is light, feed it."."""
    if unclear_words(lead) or main[0].low in _NOTHING_DONE - {"make", "keep", "take", "read"}:
        return
    answer = text_of(main, sentence)
    if any(token.low in english.FINITE_AUXILIARIES for token in lead) and lead[0].low == "to":
        return  # "To Kill a Mockingbird is a novel, set in ..."
    if (
        lead[0].low == "to"
        and lead[-1].low not in english.PREPOSITIONS
        and any(verb.tense == "base" for verb in english.verbs_of(lead[1].text))
    ):
        yield from make_pair(joined("How do you", text_of(lead[1:], sentence)), answer, "procedure", "means")
    elif lead[0].low in ("if", "when", "before", "after", "while") and holds_a_clause(lead[1:]):
        condition = within(lead, sentence, names)
        yield from make_pair(joined("What should you do", condition), answer, "procedure", "clause")


def _of_instruction(tokens: Sequence[Token], sentence: str) -> Iterator[QuestionAnswer]:
    """What a plain instruction says of where, how long, with what, before what, and to what end."""
    verb, particle, rest = tokens[0], [], list(tokens[1:])
    if rest[0].low in ("up", "down", "off", "out") and len(rest) > 1:
        particle, rest = [rest[0]], rest[1:]
    phrases = phrases_after(rest)
    if not phrases or phrases[0].kind != "object" or unclear_words(phrases[0].tokens):
        return
    done = [verb, *particle]
    form = next(v for v in english.verbs_of(verb.text) if v.tense == "base")
    base = f"{verb.low} {particle[0].low}" if particle else verb.low
    whole = rest[-1] is phrases[-1].tokens[-1]
    for place, phrase in enumerate(phrases[1:], 1):
        before = phrases[:place]
        if any(unclear_words(p.tokens) for p in before) or unclear_words(phrase.tokens):
            continue
        kept = phrases_text(before, sentence)
        answer = text_of(phrase.tokens, sentence)
        if phrase.head in _ASKED_CONDITIONS and holds_a_clause(phrase.tokens[1:]):
            told = text_of([*done, *(t for p in before for t in p.tokens)], sentence)
            if len(told.split()) <= _MOST_ANSWER:
                yield from make_pair(joined("What should you do", answer), told, "procedure", "clause")
        elif phrase.kind == "purpose" and phrase.head == "to" and place == len(phrases) - 1 and whole:
            if form.base not in TAKES_INFINITIVE:
                told = text_of([*done, *(t for p in before for t in p.tokens)], sentence)
                aim = text_of(phrase.tokens[1:], sentence)
                if len(phrase.tokens) < 3:
                    continue
                yield from make_pair(joined("How do you", aim), told, "procedure", "means")
        elif place == 1 or all(p.kind == "preposition" for p in before[1:]):
            yield from _of_phrase(base, kept, phrase, phrases[place + 1 :], sentence)


def _of_phrase(
    base: str, kept: str, phrase: Phrase, after: Sequence[Phrase], sentence: str
) -> Iterator[QuestionAnswer]:
    """The place, the duration, the frequency or the means of an instruction."""
    words, answer = phrase.tokens[1:], text_of(phrase.tokens, sentence)
    if phrase.head == "for" and (measure_of(words) == "duration" or [t.low for t in words] == ["a", "night"]):
        yield from make_pair(joined("How long should you", base, kept), answer, "fact", "duration")
    elif kept.endswith(" at") or " by " in f" {kept} ":
        return  # "at once", "by hand with the crank"
    elif phrase.head in ("every", "twice", "once") and phrase.kind == "time":
        yield from make_pair(joined("How often should you", base, kept), answer, "fact", "frequency")
    elif phrase.head == "with" and words and words[-1].low not in _MANNER and phrase.kind == "preposition":
        if words[0].low not in ("you", "me") and measure_of(words) is None:
            told = text_of(words, sentence)
            yield from make_pair(joined("What should you", base, kept, "with"), told, "fact", "thing")
    elif phrase.head in _PLACES and base.split()[0] in _PLACED and words and measure_of(words) is None:
        more = [t for p in after if p.kind == "preposition" and p.head in _PLACES | {"of", "from"} for t in p.tokens]
        place = text_of([*phrase.tokens, *more], sentence)
        if phrase.kind == "preposition" and words[0].low in english.DETERMINERS | {"it"} and len(place.split()) < 16:
            yield from make_pair(joined("Where should you", base, kept), place, "fact", "place")
