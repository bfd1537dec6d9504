"""Sequences side by side: each gets what it gets alone, with an adapter of its own, and leaves room when it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.inference.batch_decoder import make_decoder
from lora_tui.engine.inference.decode import decode
from lora_tui.engine.inference.sequences import DecodedToken, SequenceDecoder, SequenceRequest
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapter, load_adapters
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.errors import UsageError
from lora_tui.protocol.reply import Decoding
from tests.engine.loaded_models import quiet
from tests.engine.tiny import save_random_adapter, tiny_settings

PROMPTS = ["Question: unlock\nAnswer:", "eight", "Question: why is the sky over france so blue?\nAnswer:", "name"]
ADAPTERS = (None, "first", "second", "first")


@pytest.fixture(scope="module")
def sources(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, AdapterSource]:
    """Two adapters that change different layers, one of them the embedding too."""
    folder = tmp_path_factory.mktemp("adapters")
    first = save_random_adapter(folder / "first", base_folder, seed=1)
    second = save_random_adapter(
        folder / "second", base_folder, seed=2, r=2, target_modules=["k_proj", "v_proj", "embed_tokens"]
    )
    return {"first": AdapterSource(first, None), "second": AdapterSource(second, None)}


def new_base(folder: Path) -> BaseModel:
    return load_base(tiny_settings({"model_name": str(folder)}), quiet)


@pytest.fixture
def decoder(base_folder: Path, sources: Mapping[str, AdapterSource]) -> SequenceDecoder:
    return make_decoder(new_base(base_folder), sources)


def alone(base_folder: Path, source: AdapterSource | None, prompt: str, decoding: Decoding) -> list[int]:
    base = new_base(base_folder)
    model = base.model if source is None else load_adapter(base, source)
    return [token for (token,) in decode(model, base.tokenizer, [prompt], decoding) if token is not None]


def to_end(decoder: SequenceDecoder) -> list[DecodedToken]:
    told: list[DecodedToken] = []
    while decoder.running or decoder.waiting:
        told += decoder.step()
    return told


def tokens_of(told: Sequence[DecodedToken], sequence: int) -> list[int]:
    return [one.token for one in told if one.sequence == sequence and one.token is not None]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_mixed_adapters_give_what_each_gives_alone(
    decoder: SequenceDecoder,
    base_folder: Path,
    sources: Mapping[str, AdapterSource],
    tokenizer: Any,
    temperature: float,
) -> None:
    asked = [
        (prompt, adapter, Decoding(6 + 3 * n, temperature, 0.9, 1.1, seed=n))
        for n, (prompt, adapter) in enumerate(zip(PROMPTS, ADAPTERS, strict=True))
    ]
    numbers = [
        decoder.add(SequenceRequest(tokenizer(prompt)["input_ids"], decoding, adapter))
        for prompt, adapter, decoding in asked
    ]
    told = to_end(decoder)
    wanted = [alone(base_folder, sources[name] if name else None, prompt, how) for prompt, name, how in asked]
    assert [tokens_of(told, number) for number in numbers] == wanted
    assert len({tuple(ids[:4]) for ids in wanted}) == 4, "the adapters differ"


def test_a_sequence_ends_on_the_stop_token_or_at_its_limit(decoder: SequenceDecoder, tokenizer: Any) -> None:
    number = decoder.add(SequenceRequest(tokenizer(PROMPTS[0])["input_ids"], Decoding(3)))
    told = to_end(decoder)
    assert [one.ended for one in told] == ["", "", "length"]
    assert all(one.sequence == number and one.logprob is None for one in told)


def test_the_stop_token_is_not_told(tokenizer: Any, eager_to_end: Any) -> None:
    base = BaseModel(eager_to_end, tokenizer, torch.device("cpu"), torch.float32, "eager")
    decoder = make_decoder(base, {})
    decoder.add(SequenceRequest(tokenizer(PROMPTS[0])["input_ids"], Decoding(3)))
    assert decoder.step() == [DecodedToken(0, None, "stop")]
    assert (decoder.running, decoder.waiting) == (0, 0)


def test_those_beyond_the_places_wait_and_a_cancelled_one_makes_room(
    base_folder: Path, sources: Mapping[str, AdapterSource], tokenizer: Any
) -> None:
    decoder = make_decoder(new_base(base_folder), {}, running=2)
    ids = tokenizer(PROMPTS[0])["input_ids"]
    first, second, third, fourth = (decoder.add(SequenceRequest(ids, Decoding(20))) for _ in range(4))
    for _ in range(3):
        decoder.step()
    assert (decoder.running, decoder.waiting) == (2, 2)
    decoder.cancel(first)
    decoder.cancel(fourth)
    decoder.cancel(fourth)
    told = to_end(decoder)
    assert not tokens_of(told, fourth)
    assert not tokens_of(told, first)
    assert len(tokens_of(told, third)) == 20
    assert tokens_of(told, second) == tokens_of(told, third)[-len(tokens_of(told, second)) :]


def test_log_probabilities_are_the_models_own(decoder: SequenceDecoder, base_folder: Path, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0])["input_ids"]
    decoder.add(SequenceRequest(ids, Decoding(1, 2.0, 0.5, 1.5, seed=3), top_logprobs=3))
    (told,) = decoder.step()
    scores = new_base(base_folder).model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    assert told.token is not None
    assert told.logprob == pytest.approx(float(scores[told.token]), abs=1e-4)
    assert [token for token, _ in told.top] == scores.topk(3).indices.tolist()
    assert [value for _, value in told.top] == pytest.approx(scores.topk(3).values.tolist(), abs=1e-4)


def test_an_adapter_that_changes_the_base_is_not_loaded_beside_others(base_folder: Path, tmp_path: Path) -> None:
    folder = save_random_adapter(tmp_path / "pissa", base_folder, seed=3, init_lora_weights="pissa")
    with pytest.raises(UsageError, match="changes the base model's own weights"):
        load_adapters(new_base(base_folder), {"pissa": AdapterSource(folder, None)})
