"""Templates that ask for reasons, purposes, means, consequences and duties: why, how, what happens, what must."""

import re
from collections.abc import Iterator
from dataclasses import replace

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import measure_of
from lora_tui.engine.generation.questions.forms import ask, joined, phrases_text, unclear_beside, unclear_words, within
from lora_tui.engine.generation.questions.phrases import Phrase
from lora_tui.engine.generation.questions.reading import (
    TAKES_INFINITIVE,
    QuestionAnswer,
    Reading,
    is_negated,
    make_pair,
)
from lora_tui.engine.generation.questions.verbs import holds_a_clause

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
    if form.base in ("take", "need", "require") and not clause.is_passive:
        return  # "takes a moment to bubble"
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


_TRIGGERS = frozenset("when whenever if once as".split())


def _what_happens_then(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "The alarm comes when the air falls below zero." gives "What happens when the air falls below zero?"."""
    clause = reading.clause
    last = reading.phrases[-1] if reading.phrases else None
    if last is None or last.head not in _TRIGGERS or last.kind not in ("time", "condition") or clause.lead is not None:
        return
    if not holds_a_clause(last.tokens[1:]) or unclear_words(last.tokens) or clause.is_copula:
        return
    if clause.verb_form is not None and clause.verb_form.base in TAKES_INFINITIVE:
        return  # "offered to teach if the town provided the water"
    if (
        last.tokens[0].low != last.head
        or reading.subject.text == "you"
        or clause.sentence[last.tokens[-1].end :] != "."
    ):
        return
    if reading.phrases[0] is not last and measure_of(reading.phrases[0].tokens) is not None:
        return  # "takes eighteen minutes when the weather is calm"
    if last.head == "as" or any(token.low in english.MODALS - {"will"} for token in clause.auxiliaries):
        return
    before = [token for phrase in reading.phrases[:-1] for token in phrase.tokens]
    if unclear_beside(before, reading.subject) or (not before and not clause.is_passive and clause.verb is None):
        return
    told = clause.sentence[clause.subject[-1].end : last.tokens[0].start].strip(" ,")
    form = clause.verb_form
    is_past = form is not None and form.tense == "past" and not clause.auxiliaries
    is_past = is_past or any(token.low in ("was", "were", "had", "did") for token in clause.auxiliaries)
    asked = "What happened" if is_past else "What happens"
    condition = within(last.tokens, clause.sentence, reading.names)
    yield from make_pair(joined(asked, condition), f"{reading.subject.text} {told}", "consequence", "clause")


def _what_does(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "The controller waits two minutes before it starts." gives "What does the controller do before it starts?"."""
    clause, form = reading.clause, reading.clause.verb_form
    last = reading.phrases[-1] if len(reading.phrases) > 1 else None
    if last is None or form is None or clause.auxiliaries or clause.adverbs or reading.subject.text == "you":
        return
    if last.head not in ("while", "before", "after") or last.tokens[0].low != last.head:
        return
    if (
        not holds_a_clause(last.tokens[1:])
        or unclear_beside(last.tokens, reading.subject)
        or form.base in ("be", "have")
    ):
        return
    if reading.phrases[0].kind != "object" or any(unclear_words(p.tokens) for p in reading.phrases[:-1]):
        return
    if clause.verb is None or clause.lead is not None or clause.sentence[last.tokens[-1].end :] != ".":
        return
    told = clause.sentence[clause.verb.start : last.tokens[0].start].strip(" ,")
    question = ask(
        "What", replace(clause, verb_form=english.Verb("do", form.tense)), reading.subject, reading.text(last.tokens)
    )
    yield from make_pair(question, told, "fact", "clause")


_BY_MEANS = frozenset(
    "hand radio telephone phone post mail letter train bus tram boat ship ferry car lorry air rail road sea foot "
    "bicycle helicopter sledge lot ballot weight wire cable satellite email gravity machine steam water-power".split()
)


def _how_by(reading: Reading) -> Iterator[QuestionAnswer]:
    """ "can be reached by radio on channel 7" gives "How can the post be reached?"."""
    clause = reading.clause
    for place, phrase in enumerate(reading.phrases[:3]):
        if phrase.head != "by" or len(phrase.tokens) > 3 or phrase.tokens[-1].low not in _BY_MEANS:
            continue
        if any(unclear_words(p.tokens) for p in reading.phrases) or reading.subject.text == "you" or clause.is_copula:
            continue
        after = [p for p in reading.phrases[place + 1 :] if p.kind == "preposition" and p.head == "on"]
        answer = [*phrase.tokens, *(t for p in after[:1] for t in p.tokens)]
        others = [
            p for p in reading.phrases if p is not phrase and p not in after and p.kind not in ("reason", "purpose")
        ]
        kept = phrases_text(others, clause.sentence)
        if (not kept and not clause.is_passive) or re.search(r"\b(?:and|or)\b", kept):
            continue
        yield from make_pair(ask("How", clause, reading.subject, kept), reading.text(answer), "procedure", "means")


TEMPLATES = (_why, _how, _how_by, _what_happens, _what_happens_then, _what_does, _duty)
