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


_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_SLIDE = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    ' xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
    f' xmlns:r="{_OFFICE}"'
)


def _relations(*targets: tuple[str, str]) -> str:
    """Return an Office part's relations: kind and target of each; their ids are rId1, rId2, …"""
    found = (
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f"<Relationships>{''.join(found)}</Relationships>"


def slide_shape(kind: str, *paragraphs: str) -> str:
    """Return a shape; `kind` is that of its placeholder, such as ``title``; one that begins with a digit is a level."""
    placeholder = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    texts = "".join(
        f'<a:p><a:pPr lvl="{text[0]}"/><a:r><a:t>{text[1:]}</a:t></a:r></a:p>'
        if text[:1].isdigit()
        else f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>"
        for text in paragraphs
    )
    return f"<p:sp>{placeholder}<p:txBody>{texts}</p:txBody></p:sp>"


def pptx_file(*slides: str, notes: str = "", hidden: int = 0) -> bytes:
    """Return a PPTX whose slides hold this XML; `notes` are those of the first, `hidden` is the number of one."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_rels/.rels", _relations(("officeDocument", "ppt/presentation.xml")))
        order = "".join(f'<p:sldId id="{256 + n}" r:id="rId{n}"/>' for n in range(len(slides), 0, -1))
        shown = f"<p:presentation {_SLIDE}><p:sldIdLst>{order}</p:sldIdLst></p:presentation>"
        archive.writestr("ppt/presentation.xml", shown)
        # The part that is called last is shown first: the order is that of the presentation.
        targets = [("slide", f"slides/slide{n}.xml") for n in range(1, len(slides) + 1)]
        archive.writestr("ppt/_rels/presentation.xml.rels", _relations(*targets))
        for number, body in enumerate(reversed(slides), 1):
            show = ' show="0"' if number == hidden else ""
            tree = f"<p:cSld><p:spTree>{body}</p:spTree></p:cSld>"
            archive.writestr(f"ppt/slides/slide{number}.xml", f"<p:sld {_SLIDE}{show}>{tree}</p:sld>")
        if notes:
            part = f"ppt/slides/_rels/slide{len(slides)}.xml.rels"
            archive.writestr(part, _relations(("notesSlide", "../notesSlides/notesSlide1.xml")))
            body = slide_shape("body", notes) + slide_shape("sldNum", "1")
            archive.writestr("ppt/notesSlides/notesSlide1.xml", f"<p:notes {_SLIDE}>{body}</p:notes>")
    return packed.getvalue()


def epub_file(*chapters: str, protected: bool = False) -> bytes:
    """Return an EPUB of these chapters (HTML), named so that the order of their names is not that of the book."""
    names = [f"text/{9 - number}.xhtml" for number in range(len(chapters))]
    items = "".join(
        f'<item id="c{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(names)
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(names)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        )
        if protected:
            reference = f'<enc:CipherReference URI="OEBPS/{names[0]}"/>'
            shown = f'<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#">{reference}</encryption>'
            archive.writestr("META-INF/encryption.xml", shown)
        archive.writestr(
            "OEBPS/book.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}<item id="nav" href="nav.xhtml"'
            ' media-type="application/xhtml+xml" properties="nav"/></manifest>'
            f'<spine><itemref idref="nav"/>{spine}</spine></package>',
        )
        archive.writestr("OEBPS/nav.xhtml", "<html><body><p>Contents</p></body></html>")
        for name, chapter in zip(names, chapters, strict=True):
            archive.writestr(f"OEBPS/{name}", f"<html><head><title>T</title></head><body>{chapter}</body></html>")
    return packed.getvalue()
