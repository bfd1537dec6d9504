"""The fast form of a model computes what transformers computes, for each family, with adapters and without."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
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

from lora_tui.engine.inference.beams import BeamSearch, beams_are_known, configured_beams
from lora_tui.engine.inference.decode import answers, beam_search, decode
from lora_tui.engine.inference.fast_model import FastModel, active_adapter, fast_model, forget
from lora_tui.engine.inference.key_values import PromptAttention, Span, StepAttention
from lora_tui.engine.inference.matrices import JoinedLinear, RowAdapters
from lora_tui.engine.inference.readers import FastReader, TransformersReader
from lora_tui.protocol.reply import Decoding
from tests.engine.compiled import needs_compiler
from tests.engine.tiny import make_tokenizer

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 512,
}
SCALED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

FAMILIES: dict[str, Callable[[int], Any]] = {
    "llama": lambda words: LlamaForCausalLM(LlamaConfig(vocab_size=words, tie_word_embeddings=True, **SIZES)),
    "llama, biases, scaled positions": lambda words: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={**SCALED, "original_max_position_embeddings": 64},
            **SIZES,
        )
    ),
    "mistral": lambda words: MistralForCausalLM(
        MistralConfig(vocab_size=words, sliding_window=None, head_dim=32, **SIZES)
    ),
    "qwen2": lambda words: Qwen2ForCausalLM(Qwen2Config(vocab_size=words, **SIZES)),
    "qwen3": lambda words: Qwen3ForCausalLM(Qwen3Config(vocab_size=words, head_dim=32, **SIZES)),
}
PROMPTS = [
    "Question: unlock\nAnswer:",
    "eight",
    "Question: what is the capital of france, and why?\nAnswer:",
    "a b a b",
]


@pytest.fixture(scope="module")
def words() -> Any:
    return make_tokenizer()


def make(family: str, words: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A random model of a family; its norms and biases are not what a new model's are, where nothing would show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family](len(words)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    model.generation_config.pad_token_id = words.pad_token_id
    return model.to(dtype)


def adapted(model: Any, targets: str | list[str] = "all-linear", name: str = "default") -> Any:
    """The model with an adapter that says something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets), adapter_name=name).eval()
        with torch.no_grad():
            for parameter_name, parameter in peft.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=0.3)
    return peft


def fast_of(model: Any) -> FastModel:
    found = fast_model(model)
    assert isinstance(found, FastModel), found
    return found


def ours(model: Any, words: Any, prompts: list[str], decoding: Decoding) -> list[list[int]]:
    """What `decode` yields, by prompt."""
    steps = list(decode(model, words, prompts, decoding))
    return [[token for step in steps if (token := step[row]) is not None] for row in range(len(prompts))]


def theirs(model: Any, words: Any, prompt: str, tokens: int, **options: Any) -> list[int]:
    encoded = words(prompt, return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": words.pad_token_id, **options}
    written = model.generate(**encoded, eos_token_id=words.eos_token_id, **options)
    ids: list[int] = written[0, encoded["input_ids"].shape[1] :].tolist()
    return ids[: ids.index(words.eos_token_id)] if words.eos_token_id in ids else ids


@torch.inference_mode()
def all_scores(fast: FastModel, ids: list[int], adapters: RowAdapters, parts: list[int]) -> torch.Tensor:
    """The scores after each token, read in parts of these lengths; parts of 1 go through a step."""
    cache, before, found = fast.new_cache(), 0, list[torch.Tensor]()
    for length in parts:
        cache.reserve(1, before + length)
        tokens, positions = torch.tensor(ids[before : before + length]), torch.arange(before, before + length)
        attention = (
            StepAttention(cache, [before], fast.scaling)
            if length == 1
            else PromptAttention(cache, [Span(0, 0, length, before)], fast.scaling)
        )
        found.append(fast.logits(fast.hidden(tokens, positions, attention, adapters), adapters))
        before += length
    return torch.cat(found)


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "adapter"])
def test_scores_are_transformers_own_however_a_prompt_is_read(words: Any, family: str, with_adapter: bool) -> None:
    model = make(family, words)
    model = adapted(model) if with_adapter else model
    ids = words("Question: what is the capital of france, and why is it not another one?")["input_ids"]
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0]
    fast, adapters = fast_of(model), RowAdapters(everywhere=active_adapter(model))
    assert fast._steps is not None, "there is no compiled code"
    for steps in (fast._steps, None):
        fast._steps = steps
        for parts in ([len(ids)], [1] * len(ids), [5, 1, 1, len(ids) - 7]):
            assert torch.allclose(all_scores(fast, ids, adapters, parts), wanted, atol=2e-5), (parts, steps)
    with torch.inference_mode():
        assert torch.allclose(model(torch.tensor([ids])).logits[0], wanted, atol=1e-6), "its own forward is as it was"


