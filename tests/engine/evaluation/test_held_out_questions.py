"""Held-out questions: whole documents kept from training, asked of base and tuned, compared pair by pair, reported."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import PlainText, QuestionAnswer
from lora_tui.engine.data.holdout import question_digest, questions_fingerprint
from lora_tui.engine.data.knowledge import KNOWLEDGE_FILE, read_knowledge
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.evaluation.charts import Line, line_chart, ticks
from lora_tui.engine.evaluation.held_out import (
    HELD_OUT_FILE,
    HeldOutQuestions,
    questions_of,
    read_held_out,
    write_held_out,
)
from lora_tui.engine.evaluation.own_prompts import own_prompts
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.evaluation.report import ReportFacts, write_report
from lora_tui.engine.evaluation.scoring import ScoredSample, _score_of_avoiding, summarize
from lora_tui.engine.jobs.evaluate import _compare, _questions_of_file
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.protocol.agreement import Estimate
from lora_tui.protocol.comparison import ComparedAnswer, HeldOutComparison, comparison_from, interval_note
from lora_tui.protocol.knowledge import knowledge_from
from lora_tui.store import runs, training
from tests.engine.conftest import EngineHarness, open_engine_harness, trained_settings
from tests.store.store_fixtures import SETTINGS, make_pair

DOCUMENTS = 6
FACTS = [(f"What is in box {n}?", f"tool {n}", f"{n % DOCUMENTS}.txt") for n in range(24)]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Any:
    """A run that holds out a document of a store's pairs, and the evaluation of its adapter."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "pairs.txt").write_text("".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a, _ in FACTS))
    passage = "The box by the door holds a lamp."
    kept = [("What is in the box by the door?", "a lamp", passage), (FACTS[0][0], FACTS[0][1], passage)]
    fields = ("question", "answer", "passage")
    lines = [json.dumps({**dict(zip(fields, one, strict=True)), "document": "door.txt"}) for one in kept]
    (folder / "pairs.knowledge.jsonl").write_text("\n".join(lines))
    harness = open_engine_harness(folder, trained_settings(folder, base_folder))
    harness.ask(store_pairs)
    changes = {"fine_tuning.training.validation_share": 0.2, "fine_tuning.training.max_steps": 4}
    changes["fine_tuning.evaluation.held_out_questions"] = 3
    trained = harness.run("train", None, changes)
    assert trained.state == "finished", trained
    yield harness, trained, harness.run("evaluate", None, changes)
    harness.engine.close()


async def store_pairs(store: Any) -> None:
    run_id = await runs.create(store, "generate", SETTINGS, {})
    for question, answer, source in FACTS:
        await make_pair(store, run_id, question, "accepted", 9.0, answer=answer, source=source)


def test_a_whole_document_is_kept_from_training_and_written_down(compared: Any) -> None:
    _, trained, _ = compared
    folder = Path(trained.result["adapter"]).parent
    content = json.loads((folder / HELD_OUT_FILE).read_text())
    (document,) = {row["document"] for row in content["questions"]}
    wanted = {f"Question: {q}\nAnswer:" for q, _, source in FACTS if source == document}
    assert {row["prompt"] for row in content["questions"]} == wanted
    assert content["whole_documents"] is True
    assert trained.result["held_out"] == len(wanted) == 4


def test_both_models_answer_a_sample_of_the_held_out_questions(compared: Any) -> None:
    harness, _, evaluated = compared
    found = comparison_from(evaluated.result["comparison"])
    assert (found.questions, found.of, found.documents, found.whole_documents) == (3, 4, 1, True)
    assert (found.drawn, found.verdict) == ("nothing", "open")
    rows = {row.model: row for row in harness.ask(training.evaluations, evaluated.run_id)}
    assert set(rows) == {"base", "tuned", "base_held_out", "tuned_held_out"}
    assert rows["base_held_out"].score == pytest.approx(found.base.value)
    assert rows["tuned_held_out"].score == pytest.approx(found.tuned.value)
    assert found.difference.value == pytest.approx(found.tuned.value - found.base.value)
    assert [one.score for one in found.worst] == sorted(one.score for one in found.worst)
    assert found.worst[0].document.endswith(".txt")
    (event,) = harness.events(evaluated.run_id, "comparison")
    assert event.payload["summary"] == evaluated.result["comparison"]["summary"]


