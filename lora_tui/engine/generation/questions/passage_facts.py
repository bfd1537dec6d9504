"""What rules find in a passage: its questions with their answers and evidence.

Reads the sentences in order, because a sentence may lean on the one before it: "It was rebuilt in 1932." is asked about
with what "it" stands for, if that is plain. Sentences of several statements are taken apart: "is 412 metres long and
climbs 138 metres", "X was sold, and Y was repaired".
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.reading import QuestionAnswer
from lora_tui.engine.generation.questions.references import (
    Antecedents,
    Genders,
    Mentions,
    add_relatives,
    after,
    people_of,
    relatives_of,
    resolve,
    with_names,
)
from lora_tui.engine.generation.questions.rules import questions_about
from lora_tui.engine.generation.questions.sentences import Sentence, sentences, title_of
from lora_tui.engine.generation.questions.signs import completed_signs, particularity, signs_of
from lora_tui.engine.generation.questions.statements import statements
from lora_tui.engine.generation.questions.topics import shared_topic, topic_of
from lora_tui.engine.generation.questions.verbs import Token, tokenize

_MIN_WORDS, _MAX_WORDS = 4, 45
_PART = re.compile(r"[^ '’?,]+|['’?,][^ ]*")
_ARTICLES = frozenset({"the", "a", "an"})


@dataclass(frozen=True, slots=True)
class Fact:
    """A question and its answer, with the sentence that holds it as evidence.

    `signs` tell how the pair was made (`signs_of`), for the level of the round trip.
    """

    pair: QuestionAnswer
    evidence: str
    signs: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What the pair is about: two questions with the same key have the same answer in the same sentence."""
        return self.evidence, self.pair.answer.casefold()


@dataclass
class PassageFacts:
    """The facts of a passage, its sentences, how often it says each word (lower case), and how particular it is."""

    facts: list[Fact] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    particular: float = 0.0


def facts_of(passage: str, heading: str = "", opening: str = "", beginnings: Sequence[str] = ()) -> PassageFacts:
    """Return what rules find in a passage that stands under `heading`.

    `opening` is how its document begins, where the passage is a later one: there things are named in full.
    `beginnings` are how documents of its folder begin: one of them may name what all are about, or who "my aunt" is.
    """
    found = PassageFacts(sentences=list(sentences(passage, heading)))
    found.counts.update(word.casefold() for word in re.findall(r"[\w'’-]+", passage))
    found.particular = particularity([sentence.text for sentence in found.sentences])
    before = [sentence.plain for sentence in sentences(opening)]
    texts = [*before, *(sentence.plain for sentence in found.sentences)]
    names, people, relatives = names_of(texts), people_of(texts), relatives_of([*texts, *beginnings])
    add_relatives(people, relatives)
    title = title_of(opening or passage)
    topic = topic_of(title, opening or passage) or shared_topic(f"{opening}\n{passage}", beginnings)
    if topic is not None:
        names |= {word for word in topic.name.split() if word[0].isupper()}
    mentions = Mentions(title if topic is None or topic.name in title else f"{title}: {topic.name}", names)
    antecedents, genders = Antecedents(), Genders(relatives)
    for text in before:
        antecedents = after(text, genders.settle(text, antecedents), names, people)
        mentions.read(text)
    antecedents = Antecedents()
    seen: set[str] = set()
    for sentence in found.sentences:
        if not sentence.before:
            antecedents = Antecedents()
        text = with_names(sentence.plain, relatives)
        if not is_usable(text):
            antecedents = Antecedents(person=antecedents.person)
            mentions.read(text)
            continue
        within_sentence = antecedents = genders.settle(text, antecedents)
        whole = text
        for number, statement in enumerate(statements(text)):
            if number:
                within_sentence = genders.settle(statement, after(text, antecedents, names, people))
            resolved = resolve(statement, within_sentence, mentions)
            if not number and statement == text and resolved.how == "mention":
                whole = resolved.statement  # "it" then stands for what is named in full
            for made in questions_about(resolved.statement, names, resolved.stand_in):
                alone = _dated(with_full_names(made, people), sentence.year)
                pair = alone if topic is None or resolved.how == "mention" else topic.complete(alone)
                if pair.question.casefold() not in seen:
                    seen.add(pair.question.casefold())
                    leans = resolved.how in ("pronoun", "owner", "doubtful")
                    evidence = f"{sentence.before} {sentence.text}" if leans and sentence.before else sentence.text
                    signs = signs_of(
                        pair, text, found.counts, particular=found.particular, resolved=resolved.how, part=number
                    )
                    if pair is not alone:
                        signs = completed_signs(signs)
                    found.facts.append(Fact(pair, evidence, signs))
        antecedents = after(whole, antecedents, names, people)
        mentions.read(text)
    return found


