"""The files of a model's folder, looked at before anything is loaded: what is damaged or foreign is named.

transformers tells of a wrong entry in a class name of its own, in a message that names no file, or after a minute of
loading. What is checked here takes milliseconds and needs no torch: that each file is what its name says, and that the
entries which decide about sizes and special tokens are of their kind. `lora_tui.engine.models.weight_files` looks at
the weights.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_tui.engine.models.weight_files import ModelFileError, check_gguf, check_not_text, tensors_in
from lora_tui.text import file_size, one_line

_LARGEST_JSON = 50_000_000
"""Bytes of a configuration that are read; that of a real model has some thousand, a tokenizer's a few million."""

_LARGEST_TEMPLATE = 2_000_000

_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "head_dim"), 10_000_000),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads"), 100_000),
    "vocab_size": 100_000_000,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 10**12),
}
"""Entries of a config.json that are whole numbers above 0, each with more than any model has."""

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_AGAIN = "Take the file from the model's publisher again, or correct it."


def check_model_files(path: Path) -> None:
    """Raise `ModelFileError` where a folder with a ``config.json``, or a ``.gguf`` file, is damaged or no model."""
    if path.suffix == ".gguf":
        check_gguf(path)
        return
    config = read_table(path / "config.json")
    parts = [config, *(part for key in ("text_config", "llm_config") if isinstance(part := config.get(key), Mapping))]
    for part in parts:
        _check_sizes(path / "config.json", part)
    if not (isinstance(config.get("model_type"), str) and config["model_type"]) and not config.get("auto_map"):
        raise wrong_entry(path / "config.json", "model_type", config.get("model_type"), 'a name such as "llama"')
    _check_token_ids(path / "config.json", config)
    if (path / "generation_config.json").is_file():
        _check_token_ids(path / "generation_config.json", read_table(path / "generation_config.json"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path / name).is_file():
            _check_special_tokens(path / name, read_table(path / name))
    _check_template(path / "chat_template.jinja")
    _check_weights(path, max(_layers(part) for part in parts))


def tokenizer_problem(folder: Path) -> str | None:
    """Return which file of a tokenizer is damaged, and how, after it could not be loaded; None where none can be named.

    Reads all of it, which takes a second for a large vocabulary.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            content = read_table(path)
        except ModelFileError as problem:
            return str(problem)
        if not isinstance(content.get("model"), dict) or not content["model"].get("vocab"):
            return f"{path} has no vocabulary. {_AGAIN}"
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(path))
        except BaseException as problem:  # its own: plain Exception, and a panic that is none
            if isinstance(problem, KeyboardInterrupt | SystemExit):
                raise
            return f"{path} is damaged: {one_line(str(problem), 200)}. {_AGAIN}"
    if (folder / "added_tokens.json").is_file():
        try:
            read_table(folder / "added_tokens.json")
        except ModelFileError as problem:
            return str(problem)
    return None


def read_table(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object. Raises `ModelFileError` where it does not."""
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise ModelFileError(f"{path} has {file_size(size)}, which is no configuration. {_AGAIN}")
        content = path.read_bytes()
        check_not_text(path, content[:200], "a configuration")
        found = json.loads(content)
    except OSError as problem:
        raise ModelFileError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except json.JSONDecodeError as problem:
        cut = " (it is empty)" if not content.strip() else ""
        raise ModelFileError(
            f"{path}, line {problem.lineno}: {problem.msg}{cut}, so it is not JSON. {_AGAIN}"
        ) from problem
    except UnicodeDecodeError as problem:
        raise ModelFileError(f"{path}: byte {problem.start:,} is not UTF-8, so it is not JSON. {_AGAIN}") from problem
    except (ValueError, RecursionError) as problem:  # a number of thousands of digits, or tables in tables in tables
        raise ModelFileError(f"{path} cannot be read: {one_line(str(problem))}. {_AGAIN}") from problem
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds {_kind(found)} where a table is expected. {_AGAIN}")
    return found


def _check_sizes(path: Path, config: Mapping[str, Any]) -> None:
    for key, most in _SIZES.items():
        value = config.get(key)
        listed, least = (value, 0) if isinstance(value, list) else ([value], 1)  # some models have one a layer
        for number in listed:
            if number is not None and (not is_whole(number) or not least <= number <= most):
                raise wrong_entry(path, key, value, f"a whole number from 1 to {most:,}")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if isinstance(hidden, int) and isinstance(heads, int) and heads > hidden:
        raise wrong_entry(path, "num_attention_heads", heads, f"at most hidden_size, which is {hidden:,}")


def _layers(config: Mapping[str, Any]) -> int:
    found = (config.get(key) for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"))
    return max((number for number in found if isinstance(number, int)), default=0)


def _check_token_ids(path: Path, content: Mapping[str, Any]) -> None:
    for key in _TOKEN_IDS:
        value = content.get(key)
        listed = value if isinstance(value, list) else [value]
        if not all(entry is None or is_whole(entry) for entry in listed):
            raise wrong_entry(path, key, value, "a whole number, or a list of them")


def _check_special_tokens(path: Path, content: Mapping[str, Any]) -> None:
    """Check the entries of a tokenizer's configuration that transformers believes."""

    def is_token(value: Any) -> bool:
        return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))

    for key in _SPECIAL_TOKENS:
        if content.get(key) is not None and not is_token(content[key]):
            raise wrong_entry(path, key, content[key], 'text such as "</s>"')
    checks: list[tuple[str, Callable[[Any], bool], str]] = [
        ("additional_special_tokens", lambda value: isinstance(value, list) and all(map(is_token, value)), "a list"),
        ("extra_special_tokens", lambda value: isinstance(value, list | dict), "a list or a table"),
        ("tokenizer_class", lambda value: isinstance(value, str), "a name"),
        ("chat_template", _is_template, "text, or a list of tables with name and template"),
        ("added_tokens_decoder", _is_decoder, "a table of token numbers and tables with content"),
        ("model_max_length", lambda value: isinstance(value, int | float) and value > 0, "a number above 0"),
    ]
    for key, is_right, kind in checks:
        if content.get(key) is not None and not is_right(content[key]):
            raise wrong_entry(path, key, content[key], kind)


