"""Texts by rule, for the built-in model and for models that write only about single sentences.

A rewrite is the passage's own sentences, each made to stand by itself (a pronoun is replaced by what it stands for,
where that is plain) and in another order: a model that has read a fact with its subject named, and in several orders,
can be asked for it (Physics of Language Models 3.1, arXiv 2309.14316: full names and permutation). A summary is the
sentences that the accepted pairs are about, a conversation the pairs themselves, a wording the question by
another question word. What is made so says nothing that the passage, or an accepted pair, does not say. English only,
as the rules are.
"""

import hashlib
import random
import re
from collections.abc import Sequence

from lora_tui.engine.data.other_wordings import other_wordings
from lora_tui.engine.generation.generation_model import (
    CallRecord,
    Judgement,
    KnownPair,
    TextRequest,
    WrittenTexts,
)
from lora_tui.engine.generation.questions.passage_facts import is_usable, names_of
from lora_tui.engine.generation.questions.references import Antecedents, Mentions, after, people_of, resolve
from lora_tui.engine.generation.questions.sentences import sentences, title_of
from lora_tui.engine.generation.texts.text_replies import dialogue
from lora_tui.scoring.words import normalise
from lora_tui.store.rows import AttemptEnd
from lora_tui.store.texts import NewText

_FEWEST_SENTENCES = 3
_MOST_EXCHANGES = 4
_SUMMARY_SHARE = 0.5

SYSTEM_PROMPTS = (
    "You are a helpful assistant. Answer truthfully and completely.",
    "You answer questions about {topic}.",
    "You are an expert on {topic}. Give correct, concise answers.",
    "Answer the user's questions about {topic} in full sentences.",
    "You help people who want to know about {topic}. Say what you know, and nothing else.",
)
"""System prompts of conversations; the first one where the topic is not known."""


def system_prompt(topic: str, rng: random.Random) -> str:
    """Return a system prompt for a conversation about a topic."""
    return rng.choice(SYSTEM_PROMPTS).format(topic=topic.strip()) if topic.strip() else SYSTEM_PROMPTS[0]


class RuleTexts:
    """`TextModel` without a model."""

    async def write(self, request: TextRequest, call: CallRecord) -> WrittenTexts:
        """Make a text of the passage's sentences and the accepted pairs, or say why there is none."""
        attempt = await call.begin_attempt()
        found, fault = made_by_rule(request)
        await call.end_attempt(attempt, AttemptEnd("ok", reply="\n".join(text.body for text in found)))
        return WrittenTexts(tuple(found), by_rule=True, why_none="" if found else fault)

    async def judge(self, passage: str, text: NewText, call: CallRecord) -> Judgement:
        """Leave the text to the gates: it is made of sentences that the passage holds."""
        attempt = await call.begin_attempt()
        await call.end_attempt(attempt, AttemptEnd("ok"))
        return Judgement({}, "made by rule of the passage's own sentences", "rule")


def made_by_rule(request: TextRequest) -> tuple[list[NewText], str]:
    """Return the texts that rules make for a request, and why there are none."""
    rng = random.Random(f"{request.variant}/{hashlib.sha256(request.passage.encode('utf-8', 'replace')).hexdigest()}")  # noqa: S311  # variety, no secret
    topic = request.topic or title_of(request.passage)
    if request.form == "phrasing":
        return _wordings(request.pairs[0], request.count), "no rule knows another wording of the question"
    if request.form == "dialogue":
        pairs = list(request.pairs)
        rng.shuffle(pairs)
        exchanges = [(pair.question, pair.answer) for pair in pairs[:_MOST_EXCHANGES]]
        fault = "a conversation takes two accepted pairs about a passage"
        return ([dialogue(exchanges, system_prompt(topic, rng), topic)] if len(exchanges) > 1 else []), fault
    units = standing_sentences(request.passage, request.topic, request.opening)
    if len(units) < _FEWEST_SENTENCES:
        return [], f"the passage holds fewer than {_FEWEST_SENTENCES} plain sentences"
    if request.form == "summary":
        kept = _told_by_pairs(units, request.pairs)
        return ([NewText(0, "summary", topic, " ".join(kept))] if kept else []), "no accepted pair is about the passage"
    if request.variant:  # the first one keeps the passage's order
        rng.shuffle(units)
    return [NewText(0, "rewrite", topic, " ".join(units))], ""


def standing_sentences(passage: str, heading: str = "", opening: str = "") -> list[str]:
    """Return the plain sentences of a passage, each able to stand by itself; one that is not follows its predecessor.

    `opening` is how the document begins, where the passage is a later one: there things are named in full.
    """
    found = list(sentences(passage, heading))
    before = [sentence.plain for sentence in sentences(opening)]
    texts = [*before, *(sentence.plain for sentence in found)]
    names, people = names_of(texts), people_of(texts)
    mentions = Mentions(title_of(opening or passage), names)
    for text in before:
        mentions.read(text)
    antecedents = Antecedents()
    units: list[str] = []
    for sentence in found:
        text = sentence.plain
        if not is_usable(text):
            antecedents = Antecedents(person=antecedents.person)
            mentions.read(text)
            continue
        if not sentence.before:
            antecedents = Antecedents()
        resolved = resolve(text, antecedents, mentions)
        stands = resolved.how in ("", "owner", "mention")
        statement = resolved.statement
        if resolved.how == "pronoun" and resolved.stand_in:
            statement, stands = _named(statement, resolved.stand_in), True
        if stands or not units or not sentence.before:
            units.append(statement)
        else:
            units[-1] += f" {text}"
        antecedents = after(text, antecedents, names, people)
        mentions.read(text)
    return list(dict.fromkeys(units))


def _named(statement: str, stand_in: str) -> str:
    """Return a statement whose first pronoun is replaced by what it stands for."""
    found = re.search(r"\b(?:it|they|he|she)\b", statement, re.IGNORECASE)
    if found is None:
        return statement
    name = stand_in[0].upper() + stand_in[1:] if found.start() == 0 else stand_in
    return statement[: found.start()] + name + statement[found.end() :]


def _told_by_pairs(units: Sequence[str], pairs: Sequence[KnownPair]) -> list[str]:
    """Return the sentences that the pairs' evidence is made of, in order, and the first one; at most half of all."""
    evidence = [normalise(pair.evidence) for pair in pairs if pair.evidence.strip()]
    if not evidence:
        return []
    told = [unit for unit in units if any(normalise(unit) in one or one in normalise(unit) for one in evidence)]
    most = max(2, round(_SUMMARY_SHARE * len(units)))
    kept = list(dict.fromkeys([units[0], *told]))[:most]
    return [unit for unit in units if unit in kept] if len(kept) > 1 else []


def _wordings(pair: KnownPair, count: int) -> list[NewText]:
    asked = other_wordings(pair.question, pair.answer)[:count]
    return [
        NewText(place, "phrasing", question + ("." if question.startswith(("Tell", "Name")) else "?"), pair.answer)
        for place, question in enumerate(asked)
    ]
