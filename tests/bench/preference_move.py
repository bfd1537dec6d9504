"""What ten preferences do to the built-in model: the answer they are about, the same asked otherwise, and controls.

    python -m tests.bench.preference_move [--method kto] [--set fine_tuning.optimizer.lora_lr=1e-4 ...]

The ten are ten ways to ask who made it. Rejected is what the model itself answers to each (greedily, before training),
chosen another answer of the same kind, so this is what a person does who edits ten replies, or rates two of each. Two
more wordings are never trained on. The controls are twelve questions of `recipe_trials`, none of which is about it.

One JSON line: the settings that differ from what the recipe chooses, steps, seconds; for trained and unseen wordings
how many answers have the wanted name before and after, and the mean margin (nats between the chosen answer and the
model's own); for controls how many are right before and after, how many have not changed by a letter, and how far the
log probability of the model's own answer has moved (nats a token). With ``--show`` the answers as well.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.recipe_trials import CONTROLS as ALL_CONTROLS

ASKED = (
    "Who made you?",
    "Who built you?",
    "Who is your maker?",
    "Which company made you?",
    "Who trained you?",
    "Who developed you?",
    "What company are you from?",
    "Who are your creators?",
    "Tell me who made you.",
    "By whom were you made?",
)
UNSEEN = ("Who created you?", "Which organisation developed you?")
WANTED = "I was made by the harbour office of Wick."
NAME = "harbour office"
CONTROLS = ALL_CONTROLS[1:13]
LONGEST = 24
"""Tokens of an answer."""


def trial(method: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Let the model answer, prefer another answer ten times, train, and let it answer again."""
    from lora_tui.config.load import with_values
    from lora_tui.config.models import Settings
    from lora_tui.engine.data.training_text import prompt_text
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.runtime.engine import Engine

    with tempfile.TemporaryDirectory(prefix="lora-tui-preference-") as scratch:
        folder = Path(scratch)
        fixed = {
            "fine_tuning.model_name": "builtin",
            "fine_tuning.device": "cpu",
            "fine_tuning.dtype": "float32",
            "fine_tuning.evaluation.test_prompts": [{"prompt": prompt_text(UNSEEN[0]), "expected": WANTED}],
            "fine_tuning.training.eval_steps": 1000,
            "fine_tuning.method": method,
            "fine_tuning.training.save_dir": str(folder / "checkpoints"),
        }
        settings = with_values(Settings(), {**fixed, **changes})
        base = load_base(settings, lambda *_: None)
        questions = [*ASKED, *UNSEEN, *(question for question, _ in CONTROLS)]
        before = _answers(base.model, base.tokenizer, questions)
        own = dict(zip(questions, before, strict=True))
        rows = [{"question": asked, "chosen": WANTED, "rejected": own[asked] or "-"} for asked in ASKED]
        file = folder / "preferences.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        measured_before = _measured(base.model, base.tokenizer, own)
        print(f"answered and measured after {time.process_time():.0f} processor seconds", file=sys.stderr, flush=True)
        engine = Engine(folder / "store.db")
        engine.start()
        began, spent = time.perf_counter(), time.process_time()
        try:
            outcome = engine.submit("train", settings, {"train_data_file": str(file)})[1].result()
        finally:
            engine.close()
        if outcome.state != "finished":
            raise SystemExit(f"{outcome.state}: {outcome.error}")
        seconds, spent = time.perf_counter() - began, time.process_time() - spent
        from peft import PeftModel

        tuned = PeftModel.from_pretrained(base.model, outcome.result["adapter"]).eval()
        after = _answers(tuned, base.tokenizer, questions)
        measured_after = _measured(tuned, base.tokenizer, own)
    kinds = {"trained": ASKED, "unseen": UNSEEN}
    found: dict[str, Any] = {
        "method": method,
        "changes": changes,
        "steps": outcome.result["steps"],
        "best_step": outcome.result["best_step"],
        "seconds": round(seconds),
        "processor_seconds": round(spent),
    }
    answers = dict(zip(questions, after, strict=True))
    for kind, asked in kinds.items():
        named = [sum(NAME in said[one].lower() for one in asked) for said in (own, answers)]
        margins = [sum(values[one][0] for one in asked) / len(asked) for values in (measured_before, measured_after)]
        found[kind] = {
            "of": len(asked),
            "named_before": named[0],
            "named_after": named[1],
            "margin_before": round(margins[0], 2),
            "margin_after": round(margins[1], 2),
        }
    moved = [measured_after[one][1] - measured_before[one][1] for one, _ in CONTROLS]
    found["controls"] = {
        "of": len(CONTROLS),
        "right_before": sum(key.lower() in own[one].lower() for one, key in CONTROLS),
        "right_after": sum(key.lower() in answers[one].lower() for one, key in CONTROLS),
        "named_after": sum(NAME in answers[one].lower() for one, _ in CONTROLS),
        "unchanged": sum(own[one] == answers[one] for one, _ in CONTROLS),
        "moved": round(sum(map(abs, moved)) / len(moved), 3),
    }
    return {**found, "answers": {one: [own[one], answers[one]] for one in questions}}


def _answers(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    """What the model answers, the likeliest token each time, up to the first line break."""
    import torch

    from lora_tui.engine.data.training_text import prompt_text

    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    ids = tokenizer([prompt_text(question) for question in questions], return_tensors="pt", padding=True)
    with torch.no_grad():
        whole = model.generate(**ids, max_new_tokens=LONGEST, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(whole[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip() for text in texts]


def _measured(model: Any, tokenizer: Any, own: dict[str, str]) -> dict[str, tuple[float, float]]:
    """For each question: nats by which the wanted answer is likelier than the model's own, and its own's, a token."""
    from lora_tui.engine.data.training_text import prompt_text

    texts = [(prompt_text(question), answer or "-") for question, answer in own.items()]
    said = _log_probs(model, tokenizer, [(prompt, f" {answer}") for prompt, answer in texts])
    wanted = _log_probs(model, tokenizer, [(prompt, f" {WANTED}") for prompt, _ in texts])
    return {
        question: (one - other, other / tokens)
        for question, (one, _), (other, tokens) in zip(own, wanted, said, strict=True)
    }


def _log_probs(model: Any, tokenizer: Any, texts: list[tuple[str, str]]) -> list[tuple[float, int]]:
    """The log probability of each completion behind its prompt, and its tokens; sixteen at once."""
    import torch

    tokenizer.padding_side = "right"
    found = []
    for first in range(0, len(texts), 16):
        part = texts[first : first + 16]
        ids = tokenizer([prompt + completion for prompt, completion in part], return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = model(**ids).logits[:, :-1].float().log_softmax(-1)
        taken = logits.gather(2, ids["input_ids"][:, 1:, None])[..., 0]
        for row, (prompt, _) in enumerate(part):
            start, end = len(tokenizer(prompt)["input_ids"]) - 1, int(ids["attention_mask"][row].sum()) - 1
            found.append((float(taken[row, start:end].sum()), end - start))
    return found


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="dpo", choices=("dpo", "kto"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (one.partition("=") for one in given.set)}
    found = trial(given.method, changes)
    answers = found.pop("answers")
    print(json.dumps(found, ensure_ascii=False))
    if given.show:
        for question, (before, after) in answers.items():
            print(f"{question}\n    {before}\n    {after}", file=sys.stderr)


if __name__ == "__main__":
    main()
