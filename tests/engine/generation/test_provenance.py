"""Examples that were generated are exported with what they come from."""

import json
from pathlib import Path
from typing import Any

from lora_tui.engine.runtime.engine import Engine, Outcome
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import made_up_text


def export(harness: GenerationHarness, **options: Any) -> Outcome:
    engine = Engine(harness.store)
    engine.start()
    try:
        given = {"format": "messages", "train_data_file": str(harness.output), **options}
        return engine.submit("export", harness.settings(), given)[1].result(timeout=60)
    finally:
        engine.close()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_pair_is_exported_with_document_passage_evidence_models_and_score(harness: GenerationHarness) -> None:
    generated = harness.run(total_examples=5, evaluation_threshold=0.0)
    assert generated.state == "finished", generated.error
    with harness.output.open("a") as file:
        file.write("\nQuestion: Who wrote this?\nAnswer: A person did.\n")
    target = harness.folder / "with.jsonl"
    outcome = export(harness, output=str(target), with_provenance=True)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["provenance"] == 5
    (warning,) = harness.events("warning")[-1:]
    assert "1 example of" in warning["message"]
    *known, own = records(target)
    assert own["provenance"] is None
    for record in known:
        question = record["messages"][0]["content"]
        found = record["provenance"]
        stored = harness.rows("SELECT id, source, evidence, score, chunk_id FROM pairs WHERE question=?", question)
        assert [(found["id"], found["document"], found["evidence"])] == [row[:3] for row in stored]
        assert abs(found["score"] - stored[0][3]) < 0.001
        text = (harness.input / found["document"]).read_text()
        start, end = found["characters"]
        assert harness.value("SELECT text FROM chunks WHERE id=?", stored[0][4]) == text[start:end]
        assert found["evidence"] in text[start:end]
        assert (found["writer"], found["judge"]) == (harness.values["model"], harness.values["model"])
        assert (found["threshold"], found["decided_by"], found["run"]) == (0.0, "aggregator", 1)
        assert found["weights"] == harness.value("SELECT id FROM weight_versions")
        assert len(found["passage"]) == 32


def test_a_pair_that_was_kept_names_the_run_that_wrote_it_and_its_judge(harness: GenerationHarness) -> None:
    same = {"total_examples": 3, "evaluation_threshold": 0.0}
    harness.server.models |= {"first-judge", "judge-1", "judge-2"}
    harness.run(judge_model="first-judge", **same)
    for more in (1, 2):
        harness.run(**same | {"total_examples": 3 + more}, judge_model=f"judge-{more}", keep_pairs=True)
    target = harness.folder / "with.jsonl"
    outcome = export(harness, output=str(target), with_provenance=True)
    assert outcome.state == "finished", outcome.error
    found = [record["provenance"] for record in records(target)]
    told = sorted((one["run"], one["judge"], one["id"]) for one in found)
    judge_of = {1: "first-judge", 2: "judge-1", 3: "judge-2"}
    own = harness.rows(
        "SELECT pairs.run_id, pairs.id FROM pairs JOIN tasks ON tasks.id=task_id WHERE kind='generate'"
        " AND pairs.state='accepted' ORDER BY pairs.id"
    )
    assert told == [(run, judge_of[run], number) for run, number in own]
    assert [run for run, *_ in told] == [1, 1, 1, 2, 3]
    assert {one["writer"] for one in found} == {harness.values["model"]}
    harness.change("DELETE FROM pairs WHERE run_id=1")
    assert export(harness, output=str(harness.folder / "card"), split=0.0, with_provenance=True).state == "finished"
    left = [one["provenance"] for one in records(harness.folder / "card" / "train.jsonl")]
    assert [one["run"] for one in left] == [None if one["run"] == 1 else one["run"] for one in found]
    assert {one["judge"] for one in left} == {None, "judge-1", "judge-2"}, "of a deleted run it is not known"
    assert all(one["score"] is not None and one["writer"] == harness.values["model"] for one in left)
    assert sorted(json.loads((harness.folder / "card" / "manifest.json").read_text())["runs"]) == ["2", "3"]


def test_a_folder_is_written_whole_or_not_at_all(harness: GenerationHarness) -> None:
    harness.run(total_examples=6, evaluation_threshold=0.0)
    target = harness.folder / "my data"
    outcome = export(harness, output=str(target), split=0.3, with_provenance=True)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["train"] + outcome.result["validation"] == 6
    assert outcome.result["validation"] > 0
    assert outcome.result["documents"] == 2
    assert sorted(path.name for path in target.iterdir()) == [
        *("README.md", "dataset_info.json", "manifest.json", "train.jsonl", "validation.jsonl")
    ]
    told = {
        side: {record["provenance"]["document"] for record in records(target / f"{side}.jsonl")}
        for side in ("train", "validation")
    }
    assert told["train"].isdisjoint(told["validation"])
    manifest = (target / "manifest.json").read_text()
    assert str(harness.folder) not in manifest, "nothing of somebody's machine is in it"
    assert "my_data_train" in json.loads((target / "dataset_info.json").read_text())
    again = export(harness, output=str(target), split=0.3)
    assert again.exit_status == 2
    assert again.error is not None
    assert "exists already" in again.error


def test_a_form_of_text_has_no_room_for_it(harness: GenerationHarness) -> None:
    harness.output.write_text("Question: a\nAnswer: b\n")
    outcome = export(harness, format="text", with_provenance=True)
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "--with-provenance needs a form of records" in outcome.error
    for form, option in (("adapter", {"split": 0.1}), ("merged", {"with_provenance": True})):
        refused = export(harness, format=form, **option)
        assert refused.exit_status == 2
        assert "is for datasets: add --format messages" in str(refused.error)


def test_documents_and_conversations_are_exported_in_their_form_with_provenance(harness: GenerationHarness) -> None:
    for number in range(4):
        harness.write(f"more-{number}.txt", made_up_text(10 + number, 2))
    mix = {"mix__rewrite": 0.5, "mix__dialogue": 0.34, "mix__phrasings": 1}
    outcome = harness.run(forms=["qa", "rewrite", "dialogue"], **mix)
    assert outcome.state == "finished", outcome.error
    target = harness.folder / "data"
    outcome = export(harness, output=str(target), split=0.3, with_provenance=True)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["provenance"] == outcome.result["examples"], "each is found again by its words"
    documents = [record for side in ("train", "validation") for record in found_in(target, f"documents_{side}")]
    assert len(documents) == 3
    assert all(record["text"] and record["provenance"]["score"] for record in documents)
    dialogues = [record for record in found_in(target, "train") if len(record["messages"]) > 2]
    assert dialogues
    assert all(record["provenance"]["document"] in files(harness) for record in [*documents, *dialogues])
    sides = [
        {
            record["provenance"]["document"]
            for part in ("", "documents_")
            for record in found_in(target, f"{part}{side}")
        }
        for side in ("train", "validation")
    ]
    assert sides[0].isdisjoint(sides[1]), "texts of a document stay with its pairs"


def found_in(folder: Path, name: str) -> list[dict[str, Any]]:
    return records(folder / f"{name}.jsonl") if (folder / f"{name}.jsonl").exists() else []


def files(harness: GenerationHarness) -> set[str]:
    return {path.relative_to(harness.input).as_posix() for path in harness.input.rglob("*.*")}
