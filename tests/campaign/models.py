"""Damaged and foreign models, adapters, GGUF files, chat templates, and checkpoints with whatever befalls a disk.

In process, on a model of two layers that each worker makes once: a try is a few files and one load. What is promised:
it loads and computes numbers, or says in one or two lines which file is wrong; never an error of the libraries, never a
hang, never a tensor trained on that is not as it was written.
"""

import functools
import json
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.errors import LoraTuiError
from lora_tui.text import clean
from tests.campaign.scenario import Try, scenario

HOSTILE: list[Any] = [
    *(None, -1, 0, 1, 7, 10**6, 10**12, 10**30, 1e308, -0.5, float("nan"), float("inf"), True, False),
    *("", "x", "../../../etc", "\x1b[31mEVIL", "a" * 5000, "<|im_end|>", "cuda"),
    *([], [None], [1, 2], ["x"], {}, {"a": 1}, {"content": None}, [[0, 10**9]]),
]
"""What stands in the place of an entry of a JSON file."""

TEMPLATES = [
    *("{{ 1 / 0 }}", "{% for", "{{ messages[99].content.x }}", "{{ raise_exception('\x1b[31mEVIL') }}", "", "plain"),
    *('{{ "a" * 10**9 }}', '{{ "a"|center(10**10) }}', "{{ 10**10**6 }}", "{{ [0] * 10**9 }}", "{% include 'x' %}"),
    *("{% for i in range(10**9) %}x{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ x.y.z }}"),
    *(
        '{{ "%1000000000d" % 1 }}',
        "{{ cycler.__init__.__globals__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'a'|nofilter }}",
    ),
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9) %}{% endfor %}{% endfor %}{% endfor %}",
]
"""Chat templates that fail, grow, or never end."""


@dataclass(frozen=True)
class Sound:
    """What is damaged: a model's folder, an adapter for it, the model as a GGUF file, a run's folder; its result."""

    model: Path
    adapter: Path
    gguf: Path
    run: Path
    wanted: bytes


def quiet(*_: object) -> None:
    """Tell nobody."""


@functools.lru_cache
def sound() -> Sound:
    """Make everything once for this process."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.engine.test_builtin_model_fetching import save_gguf
    from tests.engine.tiny import make_tokenizer, save_base

    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="campaign-models-"))
    model = save_base(place / "model")
    save_gguf(AutoModelForCausalLM.from_pretrained(model), make_tokenizer(), place / "x.gguf")
    train(place / "run", stop_after=4)
    train(place / "whole")
    wanted = (place / "whole" / "step-6" / "adapter_model.safetensors").read_bytes()
    return Sound(model, place / "whole" / "best", place / "x.gguf", place / "run", wanted)


def train(folder: Path, *, resume: bool = False, stop_after: int = 10**9) -> list[str]:
    """Train the tiny model for six steps with a checkpoint every second; returns the warnings."""
    from lora_tui.engine.data.examples import QuestionAnswer
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.hooks import Hooks
    from lora_tui.engine.training.loop import train_model
    from lora_tui.engine.training.lora import create_lora_model
    from tests.engine.tiny import PAIRS, make_model, make_tokenizer, tiny_settings

    changes = {"training.save_steps": 2, "training.max_steps": 6, "lora.dropout": 0.2}
    settings = tiny_settings(changes).fine_tuning
    tokenizer = make_tokenizer()
    dataset = TextDataset([QuestionAnswer(q, a, "pairs") for q, a in PAIRS], tokenizer)
    model = create_lora_model(make_model(tokenizer), settings.lora, seed=7)
    warnings: list[str] = []
    steps: list[int] = []
    hooks = Hooks(
        on_step=lambda report: steps.append(report.step),
        should_stop=lambda: bool(steps) and steps[-1] >= stop_after,
        evaluate=lambda step: step / 10,
        warn=warnings.append,
    )
    train_model(model, dataset, settings, folder, hooks, resume=resume)
    return warnings


def use(model: Path, adapter: Path | None = None) -> None:
    """Load a model as a conversation does, ask it something by its template, and let it answer three tokens."""
    from lora_tui.engine.chat.history import History
    from lora_tui.engine.inference.decode import answers
    from lora_tui.engine.models.adapter_source import open_adapter
    from lora_tui.engine.models.adapters import load_adapter
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.models.hub_info import check_source
    from lora_tui.protocol.reply import Decoding
    from tests.engine.tiny import tiny_settings

    source = None if adapter is None else open_adapter(adapter, None)
    check_source(str(model))
    base = load_base(tiny_settings({"model_name": str(model)}), quiet)
    used: Any = base.model if source is None else load_adapter(base, source)
    prompt = History(base.tokenizer, bool(base.tokenizer.chat_template), 512).prompt("base", "hi", 3).text
    answers(used, base.tokenizer, [prompt], Decoding(max_new_tokens=3, num_beams=1))


def judged(action: Callable[[], object], names: Sequence[str], faults: int = 1) -> Try:
    """Say what became of a try: it worked, or the message names one of `names` in at most two clean lines."""
    try:
        action()
    except LoraTuiError as problem:
        message = str(problem)
        if not any(name in message for name in names):
            return Try(False, faults, f"names no file: {message[:200]}")
        if len(message.splitlines()) > 2 or len(message) > 1200:
            return Try(False, faults, f"too long: {message[:200]}")
        return Try(clean(message) == message, faults, f"unclean: {message[:200]!r}")
    return Try(True, faults)


def change_entries(random: random.Random, path: Path) -> int:
    """Put something hostile in the place of entries of a JSON file, at any depth; returns how many."""
    content = json.loads(path.read_text())
    changes = random.randint(1, 3)
    for _ in range(changes):
        place = content
        while True:
            key = random.choice(list(place)) if isinstance(place, dict) and place else None
            if key is None:
                break
            if isinstance(place[key], dict) and place[key] and random.random() < 0.5:
                place = place[key]
                continue
            if random.random() < 0.15:
                del place[key]
            else:
                place[key] = random.choice(HOSTILE)
            break
    path.write_text(json.dumps(content))
    return changes


def damage_bytes(random: random.Random, path: Path, within: int | None = None) -> int:
    """Cut a file off, flip bits of it, overwrite a block, or empty it; returns the number of faults."""
    content = bytearray(path.read_bytes())
    end = min(len(content), within or len(content))
    kind = random.choice(["cut", "flip", "flip", "flip", "block", "empty", "html"])
    faults = 1
    if kind == "cut":
        del content[random.randrange(len(content)) :]
    elif kind == "flip":
        faults = random.randint(1, 4)
        for _ in range(faults):
            content[random.randrange(end)] ^= 1 << random.randrange(8)
    elif kind == "block":
        start = random.randrange(end)
        content[start : start + 64] = random.choice([b"\0", b"\xff"]) * len(content[start : start + 64])
    else:
        content = bytearray(b"" if kind == "empty" else b"<!DOCTYPE html><title>404</title>")
    path.write_bytes(content)
    return faults


def damaged_model(random: random.Random, folder: Path, files: Sequence[str], share_of_bytes: float) -> Try:
    """Damage one of a model's files and use the model."""
    model = Path(shutil.copytree(sound().model, folder / "m"))
    path = model / random.choice([name for name in files if (model / name).is_file()])
    as_json = path.suffix == ".json" and random.random() >= share_of_bytes
    faults = change_entries(random, path) if as_json else damage_bytes(random, path)
    if path.suffix == ".json" and random.random() < 0.05:
        path.unlink()
    return judged(lambda: use(model), [str(model)], faults)


