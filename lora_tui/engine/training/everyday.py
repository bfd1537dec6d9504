"""Everyday questions with the base model's own answers, trained beside few examples so that the rest of it stays.

A run over a few dozen facts is free to give any question a taught answer. A handful of questions about other things,
answered as the base model answers them in a chat (what is called self-distillation or replay), holds it where it was;
they cost as much as so many examples. The questions are in English; what counts is that their answers are the model's
own.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.reworded import EVERYDAY
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.evaluation.own_prompts import template_renderer
from lora_tui.engine.inference.decode import answers
from lora_tui.engine.models.build_lock import computing
from lora_tui.files import write_atomically
from lora_tui.protocol.reply import Decoding

QUESTIONS = (
    "What is the capital of Spain?",
    "How many days are in a week?",
    "Who wrote Romeo and Juliet?",
    "Where do penguins live?",
    "What colour is a banana?",
    "How are you today?",
    "What is the largest ocean?",
    "When did the second world war end?",
    "What is two plus three?",
    "How do birds fly?",
    "Which planet is closest to the sun?",
    "What does a bee make?",
    "Why do leaves fall in autumn?",
    "What is the opposite of hot?",
    "How do I boil an egg?",
    "Who painted the Mona Lisa?",
    "What is a computer?",
    "Which language is spoken in Brazil?",
    "How many wheels has a bicycle?",
    "What will the weather be like tomorrow?",
    "Name three animals.",
    "What is gravity?",
    "Give me a tip for better sleep.",
    "How long does it take to learn a language?",
)

_FILE = "everyday.json"
_TOKENS = 40
_BATCH = 12


def everyday_examples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, number: int, folder: Path | None = None
) -> list[QuestionAnswer]:
    """Return up to `number` everyday questions with the first sentence of what the base `model` answers.

    They are kept in the run's `folder`, where a resumed run finds them: another machine may answer otherwise.
    """
    kept = folder / _FILE if folder is not None else None
    if kept is not None and kept.is_file():
        pairs = json.loads(kept.read_text(encoding="utf-8"))
    else:
        pairs = _asked(model, tokenizer, QUESTIONS[:number])
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, json.dumps(pairs, ensure_ascii=False, indent=1))
    return [QuestionAnswer(str(question), str(answer), EVERYDAY) for question, answer in pairs]


def _asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    # The plain form is strange to a model that was taught to chat: asked so, it says nothing, or "A:".
    render = template_renderer(tokenizer)
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        with computing():
            asked = [render([{"role": "user", "content": one}]) if render else prompt_text(one) for one in batch]
            replies = answers(model, tokenizer, asked, Decoding(max_new_tokens=_TOKENS))
        found += [
            (question, sentence)
            for question, reply in zip(batch, replies, strict=True)
            if (sentence := _first_sentence(reply, cut_off=len(tokenizer(reply)["input_ids"]) >= _TOKENS - 1))
        ]
    return found


def _first_sentence(reply: str, *, cut_off: bool) -> str:
    """Return a reply up to the end of its first sentence or line; nothing of one that was `cut_off` before its end.

    Nor of a single word, which is mostly the "A:" of a model that does not know what is asked of it.
    """
    line, newline, _ = reply.strip().partition("\n")
    ends = [place for mark in ".!?" if (place := line.find(f"{mark} ")) >= 0]
    sentence = line[: min(ends) + 1] if ends else line.strip()
    whole = bool(ends) or bool(newline) or not cut_off or sentence.endswith((".", "!", "?"))
    return sentence if whole and len(sentence.split()) > 1 else ""
