"""Our decoding beside transformers' ``generate``: the same model, prompts and number of tokens, in turn.

    python -m tests.bench.decode MODEL_FOLDER [--dtype bfloat16] [--device cuda] [--rounds 3] [--tokens 48]
    python -m tests.bench.decode MODEL_FOLDER --beams-agree 200
    python -m tests.bench.decode MODEL_FOLDER --adapter | --look-up

Prints one JSON line. For each of ``batch1``, ``batch8``, ``uneven32`` (32 answers of 8 to 96 tokens) and ``beam5``:
tokens/s of `ours` and `generate`, medians of alternating rounds, and their `ratio`. ``bandwidth_share`` is the share of
the memory's speed, measured in the same run, at which a single greedy prompt reads the weights. ``random:1.5B`` as the
model is that architecture with random weights.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from lora_tui.engine.inference.batch_decoder import BatchDecoder
from lora_tui.engine.inference.beams import BeamSearch, configured_beams
from lora_tui.engine.inference.fast_model import FastModel, active_adapter, fast_model
from lora_tui.engine.inference.readers import FastReader
from lora_tui.engine.inference.sequences import SequenceRequest
from lora_tui.engine.runtime.process import before_torch
from lora_tui.protocol.reply import Decoding

SUBJECTS = (
    "the bicycle", "the tides", "bread", "glass", "maps", "the piano", "bridges", "tea", "the compass", "paper",
    "clocks", "silk", "the telescope", "chess", "salt", "windmills", "the potato", "ships", "steel", "coffee",
    "cinema", "the violin", "bees", "the moon", "gardens", "rubber", "trains", "the alphabet", "wool", "volcanoes",
    "lighthouses", "cotton",
)  # fmt: skip
PASSAGE = (
    "The Harlow funicular was opened on 14 May 1907 by the engineer Ida Holm. It climbs 212 metres in four minutes, "
    "and its two cars, Swift and Heron, carry 36 passengers each. Each car weighs 7.4 tonnes when it is empty."
)


def load(name: str, dtype: torch.dtype, device: str) -> tuple[PreTrainedModel, list[list[int]]]:
    """The model, and a prompt about each subject as tokens."""
    if name == "random:1.5B":
        config = Qwen2Config(
            hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
            num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True,
        )  # fmt: skip
        torch.set_default_dtype(dtype)
        model: Any = Qwen2ForCausalLM(config).to(device).eval()
        torch.set_default_dtype(torch.float32)
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(10, 150_000, (len(SUBJECTS), 40), generator=generator).tolist()
        model.generation_config.pad_token_id = 0
        return model, prompts
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()
    asked = [[{"role": "user", "content": f"Tell me about the history of {one}."}] for one in SUBJECTS]
    prompts = [tokenizer.apply_chat_template(one, add_generation_prompt=True)["input_ids"] for one in asked]
    return model, prompts


def generate(model: Any, prompts: Sequence[list[int]], tokens: int, **options: Any) -> list[list[int]]:
    """What transformers writes, exactly so many tokens, without an end."""
    longest = max(map(len, prompts))
    pad = model.generation_config.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(one)) + one for one in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    limits = {"max_new_tokens": tokens, "min_new_tokens": tokens, **options}
    written = model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=pad, **limits)
    replies: list[list[int]] = written[:, longest:].tolist()
    return replies


@torch.inference_mode()
def alone(fast: FastModel, prompt: list[int], tokens: int, adapter: str | None = None, *, ahead: bool) -> list[int]:
    """Greedy, one prompt; `ahead` reads text that repeats itself several tokens at once."""
    reader = FastReader(fast, [prompt], adapter)
    if not ahead:
        reader._repetition = None
    chosen, written = None, []
    for _ in range(tokens):
        chosen = reader.scores(chosen).argmax(-1)
        written.append(int(chosen))
    return written


def together(fast: FastModel, prompts: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Greedy, through continuous batching."""
    decoder = BatchDecoder(fast, frozenset())
    written: dict[int, list[int]] = {
        decoder.add(SequenceRequest(prompt, Decoding(max_new_tokens=length))): []
        for prompt, length in zip(prompts, lengths, strict=True)
    }
    while decoder.running or decoder.waiting:
        for told in decoder.step():
            if told.token is not None:
                written[told.sequence].append(told.token)
    return list(written.values())