def test_facts_that_were_held_out_are_asked_of_both_models_and_of_the_base_with_the_passage_in_view(
    compared: Any,
) -> None:
    harness, trained, evaluated = compared
    kept = read_knowledge(Path(trained.result["adapter"]).parent / KNOWLEDGE_FILE)
    assert [one.question for one in kept] == ["What is in the box by the door?"], "the other one is trained on"
    found = knowledge_from(evaluated.result["knowledge"])
    assert (found.questions, found.of, found.documents, found.drawn) == (1, 1, 1, "nothing")
    (answer,) = found.answers
    assert (answer.question, answer.reference, answer.document) == (kept[0].question, "a lamp", "door.txt")
    assert found.gain.value == pytest.approx(answer.score - answer.base_score)
    (event,) = harness.events(evaluated.run_id, "knowledge")
    assert event.payload["summary"] == evaluated.result["knowledge"]["summary"]
    assert "What does it know?" in Path(evaluated.result["report"]).read_text()


def test_the_report_lies_beside_the_adapter_and_its_path_is_told(compared: Any) -> None:
    _, trained, evaluated = compared
    page = Path(evaluated.result["report"])
    assert page == Path(trained.result["adapter"]).parent / "report.html"
    text = page.read_text()
    assert "Did fine-tuning help?" in text
    assert "3 of 4 held-out questions, from 1 document that was not trained on" in text
    assert text.count("<svg") == 2, "loss and score"
    assert (page.parent / "report.md").is_file()
    assert (page.parent / "report-loss.svg").is_file()


def test_questions_of_another_file_are_asked_but_for_those_trained_on(compared: Any) -> None:
    harness, trained, _ = compared
    file = harness.folder / "others.txt"
    asked = [FACTS[0], *FACTS[1:6]]
    held_out = read_held_out(Path(trained.result["adapter"]).parent)
    unseen = {prompt.prompt for prompt in held_out.prompts}
    wanted = [q for q, *_ in asked if f"Question: {q}\nAnswer:" in unseen]
    new = [(f"Who has key {n}?", f"person {n}") for n in range(5)]
    file.write_text("".join(f"Question: {one[0]}\nAnswer: {one[1]}\n\n" for one in [*asked, *new]))
    found = harness.run("evaluate", {"train_data_file": str(file)}).result["comparison"]
    assert (found["questions"], found["drawn"]) == (len(wanted) + 5, "questions")
    assert found["source"] == str(file)
    refused = harness.run("evaluate", {"train_data_file": str(harness.folder / "nowhere.txt")})
    assert refused.exit_status == 2


def test_without_held_out_questions_it_is_said_what_to_do(compared: Any) -> None:
    harness, *_ = compared
    trained = harness.run("train", None, {"fine_tuning.training.max_steps": 1})
    assert not (Path(trained.result["adapter"]).parent / HELD_OUT_FILE).exists()
    evaluated = harness.run("evaluate")
    assert evaluated.result["comparison"] is None
    (note,) = [event.payload["message"] for event in harness.events(evaluated.run_id, "note")]
    assert "validation_share" in note
    assert "validation_share" in Path(evaluated.result["report"]).read_text()


def test_a_run_that_goes_on_holds_out_what_it_held_out_though_the_store_knows_other_documents(
    tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch,
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
) -> None:  # fmt: skip
    (tmp_path / "pairs.txt").write_text("".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a, _ in FACTS))
    harness = new_engine_harness(tmp_path, trained_settings(tmp_path, base_folder))
    changes = {"fine_tuning.training.validation_share": 0.2, "fine_tuning.training.max_steps": 4}
    from lora_tui.engine.training import loop

    real = loop._Trainer._report

    def report(self: Any, *args: Any) -> None:
        real(self, *args)
        if self.state.step == 2:
            harness.engine.stop(run_id)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Trainer, "_report", report)
        run_id, future = harness.start("train", None, changes)
        assert future.result(timeout=120).state == "stopped"
    harness.ask(store_pairs)
    assert harness.run("train", None, changes, resume=run_id).state == "finished"


