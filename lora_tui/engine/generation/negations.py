"""Negations of an answer, held against the evidence: what it denies must be denied there, what it says not denied.

Only what is plain is refused, since a right answer may deny in other words ("open to members" is told as "guests may
not come in"): a verb that one side denies and the other affirms, "yes" to what the evidence denies, an opposite of a
word. The rest is the judge's. English.
"""

import re
from collections import Counter
from collections.abc import Sequence, Set

from lora_tui.scoring.metrics import FUNCTION_WORDS
from lora_tui.scoring.porter import porter_stem as _stem

_NEGATORS = frozenset("not no never none nobody nothing neither nor cannot without hardly".split())
_SOFT = frozenset(
    _stem(word)
    for word in "prevent avoid stop disable fail lack miss ignore refuse forbid exclude deny unable impossible instead"
    " rather except unless unlike skip reject cancel little few scarcely barely low small".split()
)
"""Words that deny what follows without a "not": evidence that has one can be told with a "not" as well."""
_BOUNDS = frozenset(_stem(word) for word in "only unless until except most least beyond".split())
"""Words that bound what they stand with: who is told "only on Mondays" may say "not on Tuesdays"."""

_FINITE = frozenset("are is was were has have had will can may must should".split())
"""Verbs with which another statement begins: in "files that cannot be read are named", nothing denies the naming."""

_EACH = frozenset("all every each both".split())
"""Words behind which a denial reaches over the verb: "not all keys are supported"."""

_SOFT_REACH = 6
_SCOPE = 4
_NEAR = 3
_PLAIN = frozenset("not never no nobody nothing neither cannot hardly".split())
"""Negators of which the opposite is plain: "not without consent" is no denial of consent."""

_SAYING = frozenset("not never no cannot hardly neither".split())
"""Negators by which an answer denies a verb or a thing: "so nobody has to turn it" denies no turning."""

_PREFIXES = ("un", "in", "im", "ir", "il", "non", "dis")
_MIN_PREFIXED = 5
_DENYING = re.compile(
    r"(?:un|non)\w+|(?:in|im|ir|il)\w*(?:able|ible|ent|ant|al|ate|ete|ed|ect|id|ive|ous|ar|ite|ure|ct)"
    r"|dis(?:able|agree|allow|approve|connect|like|obey|appear|trust|similar|honest|continue)\w*"
)
"""Words in which the prefix denies: "install" and "discover" are none."""

_IDIOMS = re.compile(
    r"\b(?:no|not) (?:more|less|fewer|later|earlier|longer|sooner|larger|smaller|higher|lower|older|younger) than\b"
    r"|\bno matter\b|\bnot (?:only|just|necessarily|merely|always)\b|\bnot (?:before|until)\b|\bwhether or not\b"
    r"|\bnothing but\b|\bat all\b|\ball the same\b|\bafter all\b"
)
"""Negations that deny nothing of what they stand with."""

_KEPT_FROM = re.compile(r"\bkeeps?\b([^.,;:!?]*?)\bfrom (?=\w+ing\b)")
_CONDITION = re.compile(
    r"\b(?:if|unless|until|before|where|so that|provided|as long as|on condition)\b[^.,;:!?]*?\b(?:not|no|never"
    r"|nobody|nothing|cannot|without)\b",
    re.IGNORECASE,
)
"""A negation under a condition, in an answer."""

_NO_THING_YET = re.compile(r"\bno(?=\s+(?!one\b)\w+\s+(?:until|before)\s+\d)", re.IGNORECASE)
_NOT_YET = re.compile(r"\b(?:no|not|never|nobody|none|cannot)\b(?=[^.,;:!?]*\b(?:until|before)\b)", re.IGNORECASE)
"""A negation up to a point in time, which says that from there on it is so: "it had no clock until 1850"."""

