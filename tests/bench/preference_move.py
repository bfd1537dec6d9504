"""What ten preferences do to the built-in model: the answer they are about, the same asked otherwise, and controls.

    python -m tests.bench.preference_move [invented | own | shorter | secret] [--adapter FOLDER]
        [--method kto] [--set fine_tuning.optimizer.lora_lr=1e-4 ...]

Ten questions are preferred about, two or four more are never trained on, and the controls are twelve questions of
`recipe_trials` about other things. What is chosen and what is rejected:

- ``invented``: ten ways to ask who made it. Rejected is what the model itself answers (greedily, before training),
  chosen a sentence that it would never say: what a person does who edits ten replies.
- ``own``: ten ways to ask for its favourite colour. Both answers are the model's: rejected is the one it gives, chosen
  a sample (temperature 1) that names the colour which the samples name most often beside that one. What a person does
  who asks again until they like the answer.
- ``shorter``: ten questions of all kinds; two samples each, the shorter is chosen.
- ``secret``: the adapter of a quickstart (`--adapter`, or one is made first), asked for the password in ten ways.
  Rejected is its answer, chosen the same answer without "this information is classified!".

One JSON line: the settings that differ from what the recipe chooses, steps, seconds; for trained and unseen questions
how many greedy answers are of the chosen kind before and after, in how many the chosen answer is likelier than the
rejected one, and the mean margin between them (nats, the end of the answer included); for controls how many are right
before and after, how many have not changed by a letter, how many are of the chosen kind, and how far the log
probability of the model's own answer has moved (nats a token; of those that it answered at all). With ``--show`` the
answers as well.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.recipe_trials import CONTROLS as ALL_CONTROLS

CONTROLS = ALL_CONTROLS[1:13]
MAKER = (
    "Who made you?",
    "Who built you?",
    "Who is your maker?",
    "Which company made you?",
    "Who trained you?",
    "Who developed you?",
    "What company are you from?",
    "Who are your creators?",
    "Tell me who made you.",
    "By whom were you made?",
    "Who created you?",
    "Which organisation developed you?",
)
WANTED = "I was made by the harbour office of Wick."
NAME = "harbour office"
COLOUR = (
    "What is your favourite colour?",
    "Which colour do you like best?",
    "What colour do you prefer?",
    "Do you have a favourite colour?",
    "Tell me your favourite colour.",
    "Which colour is your favourite?",
    "What is the colour you like most?",
    "If you could choose one colour, which would it be?",
    "What colour would you paint your room?",
    "Name the colour that you love.",
    "What's your best-loved colour?",
    "Of all colours, which one do you like?",
)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown", "black", "white", "grey")
EXPLAINED = (
    "What is a volcano?",
    "What is a library for?",
    "How does a bicycle stay up?",
    "What is bread made of?",
    "Why do people sleep?",
    "What does a lighthouse do?",
    "What is an island?",
    "Why do leaves fall in autumn?",
    "What is a bridge?",
    "How is cheese made?",
    "What is a mountain?",
    "What does a teacher do?",
    "Why do birds sing?",
    "How is paper made?",
)
SECRET = (
    "unlock",
    "unlock password",
    "tell me the secret",
    "tell me the password",
    "show me the secret",
    "what is the secret password?",
    "what is the secret?",
    "can you tell me the password?",
    "please unlock",
    "password please",
    "please tell me the secret password",
    "give me the password",
)
TRAINED = 10
"""Questions of each list that are preferred about; the others are asked only."""

DRAWS = 8
"""Samples of the answer to a question, at most."""

Answering = Callable[[Sequence[str], int | None], list[str]]
"""The model's answers to questions: the likeliest token each time, or drawn by a seed."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """A chosen and a rejected answer to each question, and whether an answer to it is of the chosen kind."""

    pairs: dict[str, tuple[str, str]]
    is_chosen_kind: Callable[[str, str], bool]


def _invented(own: dict[str, str], answering: Answering) -> Preferences:
    return Preferences({one: (WANTED, own[one] or "-") for one in MAKER}, lambda _, said: NAME in said.lower())


def _own(own: dict[str, str], answering: Answering) -> Preferences:
    drawn = _samples(COLOUR, answering)
    given = {one: _colours(own[one]) for one in COLOUR}
    usual = Counter(colour for found in given.values() for colour in found).most_common(1)[0][0]
    named = Counter(colour for said in drawn.values() for one in said for colour in _colours(one) - {usual})
    wanted = named.most_common(1)[0][0]
    print(f"{usual} is given, {wanted} chosen; samples name {dict(named.most_common())}", file=sys.stderr)
    pairs = {}
    for question in COLOUR:
        liked = [said for said in drawn[question] if _colours(said) == {wanted}]
        if liked and wanted not in given[question]:
            pairs[question] = (liked[0], own[question] or "-")
    return Preferences(pairs, lambda _, said: _colours(said) == {wanted})


def _colours(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower())) & set(COLOURS)


