"""Files as people have them: damaged, cut off, in other encodings, far too large, or made to hurt whoever reads them.

A file is read or named with a reason in one line; nothing else comes of it, and no other file of its folder suffers.
"""

import asyncio
import json
import random
import time
from pathlib import Path

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.data.raw_lines import parse_raw_line
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.generation.chunks import split
from lora_tui.engine.generation.encodings import decode, mended
from lora_tui.engine.generation.extraction.blocks import UnusableFile
from lora_tui.engine.generation.extraction.worker import TextExtractor, extract_here
from lora_tui.errors import UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import source_lines
from tests.campaign.scenario import Try, scenario
from tests.engine.generation.file_makers import damaged, docx_file, docx_paragraph, pdf_file
from tests.engine.generation.whole_folder import read_folder

_WORDS = (
    "the keeper of “Lorvik” light’s dog – 40 € naïve Größe has a boat and 3.5 metres of rope, a mast. A quay!".split()
)
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "windows-1252")
_FILES = 12
_LARGE = 800_000
_UNITS = (
    *(
        "a",
        " ",
        "\n",
        "a\n",
        ". ",
        "- x\n",
        "# h\n",
        "```\n",
        "x y ",
        "…",
        "。",
        "\t",
        "1. ",
        "Dr. ",
        "> ",
        "|",
        "\r\n",
    ),
    *("<ul><li>", "<p>", "<a ", '<a ">" ', "<!--", "</div>", "&#9;", "<td>", "<script>", "<p hidden>", "<b", "<", "&"),
)


def _sentence(random: random.Random) -> str:
    return " ".join(random.choices(_WORDS, k=random.randint(4, 14))).capitalize() + "."


def _sound_file(random: random.Random, suffix: str) -> bytes:
    """Return a sound file of three to eight sentences."""
    sentences = [_sentence(random) for _ in range(random.randint(3, 8))]
    match suffix:
        case ".docx":
            return docx_file("".join(map(docx_paragraph, sentences)), footnotes=docx_paragraph(sentences[0]))
        case ".pdf":
            return pdf_file(
                [[(72.0, 720.0 - 14 * row, text) for row, text in enumerate(sentences)]] * random.randint(1, 3)
            )
        case ".html" | ".htm":
            tags = random.choices(("p", "div", "li", "td", "h2", "blockquote", "pre", "dd"), k=len(sentences))
            body = "".join(f"<{tag}>{text}</{tag}>" for tag, text in zip(tags, sentences, strict=True))
            return f'<meta charset="utf-8"><body>{body}'.encode()
        case _:
            return "\n\n".join(sentences).encode(random.choice(_ENCODINGS), "replace")


def _is_said(reason: str) -> bool:
    """Tell whether a reason is a line that people can read: no traceback, no exception's name alone, nothing active."""
    return bool(reason) and len(reason) <= 300 and reason.isprintable() and "Traceback" not in reason


@scenario("texts-damaged-folder", tries=20, short=1, seconds=60)
def damaged_folder(random: random.Random, folder: Path) -> Try:
    """A folder of damaged files: each is a source with passages or is named, and the store lists them all."""
    names = [f"{number}{random.choice(('.txt', '.md', '.html', '.docx', '.pdf'))}" for number in range(_FILES)]
    (folder / "in").mkdir()
    for name in names:
        (folder / "in" / name).write_bytes(damaged(_sound_file(random, Path(name).suffix), random))
    (folder / "in" / "sound.txt").write_text("The keeper has a dog.")

    async def read() -> Try:
        async with await Store.open(folder / "store.db") as store:
            run_id = await runs.create(store, "generate", {}, {})
            warnings: list[str] = []
            chosen = DataGeneration(input_folder=str(folder / "in"))
            corpus = await read_folder(store, run_id, chosen, warnings.append, lambda done, total: None)
            listed = await source_lines(store, run_id)
        reasons = dict(corpus.skipped)
        bad = [reason for reason in (*reasons.values(), *warnings) if not _is_said(reason)]
        if len(listed) != len(names) + 1 or len(corpus.sources) + len(reasons) != len(listed):
            return Try(False, _FILES, f"{len(listed)} of {len(names) + 1} files are listed")
        if bad or "sound.txt" not in {source.path for source in corpus.sources}:
            return Try(False, _FILES, f"said: {bad[:1]}, or the sound file was lost")
        return Try(True, _FILES)

    return asyncio.run(read())


@scenario("texts-damaged-bytes", tries=60, short=3, seconds=60)
def damaged_bytes(random: random.Random, _: Path) -> Try:
    """The readers themselves over damaged bytes: a text without control characters, or a reason."""
    for _number in range(_FILES):
        suffix = random.choice((".html", ".docx", ".pdf"))
        data = _sound_file(random, suffix)
        for _again in range(random.randint(1, 3)):
            data = damaged(data, random) or b"x"
        try:
            text = extract_here(suffix, data)
        except UnusableFile as reason:
            if not _is_said(str(reason)):
                return Try(False, _FILES, f"{suffix}: {reason}")
            continue
        if any((ord(character) < 32 and character not in "\n\t") or 127 <= ord(character) < 160 for character in text):
            return Try(False, _FILES, f"{suffix}: a control character in {text[:80]!r}")
    return Try(True, _FILES)


@scenario("texts-encodings", tries=60, short=3)
def encodings(random: random.Random, _: Path) -> Try:
    """A text in any encoding comes back as it was; a damaged one comes back nearly so, with a doubt, or is refused."""
    for _number in range(_FILES):
        text = " ".join(_sentence(random) for _ in range(random.randint(2, 20)))
        encoding = random.choice(_ENCODINGS)
        data = text.encode(encoding)
        found = decode(data)
        if found[0] != text:
            return Try(False, _FILES, f"{encoding} was read as {found[1]}: {found[0][:80]!r}")
        try:
            read, named, doubt = decode(damaged(data, random))
        except UnusableFile:
            continue
        if any(0x80 <= ord(character) < 0xA0 for character in mended(read)):
            return Try(False, _FILES, f"{encoding}, damaged, was read as {named} ({doubt}): {read[:80]!r}")
    return Try(True, _FILES)


