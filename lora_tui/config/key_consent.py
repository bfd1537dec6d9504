"""Consent to send the value of an environment variable that a configuration file names as the endpoint's key.

A configuration can come from anywhere, with a folder of texts or a repository, and may name any variable beside any
address: ``AWS_SECRET_ACCESS_KEY`` would then be sent to it. People are asked once for each file, variable and address.
Nobody is asked about the variables that providers of models document for their keys, about a variable that the command
line, the environment or the app itself names, or about what holds no secret.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lora_tui.config.generation import DataGeneration
from lora_tui.config.paths import config_folder, private_folder
from lora_tui.files import write_atomically
from lora_tui.secrets import is_placeholder
from lora_tui.text import one_line

_USUAL = frozenset(
    f"{provider}_API_KEY"
    for provider in (
        "AI21 ANTHROPIC AZURE_OPENAI CEREBRAS COHERE DASHSCOPE DEEPINFRA DEEPSEEK FIREWORKS GEMINI GOOGLE GROQ LITELLM "
        "LLM LMSTUDIO MISTRAL MOONSHOT NEBIUS NOVITA NVIDIA OLLAMA OPENAI OPENROUTER PERPLEXITY SAMBANOVA TOGETHER "
        "VLLM XAI ZAI"
    ).split()
)
_FILE = "allowed_keys.json"
_OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class KeyQuestion:
    """What is to be asked: may the value of `variable` be sent to the host of `address`, as `file` has it?"""

    variable: str
    address: str
    file: str

    @property
    def text(self) -> str:
        """The question."""
        return (
            f"{one_line(self.file, 100)} names {self.variable} as the key for {one_line(self.address, 80)}.\n"
            f"Send the value of {self.variable} there?"
        )

    @property
    def refusal(self) -> str:
        """The message where nobody can be asked."""
        return (
            f"{one_line(self.file, 100)} names {self.variable} as the key for {one_line(self.address, 80)}; it is not "
            "sent before you allow it.\n"
            f"If you mean it, add --set data_generation.api_key_env={self.variable}, or export "
            f"LORA_TUI__DATA_GENERATION__API_KEY_ENV={self.variable}."
        )


def key_question(chosen: DataGeneration, named_in: Path | None) -> KeyQuestion | None:
    """Return what has to be asked before a run, or None; `named_in` is the file that names the variable, if any."""
    variable, value = chosen.api_key_env, os.environ.get(chosen.api_key_env, "").strip()
    if named_in is None or not value or is_placeholder(value) or chosen.model == "builtin" or variable in _USUAL:
        return None
    parts = urlsplit(chosen.base_url or _OPENAI)
    host = parts.hostname or ""
    if variable.endswith("_API_KEY") and (host in ("localhost", "::1") or host.startswith("127.")):
        return None  # the name of a key for such a server, and it does not leave this machine
    address = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    question = KeyQuestion(variable, address, str(named_in.absolute()))
    return None if asdict(question) in _allowed() else question


def allow_key(question: KeyQuestion) -> None:
    """Remember that a question was answered with yes. Raises `LoraTuiError` where that cannot be written."""
    known = [*_allowed(), asdict(question)]
    path = private_folder(config_folder()) / _FILE
    write_atomically(path, json.dumps(known, indent=1, ensure_ascii=False) + "\n", mode=0o600)


def _allowed() -> list[object]:
    try:
        known = json.loads((config_folder() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return known if isinstance(known, list) else []
