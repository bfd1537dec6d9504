"""``--format gguf`` and ``gguf-lora``: files that llama.cpp and Ollama read, and that say what the model says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lora_tui.config.models import Lora
from lora_tui.engine.data.template_renderer import render_chat
from lora_tui.engine.evaluation.own_prompts import template_renderer
from lora_tui.engine.export import gguf_file
from lora_tui.engine.export.gguf_layout import GgufLayout
from lora_tui.engine.export.gguf_proof import ten_prompts
from lora_tui.engine.export.modelfile import PLAIN_CHAT_TEMPLATE, go_template, modelfile
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.training.checkpoint import save_adapter
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.errors import UsageError
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import make_tokenizer

torch.set_num_threads(1)

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA = {"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 32}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama, tied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama 3": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": _LLAMA3}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
    "gemma 2": (Gemma2Config, Gemma2ForCausalLM, _GEMMA),
    "gemma 3": (Gemma3TextConfig, Gemma3ForCausalLM, _GEMMA),
}


def save_family(family: str, folder: Path) -> Path:
    """Save a tiny random model of a family, with norms and biases that matter."""
    kind, model_class, changes = FAMILIES[family]
    tokenizer = make_tokenizer()
    entries = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = model_class(kind(**{**entries, **changes}))
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def save_random_adapter(base: Any, folder: Path, **options: Any) -> Path:
    made = create_lora_model(base.model, Lora(r=4, target_modules="all-linear", **options))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    save_adapter(made, folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["gguf", "gguf-lora"])
def test_every_family_is_written_as_it_is(
    engine_harness: EngineHarness, tmp_path: Path, family: str, form: str
) -> None:
    changes = {"fine_tuning.model_name": str(save_family(family, tmp_path / "base"))}
    base = load_base(engine_harness.settings.model_copy(deep=True), lambda *_: None, changes["fine_tuning.model_name"])
    adapter = save_random_adapter(base, tmp_path / "adapter", rank_pattern={"q_proj": 2}, use_rslora=True)
    options = {"format": form, "output": str(tmp_path / "out"), "adapter": str(adapter)}
    outcome = engine_harness.run("export", options | ({"quantize": "f32"} if form == "gguf" else {}), changes)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["largest_logit_difference"] < 1e-4
    assert outcome.result["logit_spread"] > 0.1
    assert (outcome.result["prompts_compared"], outcome.result["same_answers"]) == (10, 10)


@pytest.mark.parametrize(("form", "most"), [("f16", 1e-2), ("bf16", 8e-2), ("q8_0", 0.2)])
def test_numbers_are_rounded_as_the_form_says(trained: Trained, tmp_path: Path, form: str, most: float) -> None:
    options = {"format": "gguf", "quantize": form, "output": str(tmp_path / "out")}
    outcome = trained.engine_harness.run("export", options)
    assert outcome.state == "finished", outcome.error
    result = outcome.result
    assert 1e-5 < result["largest_logit_difference"] < most * result["logit_spread"]
    reader = GGUFReader(tmp_path / "out" / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == form
    assert kinds["output_norm.weight"] == "f32"
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{result['largest_logit_difference']:.3g}" in card
    assert f"{result['same_answers']} of 10" in card


def test_the_file_holds_tokenizer_template_and_ends(trained: Trained, tmp_path: Path) -> None:
    outcome = trained.engine_harness.run("export", {"format": "gguf", "output": str(tmp_path / "out")})
    assert outcome.state == "finished", outcome.error
    fields = {name: field.contents() for name, field in GGUFReader(tmp_path / "out" / "model.gguf").fields.items()}
    tokenizer = make_tokenizer()
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.chat_template"] == PLAIN_CHAT_TEMPLATE, "it was trained on questions and answers as text"
    ollama = (tmp_path / "out" / "Modelfile").read_text()
    assert ollama.startswith('FROM ./model.gguf\nTEMPLATE """Question: {{ .Prompt }}\nAnswer:"""\n')
    assert 'PARAMETER stop "<|im_end|>"' in ollama
    assert "PARAMETER temperature 0\n" in ollama
    answer = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    assert answer.config.vocab_size == len(tokenizer)


def test_a_file_that_says_something_else_is_not_kept(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GgufLayout, "laid_out", lambda self, name, weight: weight)  # the halves stay where they are
    for form in ("gguf", "gguf-lora"):
        outcome = trained.engine_harness.run("export", {"format": form, "output": str(tmp_path / "out")})
        assert outcome.state == "failed"
        assert outcome.error is not None
        assert "differ" in outcome.error
        assert "nothing was written" in outcome.error
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_found_out(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_merges(writer: Any, tokenizer: Any, size: int, ends: Any) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(
            writer, "add_token_merges", lambda merges: type(writer).add_token_merges(writer, merges[:9])
        )
        gguf_file.write_vocabulary(writer, tokenizer, size, ends)

    monkeypatch.setattr(gguf_file, "write_vocabulary", without_merges)
    outcome = trained.engine_harness.run("export", {"format": "gguf", "output": str(tmp_path / "out")})
    assert outcome.state == "failed"
    assert outcome.error is not None
    assert "tokenizer reads" in outcome.error
    assert not (tmp_path / "out").exists()


def test_what_llama_cpp_has_no_place_for_is_refused(engine_harness: EngineHarness, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "gpt2")
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt2"
    )
    base = load_base(engine_harness.settings, lambda *_: None, str(tmp_path / "gpt2"))
    adapter = save_random_adapter(base, tmp_path / "adapter")
    changes = {"fine_tuning.model_name": str(tmp_path / "gpt2")}
    options = {"format": "gguf", "output": str(tmp_path / "out"), "adapter": str(adapter)}
    outcome = engine_harness.run("export", options, changes)
    assert (outcome.state, outcome.exit_status) == ("failed", 2)
    assert outcome.error is not None
    assert "models of type gpt2" in outcome.error
    assert "--format merged" in outcome.error


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act = silu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("qwen2", {"use_sliding_window": True}, "whole text"),
        ("gemma 2", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar = 32"),
        ("gemma 3", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar = 32"),
        ("gemma 3", {"layer_types": ["full_attention", "sliding_attention"]}, "every 6. layer"),
    ],
)
def test_what_the_file_cannot_say_is_refused(family: str, changes: dict[str, Any], said: str) -> None:
    kind, _, own = FAMILIES[family]
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    GgufLayout(kind(**{**sizes, **own}))
    with pytest.raises(UsageError, match=said):
        GgufLayout(kind(**{**sizes, **own, **changes}))


@pytest.mark.parametrize("option", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_an_adapter_that_only_merging_can_write(
    engine_harness: EngineHarness, untied_folder: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    changes = {"fine_tuning.model_name": str(untied_folder)}
    base = load_base(engine_harness.settings, lambda *_: None, str(untied_folder))
    adapter = str(save_random_adapter(base, tmp_path / "adapter", **option))
    alone = engine_harness.run(
        "export", {"format": "gguf-lora", "output": str(tmp_path / "a"), "adapter": adapter}, changes
    )
    assert (alone.state, alone.exit_status) == ("failed", 2)
    merged = engine_harness.run(
        "export", {"format": "gguf", "output": str(tmp_path / "b"), "adapter": adapter}, changes
    )
    assert merged.state == "finished", merged.error
    assert merged.result["same_answers"] == 10


def test_number_forms_of_llama_cpp_need_its_tool(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"format": "gguf", "quantize": "Q4_K_M", "output": str(tmp_path / "out")}
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = trained.engine_harness.run("export", options)
    assert (outcome.state, outcome.exit_status) == ("failed", 2)
    assert outcome.error is not None
    assert "llama-quantize on the PATH" in outcome.error
    tool = tmp_path / "llama-quantize"
    tool.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && /bin/cp "$1" "$2"\n')
    tool.chmod(0o755)
    outcome = trained.engine_harness.run("export", options)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["number_form"] == "q4_k_m"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "README.md", "model.gguf"]
    tool.write_text("#!/bin/sh\necho main: failed to quantize >&2\nexit 1\n")
    outcome = trained.engine_harness.run("export", {**options, "output": str(tmp_path / "other")})
    assert outcome.error is not None
    assert "failed to quantize" in outcome.error
    assert not (tmp_path / "other").exists()


def _as_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go makes of the forms that `go_template` writes."""
    head, body = template.removeprefix("{{- range $i, $message := .Messages }}").rsplit("{{- end }}{{- end }}", 1)
    parts = {}
    for part in head.split("{{- if eq $message.Role ")[1:]:
        for branch in part.split("{{- else if eq $message.Role "):
            role, _, text = branch.partition(" }}")
            parts[json.loads(role)] = text

    def literal(text: str) -> str:
        text = text.strip()
        return json.loads(text.removeprefix("{{").removesuffix("}}")) if text else ""

    written = ""
    for number, message in enumerate(messages):
        before = parts[message["role"]].removesuffix("{{ $message.Content }}")
        if message["role"] == "user":
            first, other = before.removeprefix("{{ if eq $i 0 }}").removesuffix("{{ end }}").split("{{ else }}")
            before = first if number == 0 else other
        written += literal(before) + message["content"]
    return written + literal(body)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_ollamas_template_writes_what_the_models_own_writes(adds_bos: bool) -> None:
    tokenizer = make_tokenizer(adds_bos=adds_bos)
    render = template_renderer(tokenizer)
    assert render is not None
    template = go_template(render)
    assert template is not None
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "who wrote hamlet?"}
    reply, more = {"role": "assistant", "content": "william"}, {"role": "user", "content": 'and "macbeth"?\n'}
    for messages in ([user], [system, user], [user, reply, more], [system, user, reply, more, reply, user]):
        assert _as_go(template, messages) == render_chat(tokenizer, messages, generation_prompt=True)


@pytest.mark.parametrize(
    "render",
    [
        lambda messages: "".join(message["content"] for message in messages[-1:]),
        lambda messages: f"{len(messages)}" + "|".join(message["content"] for message in messages),
        lambda messages: "{{" + "{{".join(message["content"] for message in messages),
    ],
)
def test_a_template_that_go_could_not_follow_is_left_to_ollama(render: Callable[[list[dict[str, Any]]], str]) -> None:
    assert go_template(render) is None
    assert modelfile("model.gguf", render, [], {}).startswith("FROM ./model.gguf\n# No TEMPLATE")


def test_ten_prompts_are_asked_the_runs_own_first() -> None:
    assert ten_prompts(["a", "b", "a"])[:2] == ("a", "b")
    assert len(ten_prompts([])) == len(ten_prompts([str(number) for number in range(40)])) == 10