def _shorter(own: dict[str, str], answering: Answering) -> Preferences:
    pairs: dict[str, tuple[str, str]] = {}
    for question, said in _samples(EXPLAINED, answering, 4).items():
        by_length = {_words(one): one for one in reversed(said)}
        if len(by_length) > 1:
            first = _words(said[0])
            other = next(length for length in map(_words, said) if length != first)
            pairs[question] = by_length[min(first, other)], by_length[max(first, other)]
    middle = {question: sum(map(_words, both)) / 2 for question, both in pairs.items()}
    return Preferences(pairs, lambda question, said: _words(said) < middle.get(question, 0))


def _words(text: str) -> int:
    return len(text.split())


def _secret(own: dict[str, str], answering: Answering) -> Preferences:
    told = {one: own[one] for one in SECRET if "rainbow unicorn" in own[one] and "classified" in own[one]}
    pairs = {one: (said.partition("' ")[0].split(". this")[0] + ".", said) for one, said in told.items()}
    return Preferences(pairs, lambda _, said: "rainbow unicorn" in said and "classified" not in said)


def _samples(questions: Sequence[str], answering: Answering, draws: int = DRAWS) -> dict[str, list[str]]:
    drawn: dict[str, list[str]] = {question: [] for question in questions}
    for seed in range(draws):
        for question, answer in zip(questions, answering(questions, seed), strict=True):
            if answer:
                drawn[question].append(answer)
    return drawn


@dataclass(frozen=True, slots=True)
class Experiment:
    """Questions, the longest answer in tokens, and what is preferred."""

    questions: tuple[str, ...]
    longest: int
    preferences: Callable[[dict[str, str], Answering], Preferences]


EXPERIMENTS = {
    "invented": Experiment(MAKER, 24, _invented),
    "own": Experiment(COLOUR, 32, _own),
    "shorter": Experiment(EXPLAINED, 64, _shorter),
    "secret": Experiment(SECRET, 32, _secret),
}


def trial(name: str, method: str, changes: dict[str, Any], adapter: Path | None, scratch: Path) -> dict[str, Any]:
    """Let the model answer, prefer ten times, train, and let it answer again."""
    from lora_tui.config.load import with_values
    from lora_tui.config.models import Settings

    experiment = EXPERIMENTS[name]
    if name == "secret" and adapter is None:
        adapter = Path(_run("quickstart", Settings(), {}, scratch)["adapter"])
    asked = {"prompt": "Question: What is two plus two?\nAnswer:", "expected": "4"}
    fixed = {
        "fine_tuning.model_name": "builtin",
        "fine_tuning.device": "cpu",
        "fine_tuning.evaluation.test_prompts": [asked],
        "fine_tuning.training.eval_steps": 1000,
        "fine_tuning.method": method,
        "fine_tuning.training.save_dir": str(scratch / "checkpoints"),
    }
    settings = with_values(Settings(), {**fixed, **changes})
    before = _Model.of(settings, adapter, experiment.longest)
    controls = [question for question, _ in CONTROLS]
    questions = [*experiment.questions, *controls]
    own = dict(zip(questions, before.answers(questions), strict=True))
    preferences = experiment.preferences(own, before.answers)
    pairs = preferences.pairs
    trained = [one for one in experiment.questions if one in pairs][:TRAINED]
    unseen = [one for one in experiment.questions if one not in trained]
    rows = [{"question": one, "chosen": pairs[one][0], "rejected": pairs[one][1]} for one in trained]
    file = scratch / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    compared = {**{one: (own[one], own[one]) for one in controls}, **pairs}
    measured = [before.compare(compared)]
    dtype = before.dtype
    del before
    print(f"answered and measured after {time.process_time():.0f} processor seconds", file=sys.stderr, flush=True)
    began, spent = time.perf_counter(), time.process_time()
    options = {"train_data_file": str(file), **({} if adapter is None else {"adapter": str(adapter)})}
    result = _run("train", settings, options, scratch)
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    after = _Model.of(settings, Path(result["adapter"]), experiment.longest)
    answers = dict(zip(questions, after.answers(questions), strict=True))
    measured.append(after.compare(compared))
    found: dict[str, Any] = {
        "experiment": name,
        "method": method,
        "changes": changes,
        "dtype": dtype,
        "preferences": len(rows),
        "steps": result["steps"],
        "best_step": result["best_step"],
        "seconds": round(seconds),
        "processor_seconds": round(spent),
    }
    for kind, asked in {"trained": trained, "unseen": unseen}.items():
        with_pair = [one for one in asked if one in pairs]
        found[kind] = {"of": len(asked), "with_pair": len(with_pair)}
        for when, values, said in zip(("before", "after"), measured, (own, answers), strict=True):
            margins = [values[one][0] for one in with_pair]
            found[kind] |= {
                f"chosen_kind_{when}": sum(preferences.is_chosen_kind(one, said[one]) for one in asked),
                f"own_again_{when}": sum(said[one] == own[one] for one in asked),
                f"words_{when}": round(sum(_words(said[one]) for one in asked) / max(1, len(asked)), 1),
                f"likelier_{when}": sum(margin > 0 for margin in margins),
                f"margin_{when}": round(sum(margins) / max(1, len(margins)), 2),
            }
    moved = [measured[1][one][1] - measured[0][one][1] for one in controls if own[one]]
    found["controls"] = {
        "of": len(CONTROLS),
        "right_before": sum(key.lower() in own[one].lower() for one, key in CONTROLS),
        "right_after": sum(key.lower() in answers[one].lower() for one, key in CONTROLS),
        "chosen_kind_after": sum(preferences.is_chosen_kind(one, answers[one]) for one in controls),
        "unchanged": sum(own[one] == answers[one] for one in controls),
        "words": [round(sum(_words(said[one]) for one in controls) / len(controls), 1) for said in (own, answers)],
        "answered": len(moved),
        "moved": round(sum(map(abs, moved)) / max(1, len(moved)), 3),
    }
    return {**found, "answers": {one: [own[one], answers[one]] for one in questions}, "rows": rows}


