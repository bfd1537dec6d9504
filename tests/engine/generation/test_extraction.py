"""The text of HTML, DOCX, PPTX, EPUB and PDF is what a reader sees, whatever its size; an unreadable file is named."""

import random
import time
from pathlib import Path

import pytest

from lora_tui.engine.generation.documents import read_document
from lora_tui.engine.generation.extraction import archive
from lora_tui.engine.generation.extraction.blocks import UnusableFile
from lora_tui.engine.generation.extraction.docx import docx_text
from lora_tui.engine.generation.extraction.html import html_text
from lora_tui.engine.generation.extraction.worker import MEMORY_BYTES, TextExtractor, extract_here
from tests.engine.generation.file_makers import (
    damaged,
    docx_file,
    docx_paragraph,
    epub_file,
    pdf_file,
    pptx_file,
    slide_shape,
)
from tests.extras import needed

SENTENCE = "The keeper of the light has a dog."


def blocks(page: str) -> list[str]:
    return html_text(page).split("\n\n") if html_text(page) else []


@pytest.mark.parametrize(
    "page",
    [
        f"<div>{SENTENCE}</div>",
        f"<section>{SENTENCE}<p>More.</p></section>",
        f"<article><span>{SENTENCE}</span></article>",
        f"<blockquote>{SENTENCE}<p>More.</p></blockquote>",
        f"<dl><dt>Keeper</dt><dd>{SENTENCE}<p>More.</p></dd></dl>",
        f"<ul><li>{SENTENCE}<ul><li>inner</li></ul></li></ul>",
        f"<table><tr><td>{SENTENCE}<p>More.</p></td></tr></table>",
        f"<p>First.</p>{SENTENCE}<p>Last.</p>",
        f"<main>{SENTENCE}<br>More.</main>",
        f"<figure><img src=x><figcaption>{SENTENCE}</figcaption></figure>",
        f"<details><summary>S</summary>{SENTENCE}</details>",
        f"<body>{SENTENCE}",
        f"<p hidden>gone<p>{SENTENCE}",
        f"<p style=display:none>gone<p class='relative hidden md:block' title='A hidden gem'>{SENTENCE}",
        f"<div style='display: none'><div>gone</div></div>{SENTENCE}",
        f"<a title='a > b'>{SENTENCE}</a>",
        f'<a title="never closed>{SENTENCE}</a><p>{SENTENCE}',
        f"<!-- <p>gone</p> -->{SENTENCE}",
        f"<script>if (a < b) {{ '<p>gone</p>' }}</script>{SENTENCE}",
        f"<DIV>{SENTENCE.replace(' has', ' <B>has</B>')}</DIV>",
        f"<svg><text>gone</text></svg>{SENTENCE}",
        f"<h2>Head</h2>{SENTENCE}",
    ],
)
def test_a_sentence_that_a_browser_shows_is_read_wherever_it_stands(page: str) -> None:
    assert SENTENCE in " ".join(html_text(page).replace("- ", "").split())
    assert "gone" not in html_text(page)


def test_html_becomes_blocks_as_markdown_has_them() -> None:
    page = (
        "<head><title>T</title></head><h1>The <i>ferry</i></h1><div>Tom &amp; Ann<br>go&nbsp;home.</div>"
        "<ul><li>one<li>two</ul><pre>a\n  b</pre><table><tr><th>Day<th>Hour<tr><td>Monday<td>06:00</table>"
    )
    assert blocks(page) == [
        "# The ferry",
        "Tom & Ann\ngo home.",
        "- one",
        "- two",
        "```\na\n  b\n```",
        "Day | Hour\nMonday | 06:00",
    ]


def test_a_table_that_lays_out_a_page_gives_its_paragraphs() -> None:
    page = f"<table><tr><td><p>{SENTENCE}</p><p>More.</p></td><td><table><tr><td>a<td>b</table></td></tr></table>"
    assert blocks(page) == [SENTENCE, "More.", "a", "b"]


@pytest.mark.parametrize(
    "part",
    ["<ul><li>", "<div>", "<a ", '<a ">" ', "<!--", "<p hidden>", "&#9;", "<td>", "<script>", "<a style=style=style="],
)
def test_a_large_page_takes_time_in_proportion_to_its_size(part: str) -> None:
    began = time.process_time()
    html_text(part * (1_000_000 // len(part)))
    assert time.process_time() - began < 4  # 0.05 to 0.5 s here; a tree of 60,000 lists took Lexbor 164 s


@pytest.mark.parametrize(
    "reference", ["&#" + "9" * 5000 + ";", "&#x" + "f" * 5000, "&#0;", "&#xd800;", "&nosuch;", "&"]
)
def test_a_character_reference_without_a_character_is_no_error(reference: str) -> None:
    assert html_text(f"<p>a{reference}b").startswith("a")


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("windows-1252", "cp1252"), ("ISO-8859-1", "cp1252"), ("koi8-r", "koi8-r"), ("utf-8", "utf-8")],
)
def test_a_page_is_decoded_as_it_declares_itself(declared: str, encoding: str) -> None:
    shown = "Привет" if encoding == "koi8-r" else "“Größe” – 5 €"
    page = f'<meta http-equiv="Content-Type" content="text/html; charset={declared}"><p>{shown}'
    assert extract_here(".html", page.encode(encoding)) == shown


