"""Ollama's ``Modelfile`` for an exported model: the file, the prompt's form, what ends an answer, how it is drawn.

Ollama does not run a model's own chat template: it has templates in Go's language, and guesses one for a file whose
template it knows. Here it is derived from what the model's template writes (https://docs.ollama.com/modelfile). Small
and apart from `gguf_export`: it is text alone, and knows neither weights nor torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Render = Callable[[list[dict[str, Any]]], str]
"""Writes messages and the beginning of the next answer, as `lora_tui.engine.evaluation.own_prompts` has it."""

PLAIN_CHAT_TEMPLATE = "{{ 'Question: ' + messages[-1]['content'] + '\\nAnswer:' }}"
"""The chat template of a model that was trained on questions and answers as text: it sees the last question alone."""

_PLAIN_TEMPLATE = "Question: {{ .Prompt }}\nAnswer:"
_SYSTEM, _FIRST, _REPLY, _SECOND = "\ue000system\ue001", "\ue000first\ue001", "\ue000reply\ue001", "\ue000second\ue001"


def modelfile(file: str, render: Render | None, stops: Sequence[str], decoding: Mapping[str, float | int]) -> str:
    """Return a Modelfile for `file`, which lies beside it; without `render` the prompt is ``Question: … Answer:``.

    `stops` are the texts that end an answer, `decoding` Ollama's parameters such as ``temperature``.
    """
    template = _PLAIN_TEMPLATE if render is None else go_template(render)
    lines = [f"FROM ./{file}"]
    if template is None:
        lines.append("# No TEMPLATE: Ollama takes the chat template in the file where it knows it.")
    else:
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    lines += [f"PARAMETER {name} {value:g}" for name, value in decoding.items()]
    return "\n".join(lines) + "\n"


def go_template(render: Render) -> str | None:
    """Return a chat template as Go's templates say it: what stands before each message by its role, and at the end.

    None where the template does not put the same before every question, or wants no system message.
    """
    system, first = {"role": "system", "content": _SYSTEM}, {"role": "user", "content": _FIRST}
    reply, second = {"role": "assistant", "content": _REPLY}, {"role": "user", "content": _SECOND}
    try:
        alone = _between(render([first]), _FIRST)
        whole = _between(render([system, first, reply, second]), _SYSTEM, _FIRST, _REPLY, _SECOND)
        without = _between(render([first, reply, second]), _FIRST, _REPLY, _SECOND)
    except Exception:  # noqa: BLE001  # a template is foreign code, and what it refuses is not needed here
        return None
    if alone is None or whole is None or without is None:
        return None
    before_system, before_first, before_reply, before_second, end = whole
    same = before_first == before_second == without[2] and before_reply == without[1]
    if not same or alone != [without[0], end] or any('"""' in part or "{{" in part for part in whole):
        return None
    return (
        "{{- range $i, $message := .Messages }}"
        f'{{{{- if eq $message.Role "system" }}}}{_literal(before_system)}{{{{ $message.Content }}}}'
        f'{{{{- else if eq $message.Role "user" }}}}{{{{ if eq $i 0 }}}}{_literal(alone[0])}{{{{ else }}}}'
        f"{_literal(before_first)}{{{{ end }}}}{{{{ $message.Content }}}}"
        f'{{{{- else if eq $message.Role "assistant" }}}}{_literal(before_reply)}{{{{ $message.Content }}}}'
        "{{- end }}{{- end }}"
        f"{_literal(end)}"
    )


def _literal(text: str) -> str:
    """Text as an expression, so that no blank of it is trimmed by what stands beside it."""
    return f"{{{{ {_quoted(text)} }}}}" if text else ""


def _between(text: str, *contents: str) -> list[str] | None:
    """Return what stands before, between and after the contents; None where one is not there once, or out of order."""
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found or content in text:
            return None
        parts.append(before)
    return [*parts, text]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + escaped.replace("\t", "\\t") + '"'
