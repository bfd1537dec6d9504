"""A tokenizer, as the head of a GGUF file holds it: tokens, merges, special ones, how text is split, the template.

A wrong template, end or first token is what makes most converted models talk nonsense, so all of it is taken from the
tokenizer that the model was trained with. Two kinds are known: byte-level BPE (``gpt2``), whose way to split a text
before it is merged must be one that llama.cpp knows by name, and BPE with bytes for what is missing (``llama``).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from lora_tui.errors import UsageError

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    _QWEN2: "qwen2",
    _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|"): "llama-bpe",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
"""Patterns by which tokenizers split a text, and llama.cpp's name of each."""


def write_vocabulary(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int, ends: Sequence[int]) -> None:
    """Write the tokenizer; `size` is the number of rows of the embedding, `ends` the tokens that end an answer.

    Raises `UsageError` for a tokenizer that llama.cpp does not have.
    """
    form = _form_of(tokenizer)
    model = form["model"]
    is_bytes = not model.get("byte_fallback")
    writer.add_tokenizer_model("gpt2" if is_bytes else "llama")
    if is_bytes:
        writer.add_tokenizer_pre(_split_name(form.get("pre_tokenizer") or {}))
    tokens, types = _tokens(form, size, is_bytes=is_bytes)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if is_bytes:
        writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in model["merges"]])
    else:
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_add_space_prefix(_begins_with_space(tokenizer))
    _write_specials(writer, tokenizer, ends)


def _form_of(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any]:
    """The tokenizer as its ``tokenizer.json`` says it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    form: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    if form["model"].get("type") != "BPE":
        kind = form["model"].get("type") or type(tokenizer).__name__
        raise UsageError(f"--format gguf: tokenizers of the kind {kind} are not known here; --format merged works.")
    return form


def _tokens(form: Mapping[str, Any], size: int, *, is_bytes: bool) -> tuple[list[str], list[int]]:
    """Return each token's text and kind, by number; rows of the embedding without a token are named as unused."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [int(TokenType.UNUSED)] * size
    unknown = form["model"].get("unk_token")
    for text, number in form["model"]["vocab"].items():
        tokens[number] = text
        is_byte = not is_bytes and len(text) == 6 and text.startswith("<0x")
        types[number] = int(
            TokenType.BYTE if is_byte else TokenType.UNKNOWN if text == unknown and not is_bytes else TokenType.NORMAL
        )
    for added in form.get("added_tokens", ()):
        number = added["id"]
        if number < size:
            tokens[number] = added["content"]
            if types[number] != TokenType.UNKNOWN:
                types[number] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    return tokens, types


def _split_name(splitter: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the way that a text is split before its letters are merged."""
    steps = splitter.get("pretokenizers") or [splitter]
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if kinds[-1:] == ["ByteLevel"] and not last.get("add_prefix_space"):
        if kinds == ["ByteLevel"] and last.get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
            pattern = steps[0].get("pattern", {}).get("Regex", "")
            if pattern in _SPLITS:
                return _SPLITS[pattern]
    raise UsageError(
        "--format gguf: this tokenizer splits text in a way whose name in llama.cpp is not known here. "
        "Write the model with --format merged, and convert that with llama.cpp's convert_hf_to_gguf.py."
    )


def _begins_with_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("x", add_special_tokens=False)["input_ids"]
    return bool(ids) and str(tokenizer.convert_ids_to_tokens(ids[:1])[0]).startswith("▁")


def _write_specials(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
    """Write the special tokens, those that end an answer, and the chat template."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None:
        writer.add_bos_token_id(bos)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if further := [number for number in ends if number != eos]:
        writer.add_eot_token_id(further[0])
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    ids = tokenizer("x")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == bos)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == eos)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        writer.add_chat_template(template)
