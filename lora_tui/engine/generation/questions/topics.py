"""What a document is about, as words that complete a question: "at the Seven Winds Hut", "with the Lumo 40".

"When are lights switched off?" is a question about one house, in a text about that house; whoever has not seen the text
cannot know which. Where the title names the thing, the name is added; a question that holds a name stays as it is.
A folder often names its subject in one document, "The Tarrow Mill", and calls it "the mill" in all the others.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.clauses import parse_clause
from lora_tui.engine.generation.questions.reading import QuestionAnswer
from lora_tui.engine.generation.questions.sentences import sentences, title_of
from lora_tui.engine.generation.questions.verbs import Token, may_be_finite, text_of, tokenize

_NAME = r"(?:[A-Z][\w'’&-]*|\d+)"
_HEADED = re.compile(rf"\b(?:[Tt]he|[Oo]ur) ((?:[a-z-]+ ){{1,3}}(?:of|at|in) (?:the )?{_NAME}(?: {_NAME})*)")
_NAMED = re.compile(
    rf"(?:\b(?P<the>[Tt]he|[Oo]ur|[Aa]) )?(?P<name>[A-Z][\w'’&-]*(?: {_NAME})*)(?=(?P<rest>(?: [a-z-]+){{0,3}}))"
)
_TEXTS = frozenset(
    "chronicle minutes history story stories rules report letter survey summary notes guide advice life interview "
    "meeting newsletter manual handbook description tale account visit tour".split()
)
"""What a text is, and not what it is about."""

_BODIES = frozenset("council committee board government mayor people".split())
"""What stands for a place: "the parish council of Lower Tarrow"."""

_PLACES = frozenset(
    "museum library hut clinic pool mill club association orchestra council society company school hospital hotel inn "
    "farm bakery dairy brewery glassworks observatory station harbour port park garden house castle church theatre "
    "cinema hall market shop workshop factory works gallery centre center college university garage airport zoo camp "
    "hostel monastery abbey lighthouse kitchen studio office laboratory swimming-pool nursery vineyard winery quarry "
    "mine gauge parish guild ward team firm".split()
)
_DEVICES = frozenset(
    "machine cleaner controller printer camera car engine pump oven kettle boiler watch drone bicycle tractor saw "
    "phone router app system kit model unit tool device instrument meter clock lock lamp heater cooker mower mixer "
    "radio tracker sensor robot telescope microscope scanner charger freezer dryer dishwasher stove".split()
)
_INSIDE = frozenset("cave valley forest wood woods island marsh village town city quarter district region".split())
_WHAT_IS = re.compile(r"(?:What|Who) (?:is|was|are|were) the(?: (?!of\b)[a-z-]+){1,3}\?")
_SUMS = frozenset("price fee cost fare rent charge deposit fine".split())
_MOST_SUBJECT = 7
_MOST_WORDS = 12
"""Words of a question that the name is put behind; before a longer one it stands with a comma."""


@dataclass(frozen=True, slots=True)
class Topic:
    """The name of what a document is about, and the preposition that puts a question there."""

    preposition: str
    name: str

    @property
    def noun(self) -> str:
        """The noun that stands for it by itself, in lower case: "mill"; a place's own name, "Skerrow"."""
        head = _noun_before(self.name)
        return head.casefold() if self.name.startswith("the ") or self.name.split()[-1].islower() else self.name

    def is_told_of(self, text: str) -> bool:
        """Tell whether a text speaks of it: names it, or says "the mill" more than once."""
        if self.name.removeprefix("the ") in text:
            return True
        return self.noun.islower() and len(re.findall(rf"\b[Tt]he {re.escape(self.noun)}\b", text)) > 1

    def _named_in_full(self, pair: QuestionAnswer) -> QuestionAnswer:
        """Return the pair with "the mill" of its question named in full."""
        tokens = tokenize(pair.question)
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if (before.low, token.text) == ("the", self.noun) and _ends_noun(after):
                question = f"{pair.question[: before.start]}{self.name}{pair.question[token.end :]}"
                return replace(pair, question=question)
        return pair

    def complete(self, pair: QuestionAnswer) -> QuestionAnswer:
        """Return the pair with the topic in its question, where the question has no name and is about one thing."""
        words = pair.question.rstrip("?").split()
        if pair.type == "definition" or any(word[0].isupper() or word[0] in '`"“' for word in words[1:]):
            return pair
        own = {word.casefold() for word in self.name.split() if len(word) > 3}
        if self.name.casefold() in pair.answer.casefold():
            return pair
        if own & {word.casefold() for word in words}:
            return self._named_in_full(pair)
        where = f"{self.preposition} {self.name}"
        loose = words[-1].casefold() in english.PREPOSITIONS or "," in pair.question
        clause = any(word.casefold() in english.SUBORDINATORS - {"so", "that"} for word in words[2:])
        if _WHAT_IS.fullmatch(pair.question) and not loose and words[-1].casefold() not in _SUMS:
            question = f"{pair.question.rstrip('?')} of {self.name}?"
        elif self.preposition == "for" or " at " in self.name or loose or clause or len(words) > _MOST_WORDS:
            question = f"{where[0].upper()}{where[1:]}, {words[0][0].lower()}{pair.question[1:]}"
        else:
            question = f"{pair.question.rstrip('?')} {where}?"
        return replace(pair, question=question)