@scenario("model-configuration", tries=60, short=1)
def model_configuration(random: random.Random, folder: Path) -> Try:
    """A config.json or generation_config.json with other entries, cut off, or with flipped bits."""
    return damaged_model(random, folder, ["config.json", "config.json", "generation_config.json"], 0.3)


@scenario("model-tokenizer", tries=60, short=1)
def model_tokenizer(random: random.Random, folder: Path) -> Try:
    """Tokenizer files with other entries, cut off, or with flipped bits."""
    files = ["tokenizer.json", "tokenizer_config.json", "tokenizer_config.json", "special_tokens_map.json"]
    return damaged_model(random, folder, files, 0.3)


@scenario("model-weights", tries=40, short=1)
def model_weights(random: random.Random, folder: Path) -> Try:
    """A model.safetensors whose table or length is wrong, or that is something else."""
    model = Path(shutil.copytree(sound().model, folder / "m"))
    path = model / "model.safetensors"
    table = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    faults = damage_bytes(random, path, within=table)
    return judged(lambda: use(model), [str(model)], faults)


@scenario("chat-template", tries=30, short=1)
def chat_template(random: random.Random, folder: Path) -> Try:
    """A template that fails, takes memory, or never ends, alone or behind a sound one."""
    from lora_tui.engine.data.template_renderer import TemplateRefusedError, render_chat
    from tests.engine.tiny import CHAT_TEMPLATE, make_tokenizer

    hostile = random.choice(TEMPLATES)
    tokenizer = make_tokenizer(chat_template=random.choice(["", CHAT_TEMPLATE]) + hostile)
    tokenizer.name_or_path = "the-model"
    messages = [{"role": "user", "content": random.choice(["hi", "x" * 10_000, "\ud800 \x1b[2J"])}]

    def render() -> None:
        try:
            render_chat(tokenizer, messages, generation_prompt=True)
        except TemplateRefusedError as problem:
            raise LoraTuiError(f"the-model: {problem}") from problem

    return judged(render, ["the-model"])


