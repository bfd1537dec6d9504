"""Ways to have a server enforce the form of a reply: the request parameters of each, and what a refusal of one names.

Servers know different ones. OpenAI, vLLM, LM Studio and llama.cpp's own server take a JSON schema; `llama-cpp-python`
takes one only inside ``json_object``; models older than schemas take tools; a grammar works where llama.cpp or vLLM is
the engine and nothing of that is passed on. Whether an accepted parameter has an effect is a different matter: servers
ignore what they do not know, so the replies are what counts (`lora_tui.engine.generation.reply_forms`).
"""

from collections.abc import Mapping
from typing import Any, Literal

Enforcement = Literal["json_schema", "json_object_schema", "json_object", "tool_call", "grammar", "none"]
"""``json_object_schema`` is ``json_object`` with the schema beside it, ``json_object`` any JSON at all."""

ENFORCEMENT_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "response_format": ("response_format", "json_schema", "json_object", "structured", "guided"),
    "tools": ("tool", "function"),
    "grammar": ("grammar", "guided", "structured"),
}
"""The parameter that stands for each way in a request, and the words by which a refusal names it."""

_TOOL = "write_reply"
_LONGEST_STRING = 600
"""Characters of a string under a grammar: small models do not find the end of one."""


def enforcement_parameters(enforcement: Enforcement, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that ask for a reply of this JSON schema."""
    match enforcement:
        case "json_schema":
            form = {"name": "reply", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": form}}
        case "json_object_schema":
            return {"response_format": {"type": "json_object", "schema": schema}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "tool_call":
            function = {"name": _TOOL, "description": "Hand in the reply.", "parameters": schema}
            choice = {"type": "function", "function": {"name": _TOOL}}
            return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        case "grammar":
            # llama.cpp's field, vLLM's until 0.11 and vLLM's since; each server ignores the others'.
            guided = {"guided_json": schema, "structured_outputs": {"json": schema}}
            return {"extra_body": {"grammar": gbnf(schema), **guided}}
        case _:
            return {}


def gbnf(schema: Mapping[str, Any]) -> str:
    """Return llama.cpp's grammar (GBNF) for a schema of objects, arrays, strings and enumerated strings.

    Keys come in the order of the schema, all of them required.
    """
    rules: list[str] = []
    root = _rule(schema, rules)
    text = (
        f'string ::= "\\"" char{{1,{_LONGEST_STRING}}} "\\"" space\n'
        'char ::= [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4})\n'
        'space ::= " "?\n'
    )
    return "\n".join([f"root ::= {root}", *rules, text])


def _rule(schema: Mapping[str, Any], rules: list[str]) -> str:
    """Return the expression of a schema, having added the rules it needs."""
    if "enum" in schema:
        choices = " | ".join(f'"\\"{choice}\\""' for choice in schema["enum"])
        return f"({choices}) space"
    if schema["type"] == "string":
        return "string"
    if schema["type"] == "array":
        body, most = _rule(schema["items"], rules), int(schema.get("maxItems", 5))
        expression = f'"[" space ({body} ("," space {body}){{0,{most - 1}}})? "]" space'
    else:
        members = [f'"\\"{name}\\":" space {_rule(part, rules)}' for name, part in schema["properties"].items()]
        expression = '"{" space ' + ' "," space '.join(members) + ' "}" space'
    name = f"rule{len(rules)}"
    rules.append(f"{name} ::= {expression}")
    return name