def test_docx_holds_insertions_controls_boxes_notes_and_each_cell_once() -> None:
    body = (
        docx_paragraph("Wings", '<w:pStyle w:val="Own"/>')
        + '<w:p><w:r><w:t xml:space="preserve">Bees </w:t></w:r><w:ins w:id="1"><w:r><w:t>dance</w:t></w:r></w:ins>'
        '<w:del w:id="2"><w:r><w:delText>sing</w:delText></w:r></w:del>'
        "<w:moveFrom><w:r><w:t>away</w:t></w:r></w:moveFrom><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>"
        "<w:r><w:t>.</w:t></w:r></w:p>"
        f"<w:sdt><w:sdtContent>{docx_paragraph('In a control.')}</w:sdtContent></w:sdt>"
        "<w:p><w:r><w:t>Outer.</w:t></w:r><w:r><mc:AlternateContent><mc:Choice><w:txbxContent>"
        f"{docx_paragraph('In a box.')}</w:txbxContent></mc:Choice><mc:Fallback><w:txbxContent>"
        f"{docx_paragraph('In a box.')}</w:txbxContent></mc:Fallback></mc:AlternateContent></w:r></w:p>"
        f'<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val="3"/></w:tcPr>{docx_paragraph("Fees")}</w:tc></w:tr>'
        f"<w:tr><w:tc>{docx_paragraph('small')}</w:tc><w:tc>{docx_paragraph('20')}</w:tc></w:tr></w:tbl>"
        + docx_paragraph("First", '<w:pStyle w:val="Bullets"/>')
    )
    found = docx_text(docx_file(body, footnotes=f"<w:footnote>{docx_paragraph('A note.')}</w:footnote>"))
    shown = [
        "## Wings",
        "Bees dance.",
        "In a control.",
        "Outer.",
        "In a box.",
        "Fees",
        "small | 20",
        "- First",
        "A note.",
    ]
    assert found.split("\n\n") == shown


def test_a_docx_that_unpacks_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = docx_file(docx_paragraph("some words of a bomb. ") * 3000)
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 100_000)
    with pytest.raises(UnusableFile, match="unpacks"):
        docx_text(bomb)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 80, "encrypted"),
        (b"PK\x03\x04 nonsense", "damaged"),
        (docx_file("<w:p>"), "line 1"),
        (docx_file("").replace(b"word/document.xml", b"word/dokument.xml"), "no Word document"),
    ],
)
def test_a_damaged_docx_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableFile, match=reason):
        docx_text(data)


def test_a_docx_with_entities_is_refused() -> None:
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("word/document.xml", '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>')
    with pytest.raises(UnusableFile, match="entities"):
        docx_text(packed.getvalue())


def test_slides_are_read_in_their_order_with_titles_lists_tables_and_notes() -> None:
    cell = "<a:tc><a:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></a:txBody></a:tc>"
    rows = "".join(f"<a:tr>{cell.format(a)}{cell.format(b)}</a:tr>" for a, b in (("Day", "Hour"), ("Monday", "06:00")))
    first = (
        slide_shape("title", "The ferry")
        + slide_shape("body", "0It sails daily", "1not at Easter")
        + slide_shape("", "A box.")
        + slide_shape("sldNum", "1")
        + f"<p:graphicFrame><a:tbl>{rows}</a:tbl></p:graphicFrame>"
    )
    deck = pptx_file(
        first, slide_shape("title", "Fees"), slide_shape("title", "Gone"), notes="Say it slowly.", hidden=1
    )
    assert extract_here(".pptx", deck).split("\n\n") == [
        "## The ferry",
        "- It sails daily",
        "  - not at Easter",
        "A box.",
        "Day | Hour\nMonday | 06:00",
        "Say it slowly.",
        "## Fees",
    ]


def test_a_book_is_read_in_the_order_of_its_spine_without_its_table_of_contents() -> None:
    book = epub_file("<h1>One</h1><p>First.</p>", "<h1>Two</h1><ul><li>Second</li></ul>")
    assert extract_here(".epub", book).split("\n\n") == ["# One", "First.", "# Two", "- Second"]
    with pytest.raises(UnusableFile, match="DRM"):
        extract_here(".epub", epub_file("<p>First.</p>", protected=True))


@pytest.mark.parametrize("suffix", [".pptx", ".epub"])
def test_an_archive_of_something_else_is_named(suffix: str) -> None:
    with pytest.raises(UnusableFile, match="it is no "):
        extract_here(suffix, docx_file(""))
    with pytest.raises(UnusableFile, match="damaged"):
        extract_here(suffix, b"PK\x03\x04 nonsense")


LEFT = ["The lighthouse was", "built in 1880 on the", "northern mole of the", "harbour of Lindow."]
RIGHT = ["Salt from the mines", "is loaded in the east", "basin, which is nine", "metres deep."]


