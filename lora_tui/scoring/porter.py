"""Stems of English words: M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980), 130-137.

With the departures from the paper that its author and nltk have made since, so that a stem is the one which nltk gives
(the tests compare them); the scores' prior was fitted on those. nltk itself loads scipy for it: a run
over 200,000 passages took 215 MB with it and takes 138, and 1.2 s of processor more before its first call.

A word is looked at as a string of "v" for vowels and "c" for consonants; its measure m, of which the paper speaks, is
the number of "vc" in it. Suffixes that are the same length apart are tried from the longest.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

_KEPT = {
    **{word: word for word in "sky news inning outing canning howe proceed exceed succeed".split()},
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
}
"""Words that the rules would take for something else."""

_TOO_SHORT = 2
_VOWELS = frozenset("aeiou")


def _table(*pairs: str) -> Mapping[str, str]:
    """Return suffixes, the longest first, and what each becomes, from "suffix:replacement"."""
    found = [pair.partition(":") for pair in pairs]
    return {suffix: other for suffix, _, other in sorted(found, key=lambda one: -len(one[0]))}


_STEP_2 = _table(
    *"ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous".split(),
    *"ization:ize ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive".split(),
    *"biliti:ble fulli:ful".split(),
)
_STEP_3 = _table(*"icate:ic ative: alize:al iciti:ic ical:ic ful: ness:".split())
_STEP_4 = _table(
    *"al: ance: ence: er: ic: able: ible: ant: ement: ment: ent: ion: ou: ism: ate: iti: ous: ive: ize:".split()
)


@lru_cache(maxsize=20_000)  # a folder's words come again and again
def porter_stem(word: str) -> str:
    """Return a word in lower case without its English endings."""
    word = word.lower()
    if word in _KEPT:
        return _KEPT[word]
    if len(word) <= _TOO_SHORT:
        return word
    word = _without_plural(word)
    word = _without_past(word)
    if word.endswith("y") and len(word) > _TOO_SHORT and _form(word)[-2] == "c":
        word = word[:-1] + "i"
    word = _without_double_suffix(word)
    word = _replaced(word, _STEP_3, lambda stem: _measure(stem) > 0)
    word = _replaced(word, _STEP_4, lambda stem: _measure(stem) > 1)
    return _without_final(word)


def _form(word: str) -> str:
    """Return "c" or "v" for each letter; y is a vowel behind a consonant."""
    form = ""
    for letter in word:
        is_vowel = letter in _VOWELS or (letter == "y" and form[-1:] == "c")
        form += "v" if is_vowel else "c"
    return form


def _measure(stem: str) -> int:
    return _form(stem).count("vc")


def _ends_short(stem: str) -> bool:
    """Tell whether a stem ends in consonant, vowel, consonant, the last no w, x or y; or is a vowel and a consonant."""
    form = _form(stem)
    return form == "vc" or (form.endswith("cvc") and stem[-1] not in "wxy")


def _replaced(word: str, table: Mapping[str, str], holds: Callable[[str], bool]) -> str:
    """Return a word with the suffix of a table exchanged, if what is before it fulfils the condition of the step."""
    for suffix, other in table.items():
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            fits = holds(stem) and (suffix != "ion" or stem.endswith(("s", "t")))
            return stem + other if fits else word
    return word


def _without_plural(word: str) -> str:
    """Step 1a."""
    if word.endswith("ies"):
        return word[:-1] if len(word) == len("dies") else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_past(word: str) -> str:
    """Step 1b: -eed, -ed and -ing, and what the stem needs to be one again: hop from hopping, file from filing."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == len("died") else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    suffix = next((one for one in ("ed", "ing") if word.endswith(one)), None)
    if suffix is None or "v" not in _form(word[: -len(suffix)]):
        return word
    stem = word[: -len(suffix)]
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if len(stem) > 1 and stem[-1] == stem[-2] and _form(stem)[-1] == "c":
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _ends_short(stem) else stem


def _without_double_suffix(word: str) -> str:
    """Step 2."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _without_double_suffix(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replaced(word, _STEP_2, lambda stem: _measure(stem) > 0)


def _without_final(word: str) -> str:
    """Step 5: a final e, and one of two l."""
    if word.endswith("e"):
        stem = word[:-1]
        measure = _measure(stem)
        if measure > 1 or (measure == 1 and not _ends_short(stem)):
            word = stem
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
