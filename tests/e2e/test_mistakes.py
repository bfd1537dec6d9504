# ruff: noqa: E501  # the table reads best with one case a line
"""Whatever a user gets wrong: one or two lines that name the place and the way out, the right status, no traceback.

Each case prepares a folder, runs the command in it, and says what the message must name. Wrong options alone are in
``tests/cli``, wrong configuration values in ``tests/config``; here they are reported by the whole program.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.terminal import installed_command
from tests.e2e.warm_command import WarmCommand
from tests.engine.tiny import save_base, training_text
from tests.openai_server import MODEL, OpenAIServer, http

KEY = "sk-test-0123456789abcdef"
FAST = ("--set", "data_generation.generation.max_retries=0", "--set", "data_generation.generation.initial_delay=0.01")


@dataclass
class MistakeFolder:
    """The folder of one case, a base model, a server, and a port where nobody answers."""

    path: Path
    base: Path
    server: OpenAIServer
    closed_port: int
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def texts(self) -> None:
        self.write(
            "training_input/a.txt", "The crane lifts four tons. It was built in 1954. Nobody may stand below it.\n" * 4
        )

    def endpoint(self, key: str | None = None) -> None:
        self.texts()
        self.server.reset(key)
        self.write(
            "config.toml", f'[data_generation]\nbase_url = "{self.server.url}"\nmodel = "{MODEL}"\ntotal_examples = 2\n'
        )

    def training(self, text: str | None = None) -> None:
        self.write("accepted_training_data.txt", training_text() if text is None else text)
        self.write(
            "config.toml",
            f'[fine_tuning]\nrecipe = "as written"\nmodel_name = "{self.base}"\ngradient_checkpointing = false\n'
            "[fine_tuning.training]\nmax_steps = 1\n[fine_tuning.evaluation]\nmax_new_tokens = 2\n",
        )

    def adapter(self, **entries: object) -> None:
        """A folder that looks like an adapter for another, wider base model."""
        import torch
        from safetensors.torch import save_file

        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        self.write("adapter/adapter_config.json", json.dumps({**config, **entries}))
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
        tensors = {name.format("A"): torch.zeros(2, 4096), name.format("B"): torch.zeros(4096, 2)}
        save_file(tensors, self.path / "adapter" / "adapter_model.safetensors")


@dataclass(frozen=True)
class Mistake:
    """One mistake: how it comes about, the command line, the status, and what the message must hold."""

    name: str
    prepare: Callable[[MistakeFolder], object]
    arguments: tuple[str, ...]
    status: int
    said: tuple[str, ...]


def nothing(folder: MistakeFolder) -> None:
    """An empty folder."""


def broken_json_line(folder: MistakeFolder) -> None:
    folder.training()
    good = json.dumps({"prompt": "a", "completion": "b"})
    folder.write("data.jsonl", f"{good}\n{good}\n" + '{"prompt": "a", "completion": }\n')


def no_progress(folder: MistakeFolder) -> None:
    folder.endpoint()
    folder.server.digits = lambda prompt: "1 1 1"


def faulty(status: int, message: str, code: str | None = None) -> Callable[[MistakeFolder], None]:
    def prepare(folder: MistakeFolder) -> None:
        folder.endpoint()
        for kind in ("generate", "judge"):
            folder.server.kind_faults[kind] = http(status, message, code)

    return prepare


def read_only(path: str) -> Callable[[MistakeFolder], None]:
    """The place of a file is taken by a folder: not writable for anyone, root included."""

    def prepare(folder: MistakeFolder) -> None:
        folder.endpoint()
        (folder.path / path).mkdir(parents=True)

    return prepare


def without_key(folder: MistakeFolder) -> None:
    folder.texts()
    folder.environment.pop("OPENAI_API_KEY", None)


def unreachable(folder: MistakeFolder) -> None:
    folder.texts()
    folder.write("config.toml", f'[data_generation]\nbase_url = "http://127.0.0.1:{folder.closed_port}/v1"\n')


def config(text: str) -> Callable[[MistakeFolder], object]:
    return lambda folder: folder.write("config.toml", text)


def trained_with(text: str) -> Callable[[MistakeFolder], None]:
    return lambda folder: folder.training(text)


def raw(text: str | bytes) -> Callable[[MistakeFolder], object]:
    return lambda folder: folder.write("raw.txt", text)


GENERATE, TRAIN, FORMAT = ("--run", "generate", *FAST), ("--run", "train", "--no-chat"), ("--generate-training-file",)

MISTAKES = [
    # Configuration
    Mistake("unknown key", config("[fine_tuning.lora]\nrank = 8\n"), TRAIN, 2, ("config.toml", "line 2", "fine_tuning.lora.rank")),
    Mistake("misspelt key", config("[fine_tuning.lora]\nalpa = 8\n"), TRAIN, 2, ("fine_tuning.lora.alpa", "fine_tuning.lora.alpha")),
    Mistake("misspelt section", config("[fine_tunning]\n"), TRAIN, 2, ("fine_tunning", "fine_tuning")),
    Mistake("wrong type", config('[fine_tuning.lora]\nr = "16"\n'), TRAIN, 2, ("fine_tuning.lora.r", "line 2")),
    Mistake("impossible value", nothing, (*TRAIN, "--set", "fine_tuning.lora.dropout=1.5"), 2, ("--set", "dropout")),
    Mistake("unknown choice", nothing, (*TRAIN, "--set", "fine_tuning.scheduler.type=cosin"), 2, ("scheduler.type", "cosine")),
    Mistake("not TOML", config("[fine_tuning\n"), TRAIN, 2, ("config.toml", "line 1")),
    Mistake("key in the configuration", config('[data_generation]\napi_key = "sk-abc"\n'), GENERATE, 2, ("environment",)),
    Mistake("no configuration there", nothing, (*TRAIN, "--config", "other.toml"), 2, ("other.toml",)),
    Mistake("set without a value", nothing, (*TRAIN, "--set", "fine_tuning.lora.r"), 2, ("--set", "fine_tuning.lora.r")),
    Mistake("no such device", trained_with(training_text()), (*TRAIN, "--set", "fine_tuning.device=cuda:7"), 2, ("cuda:7",)),
    # Generation
    Mistake("missing folder", nothing, GENERATE, 2, ("training_input", "data_generation.input_folder")),
    Mistake("folder is a file", lambda p: p.write("training_input", "x"), GENERATE, 2, ("training_input",)),
    Mistake("empty folder", lambda p: (p.path / "training_input").mkdir(), GENERATE, 1, ("training_input", "empty")),
    Mistake("only binary files", lambda p: p.write("training_input/a.txt", b"\0\1\2" * 99), GENERATE, 1, ("a.txt", "binary")),
    Mistake("missing key", without_key, GENERATE, 3, ("OPENAI_API_KEY", "builtin")),
    Mistake("refused key", lambda p: p.endpoint("another"), GENERATE, 3, ("OPENAI_API_KEY",)),
    Mistake("unreachable endpoint", unreachable, GENERATE, 3, ("127.0.0.1",)),
    Mistake("unknown model at the endpoint", faulty(404, "no such model", "model_not_found"), GENERATE, 3, (MODEL,)),
    Mistake("quota spent", faulty(429, "quota", "insufficient_quota"), GENERATE, 3, ("quota",)),
    Mistake("forbidden", faulty(403, "forbidden"), GENERATE, 3, ("403",)),
    Mistake("server always fails", faulty(500, "boom"), GENERATE, 3, ("500",)),
    Mistake("full target without progress", no_progress, GENERATE, 1, ("0 of 2",)),
    Mistake("output is a folder", read_only("accepted_training_data.txt"), GENERATE, 1, ("accepted_training_data.txt",)),
    Mistake("store is a folder", read_only("training_data.db"), GENERATE, 2, ("training_data.db", "--store")),
    Mistake("store is no database", lambda p: p.write("training_data.db", "hello " * 999), GENERATE, 2, ("training_data.db",)),
    # Training
    Mistake("missing training file", nothing, TRAIN, 2, ("accepted_training_data.txt", "--run generate")),
    Mistake("empty training file", trained_with(""), TRAIN, 2, ("accepted_training_data.txt", "empty")),
    Mistake("training file of prose", trained_with("It was a dark night.\n"), TRAIN, 2, ("accepted_training_data.txt",)),
    Mistake("corrupt line", broken_json_line, (*TRAIN, "--train-data-file", "data.jsonl"), 2, ("data.jsonl", "line 3")),
    Mistake("training file is a folder", nothing, (*TRAIN, "--train-data-file", "."), 2, ("folder",)),
    Mistake("training file not UTF-8", lambda p: p.write("d.txt", b"Question: \xff\nAnswer: b\n"), (*TRAIN, "--train-data-file", "d.txt"), 2, ("d.txt", "UTF-8")),
    Mistake("model folder missing", trained_with(training_text()), (*TRAIN, "--set", "fine_tuning.model_name=./no-model"), 3, ("no-model",)),
    Mistake("unknown model", trained_with(training_text()), (*TRAIN, "--set", "fine_tuning.model_name=nobody/no-such-model"), 3, ("nobody/no-such-model",)),
    Mistake("model folder without a model", trained_with(training_text()), (*TRAIN, "--set", "fine_tuning.model_name=."), 3, ("config.json",)),
    Mistake("GGUF file missing", trained_with(training_text()), (*TRAIN, "--set", "fine_tuning.model_name=a.gguf"), 3, ("a.gguf",)),
    Mistake("unknown target module", trained_with(training_text()), (*TRAIN, "--set", 'fine_tuning.lora.target_modules=["qkv"]'), 2, ("qkv", "q_proj")),
    Mistake("checkpoint folder is a file", lambda p: (p.training(), p.write("checkpoints", "x")), TRAIN, 1, ("checkpoints",)),
    # Adapters
    Mistake("no run to evaluate", lambda p: p.training(), ("--run", "evaluate"), 2, ("Nothing is trained yet", "--run train")),
    Mistake("no run to export", nothing, ("--run", "export"), 2, ("Nothing is trained yet", "--run train")),
    Mistake("no run to chat with", nothing, ("--run", "chat"), 2, ("Nothing is trained yet", "--run quickstart", "--train-data-file FILE")),
    Mistake("adapter folder missing", lambda p: p.training(), ("--run", "evaluate", "--adapter", "adapter"), 2, ("adapter",)),
    Mistake("no adapter in the folder", lambda p: p.training(), ("--run", "evaluate", "--adapter", "."), 2, ("adapter_config.json",)),
    Mistake("adapter for another base", lambda p: (p.training(), p.adapter()), ("--run", "evaluate", "--adapter", "adapter"), 2, ("adapter", "base model")),
    Mistake("adapter for another base in chat", lambda p: (p.training(), p.adapter()), ("--run", "chat", "--adapter", "adapter", "--prompt", "hi"), 2, ("adapter", "base model")),
    Mistake("pickled adapter", lambda p: (p.training(), p.adapter(), (p.path / "adapter/adapter_model.safetensors").rename(p.path / "adapter/adapter_model.bin")), ("--run", "evaluate", "--adapter", "adapter"), 2, ("Pickled",)),
    Mistake("unknown export format", lambda p: p.training(), ("--run", "export", "--format", "gguff"), 2, ("gguff", "merged")),
    # Raw lines
    Mistake("raw file missing", nothing, (*FORMAT, "raw.txt", "out.txt"), 2, ("raw.txt",)),
    Mistake("raw file empty", raw(""), (*FORMAT, "raw.txt", "out.txt"), 2, ("raw.txt",)),
    Mistake("raw equals out", raw("a | b\n"), (*FORMAT, "raw.txt", "raw.txt"), 2, ("raw.txt",)),
    Mistake("raw file of NULs", raw(b"a\0 | b\n"), (*FORMAT, "raw.txt", "out.txt"), 1, ("raw.txt", "line 1")),
    # Runs
    Mistake("nothing to resume", lambda p: p.training(), ("--resume",), 2, ("There are no runs yet",)),
    Mistake("no such run", lambda p: p.training(), ("--attach", "77"), 2, ("There are no runs yet",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
def folder(work: Path, environment: dict[str, str], base: Path, server: OpenAIServer) -> Iterator[MistakeFolder]:
    with socket.socket() as reserved:  # bound and not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        server.reset()
        own = {**environment, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
        yield MistakeFolder(work, base, server, reserved.getsockname()[1], own)


def test_there_are_at_least_forty_kinds() -> None:
    assert len({case.name for case in MISTAKES}) >= 40


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_a_mistake_ends_with_a_short_message_and_its_status(
    case: Mistake, folder: MistakeFolder, warm: WarmCommand
) -> None:
    case.prepare(folder)
    done = warm.run(case.arguments, cwd=folder.path, env=folder.environment)
    told = done.stdout + done.stderr
    assert done.returncode == case.status, told
    for words in case.said:
        assert words in done.stderr, told
    assert "Traceback" not in told
    assert KEY not in told
    assert 1 <= len(_message(done.stderr)) <= 2, told


def _message(stderr: str) -> list[str]:
    """The lines of the error itself: from the last one that the program signs, to the end."""
    lines = stderr.rstrip().splitlines()
    signed = [number for number, line in enumerate(lines) if line.startswith("lora-tui: ")]
    assert signed, stderr
    return lines[signed[-1] :]


def test_a_read_only_folder_is_told(folder: MistakeFolder) -> None:
    is_root = os.geteuid() == 0
    if is_root and shutil.which("setpriv") is None and not os.environ.get("CI"):
        pytest.skip("root may write everywhere, and there is no setpriv to take that away")
    override = "-dac_override,-dac_read_search"
    as_anyone = ["setpriv", "--bounding-set", override, "--inh-caps", override] if is_root else []
    folder.training()
    folder.path.chmod(0o555)
    done = subprocess.run(
        [*as_anyone, *installed_command(), *TRAIN],
        cwd=folder.path,
        env=folder.environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    folder.path.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "training_data.db" in done.stderr
    assert "Traceback" not in done.stderr