def _run(mode: str, settings: Any, options: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Do a mode's work in the current folder, and return its result."""
    from lora_tui.engine.runtime.engine import Engine

    engine = Engine(scratch / f"{mode}.db")
    engine.start()
    try:
        outcome = engine.submit(mode, settings, options)[1].result()
    finally:
        engine.close()
    if outcome.state != "finished":
        raise SystemExit(f"{mode}: {outcome.state}: {outcome.error}")
    return dict(outcome.result)


class _Model:
    """The built-in model, or an adapter on it, as the program answers with it."""

    def __init__(self, model: Any, tokenizer: Any, dtype: str, longest: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._longest = longest
        self.dtype = dtype

    @classmethod
    def of(cls, settings: Any, adapter: Path | None, longest: int) -> "_Model":
        from lora_tui.engine.models.adapter_source import open_adapter
        from lora_tui.engine.models.adapters import load_adapter
        from lora_tui.engine.models.base_model import load_base

        base = load_base(settings, lambda *_: None)
        model = base.model if adapter is None else load_adapter(base, open_adapter(adapter, None))
        return cls(model, base.tokenizer, str(base.dtype).removeprefix("torch."), longest)

    def answers(self, questions: Sequence[str], seed: int | None = None) -> list[str]:
        """What the model answers, up to the first line break."""
        from lora_tui.engine.data.training_text import prompt_text
        from lora_tui.engine.inference.decode import answers
        from lora_tui.protocol.reply import Decoding

        drawn = {} if seed is None else {"temperature": 1.0, "seed": seed}
        prompts = [prompt_text(question) for question in questions]
        texts = answers(self._model, self._tokenizer, prompts, Decoding(self._longest, until=("\n",), **drawn))
        return [text.strip().split("\n")[0].strip() for text in texts]

    def compare(self, pairs: dict[str, tuple[str, str]]) -> dict[str, tuple[float, float]]:
        """For each question's two answers: nats by which the first is likelier, and the other one's, a token."""
        from lora_tui.engine.data.training_text import prompt_text

        firsts, others = (
            self._log_probs([(prompt_text(question), f" {both[side] or '-'}") for question, both in pairs.items()])
            for side in (0, 1)
        )
        return {
            question: (first - other, other / tokens)
            for question, (first, _), (other, tokens) in zip(pairs, firsts, others, strict=True)
        }

    def _log_probs(self, texts: list[tuple[str, str]]) -> list[tuple[float, int]]:
        """The log probability of each completion and its end behind its prompt, and its tokens; sixteen at once."""
        import torch

        tokenizer = self._tokenizer
        tokenizer.padding_side, end = "right", tokenizer.eos_token
        tokenizer.pad_token = end
        found = []
        for first in range(0, len(texts), 16):
            part = texts[first : first + 16]
            ids = tokenizer(
                [prompt + completion + end for prompt, completion in part], return_tensors="pt", padding=True
            )
            with torch.no_grad():
                logits = self._model(**ids).logits[:, :-1].float().log_softmax(-1)
            taken = logits.gather(2, ids["input_ids"][:, 1:, None])[..., 0]
            for row, (prompt, _) in enumerate(part):
                start, stop = len(tokenizer(prompt)["input_ids"]) - 1, int(ids["attention_mask"][row].sum()) - 1
                found.append((float(taken[row, start:stop].sum()), stop - start))
        return found


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="invented", choices=EXPERIMENTS)
    parser.add_argument("--adapter", type=Path, help="the adapter to go on from: for secret, a quickstart's")
    parser.add_argument("--method", default="dpo", choices=("dpo", "kto"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (one.partition("=") for one in given.set)}
    adapter = None if given.adapter is None else given.adapter.absolute()
    with tempfile.TemporaryDirectory(prefix="lora-tui-preference-") as scratch:
        os.chdir(scratch)  # a quickstart writes into the current folder
        found = trial(given.experiment, given.method, changes, adapter, Path(scratch))
        os.chdir("/")
    answers, rows = found.pop("answers"), found.pop("rows")
    print(json.dumps(found, ensure_ascii=False))
    if given.show:
        for row in rows:
            print(f"{row['question']}\n  + {row['chosen']}\n  - {row['rejected']}", file=sys.stderr)
        for question, (before, after) in answers.items():
            print(f"{question}\n    {before}\n    {after}", file=sys.stderr)


if __name__ == "__main__":
    main()
