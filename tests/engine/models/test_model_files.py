"""Damaged and foreign models: each is told by its file and what is wrong with it, in one or two lines."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.inference.decode import answers
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.models.hub_info import check_source
from lora_tui.engine.models.loaded_checks import check_weights
from lora_tui.engine.models.weight_files import ModelFileError, check_gguf, tensors_in
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.reply import Decoding
from tests.engine.loaded_models import quiet
from tests.engine.tiny import tiny_settings


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of a sound model, to be damaged."""
    return Path(shutil.copytree(base_folder, tmp_path / "m"))


def load(folder: Path) -> BaseModel:
    return load_base(tiny_settings({"model_name": str(folder)}), quiet)


def change(file: str, **entries: Any) -> Callable[[Path], None]:
    """A damage: entries of a JSON file are others."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return damage


def write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


BEFORE_TORCH = [
    (change("config.json", hidden_size=-1), "config.json: hidden_size is -1, and must be a whole number"),
    (change("config.json", num_attention_heads="x"), 'config.json: num_attention_heads is "x"'),
    (change("config.json", num_hidden_layers=10**9), "config.json: num_hidden_layers is 1000000000"),
    (change("config.json", num_hidden_layers=5_000), "config.json says 5,000 layers, and the weights have"),
    (change("config.json", eos_token_id=[1, "x"]), "config.json: eos_token_id"),
    (change("config.json", model_type=""), "config.json: model_type"),
    (write("config.json", b"[1]"), "config.json holds a list where a table is expected"),
    (write("config.json", b""), "config.json, line 1: .*it is empty"),
    (write("config.json", b'{"a": "\xff"}'), "config.json: byte 7 is not UTF-8"),
    (write("config.json", b'{"a": ' * 100_000), "config.json.*(cannot be read|not JSON)"),
    (change("tokenizer_config.json", bos_token=10**12), "tokenizer_config.json: bos_token is 1000000000000"),
    (change("tokenizer_config.json", chat_template=7), "tokenizer_config.json: chat_template is 7"),
    (change("tokenizer_config.json", tokenizer_class=[]), r"tokenizer_config.json: tokenizer_class is \[\]"),
    (write("chat_template.jinja", b"\xff\xfe"), "chat_template.jinja: byte 0 is not UTF-8"),
    (write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    (write("model.safetensors", b"<!DOCTYPE html><html>404"), "a web page that was saved in its place"),
    (write("model.safetensors", b"\x10\0\0\0\0\0\0\0not a table.....more"), "its table of tensors cannot be read"),
]


@pytest.mark.parametrize(("damage", "told"), BEFORE_TORCH)
def test_what_can_be_seen_is_told_before_anything_is_loaded(
    folder: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(folder)
    with pytest.raises(ModelFileError, match=told) as caught:
        check_source(str(folder))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=r"model-00002-of-00002.safetensors is missing"):
        check_source(str(folder))


WHILE_LOADING = [
    (change("tokenizer.json", version=-1), "tokenizer.json is damaged: invalid type"),
    (change("tokenizer.json", model=None), "tokenizer.json has no vocabulary"),
    (change("config.json", rms_norm_eps="x"), "config.json: .*rms_norm_eps"),
    (change("config.json", num_hidden_layers=3), "lacks 9 tensors of its model, such as model.layers.2"),
    (change("config.json", num_key_value_heads=4), "something in config.json or its safetensors files is wrong"),
    (change("config.json", vocab_size=10**7), r"describes a model of [\d,]+ numbers, and the weights hold"),
    (change("config.json", intermediate_size=10**7), r"describes a model of [\d,]+ numbers, and the weights hold"),
    (change("config.json", model_type="unheard-of"), "config.json: .*unheard-of"),
    (change("config.json", rms_norm_eps=-1e9), "config.json or .* what it computes are no numbers"),
]


@pytest.mark.parametrize(("damage", "told"), WHILE_LOADING)
def test_what_the_libraries_raise_is_told_with_the_file(
    folder: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(folder)
    with pytest.raises(LoraTuiError, match=told) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoraTuiError, match=r"is damaged: model.layers.0.mlp.up_proj.weight holds values"):
        load(folder)


def test_weights_in_eight_bits_are_checked_too(folder: Path) -> None:
    model = load(folder).model
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    check_weights(model, (), "m")
    layer.weight = torch.nn.Parameter(torch.full_like(layer.weight.float(), torch.nan).to(torch.float8_e4m3fn), False)
    with pytest.raises(LoraTuiError, match="holds values that are no numbers"):
        check_weights(model, (), "m")


def add_tokens(folder: Path, *tokens: str, **special: str) -> None:
    """Add tokens to a model's tokenizer, as people do, and leave the model as it is."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)


