"""Bytes of a text file to text: what is certain, what is likely, and what is no text at all.

Certain are a byte order mark and UTF-8. Else it is, in this order: UTF-16 without its mark; UTF-8 with a few damaged
bytes; Windows-1252, which is what files of Windows with quotation marks, dashes and the euro sign are, and of which
Latin-1 is the part without them. A guess comes with a warning.
"""

import codecs
import re

from lora_tui.engine.generation.extraction.blocks import UnusableFile, without_hints

_SAMPLE = 8192
_CONTROL = frozenset(range(0x20)) - frozenset(b"\t\n\r\f\x0b\x1b")

# The UTF-32 mark begins with the UTF-16 mark: longest first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_C1 = re.compile("[\x80-\x9f]")
_C1_AS_WINDOWS = {code: bytes([code]).decode("windows-1252", "replace") for code in range(0x80, 0xA0)}
_DECLARED = re.compile(rb"""<meta\b[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_DECLARED_WITHIN = 4096
"""Bytes at a page's beginning in which it may declare its encoding; the standard says 1024."""


def decode(data: bytes) -> tuple[str, str, str | None]:
    """Return text, encoding and, if that is a guess, a warning. Raises `UnusableFile` for binary data."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decode_marked(data, encoding)
    if b"\0" in data:
        return _decode_with_nulls(data)
    try:
        return data.decode("utf-8"), "utf-8", None
    except UnicodeDecodeError as problem:
        first = problem.start + 1
    if not is_text(data):
        raise UnusableFile("it is binary")
    damaged = 0

    def as_windows(problem: UnicodeError) -> tuple[str, int]:
        nonlocal damaged
        assert isinstance(problem, UnicodeDecodeError)
        damaged += problem.end - problem.start
        return problem.object[problem.start : problem.end].decode("windows-1252", "replace"), problem.end

    whole = sum(1 for _ in _UTF8_SEQUENCE.finditer(data))
    codecs.register_error("lora_tui.windows_1252", as_windows)
    text = data.decode("utf-8", "lora_tui.windows_1252")
    if damaged < whole:
        warning = f"{damaged:,} of its bytes are not UTF-8, the first is byte {first}; they were read as Windows-1252"
        return text, "utf-8", warning
    warning = f"byte {first} is not UTF-8; it was read as Windows-1252. Save it as UTF-8 if words look wrong"
    return data.decode("windows-1252", "replace"), "windows-1252", warning


def decode_page(data: bytes) -> str:
    """Return the text of an HTML page: by its byte order mark, else as it declares itself, else as a text file is."""
    declared = _DECLARED.search(data, 0, _DECLARED_WITHIN)
    if declared and not any(data.startswith(mark) for mark, _ in _BYTE_ORDER_MARKS):
        name = declared[1].decode("ascii", "replace").lower()
        # As the standard has it: who writes Latin-1 or ASCII means Windows-1252; a page of UTF-16 could not say so.
        name = "windows-1252" if name in ("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii") else name
        if not name.startswith(("utf-8", "utf8", "utf-16", "utf-32", "utf-7")):
            try:
                if codecs.lookup(name)._is_text_encoding and is_text(data):
                    return data.decode(name, "replace")
            except (LookupError, UnicodeError):
                pass
    return decode(data)[0]


def mended(text: str) -> str:
    """Return the text without marks that only say where a line may end, and with signs in place of C1 controls.

    U+0080 to U+009F come of Windows-1252 that some program took for Latin-1 and saved as UTF-8; as in HTML, what was
    meant is the sign that Windows has there.
    """
    text = without_hints(text)
    return text.translate(_C1_AS_WINDOWS) if _C1.search(text) else text


def is_text(data: bytes) -> bool:
    """Tell whether the beginning of the data has few control characters."""
    sample = data[:_SAMPLE]
    return sum(byte in _CONTROL for byte in sample) * 50 <= len(sample)


def _decode_marked(data: bytes, encoding: str) -> tuple[str, str, str | None]:
    try:
        return data.decode(encoding), encoding, None
    except UnicodeDecodeError as problem:
        first = problem.start + 1
    text = data.decode(encoding, "replace")
    damaged = text.count("\N{REPLACEMENT CHARACTER}")
    if damaged * 100 > len(text):
        raise UnusableFile(f"it begins like {encoding} text, but byte {first} is not")
    return text, encoding, f"it is {encoding} text that is damaged at byte {first}"


def _decode_with_nulls(data: bytes) -> tuple[str, str, str | None]:
    """Decode UTF-16 without its mark: in a text of most scripts, nearly every second byte is zero, or none is."""
    sample = data[:_SAMPLE]
    half = len(sample) // 2
    for encoding, high, low in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        if half > 4 and high.count(0) > 0.7 * half and low.count(0) < 0.02 * half:
            text = data[: len(data) // 2 * 2].decode(encoding, "replace")
            strange = text.count("\N{REPLACEMENT CHARACTER}") + sum(ord(one) in _CONTROL for one in text[:_SAMPLE])
            if strange * 100 <= len(text):
                return text, encoding, f"it was read as {encoding}, whose mark at the beginning is missing"
    raise UnusableFile("it is binary")
