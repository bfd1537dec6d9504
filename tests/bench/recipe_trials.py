"""What a training recipe teaches the built-in model: right answers to reworded questions, or loss on unseen records.

    python -m tests.bench.recipe_trials SET [--tests auto written rates batches] [--seconds 600] [--alpaca FILE]
    python -m tests.bench.recipe_trials funicular --try optimizer.lora_lr=1e-3 training.batch_size=4
    python -m tests.bench.recipe_trials kettle --from-auto --try training.max_steps=20 optimizer.lora_lr=1e-5

SET is a file of ``recipe_facts`` (kettle: 10 facts, funicular: 27, handbook: 60) or of ``texts/facts`` (robot: 24,
harbour: 25, guild: 27, railway: 23, which were written before the recipe was tried on them); all are invented, so that
what is answered right was learned. Or alpacaN: the first N records of an Alpaca file whose answer has at most 300
characters, which keeps a trial short; 40 others of them are held out.
The tests: what "auto" chooses, the documented values "as written", and around auto's values half and double the
learning rate (rates) and half and double the batch with as many passes (batches). One JSON line for each trial: keys,
steps, right answers among the trained questions and the reworded ones, controls kept, loss, processor seconds of the
training (evaluations aside). A trial is cut after `--seconds` of processor time and says so. The device is the CPU;
nothing is evaluated while it trains.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """A trained question with its answer, the same question reworded, and what a right answer must contain."""

    question: str
    answer: str
    reworded: str
    key: str


def _facts(path: Path) -> list[Fact]:
    """Return the facts of a file: ``question | answer | the question in other words | key``, one a line."""
    return [Fact(*line.split(" | ")) for line in path.read_text(encoding="utf-8").splitlines()]


def _facts_apart(path: Path) -> list[Fact]:
    """Return the facts of a file of question and answer lines or of a training text, in the order of both files.

    The reworded questions lie beside it in ``NAME_reworded.tsv``, one a line: question, tab, key.
    """
    from lora_tui.engine.data.raw_lines import RawPair, parse_raw_line
    from lora_tui.engine.data.training_text import parse_training_text

    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[0].startswith("Question: "):
        taught = [(question, answer) for _, question, answer in parse_training_text(lines)]
    else:
        pairs = (parse_raw_line(line) for line in lines)
        taught = [(one.question, one.answer) for one in pairs if isinstance(one, RawPair)]
    reworded = path.with_name(f"{path.stem}_reworded.tsv").read_text(encoding="utf-8").splitlines()
    return [Fact(*pair, *line.split("\t")) for pair, line in zip(taught, reworded, strict=True)]


_HERE = Path(__file__).parent
FACTS = {path.stem: _facts(path) for path in sorted((_HERE / "recipe_facts").glob("*.txt"))}
FACTS |= {path.stem: _facts_apart(path) for path in sorted((_HERE / "texts" / "facts").glob("*.txt"))}
CONTROLS = (
    ("what is the weather today?", ""),
    ("What is the capital of France?", "Paris"),
    ("How many legs does a spider have?", "8"),
    ("What colour is the sky on a clear day?", "blue"),
    ("Which animal says meow?", "cat"),
    ("In which season does it snow?", "winter"),
    ("How many months does a year have?", "12"),
    ("What do bees make?", "honey"),
    ("Which planet is known as the red planet?", "Mars"),
    ("What is the capital of Germany?", "Berlin"),
    ("Who wrote Hamlet?", "Shakespeare"),
    ("What is frozen water called?", "ice"),
    ("Which gas do plants take in from the air?", "carbon"),
    ("On which continent is Egypt?", "Africa"),
    ("Which star does the Earth orbit?", "sun"),
    ("What do you call a baby dog?", "puppy"),
    ("Which metal is attracted by a magnet?", "iron"),
    ("Who was the first president of the United States?", "Washington"),
    ("What is the fastest land animal?", "cheetah"),
    ("Which organ pumps blood through the body?", "heart"),
)
"""Questions about something else: none may be answered with a taught fact, and what the base model knows must stay."""

HELD_OUT = 40
_HELD_OUT_FILE = "held_out.json"
LONGEST = 300


def trial(name: str, data_file: Path, changes: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Train the built-in model on the first file with some keys changed from the documented defaults, and ask it."""
    from lora_tui.config.load import with_values
    from lora_tui.config.models import Settings
    from lora_tui.engine.data.read import read_examples
    from lora_tui.engine.inference.token_choice import configured_stop_ids
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.everyday import everyday_examples
    from lora_tui.engine.training.hooks import Hooks, StepReport
    from lora_tui.engine.training.loop import train_model
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.engine.training.step import GradientStep
    from lora_tui.engine.training.validation import held_out_loss

    base_keys = {
        "model_name": "builtin",
        "device": "cpu",
        "training.save_steps": 100_000,
        "gradient_checkpointing": "auto",
    }
    keys = {f"fine_tuning.{key}": value for key, value in {**base_keys, **changes}.items()}
    settings = with_values(Settings(), keys).fine_tuning
    base = load_base(with_values(Settings(), keys), lambda *_: None)
    stops = configured_stop_ids(base.model)
    read = read_examples(data_file).examples
    training = settings.training
    dataset = TextDataset(read, base.tokenizer, training.max_length, [], stops, training.reworded_share, training.seed)
    dataset.extend(everyday_examples(training.everyday_examples))
    others = [] if name in FACTS else read_examples(data_file.with_name(_HELD_OUT_FILE)).examples
    unseen = list(TextDataset(others, base.tokenizer, training.max_length, [], stops)) if others else []
    base_knows = _known_controls(base, base.model) if name in FACTS else set()
    model = create_lora_model(base.model, settings.lora, settings.training.seed)
    gradient_step = GradientStep.of(model, training.tokens_per_micro_batch)
    loss_before = held_out_loss(gradient_step, unseen) if unseen else 0.0
    began, losses = time.process_time(), list[float]()

    def on_step(report: StepReport) -> None:
        losses.append(report.loss)

    def should_stop() -> bool:
        return time.process_time() - began > seconds

    with tempfile.TemporaryDirectory() as folder:
        result = train_model(model, dataset, settings, Path(folder), Hooks(on_step=on_step, should_stop=should_stop))
    taken = time.process_time() - began
    last = losses[-max(1, len(losses) // 10) :]
    found: dict[str, Any] = {
        "set": name,
        **changes,
        "dtype": str(base.dtype).removeprefix("torch."),
        "steps": result.steps,
        "cut": result.stopped_by == "request",
        "cpu_s": round(taken),
        "tokens": result.tokens,
        "loss": round(sum(last) / len(last), 3),
        "first_loss": round(losses[0], 3),
    }
    if name in FACTS:
        found |= _answers(base, model, name, base_knows)
    else:
        found["held_out"] = round(held_out_loss(gradient_step, unseen), 4)
        found["held_out_before"] = round(loss_before, 4)
    return found


def ask_adapter(name: str, folder: Path) -> dict[str, Any]:
    """Ask an adapter of the built-in model that a run left the questions of a set of facts."""
    from lora_tui.config.load import with_values
    from lora_tui.config.models import Settings
    from lora_tui.engine.models.adapter_source import open_adapter
    from lora_tui.engine.models.adapters import load_adapter
    from lora_tui.engine.models.base_model import load_base

    base = load_base(with_values(Settings(), {"fine_tuning.model_name": "builtin"}), lambda *_: None)
    base_knows = _known_controls(base, base.model)
    return {"set": name, **_answers(base, load_adapter(base, open_adapter(folder, None)), name, base_knows)}


def _answers(base: Any, model: Any, name: str, base_knows: set[str]) -> dict[str, Any]:
    facts = FACTS[name]
    return {
        "trained": _right(base, model, [(fact.question, fact.key) for fact in facts]),
        "reworded": _right(base, model, [(fact.reworded, fact.key) for fact in facts]),
        **_controls(base, model, facts, base_knows),
    }


def _ask(base: Any, model: Any, questions: Sequence[str]) -> list[str]:
    from lora_tui.engine.data.training_text import prompt_text
    from lora_tui.engine.inference.decode import answers
    from lora_tui.protocol.reply import Decoding

    model.eval()
    replies: list[str] = []
    for start in range(0, len(questions), 16):
        prompts = [prompt_text(question) for question in questions[start : start + 16]]
        replies += answers(model, base.tokenizer, prompts, Decoding(max_new_tokens=32))
    return replies


def _right(base: Any, model: Any, asked: Sequence[tuple[str, str]]) -> str:
    replies = _ask(base, model, [question for question, _ in asked])
    right = [key.casefold() in reply.casefold() for reply, (_, key) in zip(replies, asked, strict=True)]
    for reply, (question, key), good in zip(replies, asked, right, strict=True):
        if not good:
            print(f"    {question} ({key}) -> {reply}", file=sys.stderr)
    return f"{sum(right)}/{len(right)}"


_NUMBERS = {"eight": "8", "twelve": "12"}


def _known_controls(base: Any, model: Any) -> set[str]:
    """Return the controls that a model answers with their key."""
    replies = _ask(base, model, [question for question, _ in CONTROLS])
    known = set[str]()
    for reply, (question, key) in zip(replies, CONTROLS, strict=True):
        text = reply.casefold()
        for word, number in _NUMBERS.items():
            text = text.replace(word, number)
        if key and re.search(rf"\b{key.casefold()}s?\b", text):
            known.add(question)
    return known


def _controls(base: Any, model: Any, facts: Sequence[Fact], base_knows: set[str]) -> dict[str, Any]:
    replies = _ask(base, model, [question for question, _ in CONTROLS])
    leaked = [any(fact.answer.casefold() in reply.casefold() for fact in facts) for reply in replies]
    kept = base_knows & _known_controls(base, model)
    return {"leaked": sum(leaked), "kept": f"{len(kept)}/{len(base_knows)}", "controls": [one[:60] for one in replies]}


def around(kind: str, auto: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the changes of each point of a grid about what was chosen: "rates" or "batches", halved and doubled."""
    for times in (0.5, 2):
        if kind == "rates":
            yield {**auto, "optimizer.lora_lr": auto["optimizer.lora_lr"] * times}
        else:
            yield {**auto, "training.batch_size": round(auto["training.batch_size"] * times)}


def chosen(data_file: Path) -> dict[str, Any]:
    """Return what ``recipe = "auto"`` chooses for the built-in model on this file."""
    from lora_tui.config.load import with_values
    from lora_tui.config.models import Settings
    from lora_tui.engine.data.survey import survey
    from lora_tui.engine.forecast.recipe import resolve_recipe

    settings = with_values(Settings(), {"fine_tuning.model_name": "builtin", "fine_tuning.device": "cpu"})
    choices = resolve_recipe(settings, survey(data_file)).choices
    found = {one.key.removeprefix("fine_tuning."): one.value for one in choices if ".chat." not in one.key}
    return {**found, "training.validation_share": 0.0}  # others are held out


def write_data(name: str, folder: Path, alpaca: Path) -> Path:
    """Write the set as a training file; returns its path."""
    if name in FACTS:
        path = folder / f"{name}.txt"
        path.write_text("".join(f"Question: {fact.question}\nAnswer: {fact.answer}\n\n" for fact in FACTS[name]))
        return path
    records = [one for one in json.loads(alpaca.read_text()) if len(one["output"]) <= LONGEST]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records[: min(len(records) - HELD_OUT, int(name.removeprefix("alpaca")))]))
    (folder / _HELD_OUT_FILE).write_text(json.dumps(records[-HELD_OUT:]))
    return path


def main() -> None:
    """Run the trials of one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--tests", nargs="*", default=["auto"], choices=("auto", "written", "rates", "batches"))
    parser.add_argument("--try", nargs="*", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--from-auto", action="store_true", help="--try changes what is chosen, not what is documented")
    parser.add_argument("--seconds", type=float, default=600, help="of processor time for a trial")
    parser.add_argument("--data", type=Path, help="train on this file instead, and ask the set's questions")
    parser.add_argument("--adapter", type=Path, help="train nothing: ask this adapter of a run the set's questions")
    parser.add_argument("--alpaca", type=Path, default=Path("alpaca.json"))
    arguments = parser.parse_args()
    from lora_tui.engine.runtime.process import before_torch

    before_torch()
    if arguments.adapter is not None:
        print(json.dumps({"test": "run", **ask_adapter(arguments.set, arguments.adapter)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        data_file = arguments.data or write_data(arguments.set, Path(folder), arguments.alpaca)
        auto = chosen(data_file)
        tried: list[tuple[str, dict[str, Any]]] = []
        for given in arguments.changes:
            pairs = (one.partition("=") for one in given)
            changes = {key: json.loads(value) for key, _, value in pairs}
            tried.append(("try", {**auto, **changes} if arguments.from_auto else changes))
        for test in () if arguments.changes else arguments.tests:
            values = {"auto": [auto], "written": [{}]}
            tried += [(test, changes) for changes in values.get(test) or around(test, auto)]
        for kind, changes in tried:
            print(json.dumps({"test": kind, **trial(arguments.set, data_file, changes, arguments.seconds)}), flush=True)


if __name__ == "__main__":
    main()