def test_a_padding_token_beyond_the_embedding_is_replaced(folder: Path) -> None:
    add_tokens(folder, pad_token="[PAD]")
    base = load(folder)
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
    greedy = Decoding(max_new_tokens=3, num_beams=1)
    assert len(answers(base.model, base.tokenizer, ["Question: a\nAnswer:", "b"], greedy)) == 2


def test_a_token_beyond_the_embedding_is_named_where_it_is_read(folder: Path) -> None:
    add_tokens(folder, "harbour")
    base = load(folder)
    greedy = Decoding(max_new_tokens=3, num_beams=1)
    assert answers(base.model, base.tokenizer, ["Question: sea"], greedy)
    with pytest.raises(LoraTuiError, match=r'cannot read this text: "harbour" is token \d+, and the model knows \d+'):
        answers(base.model, base.tokenizer, ["Question: harbour"], greedy)


def test_an_end_token_beyond_the_embedding_is_refused(folder: Path) -> None:
    add_tokens(folder, eos_token="[END]")
    with pytest.raises(LoraTuiError, match=r"the end-of-sequence token \[END\] is number"):
        load(folder)


def gguf(*, entries: bytes = b"", count: int = 0, tensors: int = 1, tail: bytes = b"", version: int = 3) -> bytes:
    """The bytes of a GGUF file with one float32 tensor of four elements."""
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, count) + entries
    head += struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 0, 0)
    return head + b"\0" * (-len(head) % 32) + tail


def entry(key: str, number: int) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<II", 4, number)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"GGUF", "damaged or cut off: it has 4 B"),
        (b"PK\x03\x04 a zip file", "is no GGUF file"),
        (gguf(tail=b"\0" * 15), "damaged or cut off: it has 79 B, and its tensors need 80 B"),
        (gguf(version=1), "this is version 1"),
        (gguf(version=3 << 24), "the byte order of other machines"),
        (gguf(tensors=2**60), "1,152,921,504,606,846,976 entries"),
        (gguf(tensors=0), "it holds no tensor"),
        (gguf(count=1, entries=entry("llama.block_count", 2**31)), "the sizes that it tells do not fit its 1 tensors"),
        (gguf(count=1, entries=entry("llama.vocab_size", 2**31)), "the sizes that it tells do not fit"),
        (gguf(count=1, entries=struct.pack("<Q", 2**62)), "its head is longer than the file"),
        (gguf(count=1, entries=struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 2**60)), "longer than the file"),
        (gguf(count=1, entries=struct.pack("<Q", 1) + b"a" + struct.pack("<I", 99)), r"kind that is not known \(99\)"),
    ],
)
def test_a_damaged_gguf_file_is_told_by_what_is_wrong(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=told) as caught:
        check_gguf(path)
    assert str(path) in str(caught.value)


def test_a_whole_gguf_file_passes(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf(tail=b"\0" * 16))
    check_gguf(tmp_path / "x.gguf")


@pytest.mark.parametrize("cut", [0, 4, 9, 500, -1])
def test_a_cut_safetensors_file_is_told(base_folder: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((base_folder / "model.safetensors").read_bytes()[:cut])
    with pytest.raises(ModelFileError, match=r"w.safetensors is damaged"):
        tensors_in(path)