def test_bfloat16_is_as_near_to_the_truth_as_transformers(words: Any) -> None:
    exact = make("llama", words)
    rounded = make("llama", words, torch.bfloat16)
    exact.load_state_dict({name: tensor.float() for name, tensor in rounded.state_dict().items()})
    ids = words("Question: what is the capital of france?")["input_ids"]
    with torch.inference_mode():
        truth, wanted = exact(torch.tensor([ids])).logits[0], rounded(torch.tensor([ids])).logits[0].float()
    fast = fast_of(rounded)
    for steps, parts in ((fast._steps, [1] * len(ids)), (None, [len(ids)]), (None, [1] * len(ids))):
        fast._steps = steps
        error = (all_scores(fast, ids, RowAdapters(), parts) - truth).square().mean().sqrt()
        assert error < 1.2 * (wanted - truth).square().mean().sqrt()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_batched_and_continuous_decoding_say_what_transformers_says(words: Any, family: str) -> None:
    model = adapted(make(family, words), ["q_proj", "v_proj", "down_proj"])
    wanted = [theirs(model, words, prompt, 16) for prompt in PROMPTS]
    assert ours(model, words, PROMPTS, Decoding(max_new_tokens=16)) == wanted
    assert [ours(model, words, [prompt], Decoding(max_new_tokens=16))[0] for prompt in PROMPTS] == wanted
    texts = [words.decode(ids, skip_special_tokens=True).strip() for ids in wanted]
    assert answers(model, words, PROMPTS * 12, Decoding(max_new_tokens=16)) == texts * 12, "more than run at once"


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("beams", [2, 5])
def test_beams_find_what_transformers_finds(words: Any, beams: int, penalty: float) -> None:
    model = adapted(make("llama", words), ["q_proj", "v_proj"])
    decoding = Decoding(max_new_tokens=14, num_beams=beams, repetition_penalty=penalty)
    for prompt in PROMPTS:
        wanted = theirs(model, words, prompt, 14, num_beams=beams, repetition_penalty=penalty)
        assert beam_search(model, words, prompt, decoding, lambda: False) == wanted


@pytest.mark.parametrize("stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_finished_beams_are_weighed_as_transformers_weighs_them(
    words: Any, stopping: bool | str, length_penalty: float
) -> None:
    model = make("llama", words)
    with torch.no_grad():  # an end that is likely enough to be found at different lengths
        model.lm_head.weight[words.eos_token_id] += model.lm_head.weight[:200].mean(0) * 4
    options = {"length_penalty": length_penalty, "early_stopping": stopping}
    model.generation_config.update(**options)
    assert beams_are_known(model)
    found = [
        beam_search(model, words, prompt, Decoding(max_new_tokens=20, num_beams=4), lambda: False) for prompt in PROMPTS
    ]
    assert found == [theirs(model, words, prompt, 20, num_beams=4, **options) for prompt in PROMPTS]


def test_a_search_that_is_stopped_has_the_best_so_far(words: Any) -> None:
    model = make("llama", words)
    steps: list[int] = []
    decoding = Decoding(max_new_tokens=20, num_beams=3)
    found = beam_search(model, words, PROMPTS[0], decoding, lambda: len(steps) == 4, steps.append)
    assert len(steps) == 5
    assert found == theirs(model, words, PROMPTS[0], 5, num_beams=3)


def test_unusual_options_of_a_generation_configuration_go_to_transformers(words: Any) -> None:
    model = make("llama", words)
    model.generation_config.no_repeat_ngram_size = 2
    assert not beams_are_known(model)
    found = beam_search(model, words, PROMPTS[0], Decoding(max_new_tokens=12, num_beams=3), lambda: False)
    assert found == theirs(model, words, PROMPTS[0], 12, num_beams=3, no_repeat_ngram_size=2)


