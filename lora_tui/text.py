"""Text helpers: untrusted text made safe for a terminal, and counts, money and durations in words.

Model output, file names, dataset rows, server errors and exception texts may carry escape sequences (OSC 52 writes the
clipboard, CSI repaints the screen), C1 controls, bidirectional overrides or lone surrogates. `clean` makes them visible
instead of active. It looks at one character at a time, so a sequence that is split over two tokens cannot slip through.
The store and every exported file keep the original text; only what is displayed passes here.
"""

import re

_VISIBLE: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
_VISIBLE[0x7F] = "␡"
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}")
_VISIBLE |= dict.fromkeys(
    (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"
)
_VISIBLE |= dict.fromkeys((0x200B, 0x2028, 0x2029, 0x2060, 0xFEFF), "·")
_VISIBLE |= dict.fromkeys(range(0xE0000, 0xE0080), "\N{REPLACEMENT CHARACTER}")


class _Visible(dict[int, str]):
    """The table above, with every lone surrogate mapped as well (2,048 entries that need no storing)."""

    def __missing__(self, code: int) -> str:
        if 0xD800 <= code <= 0xDFFF:
            return "\N{REPLACEMENT CHARACTER}"
        raise LookupError(code)


_TABLE = _Visible(_VISIBLE)


FETCHING = "fetching "
"""How a phase begins whose progress is in bytes."""


def clean(text: str, limit: int = 200_000) -> str:
    """Return `text` with every active character replaced by a visible one, at most `limit` characters long."""
    # Nothing of the table is printable, and nearly all text is.
    shown = text if text.isprintable() else text.replace("\r\n", "\n").translate(_TABLE)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def one_line(text: str, limit: int = 100) -> str:
    """Return `text` cleaned, on one line, with white space squeezed and cut to `limit` characters."""
    squeezed = " ".join(clean(text[: limit * 8]).split())
    return squeezed if len(squeezed) <= limit else squeezed[: limit - 1] + "…"


def question_of(prompt: str) -> str:
    """Return a test prompt without the training form round it: "Question: unlock\\nAnswer:" is "unlock"."""
    inner = prompt.strip()
    if inner.startswith("Question:"):
        inner = inner.removeprefix("Question:").removesuffix("Answer:").strip()
    return clean(inner or prompt)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with thousands separators and its noun: ``count(1, "pair")`` is "1 pair"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def dollars(amount: float) -> str:
    """Return US dollars as people write them: "$12.40", and "$0.0031" where cents would say nothing."""
    if amount >= 0.1 or amount < 1e-6:
        return f"${amount:,.2f}"
    return f"${float(f'{amount:.2g}'):f}".rstrip("0")


def progress_text(phase: str, done: float, total: float, seconds: float | None = None) -> str:
    """Return what is being done, how far it is, and for how long: "fetching gpt2  40 of 93 MB · 12s".

    A `total` of 0 or 1 has no figure; what is fetched is counted in bytes.
    """
    text = one_line(phase)
    if total >= 1e6 and phase.startswith(FETCHING):
        unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
        form = ".1f" if unit == 1e9 else ".0f"
        text += f"  {done / unit:{form}} of {total / unit:{form}} {name}"
    elif total > 1:
        text += f"  {done:,.0f} of {total:,.0f}" if total < 10_000 else f"  {100 * done / total:.0f} %"
    return text if seconds is None or seconds < 1 else f"{text} · {duration(seconds)}"


def power_text(value: float) -> str:
    """Return a small number, such as a learning rate, as a power of ten with two digits: "8.1e-4", "1e-3"."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def memory_size(size: float) -> str:
    """Return an amount of memory in bytes as machines count it: "1.9 GiB", "812 MiB" (1024 times 1024)."""
    return f"{size / 2**30:,.1f} GiB" if size >= 999.5 * 2**20 else f"{size / 2**20:,.0f} MiB"


def file_size(size: float) -> str:
    """Return the size of a file in bytes as file managers do: "812 B", "14 kB", "2.1 MB" (1000 times 1000)."""
    if size < 1000:
        return f"{size:.0f} B"
    if size < 1e6:
        return f"{size / 1e3:,.0f} kB"
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def duration(seconds: float) -> str:
    """Return a time span as people say it: "8s", "4m 12s", "3h 05m"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")

_FUNCTION_WORDS = frozenset(
    "a about an and are as at be been but by can could did do does for from had has have he her his i if in into is it"
    " its more most my no not of on one or our she so some such than that the their them then there these they this"
    " those to too was we were what when where which who with would yes you your".split()
)
"""Words that say how a sentence is built: an answer without them is as right as with them."""


def missing_words(expected: str, answer: str) -> list[str]:
    """Return the words and numbers of an expected answer that an answer lacks, in order; words like "the" do not count.

    An expected answer of nothing but such words lacks any of them that is missing.
    """
    words = list(dict.fromkeys(_WORD.findall(expected)))
    telling = [word for word in words if word.casefold() not in _FUNCTION_WORDS] or words
    said = {_compared(word) for word in _WORD.findall(answer)}
    return [word for word in telling if _compared(word) not in said]


def _compared(word: str) -> str:
    """Return a word or number without regard to case and to what groups its thousands."""
    return word.replace(",", "") if word[0].isdecimal() else word.casefold()


def controls_text(controls: int | None, kept: int | None) -> str:
    """How many controls were kept: "controls 3/3 kept"; empty where none was asked, or where it is not known."""
    return f"controls {kept or 0:,}/{controls:,} kept" if controls else ""


def is_right(kind: str, expected: str, answer: str, score: float) -> bool:
    """Return whether an answer to a test prompt counts as right: it lacks no word of the expected one, or scores .9.

    `kind` is ``expected``, or that of a prompt whose expected text must *not* be said; there the score alone says it.
    """
    return score >= 0.9 or (kind == "expected" and bool(answer.strip()) and not missing_words(expected, answer))