def with_full_names(pair: QuestionAnswer, people: Mapping[str, str]) -> QuestionAnswer:
    """Return the pair with the first surname of its question as the full name: "Frisk" is Leopold Frisk."""
    words = list(_PART.finditer(pair.question))
    for before, found, following in zip(words, words[1:], [*(match.group() for match in words[2:]), ""], strict=False):
        word = found.group()
        full = people.get(word)
        if full is None or full == word or not before.group()[:1].islower() or before.group() in _ARTICLES:
            continue
        if full in pair.question or word in pair.answer or following[:1].isupper():
            continue  # it is said already, would tell the answer, or is part of another name: "Frisk Street"
        if before.group() not in english.FINITE_AUXILIARIES and _is_noun(following):
            continue
        return replace(pair, question=pair.question[: found.start()] + full + pair.question[found.end() :])
    return pair


def _is_noun(word: str) -> bool:
    """Tell whether a word behind a name can only be a noun, which the name then stands for: "by Frisk furniture"."""
    closed = english.PRONOUNS | english.PREPOSITIONS | english.SUBORDINATORS | english.ADVERBS | english.CONJUNCTIONS
    return word[:1].isalpha() and word not in closed | english.DETERMINERS and not english.verbs_of(word)


def _dated(pair: QuestionAnswer, year: str) -> QuestionAnswer:
    """Return the pair with the year of its paragraph in the question, where it tells no other time."""
    if not year or re.search(r"\b(?:1\d{3}|20\d{2}|today|now)\b", f"{pair.question} {pair.answer}"):
        return pair
    return replace(pair, question=f"{pair.question.rstrip('?')} in {year}?")


def is_usable(sentence: str) -> bool:
    """Tell whether a sentence is plain prose of a length that can be read by pattern."""
    words = sentence.split()
    if not _MIN_WORDS <= len(words) <= _MAX_WORDS or not sentence.endswith("."):
        return False
    if sentence.count('"') % 2 or sentence.count("“") != sentence.count("”"):
        return False  # it begins or ends within what somebody says
    return not re.search(r"[=|<>{}\[\]#*\\_]{2}|https?:|\]\(|^\W*[a-z]|^[\"“]", sentence)


def names_of(texts: Sequence[str]) -> frozenset[str]:
    """Return the words that are written with a capital in the middle of a sentence, and mostly so.

    A word that is said to be something, stands without an article and never has a small letter is a name, too:
    "Skerrow is a town."
    """
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for text in texts:
        tokens = tokenize(re.sub(r"\]\([^)]*\)|\]\[[^\]]*\]|`[^`]*`", "", text))
        if [token.low for token in tokens[1:3]] in (["is", "a"], ["is", "an"]) and not _is_common(tokens[0]):
            first[tokens[0].text] += 1
        for place, token in enumerate(tokens):
            if token.text[0].isupper() and place > 0:
                capital[token.text] += 1
            elif token.text[0].islower():
                small[token.text] += 1
    begun = (word for word in first if not small[word.casefold()])
    return frozenset({*begun, *(word for word, times in capital.items() if times > small[word.casefold()])})


def _is_common(token: Token) -> bool:
    closed = english.DETERMINERS | english.PRONOUNS | english.PREPOSITIONS | english.SUBORDINATORS | english.ADVERBS
    plural_or_verb = english.is_plural(token.text) or bool(english.verbs_of(token.low))
    return not token.text[0].isupper() or token.low in closed | english.NUMBER_WORDS or plural_or_verb
