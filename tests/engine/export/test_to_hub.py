"""Uploads to a hub: listed first, then that and nothing else is sent; a fake hub takes it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.export.hub_card import AdapterFacts, adapter_card, card_problems, dataset_card, with_license
from lora_tui.engine.export.hub_upload import LIST
from lora_tui.engine.export.public_names import find_private, private_names
from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.models.checksums import verify
from lora_tui.engine.runtime.engine import Outcome
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import tiny_settings, training_text
from tests.hub_server import TOKEN, FakeHub

REPO = "me/my-adapter"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Iterator[FakeHub]:
    server.reset()
    with server.used(tmp_path / "cache"):
        yield server


def export(trained: Trained, tmp_path: Path, **options: Any) -> Outcome:
    given = {"to_hub": REPO, "output": str(tmp_path / "prepared"), **options}
    return trained.engine_harness.run("export", {name: value for name, value in given.items() if value is not None})


def head(text: str, kind: str = "ModelCard") -> dict[str, Any]:
    import huggingface_hub

    found: dict[str, Any] = getattr(huggingface_hub, kind)(text).data.to_dict()
    return found


def test_nothing_is_sent_before_it_was_listed(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    outcome = export(trained, tmp_path)
    assert outcome.state == "finished", outcome.error
    assert not hub.requests
    result = outcome.result
    assert (result["repository"], result["kind"], result["visible_to"], result["sent"]) == (
        REPO, "model", "you alone", False,
    )  # fmt: skip
    folder = tmp_path / "prepared"
    assert set(result["listed"]) == {path.name for path in folder.iterdir()} - {LIST}
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "config.toml"} < set(result["listed"])
    notes = [event.payload["message"] for event in trained.engine_harness.events(outcome.run_id, "note")]
    for name in result["listed"]:
        assert any(note.startswith(f"  {name}  ") for note in notes)
    assert notes[-1].startswith("Nothing has been sent.")


def test_what_was_listed_is_what_arrives_in_one_private_commit(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    listed = export(trained, tmp_path, license="apache-2.0").result["listed"]
    outcome = export(trained, tmp_path, send=True)
    assert outcome.state == "finished", outcome.error
    repo = hub.repos[("model", REPO)]
    assert repo.private
    assert len(repo.commits) == 2, "that of the new repository, and ours"
    commit, files = repo.commits[-1]
    assert outcome.result["revision"] == commit
    assert outcome.result["address"].endswith(REPO)
    assert set(files) - {".gitattributes"} == set(listed)
    for name in listed:
        assert files[name] == (tmp_path / "prepared" / name).read_bytes()
    assert {token for _, path, token in hub.requests if "/lfs/" not in path} == {TOKEN}


def test_nothing_of_this_machine_is_in_what_is_sent(
    trained: Trained, hub: FakeHub, tmp_path: Path, base_folder: Path
) -> None:
    outcome = export(trained, tmp_path)
    assert outcome.state == "finished", outcome.error
    folder = tmp_path / "prepared"
    places = [str(base_folder), str(trained.adapter), str(trained.engine_harness.folder), str(Path.cwd()), TOKEN]
    assert any(place in (trained.adapter / "README.md").read_text() for place in places), "there was something"
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not [place for place in places if place.encode() in content], path.name
    assert json.loads((folder / "lora_tui.json").read_text())["data"]["file"] == "pairs.txt"
    verify(folder)
    assert open_adapter(folder, None).step == trained.outcome.result["best_step"]


def test_the_card_has_what_a_hub_reads(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    export(trained, tmp_path, license="cc-by-4.0")
    text = (tmp_path / "prepared" / "README.md").read_text()
    found = head(text)
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == ("cc-by-4.0", "peft", "text-generation")
    assert found["metrics"] == ["bleu", "exact_match", "f1", "rouge"]
    assert "base_model" not in found, "a folder is no name of the hub"
    (model,) = found["model-index"]
    figures = {one["type"]: one["value"] for one in model["results"][0]["metrics"]}
    evaluation = trained.engine_harness.events(trained.run_id, "evaluation")[-1].payload
    assert figures["exact_match"] == pytest.approx(evaluation["metrics"]["exact_match"], abs=1e-4)
    assert f'PeftModel.from_pretrained(base, "{REPO}")' in text
    assert f"hf download {REPO} --local-dir THIS_FOLDER" in text
    assert card_problems(text, "model") == []


def test_a_file_that_changed_after_the_list_is_not_sent(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    export(trained, tmp_path)
    card = tmp_path / "prepared" / "README.md"
    card.write_text(card.read_text() + "\nMore.\n")
    (tmp_path / "prepared" / "notes.txt").write_text("mine")
    refused = export(trained, tmp_path, send=True)
    assert refused.exit_status == 2
    assert "README.md, notes.txt changed since it was listed" in (refused.error or "")
    assert not hub.repos
    (tmp_path / "prepared" / "notes.txt").unlink()
    again = export(trained, tmp_path)
    assert set(again.result["listed"]) >= {"README.md", "SHA256SUMS"}
    sent = export(trained, tmp_path, send=True)
    assert sent.state == "finished", sent.error
    files = hub.repos[("model", REPO)].commits[-1][1]
    assert files["README.md"].endswith(b"\nMore.\n")
    assert "README.md" in files["SHA256SUMS"].decode()
    assert LIST not in files["SHA256SUMS"].decode()
    verify(tmp_path / "prepared")


@pytest.mark.parametrize(
    ("listed", "sent", "reason"),
    [
        ({}, {"public": True}, "it was listed as private"),
        ({"public": True}, {}, "it was listed as public"),
        ({}, {"license": "mit"}, "it was listed without the licence mit"),
        ({}, {"to_hub": "me/other"}, "was prepared for me/my-adapter"),
    ],
)
def test_what_is_sent_is_what_was_agreed_to(
    trained: Trained, hub: FakeHub, tmp_path: Path, listed: dict[str, Any], sent: dict[str, Any], reason: str
) -> None:
    export(trained, tmp_path, **listed)
    refused = export(trained, tmp_path, send=True, **sent)
    assert (refused.exit_status, reason in (refused.error or "")) == (2, True), refused.error
    assert not hub.repos


def test_a_secret_or_a_path_in_a_file_keeps_all_of_it_here(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    export(trained, tmp_path)
    card = tmp_path / "prepared" / "README.md"
    text = card.read_text()
    card.write_text(f"{text}\nsk-{'a1B2' * 8}\n")
    refused = export(trained, tmp_path)
    assert re.search(r"README.md line \d+ seems to hold an OpenAI-style key", refused.error or "")
    assert "a1B2" not in (refused.error or "")
    card.write_text(f"{text}\nsee {Path.cwd()}/notes\n")
    refused = export(trained, tmp_path, send=True)
    assert "changed since" in (refused.error or "")
    assert "names a path of this machine" in (export(trained, tmp_path).error or "")
    assert not hub.repos


def test_a_card_that_the_hub_would_refuse_is_refused_here(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    assert "--license wtf: the hub does not know it" in (export(trained, tmp_path, license="wtf").error or "")
    export(trained, tmp_path)
    card = tmp_path / "prepared" / "README.md"
    card.write_text(card.read_text().replace("library_name: peft", "library_name: peft\nbase_model: ./here", 1))
    assert "base_model is no name of the hub: ./here" in (export(trained, tmp_path).error or "")


def test_without_a_token_nothing_begins(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    with hub.used(tmp_path / "cache", token=None):
        outcome = export(trained, tmp_path, send=True)
    assert outcome.exit_status == 3
    assert "HF_TOKEN" in (outcome.error or "")
    assert not (tmp_path / "prepared").exists()
    assert not hub.requests


def test_a_token_that_the_hub_refuses_is_said_and_never_shown(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    with hub.used(tmp_path / "cache", token="hf_" + "wrongWRONG" * 4):
        outcome = export(trained, tmp_path, send=True)
    assert outcome.exit_status == 3
    assert "The hub refuses (401)" in (outcome.error or "")
    assert "wrongWRONG" not in (outcome.error or "")


def test_an_upload_that_broke_goes_on_with_what_is_missing(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    hub.failing_uploads = 1
    export(trained, tmp_path)
    broken = export(trained, tmp_path, send=True)
    assert broken.exit_status == 3, broken.error
    assert len(hub.repos[("model", REPO)].commits) == 1, "no half of it"
    assert export(trained, tmp_path, send=True).state == "finished"
    assert len(hub.uploaded) == 1
    assert export(trained, tmp_path, send=True).state == "finished"
    assert len(hub.uploaded) == 1, "what the hub has is not sent again"


def test_a_repository_that_is_public_already_is_no_private_one(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    export(trained, tmp_path, public=True)
    assert export(trained, tmp_path, send=True, public=True).result["visible_to"] == "everybody"
    refused = export(trained, tmp_path, send=True, output=str(tmp_path / "second"))
    assert "me/my-adapter is there already, and public" in (refused.error or "")


def test_another_adapter_does_not_go_into_a_folder_that_was_prepared(
    trained: Trained, hub: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "prepared").mkdir()
    assert "was not prepared for the hub" in (export(trained, tmp_path).error or "")
    (tmp_path / "prepared").rmdir()
    export(trained, tmp_path)
    listed = json.loads((tmp_path / "prepared" / LIST).read_text())
    listed["made_from"]["weights"] = "another"
    (tmp_path / "prepared" / LIST).write_text(json.dumps(listed))
    assert "out of other data or another adapter" in (export(trained, tmp_path).error or "")


@pytest.mark.parametrize(
    "name", ["my-adapter", "me/../x", "a b/c", "me/x/y", "https://huggingface.co/me/x", "me/x-", "a/né"]
)
def test_a_repository_is_owner_and_name(trained: Trained, tmp_path: Path, name: str) -> None:
    assert "--to-hub takes OWNER/NAME" in (export(trained, tmp_path, to_hub=name).error or "")


def test_options_of_an_upload_need_one(trained: Trained, tmp_path: Path) -> None:
    assert "add --to-hub OWNER/NAME" in (export(trained, tmp_path, to_hub=None, send=True).error or "")
    assert "hf upload" in (export(trained, tmp_path, format="merged").error or "")


@pytest.fixture
def harness(tmp_path: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]) -> EngineHarness:
    (tmp_path / "pairs.txt").write_text(training_text())
    return new_engine_harness(tmp_path, tiny_settings({"train_data_file": str(tmp_path / "pairs.txt")}))


def test_a_dataset_arrives_with_its_card(harness: EngineHarness, hub: FakeHub, tmp_path: Path) -> None:
    options = {"to_hub": "me/notes", "format": "messages", "split": 0.2, "license": "cc0-1.0", "parquet": True}
    options["output"] = str(tmp_path / "prepared")
    assert harness.run("export", options).state == "finished"
    outcome = harness.run("export", options | {"send": True})
    assert outcome.state == "finished", outcome.error
    repo = hub.repos[("dataset", "me/notes")]
    files = repo.commits[-1][1]
    assert repo.private
    assert "train.parquet" in files
    found = head(files["README.md"].decode(), "DatasetCard")
    assert found["license"] == "cc0-1.0"
    assert found["configs"][0]["data_files"][0]["path"].endswith(".parquet")
    assert "# notes" in files["README.md"].decode()
    assert 'load_dataset("me/notes")' in files["README.md"].decode()
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    back = {"format": "messages", "train_data_file": "hf:me/notes", "output": str(tmp_path / "b.jsonl")}
    again = harness.run("export", back)
    assert again.result["examples"] == json.loads(files["manifest.json"])["split"]["train"], again.error


def test_a_secret_in_a_parquet_file_keeps_all_of_it_here(harness: EngineHarness, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text(
        '{"question": "a?", "answer": "1"}\n{"question": "The key?", "answer": "hf_' + "AbCdEfGhIj" * 3 + '0123"}\n'
    )
    options = {"to_hub": "me/notes", "format": "messages", "parquet": True, "output": str(tmp_path / "p")}
    outcome = harness.run("export", options | {"train_data_file": str(tmp_path / "secret.jsonl")})
    assert outcome.state == "failed"
    assert "train.parquet row 2 seems to hold" in (outcome.error or "")


def test_a_parquet_file_that_cannot_be_read_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    (sentence,) = find_private(tmp_path, [])
    assert sentence.startswith("train.parquet cannot be looked through")


def test_the_bare_name_of_an_adapters_folder_is_not_cut_out_of_words(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.adapter, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    private = private_names(open_adapter(Path("out"), None))
    assert "without" in adapter_card("---\ntags: []\n---\nAnswers without it.", AdapterFacts(REPO, private=private))
    assert str(tmp_path / "out") in private


def test_a_dataset_made_of_one_on_the_hub_names_it(harness: EngineHarness, hub: FakeHub, tmp_path: Path) -> None:
    hub.dataset("o/n", {"train.jsonl": '{"question": "a?", "answer": "1"}\n'})
    options = {"to_hub": "me/notes", "format": "alpaca", "train_data_file": "hf:o/n", "output": str(tmp_path / "p")}
    outcome = harness.run("export", options)
    assert outcome.state == "finished", outcome.error
    card = (tmp_path / "p" / "README.md").read_text()
    assert head(card, "DatasetCard")["source_datasets"] == ["o/n"]
    assert json.loads((tmp_path / "p" / "manifest.json").read_text())["made_from"]["dataset"].startswith("hf:o/n")


def test_a_card_of_another_program_keeps_what_it_says() -> None:
    text = "---\nlanguage: de\ntags:\n- mine\nbase_model: /home/x/base\n---\n\n# Mine\n\nfrom /home/x/base\n"
    facts = AdapterFacts(REPO, "org/base", "o/n", "mit", private={"/home/x/base": "org/base"})
    card = adapter_card(text, facts)
    found = head(card)
    assert found["language"] == "de"
    assert found["tags"] == ["mine", "lora", "lora-tui"]
    assert (found["base_model"], found["base_model_relation"], found["datasets"]) == ("org/base", "adapter", ["o/n"])
    assert "/home" not in card
    assert card_problems(card, "model") == []


@pytest.mark.parametrize("text", ["", "no head", "---\n: [\n---\nbroken\n", "---\n- a list\n---\nx\n"])
def test_a_card_without_a_head_that_can_be_read_gets_one(text: str) -> None:
    found = head(adapter_card(text, AdapterFacts(REPO)))
    assert found["library_name"] == "peft"
    assert with_license(dataset_card("", REPO, "mit", []), "cc0-1.0").startswith("---\nlicense: cc0-1.0\n---\n")


def test_what_is_wrong_with_a_card_is_told() -> None:
    assert "cannot be read" in card_problems("---\n: [\n---\nx", "model")[0]
    assert "licence nonsense" in card_problems("---\nlicense: nonsense\n---\nx", "dataset")[0]
