"""Tokenizer and normaliser for scoring: text cut into words and numbers, the same way for every script.

Everything that compares texts stands on `tokens` and `normalise`. They differ from SQuAD's `normalize_answer` and from
rouge-score's tokenizer where those go wrong: a sign or decimal point belongs to its number ("3.5" is not "35", "-5" is
not "5"), letters outside a-z are letters, vowel signs and other combining marks stay with their word, scripts written
without spaces are compared character by character, and a text of punctuation alone is still a text. Knows nothing of
metrics and needs no third-party library.
"""

import re
import unicodedata
from collections.abc import Iterable, Set
from decimal import Decimal
from functools import lru_cache

# Han, kana, Bopomofo, and Thai, Lao, Myanmar and Khmer, which put no spaces between words either. Hangul does.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_SPECIAL = "-.,'+#"  # punctuation that survives `_TABLE`, because it can be part of a token
_LETTER = rf"[^\s{re.escape(_SPECIAL)}{_UNSPACED}]"  # includes digits and combining marks
_SIGN = rf"(?:(?<!-)(?<!{_LETTER})-)?"  # "-5" and "(-5)", but neither "2-5" nor "covid-19"
_TOKEN = re.compile(
    rf"(?P<number>{_SIGN}(?:(?:\d{{1,3}}(?:,\d{{3}})+(?!,?\d)|\d+)(?:\.\d+)*|(?<!\.)(?<!{_LETTER})\.\d+))"
    rf"|(?P<language>(?<!{_LETTER})[a-z](?:\+\+|\#)(?!{_LETTER}))"  # c++, c#, f#
    rf"|(?P<initials>(?<!{_LETTER})(?:[^\W\d_{_UNSPACED}]\.){{2,}}(?:{_LETTER}(?!{_LETTER}))?)"  # u.s., e.g., u.s.a
    rf"|(?P<character>[{_UNSPACED}])"
    rf"|(?P<word>{_LETTER}+(?:'{_LETTER}+)*)"
)
NUMERIC = frozenset("-0123456789")
"""What a number of `tokens` begins with, and hardly anything else."""

_RAISED = re.compile("(?<=\\d)(?=[²³¹⁰⁴-⁹₀-₉¼-¾⅐-⅟↉])")  # NFKC alone would make 102 of 10², and 11⁄2 of 1½
_ARTICLES = frozenset({"a", "an", "the"})
_UP_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty"""
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety hundred"
_NUMBER_WORDS = {word: Decimal(10 * tens) for tens, word in enumerate(_TENS.split())}
_NUMBER_WORDS |= {word: Decimal(value) for value, word in enumerate(_UP_TO_TWENTY.split())}


class _Table(dict[int, str | int]):
    """Translation to letters, marks, ASCII digits, `_SPECIAL` and spaces, filled in as characters occur."""

    def __missing__(self, code: int) -> str | int:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Nd":
            replacement: str | int = str(unicodedata.digit(character))
        elif category == "Cf" and code != 0x200B:
            replacement = ""  # joiners and soft hyphens stand inside words; a zero-width space ends one
        elif category[0] in "PSZ" or category in ("Cc", "Cf"):
            replacement = " "
        else:
            replacement = code
        self[code] = replacement
        return replacement


_TABLE = _Table({ord(mark): mark for mark in _SPECIAL} | {0x2019: "'", 0x2010: "-", 0x2212: "-"})


def _folded(text: str) -> str:
    """Return the text in NFKC and case-folded; folding can undo the normal form, hence twice."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _RAISED.sub(" ", text)).casefold())


def _number(written: str) -> str:
    """Return a number without thousands separators, and with a digit before its point."""
    plain = written.replace(",", "")
    return plain.replace(".", "0.", 1) if plain.lstrip("-").startswith(".") else plain


def tokens(text: str) -> list[str]:
    """Return the words, numbers and, in scripts without spaces, characters of a text, NFKC and case-folded.

    Punctuation and symbols separate words; hyphens too, while apostrophes and the points of initials vanish ("it's" is
    "its", "U.S." is "us"). A text of nothing but punctuation or symbols is cut at white space instead, so that "+" and
    "-" differ as answers. Only white space has no tokens.
    """
    return list(_cut_short(text) if len(text) < _SHORT else _cut_long(text))


def _cut(text: str) -> tuple[str, ...]:
    folded = text.lower() if text.isascii() else _folded(text)
    found: list[str] = []
    for part in folded.translate(_TABLE).split():  # no token stretches over white space, or looks beyond it
        if part.isascii() and part.isalpha():
            found.append(part)
        elif part.isascii() and part[-1] in ".," and part[:-1].isalpha():
            found.append(part[:-1])
        else:
            found += _tokens_of_part(part)
    return tuple(found or folded.split())


@lru_cache(maxsize=4096)
def _tokens_of_part(part: str) -> tuple[str, ...]:
    """Return the tokens of a text without white space, translated by `_TABLE`."""
    found = []
    for match in _TOKEN.finditer(part):
        token = match.group()
        if match.lastgroup == "number":
            token = _number(token)
        elif match.lastgroup in ("initials", "word"):
            token = token.replace(".", "").replace("'", "")
        found.append(token)
    return tuple(found)


# Every gate and metric of a pair cuts the same few texts again: 0.3 ms for a passage, 0.1 s for 200 kB.
_SHORT = 20_000
_cut_short = lru_cache(maxsize=256)(_cut)
_cut_long = lru_cache(maxsize=8)(_cut)


def content_tokens(text: str) -> list[str]:
    """Return `tokens` without English articles; one that no word follows is none ("vitamin A", "answer: A")."""
    found = tokens(text)
    return [token for place, token in enumerate(found) if token not in _ARTICLES or place == len(found) - 1]


def normalise(text: str) -> str:
    """Return a text in the form in which two answers count as the same.

    NFKC, case-folded, without punctuation and English articles, white space squeezed (and dropped between characters
    of scripts that have none). Numbers keep their sign and decimal point, and lose thousands separators.
    """
    parts: list[str] = []
    for token in content_tokens(text):
        if parts and not (is_unspaced(token) and is_unspaced(parts[-1])):
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def question_key(question: str) -> str:
    """Return the form in which two questions are the same question: case, punctuation and spacing do not count."""
    return " ".join(tokens(question))


def is_unspaced(token: str) -> bool:
    """Return whether a token is a single character of a script written without spaces."""
    return len(token) == 1 and _IS_UNSPACED.match(token) is not None


def is_number(token: str) -> bool:
    """Return whether a token of `tokens` is a number: only numbers begin with a digit, or with a sign and a digit."""
    return token.lstrip("-")[:1].isdecimal()


def numbers(found: Iterable[str]) -> Set[Decimal | str]:
    """Return the numbers among tokens by value, so that "1000.0" is "1000"; number words are left to `number_words`.

    What has two points (a version, a date) stays a string.
    """
    return {
        token if token.count(".") > 1 else Decimal(token) for token in found if token[0] in NUMERIC and is_number(token)
    }


def number_words(found: Iterable[str]) -> Set[Decimal]:
    """Return the values of English number words among tokens: zero to twenty, and the tens up to hundred."""
    return {_NUMBER_WORDS[token] for token in found if token in _NUMBER_WORDS}