def test_the_beams_share_their_prompt(words: Any) -> None:
    model = make("llama", words)
    fast = fast_of(model)
    sizes: list[tuple[int, int]] = []
    plain = FastModel.new_cache

    class Counted(FastModel):
        def new_cache(self) -> Any:
            cache = plain(self)
            reserve = cache.reserve

            def counted(places: int, tokens: int) -> None:
                sizes.append((places, tokens))
                reserve(places, tokens)

            cache.reserve = counted  # type: ignore[method-assign]  # to see what is asked of it
            return cache

    fast.__class__ = Counted
    ids = words(PROMPTS[2])["input_ids"]
    BeamSearch(fast, None, ids, frozenset(), Decoding(num_beams=4), 6, configured_beams(model)).run(
        lambda: False, lambda step: None
    )
    assert (1, len(ids)) in sizes, "the prompt lies there once"
    assert max(tokens for places, tokens in sizes if places == 4) == 5, "a beam holds what it has written alone"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_reading_ahead_changes_nothing(words: Any, seed: int, temperature: float) -> None:
    """Text that repeats itself is read several tokens at once; every score is the one that reading singly gives."""
    model = make("qwen2", words)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        part = torch.randint(5, len(words), (9,)).tolist()
        scattered = torch.randint(5, len(words), (24,)).tolist()
    prompt = [*part, *scattered[:6], *part[:4]]
    follow = [*part[4:], *scattered[6:12], *part, scattered[12], *part[:3], *scattered]
    with torch.inference_mode():
        ahead, singly = FastReader(fast_of(model), [prompt], None), TransformersReader(model, words, [prompt])
        chosen = None
        for token in follow:
            assert torch.allclose(ahead.scores(chosen), singly.scores(chosen), atol=2e-5)
            chosen = torch.tensor([token])
    decoding = Decoding(max_new_tokens=40, temperature=temperature, seed=seed)
    text = words.decode(prompt)
    fast = ours(model, words, [text], decoding)
    model.register_forward_hook(lambda *_: None)
    model.model.layers[0].register_forward_hook(lambda *_: None)
    assert isinstance(fast_model(model), str)
    assert ours(model, words, [text], decoding) == fast


def test_reading_ahead_saves_passes(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama", words)
    passes: list[int] = []
    plain = FastModel.hidden

    def counted(self: FastModel, tokens: Any, *rest: Any) -> Any:
        passes.append(len(tokens))
        return plain(self, tokens, *rest)

    monkeypatch.setattr(FastModel, "hidden", counted)
    part = list(range(10, 30))
    with torch.inference_mode():
        reader = FastReader(fast_of(model), [[*part, 7]], None)
        reader.scores(None)
        for token in part:
            reader.scores(torch.tensor([token]))
    assert len(passes) < 12, "20 tokens that have stood there before"


def test_adapters_are_taken_as_they_are_when_decoding_begins(words: Any) -> None:
    base = make("llama", words)
    plain = ours(base, words, PROMPTS[:1], Decoding(max_new_tokens=8))
    model = adapted(base)
    first = ours(model, words, PROMPTS[:1], Decoding(max_new_tokens=8))
    assert first == [theirs(model, words, PROMPTS[0], 8)] != plain
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3.0)
    trained_on = ours(model, words, PROMPTS[:1], Decoding(max_new_tokens=8))
    assert trained_on == [theirs(model, words, PROMPTS[0], 8)] != first
    with model.disable_adapter():
        assert ours(model, words, PROMPTS[:1], Decoding(max_new_tokens=8)) == plain


def test_what_is_forgotten_is_made_again(words: Any) -> None:
    model = adapted(make("llama", words, torch.bfloat16))
    first = fast_of(model)
    assert fast_of(model) is first
    forget(model)
    assert fast_of(model) is not first


def test_changed_weights_are_noticed(words: Any) -> None:
    model = adapted(make("llama", words, torch.bfloat16))
    before = ours(model, words, PROMPTS[:1], Decoding(max_new_tokens=8))
    merged = model.merge_and_unload()
    with torch.no_grad():
        merged.model.layers[1].mlp.down_proj.weight.mul_(-2.0)
    assert ours(merged, words, PROMPTS[:1], Decoding(max_new_tokens=8)) != before


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_are_nearer_than_four(words: Any, dtype: torch.dtype) -> None:
    model = adapted(make("qwen2", words, dtype), ["q_proj", "v_proj"])
    ids = 2 * words("Question: what is the capital of france, and why?")["input_ids"]
    fast, adapters = fast_of(model), RowAdapters(everywhere="default")
    exact = all_scores(fast, ids, adapters, [1] * len(ids))
    with torch.no_grad():
        rough = make("qwen2", words, dtype)
        for parameter in rough.parameters():
            if parameter.ndim == 2:
                scale = parameter.abs().amax(1, keepdim=True) / 7
                parameter.copy_((parameter / scale).round() * scale)
    four_bits = all_scores(fast_of(adapted(rough, ["q_proj", "v_proj"])), ids, adapters, [1] * len(ids))
    fast.read_int8()
    assert fast._steps is not None
    assert len(ids) > fast._steps.most_rows
    eight_bits = all_scores(fast, ids, adapters, [1] * len(ids))
    error = (eight_bits - exact).square().mean()
    assert 0.0 < error < 0.05 * (four_bits - exact).square().mean()
    whole = all_scores(fast, ids, adapters, [len(ids)])
    assert torch.allclose(whole, exact, atol=2e-5 if dtype == torch.float32 else 0.3), "prompts are read as before"


