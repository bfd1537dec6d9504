"""Small PDF, DOCX and HTML files with text at known places, and damage done to them."""

import io
import random
import zipfile
from collections.abc import Sequence

PlacedText = tuple[float, float, str]
"""Points from the left and from the bottom of the page, and the text of one line."""

_ESCAPED = {ord(character): "\\" + character for character in "()\\"}
_NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    ' xmlns:v="urn:schemas-microsoft-com:vml"'
)
_STYLES = (
    f"<w:styles {_NAMESPACES}>"
    '<w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style>'
    '<w:style w:styleId="Own"><w:name w:val="Chapter"/><w:basedOn w:val="berschrift2"/></w:style>'
    '<w:style w:styleId="Bullets"><w:name w:val="List Bullet"/></w:style></w:styles>'
)


def pdf_file(pages: Sequence[Sequence[PlacedText]], size: int = 10) -> bytes:
    """Return a PDF whose pages show these lines in Helvetica, printed in this order."""
    bodies: list[bytes] = [b"<</Type/Catalog/Pages 2 0 R>>", b"", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for page in pages:
        shown = "\n".join(
            f"BT /F1 {size} Tf {x} {y} Td ({text.translate(_ESCAPED)}) Tj ET" for x, y, text in page
        ).encode("cp1252", "replace")
        bodies.append(b"<</Length %d>>stream\n%s\nendstream" % (len(shown), shown))
        resources = b"/Resources<</Font<</F1 3 0 R>>>>"
        bodies.append(b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R%s>>" % (len(bodies), resources))
        kids.append(b"%d 0 R" % len(bodies))
    bodies[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(kids))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(bodies) + 1, table)
    out += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(bodies) + 1, start)
    return bytes(out)


def docx_file(body: str, **parts: str) -> bytes:
    """Return a DOCX with this XML as its body; `parts` are further parts by name, such as ``footnotes``."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/styles.xml", _STYLES)
        archive.writestr("word/document.xml", f"<w:document {_NAMESPACES}><w:body>{body}</w:body></w:document>")
        for name, inside in parts.items():
            archive.writestr(f"word/{name}.xml", f"<w:{name} {_NAMESPACES}>{inside}</w:{name}>")
    return packed.getvalue()


def docx_paragraph(text: str, properties: str = "") -> str:
    """Return a paragraph of one run."""
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to eight of them changed, a part cut off, left out, doubled, or filled with zeros."""
    out = bytearray(data)
    at = rng.randrange(len(out))
    length = rng.randint(1, max(1, len(out) // 4))
    match rng.randrange(6):
        case 0:
            for _ in range(rng.randint(1, 8)):
                out[rng.randrange(len(out))] = rng.randrange(256)
        case 1:
            del out[at:]
        case 2:
            del out[at : at + length]
        case 3:
            out[at:at] = out[at : at + length]
        case 4:
            out[at : at + length] = bytes(len(out[at : at + length]))
        case _:
            out[at:at] = rng.randbytes(length)
    return bytes(out)
