"""A server in words: where it answers, what it serves, what it has done; for the command line and the app.

Both read the events ``serving`` and ``traffic`` of a run. Light: no server, no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_tui.text import clean, count, memory_size, one_line


def models_text(announced: Mapping[str, Any], most: int = 8) -> str:
    """Return the names that clients may use: "base, run-3, run-7"."""
    names = [one_line(str(model.get("name", "")), 60) for model in announced.get("models") or ()]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def key_text(announced: Mapping[str, Any]) -> str:
    """Return who may ask: "programs of this machine", or the variable that has the key."""
    variable = announced.get("key_variable")
    return f"whoever sends the key in {one_line(str(variable), 60)}" if variable else "programs of this machine"


def announcement_lines(announced: Mapping[str, Any]) -> list[str]:
    """Return what a server says when it is ready: its address, its models, and the commands that lead on."""
    url = clean(str(announced.get("url", "")))
    return [
        f"answers at {url} ({key_text(announced)}) as {models_text(announced)}",
        "to ask from your laptop, type there:",
        f"    {clean(str(announced.get('tunnel', '')))}",
        "for many users at once, these serve the same:",
        *(f"    {command}" for command in larger_servers(announced)),
    ]


def larger_servers(announced: Mapping[str, Any]) -> list[str]:
    """Return the commands of servers that bear more: vLLM's, then llama.cpp's, each with what it cannot load."""
    lines = [clean(str(announced.get("vllm", "")))]
    lines += [f"# without {one_line(str(left), 120)}" for left in announced.get("vllm_left_out") or ()]
    lines += [clean(str(command)) for command in announced.get("llama_server") or ()]
    return [line for line in lines if line]


def traffic_rows(traffic: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return a server's figures with their labels, as its screen shows them."""
    return (
        ("requests", f"{_number(traffic, 'requests'):,}"),
        ("answers now", f"{_number(traffic, 'running'):,} written, {_number(traffic, 'waiting'):,} waiting"),
        ("speed", f"{traffic.get('tokens_per_s') or 0:,.0f} tokens/s"),
        ("tokens read", f"{_number(traffic, 'prompt_tokens'):,}"),
        ("tokens written", f"{_number(traffic, 'completion_tokens'):,}"),
        ("refused", f"{_number(traffic, 'refused'):,}"),
        ("hung up", f"{_number(traffic, 'hung_up'):,}"),
        ("failed", f"{_number(traffic, 'failed'):,}"),
        ("memory", memory_size(_number(traffic, "memory_mb") * 1e6)),
    )


def traffic_line(traffic: Mapping[str, Any]) -> str:
    """Return a server's figures as one line: "12 requests, 3 answers written, 0 waiting, 41 tokens/s"."""
    parts = [
        count(_number(traffic, "requests"), "request"),
        f"{count(_number(traffic, 'running'), 'answer')} being written",
        f"{_number(traffic, 'waiting'):,} waiting",
        f"{traffic.get('tokens_per_s') or 0:,.0f} tokens/s",
    ]
    for name, word in (("refused", "refused"), ("hung_up", "hung up"), ("failed", "failed")):
        if number := _number(traffic, name):
            parts.append(f"{number:,} {word}")
    return ", ".join(parts)


def _number(payload: Mapping[str, Any], name: str) -> int:
    value = payload.get(name)
    return int(value) if isinstance(value, int | float) else 0