@scenario("adapter-files", tries=80, short=1)
def adapter_files(random: random.Random, folder: Path) -> Try:
    """An adapter's configuration, matrices or metadata with other entries, cut off, or with flipped bits."""
    adapter = Path(shutil.copytree(sound().adapter, folder / "ad"))
    if random.random() < 0.5:  # as another program would have made it
        (adapter / "SHA256SUMS").unlink()
    path = adapter / random.choice(["adapter_config.json", "adapter_config.json", "adapter_model.safetensors"])
    as_json = path.suffix == ".json" and random.random() < 0.8
    faults = change_entries(random, path) if as_json else damage_bytes(random, path)
    return judged(lambda: use(sound().model, adapter), [str(adapter)], faults)


@scenario("gguf-file", tries=40, short=1)
def gguf_file(random: random.Random, folder: Path) -> Try:
    """A GGUF file that is cut off, or with flipped bits in its head."""
    path = Path(shutil.copyfile(sound().gguf, folder / "x.gguf"))
    faults = damage_bytes(random, path, within=random.choice([64, 600, 8_000]))
    return judged(lambda: use(path), [str(path)], faults)


def damage_checkpoint(random: random.Random, step: Path) -> int:
    """Damage a step checkpoint as disks and people do; returns the number of faults."""
    files = ["adapter_model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer_state.json"]
    path = step / random.choice([*files, "SHA256SUMS", "optimizer.safetensors"])
    kind = random.choice(["flip", "flip", "flip", "bytes", "gone", "folder"])
    if kind == "flip":  # one bit, anywhere: the file can often still be read
        content = bytearray(path.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
    elif kind == "bytes":
        return damage_bytes(random, path)
    elif kind == "gone":
        path.unlink()
    else:
        for file in step.iterdir():
            file.unlink()
    return 1


@scenario("checkpoint-damaged", tries=60, short=1)
def checkpoint_damaged(random: random.Random, folder: Path) -> Try:
    """The newest checkpoint is damaged: the run goes on from the one before and ends with the very same bytes."""
    place = sound()
    run = Path(shutil.copytree(place.run, folder / "run"))
    faults = damage_checkpoint(random, run / "step-4")
    if random.random() < 0.2:  # a kill between the two renames left this one
        (run / "step-2").rename(run / "step-2.old")
    warnings = train(run, resume=True)
    same = (run / "step-6" / "adapter_model.safetensors").read_bytes() == place.wanted
    told = any("step-4 is damaged" in warning for warning in warnings)
    return Try(same and told, faults, f"same bytes: {same}, told: {told}")


@scenario("checkpoints-all-damaged", tries=15, short=0)
def checkpoints_all_damaged(random: random.Random, folder: Path) -> Try:
    """No checkpoint is whole: that is told, and nothing is deleted or renamed."""
    run = Path(shutil.copytree(sound().run, folder / "run"))
    faults = damage_checkpoint(random, run / "step-4") + damage_checkpoint(random, run / "step-2")
    before = sorted(path.name for path in run.rglob("*"))
    outcome = judged(lambda: train(run, resume=True), [str(run)], faults)
    untouched = sorted(path.name for path in run.rglob("*")) == before
    failed = not (run / "step-6").exists()
    return Try(outcome.survived and untouched and failed, faults, outcome.detail or "files were touched")


@scenario("checkpoint-killed", tries=20, short=1)
def checkpoint_killed(random: random.Random, folder: Path) -> Try:
    """The trainer dies at any rename, sync or removal while it saves: what is left goes on to the very same bytes."""
    import lora_tui.files as files

    place = sound()
    run = folder / "run"
    countdown = random.randint(1, 90)

    class KilledError(BaseException):
        pass

    real_sync, real_rename = files._sync, Path.rename

    def count() -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise KilledError

    def sync(path: Path) -> None:
        count()
        real_sync(path)

    def rename(self: Path, target: Path) -> Path:
        count()
        return real_rename(self, target)

    files._sync, Path.rename = sync, rename  # type: ignore[method-assign]
    try:
        train(run)
    except KilledError:
        pass
    finally:
        files._sync, Path.rename = real_sync, real_rename  # type: ignore[method-assign]
    train(run, resume=True)
    newest = run / "step-6" if (run / "step-6").is_dir() else run / "step-6.old"
    same = (newest / "adapter_model.safetensors").read_bytes() == place.wanted
    return Try(same, 1, f"same bytes: {same}")


@scenario("best-damaged", tries=15, short=0)
def best_damaged(random: random.Random, folder: Path) -> Try:
    """A bit of the best adapter is turned over: it is never used, and a resumed run chooses another."""
    place = sound()
    run = Path(shutil.copytree(place.run, folder / "run"))
    weights = run / "best" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    weights.write_bytes(content)
    refused = False
    try:
        use(place.model, run / "best")
    except LoraTuiError as problem:
        refused = str(run / "best") in str(problem)
    warnings = train(run, resume=True)
    told = any("best" in warning and "damaged" in warning for warning in warnings)
    whole = (run / "best" / "adapter_model.safetensors").is_file()
    return Try(refused and told and whole, 1, f"refused: {refused}, told: {told}, chosen anew: {whole}")
