"""What an answer claims, held against the quoted evidence and the question: numbers, names, negation, and its words.

A fluent answer with another year, class or "not" in it looks right to a lenient judge. Here each claim that can be told
by its form must stand where the answer is drawn from: numbers (in words, too) in evidence or question, names in code or
capitals likewise, a negation where the evidence denies the same. Each check returns the claim that nothing holds, or
None. All of it is English but for numbers, names in code, and grounding; measured on the labelled pairs of the tests.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from nltk.stem.porter import PorterStemmer

from lora_tui.scoring.metrics import FUNCTION_WORDS, grounding
from lora_tui.scoring.words import numbers, tokens

MIN_GROUNDING = 0.5
"""Share of an answer's content words that passage and question must hold, at least. It stops answers that speak of
something else, and no right ones in our own words (issue 16)."""

_MIN_SENTENCE_GROUNDING = 0.3
"""The same of each sentence: one may have been hung on to a right answer."""

_MIN_MISSING = 3
"""Content words that must be missing before a short answer counts as one about something else."""

_STEMMER = PorterStemmer()
_stem = lru_cache(maxsize=20_000)(_STEMMER.stem)

# Numbers

_UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * tens for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_MOST_COUNTED = 12
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_INSIDE_WORD = re.compile(r"(?<=[^\W\d_])\d+|\d+(?=[^\W\d_])")
_ITEM = r"(?:[^\s,;:.]+\s+){0,3}[^\s,;:.]+"
_LISTED = re.compile(rf"{_ITEM}(?:,\s+{_ITEM})+,?\s+(?:and|or)\s+{_ITEM}")
_BETWEEN = re.compile(r",\s+(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
_TWO = re.compile(rf":\s+{_ITEM}\s+(?:and|or)\s+{_ITEM}")


def wrong_number(answer: str, evidence: str, question: str) -> str | None:
    """Return a number of an answer that neither evidence nor question holds.

    "three" is 3. A number in words may count what the answer or the evidence lists: "three parts: a, b and c".
    """
    answer = _LIST_NUMBER.sub("", answer)
    if (exchanged := _exchanged_number(answer, evidence, question)) is not None:
        return exchanged
    known = _digits(evidence) | _digits(question) | set(_in_words(evidence)) | set(_in_words(question))
    for value in _digits(answer):
        if value not in known:
            return value
    lists = {_listed(text) for text in (answer, evidence)}
    for value in _in_words(answer):
        counted = value.isdigit() and int(value) <= _MOST_COUNTED and int(value) in lists
        if value not in known and value not in ("0", "1") and not counted:
            return value
    return None


def _exchanged_number(answer: str, evidence: str, question: str) -> str | None:
    """Return a number of an answer that belongs to something else in the evidence: 48 are the cars, not the passengers.

    What is counted is the word behind a number, or the one that the question asks "how many" of.
    """
    there = _counted(evidence)
    asked = re.search(r"\bhow\s+(?:many|much)\s+(?:\w+\s+)??(\w+)", question, re.IGNORECASE)
    for value, noun in _counted(answer):
        thing = noun or (_stem(asked[1].casefold()) if asked else "")
        own = {number for number, other in there if other == thing}
        if not thing or not own or value in own or (value, thing) in _counted(question):
            continue
        elsewhere = {other for number, other in there if number == value}
        if not elsewhere or "" not in elsewhere:
            return value
    return None


def _counted(text: str) -> set[tuple[str, str]]:
    """Return the numbers of a text, digits or single words, each with the stem of the word behind it; "" if none is."""
    found = set()
    for match in re.finditer(r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?|[a-z]+)[ \t]+([^\W\d_]*)", text.casefold()):
        word, noun = match.groups()
        value = word.replace(",", "") if word[0].isdigit() else str(_UNITS.get(word, _TENS.get(word, "")))
        if value and value != "1":
            found.add((value, "" if noun in FUNCTION_WORDS else _stem(noun)))
    return found


def _digits(text: str) -> set[str]:
    return {str(number) for number in numbers(tokens(text))} | set(_INSIDE_WORD.findall(text))


def _in_words(text: str) -> Iterator[str]:
    """Yield the numbers that are written in words, "two hundred and five" as one."""
    total = current = 0
    inside = False
    words = re.findall(r"[a-z]+", text.casefold())
    for place, word in enumerate([*words, ""]):
        if word in _UNITS:
            current += _UNITS[word]
        elif word in _TENS:
            current += _TENS[word]
        elif word in _SCALES and inside:
            if _SCALES[word] == 100:
                current = max(1, current) * 100
            else:
                total, current = total + max(1, current) * _SCALES[word], 0
        elif (
            word == "and"
            and inside
            and place + 1 < len(words)
            and {*_UNITS, *_TENS} & {words[place + 1]}
            and (current >= 100 or (total and not current))
        ):
            continue
        else:
            if inside:
                yield str(total + current)
            total, current, inside = 0, 0, False
            continue
        inside = True


def _listed(text: str) -> int:
    """Return how many things the longest list of a text names, if that is three or more, or two behind a colon."""
    found = [len(_BETWEEN.split(one.group())) for one in _LISTED.finditer(text)]
    return max([*found, 2 if _TWO.search(text) else 0])


# Names

_QUOTED = re.compile(r"`([^`\n]{1,80})`|\"([^\"\n]{1,40})\"|“([^”\n]{1,40})”|(?<!\w)'([^'\n]{1,40})'(?!\w)")
_CODE = re.compile(
    r"(?<!\w)--?[a-z][\w-]*(?:=\w+)?(?<![a-z]-)(?=[\s.,;)]|$)"  # an option
    r"|@?\w+(?:\.\w+)+(?:\(\))?|@[A-Za-z_]\w*"  # dotted, a decorator
    r"|[A-Za-z]\w*\(\)|[A-Za-z]*_\w*|\w+_\w*"  # a call, words joined by underscores
    r"|[a-z]+\+[\w]*|\^[A-Z]"  # a combination of keys
    r"|\b(?:[A-Z]+[a-z]+[A-Z]\w*|[a-z]+[A-Z]\w*|[A-Z]{2,}\w*|[A-Z]\d+)\b"  # humps, capitals
)
_CAPITALISED = re.compile(r"(?<=[\w,;)]\s)(?:[A-ZÀ-ÖØ-Þ][^\W\d_]{2,}|(?<=[a-z]\s)[B-HJ-Z])\b")
_SHORT = frozenset("OK ID US UK EU TV AM PM".split())


def wrong_name(answer: str, evidence: str, question: str, passage: str) -> str | None:
    """Return a name of an answer that does not stand where it should.

    Names in code, quotation marks or capitals must be in evidence or question; a capitalised word inside a sentence
    anywhere in the passage. Numbers are looked at elsewhere.
    """
    near = _name_key(f"{evidence}\n{question}")
    for match in _QUOTED.finditer(answer):
        name = str(next(filter(None, match.groups())))
        if not _holds(near, name):
            return name
    bare = _QUOTED.sub(" ", answer)
    for match in _CODE.finditer(bare):
        name = match.group()
        if name not in _SHORT and any(character.isalpha() for character in name) and not _holds(near, name):
            return name
    everywhere = near + " " + _name_key(passage)
    for match in _CAPITALISED.finditer(bare):
        if not _holds(everywhere, match.group()):
            return match.group()
    return None


def _name_key(text: str) -> str:
    """Return a text for looking up names: case-folded, without markup and brackets of calls."""
    return re.sub(r"[`*\"“”'\[\]]|\(\)", " ", text.replace("++", " ")).casefold() + " " + text.casefold()


def _holds(text: str, name: str) -> bool:
    """Tell whether a name stands in a text as a whole; the plural of one does, too."""
    key = name.casefold().strip(" `*\"'.,;:()@").removesuffix("()")
    if not any(character.isalnum() for character in key):
        return True
    forms = {key, key.removesuffix("s"), " ".join(key.split())}
    if "+" in key:  # "++ctrl+p++" stands for the keys ctrl and p
        return all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for part in key.split("+") if part)
    return any(re.search(rf"(?<![\w]){re.escape(form)}(?:s|es)?(?!\w)", text) for form in forms if form)


# Negation

_NEGATORS = frozenset("not no never none nobody nothing neither nor cannot without hardly".split())
_SOFT = frozenset(
    _stem(word)
    for word in "prevent avoid stop disable fail lack miss ignore refuse forbid exclude deny unable impossible instead"
    " rather except unless unlike skip reject cancel".split()
)
"""Words that deny what follows without a "not": evidence that has one can be told with a "not" as well."""
_SOFT_REACH = 6
_SCOPE = 4
_PAIRS = (
    "above/below before/after first/last always/never all/none more/less more/fewer higher/lower increase/decrease"
    " increases/decreases enable/disable enabled/disabled open/closed left/right up/down inside/outside maximum/minimum"
    " largest/smallest oldest/youngest early/late fast/slow same/different empty/full visible/invisible longer/shorter"
    " larger/smaller older/newer accepted/rejected allowed/forbidden true/false possible/impossible"
)
_OPPOSITES = [(one, other) for one, _, other in (pair.partition("/") for pair in _PAIRS.split())]


def wrong_negation(answer: str, evidence: str, question: str) -> str | None:
    """Return the words of an answer that deny what the evidence says, or say what it denies."""
    if opening := re.match(r"\s*(yes|no)\b\W", answer, re.IGNORECASE):
        words = {_stem(word) for word in _words(question)}
        denied = [scope for scope in _scopes(_words(evidence)) if scope and words.issuperset(scope)]
        if opening[1].lower() == "yes" and denied and not _scopes(_words(question)):
            return f"yes, {' '.join(denied[0])}"
        answer = re.sub(r"^\s*(?:yes|no)\b\W*", "", answer, flags=re.IGNORECASE)
    ours, theirs, asked = _words(answer), _words(evidence), _words(question)
    said, asked_stems = {_stem(word) for word in theirs}, {_stem(word) for word in asked}
    denied_there = {stem for scope in _scopes(theirs) for stem in scope}
    denied_asked = {stem for scope in _scopes(asked) for stem in scope}
    scopes = _scopes(ours)
    for scope in scopes:
        held = [stem for stem in scope if stem in said]
        if not held or held[0] in denied_there | denied_asked:
            continue
        if _denied_softly(theirs, set(held)) - set(scope):
            continue
        return "not " + " ".join(scope)
    said_outside = _outside_scopes(theirs)
    if not scopes and not said & asked_stems & _SOFT:
        for scope in _scopes(theirs):
            if (
                scope
                and scope[0] in {_stem(word) for word in ours}
                and scope[0] not in denied_asked | said_outside
                and not _SOFT & {_stem(word) for word in ours}
            ):
                return " ".join(scope[:1])
    return _opposite(set(ours), set(theirs), set(asked))


def _outside_scopes(words: Sequence[str]) -> set[str]:
    """Return the stems that stand somewhere no negation reaches."""
    denied = Counter(stem for scope in _scopes(words) for stem in scope)
    return {stem for stem, number in Counter(map(_stem, words)).items() if number > denied[stem]}


def _denied_softly(words: Sequence[str], held: set[str]) -> set[str]:
    """Return the stems of soft denials that stand shortly before a word of `held`."""
    found = [_stem(word) for word in words]
    return {
        soft
        for place, soft in enumerate(found)
        if soft in _SOFT and held & set(found[place + 1 : place + 1 + _SOFT_REACH])
    }


def _opposite(ours: set[str], theirs: set[str], asked: set[str]) -> str | None:
    for pair in _OPPOSITES:
        for one, other in (pair, pair[::-1]):
            if one in ours and other in theirs and not {other} & ours and one not in theirs | asked:
                return one
    return None


def _words(text: str) -> list[str]:
    """Return the words of a text in order, "n't" as a word of its own, with the borders of clauses as "|"."""
    plain = re.sub(r"\]\[[^\]]*\]|\]\([^)]*\)", " ", text.casefold().replace("’", "'"))
    plain = re.sub(r"\bcannot\b", "can not", re.sub(r"(\w)n't\b", r"\1 not", plain))
    return re.findall(r"[^\W_]+|[.;:!?,]", plain)


def _scopes(words: Sequence[str]) -> list[list[str]]:
    """Return the stems that follow each negation, as far as it reaches: some content words of the same clause."""
    found = []
    for place, word in enumerate(words):
        if word not in _NEGATORS:
            continue
        scope: list[str] = []
        for following in words[place + 1 : place + 12]:
            if following in ".,;:!?" or (following in {"but", "because"} and scope) or len(scope) == _SCOPE:
                break
            if following.isalnum() and (
                following not in FUNCTION_WORDS or following in {"only", "more", "own", "same"}
            ):
                scope.append(_stem(following))
        found.append(scope)
    return found


# Words


def off_the_passage(answer: str, passage: str, question: str) -> str | None:
    """Return what of an answer speaks of something that passage and question do not."""
    source = f"{passage}\n{_joined(passage)}\n{question}"
    if _is_off(answer, source, MIN_GROUNDING):
        return answer
    sentences = [one for one in re.split(r"(?<=[.!?])\s+", answer) if one.strip()]
    for sentence in sentences if len(sentences) > 1 else []:
        if _is_off(sentence, source, _MIN_SENTENCE_GROUNDING):
            return sentence
    return None


def _is_off(text: str, source: str, least: float) -> bool:
    """Tell whether less than that share of a text's content words are in the source, and more than a few are not."""
    words = " ".join(word for word in tokens(text) if word not in _UNITS and word not in _TENS)
    share = grounding(words, source)
    return share < least and (1 - share) * len(set(words.split()) - FUNCTION_WORDS) >= _MIN_MISSING


def _joined(text: str) -> str:
    """Return a text whose words are whole again where a hyphen at the end of a line has parted them."""
    return re.sub(r"(?<=\w)[-\u2010]\s*\n\s*(?=\w)", "", text)