def questions(*prompts: str) -> HeldOutQuestions:
    asked = tuple(TestPrompt(prompt, "expected", "a") for prompt in prompts)
    return HeldOutQuestions(asked, (None,) * len(asked), len(asked), False)


def test_a_sample_is_the_same_for_a_seed_and_another_for_another() -> None:
    of_all = questions(*(f"q{n}" for n in range(50)))
    first = of_all.sample(10, 1)
    assert len(first.prompts) == 10
    assert (first.of, first) == (50, of_all.sample(10, 1))
    assert of_all.sample(10, 2).prompts != first.prompts
    assert of_all.sample(100, 1).prompts == of_all.prompts


def test_a_damaged_file_of_held_out_questions_is_named(tmp_path: Path) -> None:
    (tmp_path / HELD_OUT_FILE).write_text("{")
    with pytest.raises(LoraTuiError, match=r"held_out\.json cannot be read"):
        read_held_out(tmp_path)


HOSTILE = "</td><script>alert(1)</script> | **b** [x](http://e.example) \x1b[2J `c` <img src=http://e.example>"
ROW = {"prompt": HOSTILE, "kind": "expected", "reference": HOSTILE, "before": HOSTILE, "after": HOSTILE,
       "before_score": 0.0, "score": 1.0}  # fmt: skip
COMPARISON = HeldOutComparison(
    40, 120, 8, True, "documents", Estimate(0.1, 0.05, 0.2), Estimate(0.4, 0.3, 0.5), Estimate(0.3, 0.2, 0.4), 30, 8, 2,
    "better", (ComparedAnswer(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "", 0.1, 0.0),),
)  # fmt: skip
FACTS_OF_RUN = ReportFacts(HOSTILE, [("data", HOSTILE)], 0.1, 0.9, [ROW], 3, 3, 2, [(1.0, 2.0), (2.0, 1.0)],
                           score=[(0.0, 0.1), (2.0, 0.9)], comparison=COMPARISON)  # fmt: skip


