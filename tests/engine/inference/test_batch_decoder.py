"""Continuous batching: whatever comes, goes and is hung up beside it, a sequence says what it says alone."""

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import MistralConfig, MistralForCausalLM

from lora_tui.engine.inference import batch_decoder
from lora_tui.engine.inference.batch_decoder import BatchDecoder, make_decoder
from lora_tui.engine.inference.fast_model import FastModel, fast_model
from lora_tui.engine.inference.sequences import DecodedToken, SequenceRequest
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.protocol.reply import Decoding
from tests.engine.inference.test_fast_model import PROMPTS, SIZES, adapted, make, theirs
from tests.engine.tiny import make_tokenizer

ENDS = frozenset({40, 41, 42})


@pytest.fixture(scope="module")
def model() -> Any:
    words = make_tokenizer()
    peft = adapted(make("llama", words), ["q_proj", "v_proj", "down_proj"], "first")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        peft.add_adapter("second", LoraConfig(r=2, lora_alpha=8, target_modules=["k_proj", "gate_proj"]))
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if "lora_B.second" in name:
                    parameter.normal_(std=0.4)
    return peft.eval()


def fast_of(model: Any) -> FastModel:
    found = fast_model(model)
    assert isinstance(found, FastModel), found
    return found


def requests(draw: random.Random, count: int) -> list[SequenceRequest]:
    return [
        SequenceRequest(
            [draw.randrange(50, 400) for _ in range(draw.randint(1, 30))],
            Decoding(
                max_new_tokens=draw.randint(1, 18),
                temperature=draw.choice([0.0, 0.0, 0.9]),
                top_p=draw.choice([1.0, 0.8]),
                repetition_penalty=draw.choice([1.0, 1.3]),
                seed=draw.randrange(100),
            ),
            draw.choice([None, "first", "second"]),
            draw.choice([None, 3]),
        )
        for _ in range(count)
    ]


def alone(model: Any, request: SequenceRequest) -> list[DecodedToken]:
    decoder = BatchDecoder(fast_of(model), ENDS)
    decoder.add(request)
    told = []
    while decoder.running or decoder.waiting:
        told += decoder.step()
    return told


def rounded(told: DecodedToken) -> tuple[Any, ...]:
    top = [(token, pytest.approx(score, abs=1e-4)) for token, score in told.top]
    return told.token, told.ended, told.logprob and pytest.approx(told.logprob, abs=1e-4), top


@pytest.mark.parametrize("seed", range(12))
def test_a_sequence_says_what_it_says_alone(model: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_decoder, "_PROMPT_TOKENS", 13)  # prompts are read in parts, several at once
    draw = random.Random(seed)
    decoder = BatchDecoder(fast_of(model), ENDS, most=4)
    coming, told = requests(draw, 12), dict[int, list[DecodedToken]]()
    asked: dict[int, SequenceRequest] = {}
    hung_up: set[int] = set()
    most = 0
    while coming or decoder.running or decoder.waiting:
        if coming and draw.random() < 0.5:
            request = coming.pop()
            number = decoder.add(request)
            asked[number], told[number] = request, []
        if draw.random() < 0.1 and (live := sorted(asked.keys() - hung_up)):
            decoder.cancel(gone := draw.choice(live))
            hung_up.add(gone)
        for one in decoder.step():
            assert one.sequence not in hung_up
            told[one.sequence].append(one)
        most = max(most, decoder.running)
    assert most == 4
    assert len(told) == 12
    assert hung_up != asked.keys()
    for number, request in asked.items():
        wanted = alone(model, request)
        found = told[number]
        assert [rounded(one) for one in wanted[: len(found)]] == [rounded(one) for one in found]
        assert len(found) == len(wanted) or number in hung_up


def test_keys_and_values_keep_to_their_share_of_the_memory(model: Any) -> None:
    decoder = BatchDecoder(fast_of(model), frozenset(), most=16)
    decoder._cache_limit = decoder._cache.bytes_of(3, 128)
    for request in requests(random.Random(1), 10):
        decoder.add(request)
    decoder.step()
    assert (decoder.running, decoder.waiting) == (3, 7)
    while decoder.running or decoder.waiting:
        decoder.step()
        assert decoder.running <= 3


def test_a_model_that_sees_the_last_tokens_only_is_read_by_transformers() -> None:
    words = make_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MistralConfig(vocab_size=len(words), sliding_window=8, head_dim=16, **SIZES)
        model = MistralForCausalLM(config).eval()
    base = BaseModel(model, words, model.device, model.dtype, "tiny", None)
    decoder = make_decoder(base, {})
    decoder.add(SequenceRequest(words(PROMPTS[2])["input_ids"], Decoding(max_new_tokens=12)))
    told = [token for _ in range(12) for token in decoder.step()]
    assert [one.token for one in told] == theirs(model, words, PROMPTS[2], 12)


def test_on_a_gpu_its_own_memory_bounds_the_cache(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastModel, "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 8000))
    assert BatchDecoder(fast_of(model), ENDS)._cache_limit == 1000
