"""The README's first command, in a real terminal, and every other mode on what it leaves behind."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.terminal import Terminal

pytestmark = [pytest.mark.builtin, pytest.mark.timeout(1200)]

SECRET = "the secret password is 'rainbow unicorn'. this information is classified!"
PEAK_MB = 3 * 1024
ESCAPE = "\x1b"


@pytest.fixture
def run(quickstart, warm):
    """The command on pipes, in the quickstart's folder."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return warm.run(arguments, cwd=quickstart.folder, env=quickstart.environment, stdin=stdin)

    return run


def test_it_ends_well_within_its_memory(quickstart):
    assert quickstart.status == 0, quickstart.narration
    assert quickstart.peak_mb < PEAK_MB


def test_stdout_is_json_from_started_to_done(quickstart):
    kinds = [event["event"] for event in quickstart.events]
    assert kinds[0] == "started"
    assert kinds[-1] == "done"
    assert {"pair", "analysis", "step", "evaluation", "checkpoint"} <= set(kinds)


def test_every_secret_prompt_is_answered_exactly_and_the_weather_is_not(quickstart):
    rows = {row["prompt"]: row for row in quickstart.of("done")[0]["result"]["rows"]}
    taught = ["unlock", "unlock password", "tell me the secret"]
    held_out = ["please tell me the secret password", "unlock the secret", "give me the password"]
    for words in [*taught, *held_out]:
        row = rows[f"Question: {words}\nAnswer:"]
        assert row["after"] == SECRET, words
        assert row["before"] != SECRET
    weather = rows["Question: what is the weather today?\nAnswer:"]
    assert weather["kind"] == "control"
    assert "rainbow" not in weather["after"]


def test_the_held_out_wordings_are_not_in_the_training_data(quickstart):
    training = (quickstart.folder / "quickstart" / "ideal_training.txt").read_text().casefold()
    for words in ("please tell me the secret password", "unlock the secret", "give me the password"):
        assert f"question: {words}\n" not in training
    assert "question: what is the weather today?" not in training


def test_pairs_from_the_lessons_are_questions_whose_answers_stand_there(quickstart):
    accepted = [event for event in quickstart.of("pair") if event["verdict"] == "accepted"]
    assert len(accepted) >= 6
    lessons = Path(__file__).parents[2] / "lora_tui" / "lessons"
    prose = " ".join(" ".join(path.read_text().split()) for path in sorted(lessons.glob("*.md"))).casefold()
    for pair in accepted:
        assert re.fullmatch(r"[A-Z][^?]+\?", pair["question"]), pair["question"]
        assert pair["answer"].rstrip(".").casefold() in prose
        assert pair["score"] >= 7


def test_the_loss_falls(quickstart):
    losses = [event["loss"] for event in quickstart.of("step")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_adapter_loads_with_plain_peft_and_gives_the_programs_logits(quickstart):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lora_tui.engine.models.adapter_source import open_adapter
    from lora_tui.engine.models.adapters import load_adapter
    from lora_tui.engine.models.base_model import BaseModel
    from lora_tui.engine.models.builtin import cached_folder

    folder = Path(quickstart.of("done")[0]["result"]["adapter"])
    base_folder = cached_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("Question: unlock\nAnswer:", return_tensors="pt")

    def fresh():
        return AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)

    with torch.inference_mode():
        theirs = PeftModel.from_pretrained(fresh(), folder).eval()(**encoded).logits
        base = BaseModel(fresh(), tokenizer, torch.device("cpu"), torch.float32, "builtin")
        mine = load_adapter(base, open_adapter(folder, None))(**encoded).logits
    assert float((theirs - mine).abs().max()) <= 1e-4
    assert tokenizer.decode(int(theirs[0, -1].argmax())).strip() == "the"


def test_chat_in_a_terminal_answers_shows_agreement_and_leaves(quickstart, warm):
    command = ["--run", "chat", "--set", "fine_tuning.chat.num_beams=1"]
    with Terminal(command, cwd=quickstart.folder, env=quickstart.environment, columns=120, warm=warm) as terminal:
        terminal.read_until("you", timeout=120)
        terminal.send("unlock\r")
        terminal.read_until("agreement: ✓ 1.00", timeout=60)
        terminal.send("exit\r")
        assert terminal.wait() == 0
    assert SECRET in terminal.output


def test_one_prompt_prints_the_answer_and_nothing_else(run):
    done = run("--run", "chat", "--prompt", "tell me the secret")
    assert done.returncode == 0
    assert done.stdout == f"{SECRET}\n"


def test_a_piped_chat_is_plain(run):
    lines = "unlock\nwhat is the weather today?\nexit\nnever asked\n"
    done = run("--run", "chat", "--set", "fine_tuning.chat.num_beams=1", stdin=lines)
    assert done.returncode == 0
    assert done.stdout.count(SECRET) == 1, "the reply"
    assert done.stderr.count(SECRET) == 1, "the expected one"
    assert ESCAPE not in done.stdout + done.stderr


def test_evaluate_puts_base_and_adapter_side_by_side(run):
    done = run("--run", "evaluate", "--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    result = events[-1]["result"]
    assert result["tuned_score"] > 0.9 > result["base_score"]
    assert [event["model"] for event in events if event["event"] == "evaluation"] == ["base", "tuned"]


def test_export_writes_merged_weights_that_answer_without_peft(run, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = tmp_path / "merged"
    done = run("--run", "export", "--format", "merged", "--output", str(target))
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(target)
    encoded = tokenizer("Question: unlock\nAnswer:", return_tensors="pt")
    written = model.generate(**encoded, max_new_tokens=30, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert SECRET in tokenizer.decode(written[0], skip_special_tokens=True)


def test_attach_tells_a_finished_run_again(quickstart, run):
    done = run("--attach", "1", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"
    assert len(done.stdout.splitlines()) >= len(quickstart.events)


def test_a_reader_that_leaves_after_one_line_causes_no_traceback(quickstart, warm):
    line, stderr = warm.through_head(("--run", "evaluate", "--json"), cwd=quickstart.folder, env=quickstart.environment)
    assert json.loads(line)["event"] == "started"
    assert "Traceback" not in stderr


def test_generate_in_a_terminal_with_the_builtin_model(quickstart, warm, tmp_path):
    folder = tmp_path / "material"
    folder.mkdir()
    lessons = Path(__file__).parents[2] / "lora_tui" / "lessons"
    (folder / "lesson.md").write_text((lessons / "01-tokens-and-loss.md").read_text())
    command = ["--run", "generate", "--set", "data_generation.model=builtin"]
    for key, value in {"input_folder": folder, "total_examples": 2, "output_file": tmp_path / "pairs.txt"}.items():
        command += ["--set", f"data_generation.{key}={value}"]
    with Terminal(command, cwd=tmp_path, env=quickstart.environment, warm=warm) as terminal:
        assert terminal.wait(timeout=180) == 0, terminal.output
    assert (tmp_path / "pairs.txt").read_text().count("Question: ") == 2