def beams(fast: FastModel, model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """Five beams."""
    search = BeamSearch(fast, None, prompt, frozenset(), Decoding(num_beams=5), tokens, configured_beams(model))
    return search.run(lambda: False, lambda step: None)


def memory_speed(device: str) -> float:
    """Bytes/s at which memory can be read."""
    numbers = torch.ones(100_000_000, device=device)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        numbers.sum().item()
        times.append(time.perf_counter() - began)
    return 4e8 / min(times)


def in_turn(rounds: int, tokens: int, **sides: Callable[[], object]) -> dict[str, float]:
    """Tokens/s of each side, the median of alternating rounds after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: round(tokens / statistics.median(own), 1) for name, own in times.items()}


def compared(rounds: int, tokens: int, ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, float]:
    """The entry of one kind of decoding."""
    speeds = in_turn(rounds, tokens, ours=ours, generate=theirs)
    return {**speeds, "ratio": round(speeds["ours"] / speeds["generate"], 2)}


def with_adapter(model: PreTrainedModel) -> Any:
    """The model with LoRA of rank 16 on queries, keys, values and outputs, that says something."""
    config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    return adapted


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--beams-agree", type=int, metavar="PROMPTS", default=0)
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--look-up", action="store_true")
    arguments = parser.parse_args()
    _wait_as_the_program_does()
    model, prompts = load(arguments.model, getattr(torch, arguments.dtype), arguments.device)
    tokens, rounds = arguments.tokens, arguments.rounds
    found: dict[str, Any] = {"dtype": arguments.dtype, "device": arguments.device, "tokens": tokens}
    if arguments.beams_agree:
        print(json.dumps(found | beams_agree(arguments.model, model, arguments.beams_agree, tokens)))
        return
    if arguments.adapter:
        adapted = with_adapter(model)
        fast, name = _fast(adapted), active_adapter(adapted)
        speeds = in_turn(
            rounds,
            tokens,
            base=lambda: alone(fast, prompts[0], tokens, ahead=False),
            adapter=lambda: alone(fast, prompts[0], tokens, name, ahead=False),
        )
        print(json.dumps(found | speeds | {"share": round(speeds["adapter"] / speeds["base"], 3)}))
        return
    fast = _fast(model)
    if arguments.look_up:
        print(json.dumps(found | look_up(arguments.model, fast, rounds, tokens)))
        return
    lengths = [random.Random(place).randint(8, 96) for place in range(32)]
    found["batch1"] = compared(
        rounds,
        tokens,
        lambda: alone(fast, prompts[0], tokens, ahead=True),
        lambda: generate(model, prompts[:1], tokens),
    )
    found["batch8"] = compared(
        rounds,
        8 * tokens,
        lambda: together(fast, prompts[:8], [tokens] * 8),
        lambda: generate(model, prompts[:8], tokens),
    )
    found["uneven32"] = compared(
        rounds,
        sum(lengths),
        lambda: together(fast, prompts, lengths),
        lambda: generate(model, prompts, max(lengths)),
    )
    found["beam5"] = compared(
        rounds,
        tokens,
        lambda: beams(fast, model, prompts[0], tokens),
        lambda: generate(model, prompts[:1], tokens, num_beams=5),
    )
    speed = memory_speed(arguments.device)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    found["memory_gb_per_s"] = round(speed / 1e9, 1)
    found["bandwidth_share"] = round(found["batch1"]["ours"] * size / speed, 3)
    print(json.dumps(found))


def _wait_as_the_program_does() -> None:
    """Begin anew with OpenMP's threads asleep while they wait, which they read as torch is loaded.

    Spinning, as is libgomp's way, they take the cores from our own threads: a step of 32 rows took 62 ms, not 32.
    ``OMP_WAIT_POLICY=active`` before the command measures that.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        before_torch()
        os.execv(sys.executable, [sys.executable, "-m", "tests.bench.decode", *sys.argv[1:]])


def beams_agree(name: str, model: Any, count: int, tokens: int) -> dict[str, Any]:
    """On how many of so many prompts both searches say the same text."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    kinds = ("Tell me about {}.", "Write a poem about {}.", "What is {}?", "Name a fact about {}.", "Who needs {}?")
    kinds += ("Explain {} to a child.", "Is {} old?")
    asked = [kind.format(one) for kind in kinds for one in SUBJECTS][:count]
    fast, ends = _fast(model), {tokenizer.eos_token_id}
    other = []
    for text in asked:
        chat = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        options = configured_beams(model)
        search = BeamSearch(fast, None, prompt, frozenset(ends), Decoding(num_beams=5), tokens, options)
        ours = search.run(lambda: False, lambda step: None)
        written = generate(model, [prompt], tokens, num_beams=5, min_new_tokens=0)[0]
        theirs = written[: written.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in written else written
        if ours != theirs:
            other.append({"prompt": text, "ours": tokenizer.decode(ours), "generate": tokenizer.decode(theirs)})
    return {"prompts": len(asked), "same": len(asked) - len(other), "others": other}


def look_up(name: str, fast: FastModel, rounds: int, tokens: int) -> dict[str, Any]:
    """Answers that copy their passage, with reading ahead and without."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    chat = [{"role": "user", "content": f"Repeat this text word for word:\n\n{PASSAGE}"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    speeds = in_turn(
        rounds,
        tokens,
        plain=lambda: alone(fast, prompt, tokens, ahead=False),
        ahead=lambda: alone(fast, prompt, tokens, ahead=True),
    )
    plain, ahead = (alone(fast, prompt, tokens, ahead=kind) for kind in (False, True))
    ratio = round(speeds["ahead"] / speeds["plain"], 2)
    return speeds | {"ratio": ratio, "identical": plain == ahead, "text": tokenizer.decode(ahead)}


def _fast(model: Any) -> FastModel:
    found = fast_model(model)
    if isinstance(found, str):
        raise SystemExit(f"the model has no fast form: {found}")
    return found


if __name__ == "__main__":
    main()