_CONDITIONAL = re.compile(_CONDITION.pattern + r"[^.,;:!?]*", re.IGNORECASE)
"""The same with the rest of its clause, which is not said of what is."""
_PAIRS = (
    "above/below before/after first/last always/never all/none more/less more/fewer higher/lower increase/decrease"
    " increases/decreases enable/disable enabled/disabled open/closed left/right up/down inside/outside maximum/minimum"
    " largest/smallest oldest/youngest early/late fast/slow same/different empty/full visible/invisible longer/shorter"
    " larger/smaller older/newer accepted/rejected allowed/forbidden true/false possible/impossible"
)
_PROPORTION = re.compile(r"\bthe (?:\w+er|more|less)\b[^.;]*,\s*the (?:\w+er|more|less)\b", re.IGNORECASE)
"""What is said of two ends at once: "the smaller the grains, the harder the cheese"."""

_RELATIONS = frozenset("above below before after always never inside outside".split())
"""Words of which the opposite is one only of the same: "before it opens further" says nothing of "after each step"."""

_OPPOSITES = [(one, other) for one, _, other in (pair.partition("/") for pair in _PAIRS.split())]


def wrong_negation(answer: str, evidence: str, question: str) -> str | None:
    """Return the words of an answer that deny what the evidence says, or say what it denies."""
    said_yes = re.match(r"\s*yes\b\W", answer, re.IGNORECASE) is not None
    answer = re.sub(r"^\s*(?:yes|no)\b\W*", "", answer, flags=re.IGNORECASE)
    theirs, asked = _words(evidence), _words(question)
    bounded = _NO_THING_YET.sub(" ", answer)
    bounded = bounded if {"until", "before"} & set(theirs) else _NOT_YET.sub(" ", bounded)
    ours = _words(_CONDITION.sub(" ", bounded))
    if said_yes and (denied := _yes_to_denied(ours, theirs, asked)):
        return f"yes, {denied}"
    mine, there, known = set(ours), set(theirs), set(asked)
    return (
        (_denied_alone(ours, theirs, asked) if mine & _SAYING else None)
        or (_affirmed_alone(_words(_CONDITIONAL.sub(" ", answer)), theirs, asked) if there & _PLAIN else None)
        or (
            None if {"except", "unless"} & there or _is_proportion(answer, evidence) else _opposite(ours, theirs, asked)
        )
        or _other_prefix(mine, there, known)
    )


def _is_proportion(answer: str, evidence: str) -> bool:
    """Tell whether the evidence names two ends at once, of which the answer is about one."""
    return _PROPORTION.search(evidence) is not None and _PROPORTION.search(answer) is None


def _yes_to_denied(ours: Sequence[str], theirs: Sequence[str], asked: Sequence[str]) -> str | None:
    """Return what the evidence denies of the question's own words, said yes to."""
    if _scopes(asked) or _scopes(ours, _PLAIN):
        return None
    if "but" in theirs and _says_the_other_half(ours, theirs):
        return None
    words, outside, affirmed = _stems(asked), _outside_scopes(theirs), _without_scopes(theirs)
    for scope in _scopes(theirs, _PLAIN):
        if scope and scope[0] in words and (scope[0] not in outside or words.issuperset(scope)):
            return " ".join(scope)
        pair = scope[:2]
        if len(pair) == 2 and words.union(_stems(ours)).issuperset(pair) and not _follow(affirmed, *pair):
            return " ".join(pair)
    return None