def test_what_is_not_known_is_left_to_transformers(words: Any) -> None:
    with torch.random.fork_rng():
        other = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=2)).eval()
    assert fast_model(other) == "another architecture (GPT2LMHeadModel)"
    dora = get_peft_model(make("llama", words), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    assert fast_model(dora) == "an adapter of another form than plain LoRA"
    whole = get_peft_model(
        make("llama", words), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    assert fast_model(whole) == "layers that are trained whole"
    for model in (dora.eval(), whole.eval()):
        assert ours(model, words, PROMPTS[:1], Decoding(max_new_tokens=6)) == [theirs(model, words, PROMPTS[0], 6)]


def test_a_window_is_not_passed(words: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(vocab_size=len(words), sliding_window=12, **SIZES)).eval()
    assert fast_of(model).max_tokens == 12
    assert ours(model, words, ["eight"], Decoding(max_new_tokens=30)) == [theirs(model, words, "eight", 30)]


def test_layers_that_share_an_input_are_one_product_in_the_same_memory() -> None:
    layers = [torch.nn.Linear(16, size, bias=size == 8) for size in (24, 8, 8)]
    x = torch.randn(3, 16)
    with torch.no_grad():
        wanted = torch.cat([layer(x) for layer in layers], dim=1)
        joined = JoinedLinear(layers)
        assert torch.allclose(joined(x), wanted, atol=1e-6)
        assert torch.allclose(joined(x[:1]), wanted[:1], atol=1e-6)
        assert torch.allclose(torch.cat([layer(x) for layer in layers], dim=1), wanted, atol=1e-6)
    storages = {layer.weight.untyped_storage().data_ptr() for layer in layers}
    assert len(storages) == 1, "nothing is there twice"
    loss = layers[0](x).sum()
    loss.backward()
    assert layers[0].weight.grad is not None, "they can still be trained"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_processor_without_half_precision_computes_unpacked_weights(
    words: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def refuse(*_: Any) -> torch.Tensor:
        raise RuntimeError("needs the cpu support avx512bw")  # what oneDNN says on AVX2 alone

    for name in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    model = make("llama", words, dtype)
    fast = fast_of(model)
    ids = words(PROMPTS[0])["input_ids"]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].float()
    assert (all_scores(fast, ids, RowAdapters(), [len(ids)]) - expected).abs().max() < 0.2


def test_a_model_that_was_given_another_precision_is_read_anew(words: Any) -> None:
    model = make("llama", words, torch.bfloat16)
    fast_of(model)
    model.float()
    assert ours(model, words, PROMPTS[:1], Decoding(max_new_tokens=8)) == [theirs(model, words, PROMPTS[0], 8)]


def test_packed_copies_leave_half_of_the_free_memory_all_together(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = list[int]()
    pack = torch.ops.mkldnn._reorder_linear_weight

    def counted(weight: torch.Tensor, rows: int) -> torch.Tensor:
        packed.append(weight.numel() * weight.element_size())
        return pack(weight, rows)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", counted)
    monkeypatch.setattr("lora_tui.engine.inference.matrices.free_memory", lambda: 60_000 - sum(packed))
    model = make("llama", words, torch.bfloat16)
    fast = fast_of(model)
    assert not packed, "compiled code reads the weights where they are"
    fast._steps = None
    ids = words(PROMPTS[0])["input_ids"]
    all_scores(fast, ids, RowAdapters(), [len(ids)])
    assert 0 < sum(packed) <= 30_000
    assert len(ours(model, words, PROMPTS, Decoding(max_new_tokens=3))) == len(PROMPTS)