def test_nothing_foreign_is_markup_in_either_form(tmp_path: Path) -> None:
    page = write_report(tmp_path, FACTS_OF_RUN)
    html, markdown = page.read_text(), (tmp_path / "report.md").read_text()
    for text in (html, markdown):
        assert "\x1b" not in text
        assert "<script" not in text
        assert "<img" not in text
    assert "\\[x\\](http" in markdown
    assert "\\*\\*b\\*\\*" in markdown
    table = [line for line in markdown.splitlines() if "alert" in line and line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") in (3, 6, 7) for line in table), "no cell of its own"
    assert "default-src 'none'" in html
    assert "http://www.w3.org/2000/svg" in html
    assert "src=" not in html.replace("&lt;img src=http", "")


def test_both_forms_say_the_same_figures(tmp_path: Path) -> None:
    page = write_report(tmp_path, FACTS_OF_RUN)
    for text in (page.read_text(), (tmp_path / "report.md").read_text()):
        for words in ("0.40 (0.30 to 0.50)", "+0.30 (+0.20 to +0.40): fine-tuning helped",
                      "30 better, 8 the same, 2 worse", "bootstrap over 8 documents", "controls 3/3 kept",
                      "controls 2/3 kept"):  # fmt: skip
            assert words in text


def test_which_interval_it_is_is_said() -> None:
    assert interval_note(replace(COMPARISON, drawn="questions")).endswith(
        "; of 8 documents only, so the truth may lie outside"
    )
    assert interval_note(replace(COMPARISON, drawn="questions", documents=0)).endswith("bootstrap over questions")


def test_questions_of_no_known_document_are_named_beside_the_interval() -> None:
    asked = replace(questions(*(f"q{n}" for n in range(8))), documents=(*(f"{n}.txt" for n in range(7)), None))
    samples = [ScoredSample(f"q{n}", "expected", "a", "a", {}, n / 8) for n in range(8)]
    found = _compare(asked, summarize(samples), summarize(samples), None)
    assert (found.drawn, found.without_document) == ("questions", 1)
    assert "the document of 1 question is not known" in interval_note(found)


def test_documents_are_whole_only_where_that_of_every_trained_pair_is_known(tmp_path: Path) -> None:
    pairs = [QuestionAnswer(q, a, "") for q, a, _ in FACTS]
    documents = {question_digest(one): fact[2] for one, fact in zip(pairs, FACTS, strict=True)}
    held_out = [one for one in pairs if documents[question_digest(one)] == "0.txt"]
    trained = [one for one in pairs if one not in held_out]
    write_held_out(tmp_path, held_out, trained, documents, None, 1)
    assert read_held_out(tmp_path).whole_documents is True
    write_held_out(tmp_path, held_out, [*trained, QuestionAnswer("Of what?", "Unknown.", "")], documents, None, 1)
    assert read_held_out(tmp_path).whole_documents is False


def test_a_named_file_is_of_whole_documents_only_where_that_of_every_trained_pair_is_known(file_questions: Any) -> None:
    file, _, ask = file_questions
    other = file.with_name("other.txt")
    other.write_text("Question: Who has key 1?\nAnswer: person 1\n\n")
    digest = question_digest(QuestionAnswer("Who has key 1?", "", ""))
    assert ask(other, known={digest: "new.txt"}).whole_documents is True
    assert ask(other, known={digest: "new.txt"}, unknown=1).whole_documents is False


def test_a_chart_has_its_lines_between_round_ticks_and_none_without_points() -> None:
    assert line_chart("t", [Line("loss", [(1.0, float("nan"))])], "step") == ""
    many = [(float(n), 1 / n) for n in range(1, 5000)]
    picture = line_chart("<t>", [Line("loss", many), Line("held out", [(10.0, 0.5)], dots=True)], "step")
    assert "<title>&lt;t&gt;</title>" in picture
    assert picture.count("<circle") == 1
    assert len(picture) < 20_000, "thinned"
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.13, 0.97)[0] <= 0.13 < 0.97 <= ticks(0.13, 0.97)[-1]
    assert len(ticks(3.0, 3.0)) > 1


@pytest.fixture
def file_questions(tmp_path: Path) -> Any:
    """Returns what is asked of a named file by an adapter of a run that trained on ``data.txt`` and `changes` it."""
    file = tmp_path / "data.txt"
    pairs = [f"Question: {q}\nAnswer: {a}\n\n" for q, a, _ in FACTS]
    file.write_text("".join(pairs))
    examples = read_examples(file).examples
    documents = {question_digest(one): fact[2] for one, fact in zip(examples, FACTS, strict=True)}
    plain, warned = cast(Any, SimpleNamespace(chat_template=None)), list[str]()

    def ask(named: Path, held_out: int = 0, known: Any = None, unknown: int = 0, **changes: Any) -> HeldOutQuestions:
        data = {"file": str(file), "questions_sha256": questions_fingerprint(examples)} | changes
        if held_out:
            write_held_out(tmp_path / "run", examples[:held_out], examples[held_out:], documents, None, 1)
        source = AdapterSource(tmp_path / "run" / "best", 1, {"data": data, "step": 3})
        about = dict(list(documents.items())[unknown:]) | (known or {})
        return _questions_of_file(named, source, plain, about, warned.append)

    (tmp_path / "run" / "best").mkdir(parents=True)
    return file, pairs, ask


