"""Held-out questions: what a training run has kept back is written beside its adapters, for `--run evaluate` to ask.

The file is in the run's folder, not in an adapter's: an adapter that is given away does not carry the questions. It
also divides the data of a resumed run as it was divided when the run began, whatever the store has learned since.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_tui.engine.data.examples import Example, PlainText, QuestionAnswer
from lora_tui.engine.data.holdout import question_digest
from lora_tui.engine.evaluation.own_prompts import RenderPrompt, as_prompt, with_questions
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically
from lora_tui.store import texts
from lora_tui.store.connection import Store
from lora_tui.store.generation import accepted_sources

HELD_OUT_FILE = "held_out.json"
"""The file in a run's folder."""

MOST_KEPT = 2_000
"""Questions that the file holds at most; of more, a sample."""


@dataclass(frozen=True, slots=True)
class HeldOutQuestions:
    """Questions with their expected answers that were not trained on, and the document of each; None where unknown.

    `of` is how many there are; `prompts` are all of them, or a sample. `whole_documents` says that nothing was trained
    on about the documents they are from, `unseen` that none of them can have been.
    """

    prompts: tuple[TestPrompt, ...]
    documents: tuple[str | None, ...]
    of: int
    whole_documents: bool
    unseen: bool = True

    def sample(self, most: int, seed: int) -> "HeldOutQuestions":
        """Return `most` of the questions: always the same ones for a seed, in the order they stand."""
        kept = sorted(_ranked(self.prompts, seed)[:most])
        prompts, documents = tuple(self.prompts[n] for n in kept), tuple(self.documents[n] for n in kept)
        return replace(self, prompts=prompts, documents=documents)

    @property
    def names(self) -> list[str]:
        """The documents that the questions are from, each once."""
        return list(dict.fromkeys(name for name in self.documents if name is not None))


def _ranked(prompts: Sequence[TestPrompt], seed: int) -> list[int]:
    """The indices of prompts in an order that only their text and the seed decide."""
    salt = seed.to_bytes(8)

    def rank(index: int) -> bytes:
        return hashlib.blake2b(prompts[index].prompt.encode("utf-8", "replace") + salt, digest_size=16).digest()

    return sorted(range(len(prompts)), key=rank)


async def documents_by_question(store: Store) -> dict[int, str]:
    """Return the document that each accepted pair and text of the store is about, by its question's digest."""
    examples: list[tuple[Example, str]] = [
        (QuestionAnswer(question, "", ""), source) for question, source in await accepted_sources(store)
    ]
    for row in await texts.sources(store):
        match row.form:
            case "phrasing":
                example: Example = QuestionAnswer(row.title, "", "")
            case "dialogue":
                example = QuestionAnswer(row.first_question, "", "")  # a conversation asks what its user says first
            case _:
                example = PlainText(texts.document_text(row.title, row.body), "")
        examples.append((example, row.source))
    return {question_digest(example): source for example, source in examples if source}


def questions_of(
    examples: Iterable[Example], documents: Mapping[int, str], render: RenderPrompt | None
) -> HeldOutQuestions:
    """Return examples as questions, each once; what has no question and answer is left out.

    Plain text is asked to be continued where it is all there is.
    """
    found: dict[str, tuple[TestPrompt, str | None]] = {}
    for example in with_questions(list(examples)):
        if (prompt := as_prompt(example, render)) is not None and prompt.reference:
            found.setdefault(prompt.prompt, (prompt, documents.get(question_digest(example))))
    prompts, names = tuple(prompt for prompt, _ in found.values()), tuple(name for _, name in found.values())
    return HeldOutQuestions(prompts, names, len(prompts), False)


def write_held_out(
    folder: Path,
    held_out: Sequence[Example],
    trained: Iterable[Example],
    documents: Mapping[int, str],
    render: RenderPrompt | None,
    seed: int,
) -> None:
    """Write what a run has held out; nothing where it holds out nothing."""
    if not held_out:
        return
    questions = questions_of(held_out, documents, render)
    held_documents = {documents.get(question_digest(example)) for example in held_out}
    about = {documents.get(question_digest(example)) for example in trained}
    kept = questions.sample(MOST_KEPT, seed)
    content = {
        "whole_documents": None not in held_documents | about and not held_documents & about,
        "of": questions.of,
        "digests": list(dict.fromkeys(map(question_digest, held_out))),
        "questions": [
            {"prompt": prompt.prompt, "reference": prompt.reference, "document": document}
            for prompt, document in zip(kept.prompts, kept.documents, strict=True)
        ],
    }
    write_atomically(folder / HELD_OUT_FILE, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def held_out_order(folder: Path) -> dict[int, int] | None:
    """Return the place of each question that a run has held out, by its digest; None where it is not written down."""
    content = _content(folder)
    return None if content is None else {int(digest): place for place, digest in enumerate(content["digests"])}


def read_held_out(folder: Path) -> HeldOutQuestions | None:
    """Return the questions that the run of this folder has held out; None where there are none."""
    content = _content(folder)
    if content is None or not content["questions"]:
        return None
    rows = content["questions"]
    prompts = tuple(TestPrompt(str(row["prompt"]), "expected", str(row["reference"])) for row in rows)
    documents = tuple(row.get("document") for row in rows)
    return HeldOutQuestions(prompts, documents, int(content["of"]), bool(content["whole_documents"]))


def _content(folder: Path) -> dict[str, Any] | None:
    path = folder / HELD_OUT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _ = content["digests"], content["of"], content["whole_documents"]
        for row in content["questions"]:
            _ = row["prompt"], row["reference"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LoraTuiError(f"{path} cannot be read: {problem!r}. Remove the file, or restore it.") from problem
    return dict(content)
