"""Files as disks, editors and programs leave them: cut, flipped, doubled, in other encodings, nested without end."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from lora_tui.config.load import load_settings
from lora_tui.config.reference import reference_text
from lora_tui.engine.data.raw_lines import parse_raw_line
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.generation.replies import MalformedReply, parse_pairs, parse_question_and_answer
from lora_tui.errors import UsageError
from tests.campaign.scenario import Try, scenario

_PAIRS = [{"question": f"What is {n}?", "answer": f"It is {n}, as «{n * n}» says."} for n in range(12)]
_CHATS = [
    {"messages": [{"role": "user", "content": pair["question"]}, {"role": "assistant", "content": pair["answer"]}]}
    for pair in _PAIRS
]

_SOUND: dict[str, str] = {
    "train.txt": "\n".join(f"Question: {pair['question']}\nAnswer: {pair['answer']}\n" for pair in _PAIRS),
    "train.jsonl": "\n".join(map(json.dumps, _CHATS)),
    "train.json": json.dumps(_PAIRS, indent=1),
    "train.csv": "question,answer\n" + "\n".join(f'"{pair["question"]}","{pair["answer"]}"' for pair in _PAIRS),
    "config.toml": reference_text(),
    "raw.txt": "\n".join(f"{pair['question']}\t{pair['answer']}" for pair in _PAIRS),
    "reply.json": json.dumps({"pairs": [{**pair, "evidence": "e", "topic": "t"} for pair in _PAIRS]}),
}
"""Sound files by name."""


@scenario("files-damaged", tries=15, short=2)
def files_damaged(random: random.Random, folder: Path) -> Try:
    """Each is read, or refused in a line or two that names it; nothing else is raised."""
    faults = 25
    for number in range(faults):
        name = random.choice(list(_SOUND))
        content, how = _damaged(_SOUND[name], random)
        file = folder / f"{number}-{name}"
        file.write_bytes(content)
        try:
            _read(file, name)
        except (UsageError, MalformedReply) as problem:
            said = str(problem)
            if len(said) > 2000 or len(said.splitlines()) > 4 or (isinstance(problem, UsageError) and name not in said):
                return Try(False, number + 1, f"{name}, {how}: {said[:200]!r}")
        except Exception as problem:  # noqa: BLE001 that is what is looked for
            return Try(False, number + 1, f"{name}, {how}: {type(problem).__name__}: {str(problem)[:200]}")
    return Try(True, faults)


def _read(file: Path, name: str) -> None:
    if name == "config.toml":
        load_settings(file, environment={})
    elif name == "raw.txt":
        for line in file.read_text(errors="replace").splitlines():
            parse_raw_line(line)
    elif name == "reply.json":
        text = file.read_text(errors="replace")
        parse_pairs(text)
        parse_question_and_answer(text)
    else:
        read_examples(file)


def _damaged(text: str, random: random.Random) -> tuple[bytes, str]:
    """The bytes of a text after one to three kinds of damage, and their names."""
    content = text.encode()
    chosen = random.sample(list(_DAMAGE), random.randint(1, 3))
    for how in chosen:
        content = _DAMAGE[how](content, random)
    return content, " and ".join(chosen)


def _cut(content: bytes, random: random.Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _flip(content: bytes, random: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(random.randint(1, 20) if flipped else 0):
        flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def _zeros(content: bytes, random: random.Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + bytes(random.choice([1, 512, 4096])) + content[at:]


def _lines(content: bytes, random: random.Random) -> bytes:
    lines = content.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines + lines[: random.randint(0, 5)])


def _encoding(content: bytes, random: random.Random) -> bytes:
    encoding = random.choice(["utf-16", "utf-16-le", "utf-32", "cp1252", "utf-8-sig", "utf-7", "cp037"])
    return content.decode(errors="replace").encode(encoding, "replace")


def _ends(content: bytes, random: random.Random) -> bytes:
    return content.replace(b"\n", random.choice([b"\r\n", b"\r", b"\x85", b"\n\n", b" "]))


def _nested(content: bytes, random: random.Random) -> bytes:
    depth = random.choice([50, 1_000, 100_000])
    opening, closing = random.choice([(b"[", b"]"), (b'{"a":', b"}"), (b"[[{", b"")])
    nested = opening * depth + b"1" + closing * random.choice([0, depth])
    at = random.choice([0, content.find(b'": ') + 3, content.find(b"= ") + 2, len(content)])
    return content[:at] + nested + content[at:]


def _numbers(content: bytes, random: random.Random) -> bytes:
    number = random.choice([b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"0x1F", b"1_000", b"\xd9\xa1"])
    return content.replace(random.choice([b"12", b"2", b"true", b'"']), number, 1)


_DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": _cut, "bits flipped": _flip, "zeros": _zeros, "lines in disorder": _lines, "another encoding": _encoding,
    "other line ends": _ends, "nested": _nested, "other numbers": _numbers,
}  # fmt: skip