def _says_the_other_half(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Tell whether an answer says what the evidence grants behind a "but": "threads cannot be …, but you can check"."""
    cut = len(theirs) - theirs[::-1].index("but")
    granted = {_stem(word) for word in theirs[cut:] if word not in FUNCTION_WORDS} - {
        _stem(word) for word in theirs[: cut - 1]
    }
    return not _scopes(theirs[cut:]) and len(granted & _stems(ours)) >= _NEAR - 1


def _denied_alone(ours: Sequence[str], theirs: Sequence[str], asked: Sequence[str]) -> str | None:
    """Return what the answer denies, where the evidence says it in the same word and denies it nowhere."""
    said, affirmed = _stems(theirs), _without_scopes(theirs)
    denied = {stem for scope in [*_scopes(theirs), *_scopes(asked)] for stem in scope} | _denied_before(theirs)
    for scope in _scopes(ours, _SAYING):
        held = [stem for stem in scope if stem in said]
        if len(scope) > 1 and _follow(affirmed, *scope[:2]) and not denied.issuperset(scope[:2]):
            return "not " + " ".join(scope)
        if not held or (held[0] != scope[0] and not 1 < len(held) == len(scope) - 1):
            continue  # what is denied is a verb that the evidence has not: "it could not compete with bottles"
        if held[0] in denied or (said & _BOUNDS and len(held) < len(scope)):
            continue
        if _denied_softly(theirs, set(held)) - set(scope):
            continue
        return "not " + " ".join(scope)
    return None


def _denied_before(words: Sequence[str]) -> set[str]:
    """Return the stems of clauses that end with their denial: "the calibration of the sensors is not"."""
    ends = [place for place, word in enumerate(words) if word in _NEGATORS and not _clause(words[place + 1 :])]
    return {_stem(word) for place in ends for word in _clause(words[:place][::-1]) if word not in FUNCTION_WORDS}


def _affirmed_alone(ours: Sequence[str], theirs: Sequence[str], asked: Sequence[str]) -> str | None:
    """Return what the evidence denies, where the answer says it and denies nothing."""
    words = _stems(ours)
    if "until" in ours and {"before", "after", "from"} & set(theirs):
        return None  # of the same time the one tells what comes before, the other what comes behind
    if _scopes(ours) or _SOFT & words or _stems(theirs) & _stems(asked) & _SOFT:
        return None
    outside, denied_asked = _outside_scopes(theirs), {stem for scope in _scopes(asked) for stem in scope}
    if {"what", "which", "who"} & set(asked[:2]):
        denied_asked = set()  # what may not be copied is not told by saying that it may be copied
    others = _contrasted(theirs)
    for scope in _scopes(theirs, _PLAIN):
        if scope and others & _before(ours, scope[0]):
            continue  # it is said of what the evidence sets apart: "unlike the tawny owl, the barn owl does not hoot"
        if scope and scope[0] in words and scope[0] not in denied_asked | outside:
            return " ".join(scope[:1])
        if len(scope) > 1 and _follow(ours, *scope[:2]) and not _follow(_without_scopes(theirs), *scope[:2]):
            return " ".join(scope[:2])
    return None


def _contrasted(words: Sequence[str]) -> set[str]:
    """Return the stems of what the evidence sets apart from its subject, behind "unlike", that are said once."""
    found = [_stem(word) for word in words]
    behind = {
        stem
        for place, word in enumerate(words)
        if word == "unlike"
        for stem in _clause(found[place + 1 : place + 4])
        if stem not in FUNCTION_WORDS
    }
    return {stem for stem in behind if found.count(stem) == 1}


def _before(words: Sequence[str], stem: str) -> set[str]:
    """Return the stems that stand before the first place of one."""
    found = [_stem(word) for word in words]
    return set(found[: found.index(stem)]) if stem in found else set()


def _follow(words: Sequence[str], first: str, second: str) -> bool:
    """Tell whether one stem stands in a text with the other shortly behind it."""
    found = [_stem(word) for word in words]
    return any(stem == first and second in found[place + 1 : place + 1 + _NEAR] for place, stem in enumerate(found))


def _without_scopes(words: Sequence[str]) -> list[str]:
    """Return the words of a text without what stands behind a negation in the same clause."""
    kept: list[str] = []
    is_denied = False
    for word in words:
        is_denied = word in _NEGATORS or (is_denied and word not in ".,;:!?")
        if not is_denied:
            kept.append(word)
    return kept


def _other_prefix(ours: set[str], theirs: set[str], asked: set[str]) -> str | None:
    """Return a word that only a prefix tells from one of the evidence: "mutable" where it says "immutable"."""
    if (ours | theirs) & _NEGATORS:
        return None
    for mine, other in ((ours, theirs), (theirs, ours)):
        for denied in other - mine - asked:
            for prefix in _PREFIXES:
                word = denied[len(prefix) :]
                is_one = denied.startswith(prefix) and len(word) >= _MIN_PREFIXED and word in mine
                if is_one and word not in other | asked and _DENYING.fullmatch(denied):
                    return word if mine is ours else denied
    return None


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
        if soft in _SOFT and held & set(_clause(found[place + 1 : place + 1 + _SOFT_REACH]))
    }


def _clause(stems: Sequence[str]) -> Sequence[str]:
    """Return the stems up to the first border of a clause."""
    end = next((place for place, stem in enumerate(stems) if stem in ".,;:!?"), len(stems))
    return stems[:end]


def _opposite(mine: Sequence[str], there: Sequence[str], known: Sequence[str]) -> str | None:
    """Return a word of an answer of which the evidence has the opposite, where both are said of the same."""
    ours, theirs, asked = set(mine), set(there), set(known)
    denied = {stem for words in (mine, there) for scope in _scopes(words) for stem in scope}
    for pair in _OPPOSITES:
        for one, other in (pair, pair[::-1]):
            if one in ours and other in theirs - ours and one not in theirs | asked and other not in asked:
                if denied & {_stem(one), _stem(other)}:
                    continue  # what is not allowed is forbidden
                if one in _RELATIONS and not _around(mine, one) & _around(there, other):
                    continue
                return one
    return None


def _around(words: Sequence[str], word: str) -> set[str]:
    """Return the stems of the content words that follow a word in its clause, or of those before where none does."""
    place = words.index(word)
    behind = _clause(words[place + 1 : place + 1 + _SOFT_REACH])
    before = _clause(words[max(0, place - _SOFT_REACH) : place][::-1])
    found = [{_stem(one) for one in part if one not in FUNCTION_WORDS} for part in (behind, before)]
    return found[0] or found[1]


def _words(text: str) -> list[str]:
    """Return the words of a text in order, "n't" as a word of its own, with the borders of clauses as "|"."""
    text = re.sub(r"(?<!^)(?<![.!?]\s)\bNone\b", "nonevalue", text)  # a value, in code
    plain = re.sub(r"\]\[[^\]]*\]|\]\([^)]*\)", " ", text.casefold().replace("’", "'"))
    plain = re.sub(r"[`\"'](?:not|no|never|none|nothing)[`\"']", " ", plain)  # it is spoken of
    plain = re.sub(r"\bcannot\b", "can not", re.sub(r"(\w)n't\b", r"\1 not", plain))
    plain = _KEPT_FROM.sub(r"\1prevent ", _IDIOMS.sub(" ", plain))
    return re.findall(r"[^\W_]+|[.;:!?,]", plain)


def _stems(words: Sequence[str]) -> set[str]:
    return {_stem(word) for word in words}


def _scopes(words: Sequence[str], negators: Set[str] = _NEGATORS) -> list[list[str]]:
    """Return the stems that follow each negation, as far as it reaches: some content words of the same clause."""
    found = []
    for place, word in enumerate(words):
        if word not in negators:
            continue
        scope: list[str] = []
        for following in words[place + 1 : place + 12]:
            ends = following in {"but", "because"} or (following in _FINITE and words[place + 1] not in _EACH)
            if following in ".,;:!?" or (ends and scope) or len(scope) == _SCOPE:
                break
            if following.isalnum() and (
                following not in FUNCTION_WORDS or following in {"only", "more", "own", "same"}
            ):
                scope.append(_stem(following))
        found.append(scope)
    return found