def topic_of(title: str, text: str) -> Topic | None:
    """Return the topic that a title names, None for a title without a name, with several, or with a person's.

    `text` is the document, which shows whether a bare name is a place's.
    """
    part = re.split(r"[:;.!?–—]\s|,\s", title.strip().strip("#").strip())[0]
    return _named_in(part, text) or _named_in(_first_subject(text), text, is_title=False)


def shared_topic(text: str, beginnings: Sequence[str]) -> Topic | None:
    """Return the topic that another document of the folder is named after and `text` speaks of, if it is one alone.

    `beginnings` are how the folder's documents begin.
    """
    known = {topic.name: topic for one in beginnings if (topic := _named_in(title_of(one), one)) is not None}
    nouns = Counter(topic.noun for topic in known.values())
    told = [topic for topic in known.values() if nouns[topic.noun] == 1 and topic.is_told_of(text)]
    return told[0] if len(told) == 1 else None


def _ends_noun(token: Token) -> bool:
    """Tell whether a noun phrase has ended before a token: a verb, a preposition or a sign follows."""
    closed = english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES | english.SUBORDINATORS
    return not token.is_word or token.low in closed | english.ADVERBS or bool(english.verbs_of(token.low))


def _first_subject(text: str) -> str:
    """Return the subject of a document's first sentence: "The lighthouse on Gannet Rock"."""
    first = next((sentence.plain for sentence in sentences(text)), "")
    clause = parse_clause(first)
    return "" if clause is None or len(clause.subject) > _MOST_SUBJECT else text_of(clause.subject, first)


def _named_in(part: str, text: str, *, is_title: bool = True) -> Topic | None:
    if not part or re.search(r"\band\b|['’]s\b", part):
        return None
    for found in _HEADED.finditer(part):
        if found.group(1).split()[0] not in _TEXTS and _noun_before(found.group(1)) not in _TEXTS | _BODIES:
            return _with_preposition(f"the {found.group(1)}", _noun_before(found.group(1)), text)
    for found in _NAMED.finditer(part):
        rest = _nouns(found["rest"])
        if found.start("name") == 0 and " " not in found["name"] and (is_title or rest):
            continue  # the first word of any title, or sentence
        if found["name"].split()[0].casefold() in english.DETERMINERS | english.PREPOSITIONS | {"how", "about"}:
            continue
        if re.search(r"\bvs\b", rest):
            continue
        determined = found["the"] or (found.start() == 0 and rest and is_title)
        name = f"{'the ' if determined else ''}{found['name']}{' ' + rest if rest else ''}"
        return _with_preposition(name, (rest or found["name"]).split()[-1].casefold(), text)
    return None


def _noun_before(words: str) -> str:
    return re.split(r" (?:of|at|in) ", words)[0].split()[-1]


def _nouns(text: str) -> str:
    kept: list[str] = []
    for token in tokenize(text):
        closed = english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES | english.SUBORDINATORS
        if token.low in closed | english.PRONOUNS | english.ADVERBS | english.DETERMINERS:
            break
        if may_be_finite(token) and any(v.tense in ("past", "third") for v in english.verbs_of(token.low)):
            break
        kept.append(token.text)
    return " ".join(kept)


def _with_preposition(name: str, head: str, text: str) -> Topic | None:
    head = head.casefold()
    if head in _PLACES:
        return Topic("at", name)
    if head in _INSIDE:
        return Topic("in", name)
    if name.startswith("the ") and (head in _DEVICES or re.search(r"\d", name)):
        return Topic("with", name)
    if name.split()[-1][0].islower():
        return Topic("for", name)
    bare = re.escape(name.removeprefix("the "))
    if re.search(rf"\b(?:in|to|from|at|near|of) {bare}\b", text) and not re.search(
        rf"\b{bare}(?:,| was born| who)", text
    ):
        return Topic("in", name)
    return None
