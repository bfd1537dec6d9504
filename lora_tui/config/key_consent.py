"""Consent to send the value of an environment variable to where a configuration file says.

A configuration can come from anywhere, with a folder of texts or a repository, and may name any variable beside any
address: ``AWS_SECRET_ACCESS_KEY`` would then be sent to it, or ``OPENAI_API_KEY`` to somebody else. People are asked
once for each file, variable and address. Nobody is asked about a provider's own variable where the address is that
provider's, this machine or the local network, about a variable that the command line, the environment or the app
itself names, or about what holds no secret.
"""

import ipaddress
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lora_tui.config.addresses import OPENAI_URL, of_host
from lora_tui.config.generation import DataGeneration
from lora_tui.config.paths import config_folder, private_folder
from lora_tui.files import write_atomically
from lora_tui.secrets import is_placeholder
from lora_tui.text import one_line

_PROVIDERS = {
    f"{line.split()[0]}_API_KEY": tuple(line.split()[1:])
    for line in """
        AI21 ai21.com
        ANTHROPIC anthropic.com
        AZURE_OPENAI azure.com
        CEREBRAS cerebras.ai
        COHERE cohere.com cohere.ai
        DASHSCOPE aliyuncs.com
        DEEPINFRA deepinfra.com
        DEEPSEEK deepseek.com
        FIREWORKS fireworks.ai
        GEMINI googleapis.com
        GOOGLE googleapis.com
        GROQ groq.com
        MISTRAL mistral.ai
        MOONSHOT moonshot.ai moonshot.cn
        NEBIUS nebius.com nebius.ai
        NOVITA novita.ai
        NVIDIA nvidia.com
        OPENAI openai.com
        OPENROUTER openrouter.ai
        PERPLEXITY perplexity.ai
        SAMBANOVA sambanova.ai
        TOGETHER together.xyz together.ai
        XAI x.ai
        ZAI z.ai
    """.strip().splitlines()
}
"""The variables that providers of models document for their keys, and the domains that they belong to."""

_OWN_SERVERS = frozenset(f"{server}_API_KEY" for server in ("LITELLM", "LLM", "LMSTUDIO", "OLLAMA", "VLLM"))
"""Variables for the key of a server that people run themselves, wherever it is."""

KEY_SETTINGS = ("api_key_env", "api_key_envs", "base_url", "base_urls", "judge_base_urls")
"""The keys of ``data_generation`` that decide which variable is sent to which address."""

_FILE = "allowed_keys.json"


@dataclass(frozen=True, slots=True)
class KeyQuestion:
    """What is to be asked: may the value of `variable` be sent to the host of `address`, as `file` has it?"""

    variable: str
    address: str
    file: str
    hosts: str = field(default="", compare=False)
    """``data_generation.api_key_envs`` as it is typed, where it names the variable for this host."""

    @property
    def text(self) -> str:
        """The question."""
        return (
            f"{one_line(self.file, 100)} has {self.variable} as the key for {one_line(self.address, 80)}.\n"
            f"Send the value of {self.variable} there?"
        )

    @property
    def refusal(self) -> str:
        """The message where nobody can be asked."""
        what = (
            f"{one_line(self.file, 100)} has {self.variable} as the key for {one_line(self.address, 80)}; it is not "
            "sent before you allow it.\n"
        )
        if self.hosts:
            return f"{what}If you mean it, answer yes in a terminal, or add --set {shlex.quote(self.hosts)}."
        return (
            f"{what}If you mean it, add --set data_generation.api_key_env={self.variable}, or export "
            f"LORA_TUI__DATA_GENERATION__API_KEY_ENV={self.variable}."
        )


def key_question(
    chosen: DataGeneration, named_in: Path | None, address_in: Path | None = None, hosts_in: Path | None = None
) -> KeyQuestion | None:
    """Return what has to be asked before a run, or None; of several endpoints, about the first that is not allowed yet.

    `named_in` is the file that names the variable, `address_in` the one that names the address, `hosts_in` the one that
    names variables of single hosts; None: no file does.
    """
    hosts = chosen.api_key_envs
    questions = (
        _question(chosen.at(url), hosts_in, hosts_in, _typed(hosts))
        if of_host(hosts, url)
        else _question(chosen.at(url), named_in, address_in)
        for url in chosen.urls
    )
    return next((question for question in questions if question is not None), None)


def _typed(hosts: Mapping[str, str]) -> str:
    """Return a table of hosts and variables as the command line takes it."""
    lines = ", ".join(f'"{host}" = "{variable}"' for host, variable in hosts.items())
    return f"data_generation.api_key_envs={{{lines}}}"


def _question(
    chosen: DataGeneration, named_in: Path | None, address_in: Path | None, hosts: str = ""
) -> KeyQuestion | None:
    """Return the question about the one address and variable of settings."""
    variable, value = chosen.api_key_env, os.environ.get(chosen.api_key_env, "").strip()
    if not value or is_placeholder(value) or chosen.model == "builtin" or variable in _OWN_SERVERS:
        return None
    named_in = address_in if variable in _PROVIDERS else named_in
    parts = urlsplit(chosen.base_url or OPENAI_URL)
    host = (parts.hostname or "").rstrip(".")
    if named_in is None or (variable.endswith("_API_KEY") and _is_near(host)):
        return None
    if any(host == domain or host.endswith(f".{domain}") for domain in _PROVIDERS.get(variable, ())):
        return None
    address = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    question = KeyQuestion(variable, address, str(named_in.absolute()), hosts)
    return None if _stored(question) in allowed(_FILE) else question


def _stored(question: KeyQuestion) -> dict[str, object]:
    return {"variable": question.variable, "address": question.address, "file": question.file}


def _is_near(host: str) -> bool:
    """Whether a host is this machine or one of the local network, as far as its name tells."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal", ".localhost", ".home.arpa"))
    return address.is_loopback or address.is_private


def allow_key(question: KeyQuestion) -> None:
    """Remember that a question was answered with yes. Raises `LoraTuiError` where that cannot be written."""
    allow(_FILE, _stored(question))


def allow(name: str, answered: dict[str, object]) -> None:
    """Add a question that was answered with yes to a file of the configuration folder, which only the user can read."""
    known = [*allowed(name), answered]
    path = private_folder(config_folder()) / name
    write_atomically(path, json.dumps(known, indent=1, ensure_ascii=False) + "\n", mode=0o600)


def allowed(name: str) -> list[object]:
    """Return what was answered with yes before; a file that cannot be read holds nothing."""
    try:
        known = json.loads((config_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return known if isinstance(known, list) else []
