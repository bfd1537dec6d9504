"""GGUF files of tiny random models of every family, read by llama.cpp itself: the largest difference of two logits.

    python -m tests.bench.gguf_exports [--llama-python PYTHON]

PYTHON is an interpreter that has llama-cpp-python; each file is read in a process of its own there, since llama.cpp
ends the process where it cannot go on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_tui.config.models import Lora
from lora_tui.engine.export.gguf_file import write_adapter, write_model
from lora_tui.engine.export.gguf_proof import Reader, expect, prove
from lora_tui.engine.training.lora import create_lora_model
from tests.engine.export.test_gguf import FAMILIES, save_family

_TEXT = "Question: what is the capital of france?\nAnswer: paris, of course, in 1897 and 12 times since."

_READER = """
import json, sys
import llama_cpp
import numpy as np
file, adapter, text, ids = sys.argv[1], sys.argv[2] or None, sys.argv[3], json.loads(sys.argv[4])
model = llama_cpp.Llama(file, lora_path=adapter, n_ctx=256, logits_all=True, verbose=False)
model.eval(ids)
np.save(file + ".npy", np.array(model.scores[: len(ids)]))
print(model.tokenize(text.encode(), add_bos=False, special=True) == ids)
"""


def by_llama_cpp(python: str, file: Path, adapter: Path | None, ids: list[int], wanted: np.ndarray) -> str:
    """Return what llama.cpp makes of a file: the largest difference, and whether its tokens are the same."""
    command = [python, "-c", _READER, str(file), str(adapter or ""), _TEXT, json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        return f"ended with status {done.returncode}"
    difference = float(np.abs(np.load(f"{file}.npy") - wanted).max())
    return f"{difference:.1e}, tokens {'the same' if done.stdout.split()[-1:] == ['True'] else 'others'}"


def main() -> None:
    """Print a row for each family and form of numbers, and one for its adapter alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--llama-python", default=sys.executable)
    python = parser.parse_args().llama_python
    print("| family | numbers | transformers: difference, spread, same answers | llama.cpp: difference |")
    print("| --- | --- | --- | --- |")
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        for family in FAMILIES:
            base = save_family(family, Path(name) / family.replace(" ", "-"))
            tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
            ids: list[int] = tokenizer(_TEXT)["input_ids"]
            expected = expect(model, tokenizer, [_TEXT, "who wrote hamlet?"], stop)
            file = base / "f32.gguf"
            for form in ("f32", "f16", "bf16", "q8_0"):
                file = base / f"{form}.gguf"
                write_model(file, model, tokenizer, [tokenizer.eos_token_id], form, family, lambda *_: None)
                proof = prove(file, expected, Reader.for_model(model), form, stop)
                read = by_llama_cpp(python, file, None, ids, expected.logits[0].numpy())
                found = f"{proof.largest_difference:.1e}, {proof.spread:.2f}, {proof.same_answers}/{proof.prompts}"
                print(f"| {family} | {form} | {found} | {read} |", flush=True)
            tuned = create_lora_model(model, Lora(r=4, target_modules="all-linear", use_rslora=True)).eval()
            with torch.no_grad():
                for parameter in tuned.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
                wanted = tuned(torch.tensor([ids])).logits[0].numpy()
            write_adapter(base / "adapter.gguf", tuned)
            read = by_llama_cpp(python, base / "f32.gguf", base / "adapter.gguf", ids, wanted)
            print(f"| {family} | adapter alone | | {read} |", flush=True)


if __name__ == "__main__":
    main()