def _is_template(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(text, str) for text in value.values())
    named = value if isinstance(value, list) else []
    texts = (one.get(key) if isinstance(one, dict) else None for one in named for key in ("name", "template"))
    return isinstance(value, str) or (bool(named) and all(isinstance(text, str) for text in texts))


def _is_decoder(value: Any) -> bool:
    return isinstance(value, dict) and all(
        number.isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str)
        for number, token in value.items()
    )


def _check_template(path: Path) -> None:
    if not path.is_file():
        return
    if (size := path.stat().st_size) > _LARGEST_TEMPLATE:
        raise ModelFileError(f"{path} has {file_size(size)}, which is no chat template. {_AGAIN}")
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ModelFileError(f"{path}: byte {problem.start:,} is not UTF-8. {_AGAIN}") from problem


def _check_weights(folder: Path, layers: int) -> None:
    """Check the folder's safetensors files, and that they can hold as many layers as the configuration says."""
    tensors = sum(tensors_in(path)[0] for path in weight_files(folder))
    if layers > tensors:
        raise ModelFileError(
            f"{folder / 'config.json'} says {layers:,} layers, and the weights have {tensors:,} tensors. {_AGAIN}"
        )


def elements_held(folder: Path) -> int:
    """Return how many numbers the weights of a model's folder hold."""
    return sum(tensors_in(path)[1] for path in weight_files(folder))


def weight_files(folder: Path) -> Iterator[Path]:
    """Yield the safetensors files of a model's folder. Raises `ModelFileError` where there are none, or one is gone."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        yield single
        return
    if not index.is_file():
        pickled = " Pickled weights (.bin, .pt) are not opened: they can run code." if _has_pickles(folder) else ""
        raise ModelFileError(f"{folder} holds no model.safetensors, so there are no weights to load.{pickled}")
    shards = read_table(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()) or not shards:
        raise wrong_entry(index, "weight_map", shards, "a table of tensors and the files that hold them")
    for name in sorted(set(shards.values())):
        path = folder / Path(name).name
        if not path.is_file():
            raise ModelFileError(f"{path} is missing: {index.name} says that it holds weights.")
        yield path


def _has_pickles(folder: Path) -> bool:
    return any(path.suffix in (".bin", ".pt", ".pth", ".ckpt") for path in folder.iterdir())


def is_whole(value: Any) -> bool:
    """Tell whether a value of a JSON file is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def wrong_entry(path: Path, key: str, value: Any, wanted: str) -> ModelFileError:
    """Return the error for an entry of a JSON file that is `value` and must be `wanted`."""
    shown = one_line(json.dumps(value, ensure_ascii=False, default=str), 60)
    return ModelFileError(f"{path}: {key} is {shown}, and must be {wanted}. {_AGAIN}")