def test_of_the_very_training_file_nothing_is_asked_wherever_it_lies(file_questions: Any) -> None:
    file, _, ask = file_questions
    for stored in (str(file), "/gone/data.txt", "data.txt"):
        with pytest.raises(UsageError, match="no question that the adapter was not trained on"):
            ask(file, file=stored)
    found = ask(file, held_out=4, file="/gone/data.txt")
    assert (len(found.prompts), found.unseen) == (4, True)


def test_what_was_trained_on_is_not_said_to_be_unseen_where_the_data_is_missing_or_changed(file_questions: Any) -> None:
    file, pairs, ask = file_questions
    part = file.with_name("part.txt")
    part.write_text("".join(pairs[:6]))
    assert ask(part, file="/gone/data.txt").unseen is False
    assert ask(part, file="/gone/data.txt").whole_documents is False
    assert ask(part, file="/gone/data.txt", questions_sha256=None).unseen is False
    file.write_text("".join(pairs[6:]))
    changed = ask(part)
    assert (len(changed.prompts), changed.unseen, changed.whole_documents) == (6, False, False)
    kept = ask(part, held_out=2)
    assert (len(kept.prompts), kept.unseen, kept.whole_documents) == (2, True, False)
    (file.parent / "run" / HELD_OUT_FILE).unlink()
    file.write_text("Question:")
    assert ask(part).unseen is False
    file.write_text("".join(pairs[:-1]))
    with pytest.raises(UsageError, match="known not to be trained on"):
        ask(part)


def test_a_run_whose_data_has_changed_is_warned_about_and_the_report_says_so(compared: Any) -> None:
    harness, trained, _ = compared
    adapter = Path(trained.result["adapter"])
    metadata = adapter / "lora_tui.json"
    written = metadata.read_text()
    stored = json.loads(written)["data"]["file"]
    named = str(harness.folder / "pairs.txt")
    assert stored == "../../../pairs.txt", "from the adapter's folder, so that it names no one's home"
    assert (adapter / stored).samefile(named)
    held_out = adapter.parent / HELD_OUT_FILE
    found = []
    metadata.write_text(written.replace(json.loads(written)["data"]["questions_sha256"], "0" * 64))
    try:
        found.append(harness.run("evaluate", {"train_data_file": named, "adapter": str(adapter)}))
        held_out.rename(adapter.parent / "away.json")
        metadata.write_text(metadata.read_text().replace(stored, stored + ".gone"))
        found.append(harness.run("evaluate", {"train_data_file": named, "adapter": str(adapter)}))
    finally:
        metadata.write_text(written)
        (adapter.parent / "away.json").rename(held_out)
    kept, doubtful = (comparison_from(outcome.result["comparison"]) for outcome in found)
    assert (kept.questions, kept.whole_documents, kept.unseen) == (4, False, True), "those that training held out"
    assert (doubtful.questions, doubtful.whole_documents, doubtful.unseen) == (len(FACTS), False, False)
    for outcome, words in zip(
        found, ("only what training held out is asked", "some of it may have been trained on"), strict=True
    ):
        told = [event.payload["message"] for event in harness.events(outcome.run_id, "warning")]
        assert any(words in one for one in told)
    text = Path(found[1].result["report"]).read_text()
    assert "it is not known which of them were trained on" in text
    assert "that were not trained on" not in text


def test_a_reply_that_is_half_like_what_it_must_not_say_scores_half() -> None:
    assert _score_of_avoiding("alpha gamma", "alpha beta") == 0.5
    assert "0.5 or less" in str(_score_of_avoiding.__doc__)


def test_of_a_file_with_questions_no_document_is_asked_to_be_continued() -> None:
    document = PlainText("The box by the door holds a lamp and some more things.", "")
    question = QuestionAnswer("What is in the box?", "a lamp", "")
    asked = [prompt.prompt for prompt in questions_of([document, question], {}, None).prompts]
    assert asked == ["Question: What is in the box?\nAnswer:"]
    assert len(questions_of([document], {}, None).prompts) == 1
    assert [prompt.reference for prompt in own_prompts([document, question]) if prompt.kind == "expected"] == ["a lamp"]