def test_two_columns_of_a_pdf_are_read_one_after_the_other_whatever_the_order_they_were_printed_in() -> None:
    needed("pypdfium2")
    lines = [
        (72.0 + 248 * side, 720.0 - 14 * row, text)
        for side, texts in enumerate((LEFT, RIGHT))
        for row, text in enumerate(texts)
    ]
    title = (72.0, 750.0, "The harbour of Lindow, its lighthouse, its basins and its trade in salt from the mines")
    for order in range(4):
        printed = [title, *lines]
        random.Random(order).shuffle(printed)
        found = extract_here(".pdf", pdf_file([printed])).split("\n\n")
        assert found == [title[2], " ".join(LEFT), " ".join(RIGHT)]


def test_a_table_in_a_pdf_is_read_row_by_row() -> None:
    needed("pypdfium2")
    rows = [
        ("Day", "First", "Last"),
        ("Monday", "06:00", "22:00"),
        ("Sunday", "09:00", "20:00"),
        ("Friday", "07:15", "23:30"),
    ]
    placed = [(72.0 + 150 * c, 700.0 - 14 * r, cell) for r, row in enumerate(rows) for c, cell in enumerate(row)]
    assert extract_here(".pdf", pdf_file([placed])).splitlines() == [" | ".join(row) for row in rows]


def test_words_broken_at_the_end_of_a_line_or_page_are_whole_and_compounds_keep_their_hyphen() -> None:
    needed("pypdfium2")
    first = [
        "A well-known committee met in the har-",
        "bour to hear of the modification of a well-",
        "known pier, and of the inter-",
    ]
    second = ["national traffic at the north quay."]
    pages = [
        [(72.0, 700.0 - 14 * row, text) for row, text in enumerate([*page, f"{number}"])]
        for number, page in enumerate((first, second, ["Another text.", "It ends."]), 1)
    ]
    found = extract_here(".pdf", pdf_file(pages))
    assert "in the harbour to hear" in found
    assert "a well-known pier, and of the international traffic" in found
    assert "1" not in found


def test_a_pdf_without_text_is_named_as_a_scan() -> None:
    needed("pypdfium2")
    with pytest.raises(UnusableFile, match="OCR"):
        extract_here(".pdf", pdf_file([[]]))


def test_damaged_files_are_read_or_named_by_one_process(tmp_path: Path) -> None:
    needed("pypdfium2")
    sound = {
        ".pdf": pdf_file([[(72.0, 700.0, SENTENCE)]]),
        ".docx": docx_file(docx_paragraph(SENTENCE)),
        ".pptx": pptx_file(slide_shape("body", SENTENCE)),
        ".epub": epub_file(f"<p>{SENTENCE}"),
        ".html": f"<h1>Lorvik</h1><p>{SENTENCE}</p>".encode(),
    }
    refused: list[str] = []
    with TextExtractor() as extractor:
        for seed in range(90):
            rng = random.Random(seed)
            suffix = rng.choice(list(sound))
            path = tmp_path / f"file{suffix}"
            path.write_bytes(damaged(sound[suffix], rng))
            try:
                assert read_document(path, extractor).text.strip()
            except UnusableFile as named:
                refused.append(str(named))
        path.write_bytes(sound[suffix])
        assert SENTENCE in read_document(path, extractor).text
    assert 10 < len(refused) < 90
    reasons = tuple(
        "it is damaged|it is binary|it holds no text|it is no |its text is|it is encrypted|it unpacks".split("|")
    )
    assert [reason for reason in refused if not reason.startswith(reasons)] == []


def test_a_file_that_takes_too_long_or_ends_its_reader_is_named_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = "<ul><li>" * 2_000_000
    with TextExtractor(deadline=0.05) as extractor:
        with pytest.raises(UnusableFile, match="took longer than 0 s"):
            extractor.extract(".html", slow.encode())
        extractor._deadline = 60.0
        assert extractor.extract(".html", b"<p>next") == "next"
        process = extractor._process
        assert process is not None
        process.kill()
        process.wait()
        with pytest.raises(UnusableFile, match="crashed"):
            extractor.extract(".html", b"<p>next")
        assert extractor.extract(".html", b"<p>next") == "next"


def test_the_reading_process_gets_no_key_and_takes_no_module_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdefghijkl")
    (tmp_path / "html.py").write_text("open('imported', 'w')")
    with TextExtractor() as extractor:
        assert extractor.extract(".html", b"<p>text") == "text"
        assert extractor._process is not None
        environment = Path(f"/proc/{extractor._process.pid}/environ")
        assert not environment.exists() or b"0123456789" not in environment.read_bytes()
    assert not (tmp_path / "imported").exists()


def test_a_file_that_takes_too_much_memory_is_named() -> None:
    with TextExtractor() as extractor:
        with pytest.raises(UnusableFile, match="memory"):
            extractor.extract(".html", b"<p>a" * (MEMORY_BYTES >> 3))
        assert extractor.extract(".html", b"<p>next") == "next"


def test_a_carriage_return_in_preformatted_text_ends_a_line() -> None:
    assert extract_here(".html", b"<body><pre>one\rtwo&#13;three</pre>") == "```\none\ntwo\nthree\n```"