@scenario("texts-large", tries=10, short=1, seconds=120)
def large(random: random.Random, _: Path) -> Try:
    """A text of 0.8 MB of one to three units repeated: read and cut in time that grows with its size alone."""
    unit = "".join(random.choices(_UNITS, k=random.randint(1, 3)))
    text = "x" + unit * (_LARGE // len(unit)) + "end"
    began = time.process_time()
    try:
        read = extract_here(".html", text.encode())
    except UnusableFile as reason:
        return Try(False, detail=f"{unit!r}: {reason}")
    chunks = [*split(read, 400, 40), *split(text, 400, 40)]
    seconds = time.process_time() - began
    covered = chunks[-1].end == len(text)
    return Try(covered and seconds < 6, 2, f"{unit!r}: {seconds:.1f} s of processor time, covered: {covered}")


@scenario("texts-bombs", tries=1, short=0, seconds=120)
def bombs(random: random.Random, _: Path) -> Try:
    """DOCX files that unpack a hundredfold, lie about it, or nest without end, and pages of nothing but tags."""
    nested = random.choice(("<w:p><w:r><w:txbxContent>", "<w:tbl><w:tr><w:tc>", "<w:sdt><w:sdtContent>", "<w:ins>"))
    levels = random.randint(10_000, 300_000)
    cases = (
        (".docx", docx_file(docx_paragraph("some words of a bomb. ") * random.randint(100_000, 1_200_000))),
        (".docx", docx_file(nested * levels)),
        (".html", random.choice(("<ul><li>", "<div><p>", "<table><tr><td>")).encode() * 500_000),
    )
    with TextExtractor() as extractor:
        for suffix, data in cases:
            began = time.monotonic()
            try:
                extractor.extract(suffix, data)
            except UnusableFile as reason:
                if not _is_said(str(reason)):
                    return Try(False, 3, f"{suffix}: {reason}")
            if (seconds := time.monotonic() - began) > 40:
                return Try(False, 3, f"{suffix}: {seconds:.0f} s")
        return Try(extractor.extract(".html", b"<p>next") == "next", 3, "the next file was not read")


def _record(random: random.Random) -> dict[str, object]:
    """Return a training record of any form, now and then with what other tools put beside it."""
    asked, answered = _sentence(random), _sentence(random)
    match random.randrange(5):
        case 0:
            return {"question": asked, "answer": answered}
        case 1:
            return {"instruction": asked, "input": None, "output": answered}
        case 2:
            return {"prompt": asked, "completion": answered}
        case 3:
            return {"text": asked}
        case _:
            answer = {"role": "assistant", "content": answered}
            answer |= random.choice(
                ({}, {"weight": random.choice((0, 1))}, {"train": False}, {"reasoning_content": "hm"})
            )
            beside = random.choice(({}, {"tools": [{"type": "function"}]}))
            return {"messages": [{"role": "user", "content": asked}, answer], **beside}


@scenario("texts-training-files", tries=60, short=3)
def training_files(random: random.Random, folder: Path) -> Try:
    """Damaged training files: examples and skipped records add up, or the file is refused with its place."""
    for number in range(_FILES):
        records = [_record(random) for _ in range(random.randint(1, 12))]
        lines = "".join(json.dumps(record, ensure_ascii=random.random() < 0.5) + "\n" for record in records)
        suffix, text = random.choice((("jsonl", lines), ("json", json.dumps(records, indent=1)), ("txt", lines)))
        path = folder / f"{number}.{suffix}"
        path.write_text(text, encoding="utf-8")
        sound = read_examples(path) if any("messages" not in record for record in records) else None
        if sound and len(sound.examples) + len(sound.skipped) != len(records):
            return Try(False, number + 1, f"{path.name}: {len(records)} records do not add up")
        path.write_bytes(damaged(text.encode(), random))
        try:
            found = read_examples(path)
        except UsageError as refusal:
            said = str(refusal)
            if str(path) not in said or len(said.splitlines()) > 2:
                return Try(False, number + 1, said)
            continue
        if sum(found.forms.values()) != len(found.examples):
            return Try(False, number + 1, f"{path.name}: the forms do not add up")
    return Try(True, _FILES)


@scenario("texts-raw-lines", tries=40, short=2)
def raw_lines(random: random.Random, _: Path) -> Try:
    """Pairs behind bullets, numbers and in bold, damaged or not: nothing is raised, and a sound label is no text."""
    for _number in range(_FILES):
        asked, answered = _sentence(random).rstrip(".") + "?", _sentence(random)
        long = random.random() < 0.5
        bold, mark = random.choice(("", "**", "__", "*")), random.choice(("", "- ", "* ", "3. ", "> "))
        question, answer = ("Question", "Answer") if long else ("Q", "A")
        inside = random.random() < 0.5
        labels = [f"{bold}{label}:{bold}" if inside else f"{bold}{label}{bold}:" for label in (question, answer)]
        line = f"{mark}{labels[0]} {asked} {labels[1]} {answered}"
        pair = parse_raw_line(line)
        if (getattr(pair, "question", ""), getattr(pair, "answer", "")) != (asked, answered):
            return Try(False, _FILES, f"{line!r} was read as {pair}")
        parse_raw_line(damaged(line.encode(), random).decode("utf-8", "replace"))
    return Try(True, _FILES)
