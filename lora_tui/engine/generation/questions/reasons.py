"""Templates that ask for reasons, purposes, means, consequences and duties: why, how, what happens, what must."""

from collections.abc import Iterator, Set

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.forms import ask, joined, phrases_text, unclear_beside, unclear_words, within
from lora_tui.engine.generation.questions.phrases import Phrase
from lora_tui.engine.generation.questions.reading import (
    TAKES_INFINITIVE,
    QuestionAnswer,
    Reading,
    is_negated,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import holds_a_clause, text_of, tokenize

_NOUNS_WITH_INFINITIVE = frozenset(
    "way right permission time attempt ability chance decision plan order need reason opportunity power effort duty "
    "obligation tendency wish promise able enough likely ready first last place room money licence license freedom "
    "willing free easy hard difficult safe best better important necessary possible something nothing anything".split()
)


def _why(reading: Reading) -> Iterator[QuestionAnswer]:
    clause = reading.clause
    for phrase in reading.phrases:
        lead = clause.lead
        before = reading.phrases[: reading.phrases.index(phrase)]
        if phrase.kind == "purpose" and any(
            t.low in ("that", "which", "who", "whose") for p in before for t in p.tokens
        ):
            continue
        if phrase.kind == "reason":
            before = reading.phrases[: reading.phrases.index(phrase)]
            if any(unclear_words(p.tokens) for p in before) or reading.subject.text == "you":
                continue
            kept = phrases_text(before, clause.sentence)
            if lead is not None:
                if unclear_words(lead.tokens):
                    continue
                kept += f" {within(lead.tokens, clause.sentence, reading.names)}"
            if clause.is_copula and not kept:
                continue
            tail = [t for p in reading.phrases[reading.phrases.index(phrase) :] for t in p.tokens]
            yield from make_pair(ask("Why", clause, reading.subject, kept), reading.text(tail), "reason", "clause")
        elif phrase.kind == "purpose":
            yield from _purpose(reading, phrase)
    if clause.lead is not None and clause.lead.kind == "reason" and not clause.is_copula:
        others = reading.rest(clause.lead)
        if others is not None and clause.lead.tokens[0].low == "because":
            yield from make_pair(
                ask("Why", clause, reading.subject, others.strip()),
                reading.text(clause.lead.tokens),
                "reason",
                "clause",
            )


def _purpose(reading: Reading, phrase: Phrase) -> Iterator[QuestionAnswer]:
    clause = reading.clause
    place = reading.phrases.index(phrase)
    before = reading.phrases[:place]
    form = clause.verb_form
    if form is None or any(unclear_words(p.tokens) for p in before) or unclear_words(phrase.tokens[:3]):
        return
    if any(token.low in ("first", "last", "only", "next", "best") for p in before for token in p.tokens):
        return  # "the first woman to drive a funicular"
    if any(
        v.tense == "ing" and v.base in TAKES_INFINITIVE
        for p in before
        for t in p.tokens
        for v in english.verbs_of(t.low)
    ):
        return  # "in enabling computers to communicate"
    previous = before[-1].tokens[-1].low if before else ""
    answer = reading.text(phrase.tokens)
    if form.base == "use" and phrase.head == "to" and not before:
        if clause.is_passive:
            yield from make_pair(ask("What", clause, reading.subject, "for"), answer, "fact", "purpose")
        return
    if (
        form.base in TAKES_INFINITIVE
        or previous in _NOUNS_WITH_INFINITIVE
        or clause.is_copula
        or previous.endswith(("able", "ible"))
    ):
        return
    if not (clause.is_passive or any(p.kind == "object" for p in before)) and phrase.head == "to":
        return
    if reading.subject.text == "you":
        return
    if phrase.head in ("to", "in") or phrase.has("that"):
        kept = phrases_text(before, clause.sentence)
        if clause.lead is not None:
            if unclear_words(clause.lead.tokens):
                return
            kept += f" {within(clause.lead.tokens, clause.sentence, reading.names)}"
        yield from make_pair(ask("Why", clause, reading.subject, kept), answer, "reason", "purpose")


def _how(reading: Reading) -> Iterator[QuestionAnswer]:
    clause = reading.clause
    phrase = next((p for p in reading.phrases if p.kind == "means"), None)
    if phrase is None or clause.is_copula or unclear_words(phrase.tokens[:3]):
        return
    before = reading.phrases[: reading.phrases.index(phrase)]
    if any(unclear_words(p.tokens) for p in before) or not (before or clause.is_passive):
        return
    kept = phrases_text(before, clause.sentence)
    tail = [t for p in reading.phrases[reading.phrases.index(phrase) :] for t in p.tokens]
    yield from make_pair(ask("How", clause, reading.subject, kept), reading.text(tail), "procedure", "means")


def _what_happens(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "If the hive feels light, the colony needs sugar." gives "What happens if the hive feels light?"."""
    lead = reading.clause.lead
    if lead is None or lead.kind != "condition" or unclear_words(lead.tokens) or not holds_a_clause(lead.tokens[1:]):
        return
    own = reading.clause.subject
    start = own[0].start
    tail = reading.clause.sentence[start:].rstrip(" .")
    if own[0].low == "then":
        return
    condition = within(lead.tokens, reading.clause.sentence, reading.names)
    if (
        reading.clause.auxiliaries
        and reading.clause.auxiliaries[0].low in ("must", "should")
        and reading.clause.verb_form
        and not reading.clause.is_passive
        and reading.clause.verb_form.tense == "base"
    ):
        modal = reading.clause.auxiliaries[0].text
        assert reading.clause.verb is not None
        answer = reading.clause.sentence[reading.clause.verb.start :].rstrip(" .")
        yield from make_pair(
            joined("What", modal, reading.subject.text, "do", condition), answer, "consequence", "clause"
        )
        return
    if unclear_words(own) or reading.clause.is_copula:
        return
    form = reading.clause.verb_form
    is_past = form is not None and form.tense == "past" and not reading.clause.auxiliaries
    is_past = is_past or any(token.low in ("was", "were", "had", "did") for token in reading.clause.auxiliaries)
    asked = "What happened" if is_past else "What happens"
    yield from make_pair(joined(asked, condition), tail, "consequence", "clause")


def _duty(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "Swimmers must shower before entering the pool." gives "What must swimmers do before entering the pool?"."""
    clause = reading.clause
    form = clause.verb_form
    if (
        len(clause.auxiliaries) != 1
        or clause.auxiliaries[0].low not in ("must", "should", "may")
        or form is None
        or clause.verb is None
    ):
        return
    if is_negated(clause) or not reading.subject.is_person or clause.auxiliaries[0].low == "may":
        return
    kept = [p for p in reading.phrases if p.kind in ("time", "condition")]
    answer = [clause.verb, *(t for p in reading.phrases if p not in kept for t in p.tokens)]
    if (not kept and clause.lead is None) or any(unclear_beside(p.tokens, reading.subject) for p in kept):
        return
    rest = phrases_text(kept, clause.sentence)
    if clause.lead is not None:
        if unclear_words(clause.lead.tokens):
            return
        rest += f" {within(clause.lead.tokens, clause.sentence, reading.names)}"
    yield from make_pair(
        joined("What", clause.auxiliaries[0].text, reading.subject.text, "do", rest),
        reading.text(answer),
        "procedure",
        "clause",
    )


def of_instruction(sentence: str, names: Set[str]) -> Iterator[QuestionAnswer]:
    """An instruction after its condition or aim: "To calm the bees, use smoke.", "If the hive is light, feed it."."""
    tokens = tokenize(sentence)
    comma = next((n for n, token in enumerate(tokens) if token.text == ","), None)
    if comma is None or not 3 <= comma <= 12 or comma + 3 > len(tokens) or tokens[-1].text != ".":
        return
    lead, main = tokens[:comma], tokens[comma + 1 : -1]
    if not any(verb.tense == "base" for verb in english.verbs_of(main[0].text)) or main[0].is_name:
        return
    if unclear_words(lead) or any(token.text in "();:" for token in tokens):
        return
    answer = text_of(main, sentence)
    if tokens[0].low == "to" and any(verb.tense == "base" for verb in english.verbs_of(tokens[1].text)):
        yield from make_pair(joined("How do you", text_of(lead[1:], sentence)), answer, "procedure", "means")
    elif tokens[0].low in ("if", "when", "before", "after", "while"):
        if not holds_a_clause(lead[1:]):
            return
        condition = within(lead, sentence, names)
        yield from make_pair(joined("What should you do", condition), answer, "procedure", "clause")


TEMPLATES = (_why, _how, _what_happens, _duty)
