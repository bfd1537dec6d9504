"""What is saved beside an adapter is the base model's own tokenizer, in a form that transformers 4 reads, too."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from lora_tui.engine.models.tokenizer_files import save_tokenizer
from tests.engine.conftest import Trained
from tests.engine.tiny import make_tokenizer

TEXT = "Question: unlock <|im_end|> the secret"
NEW_FORMS = ("TokenizersBackend", "backend")


def test_the_files_of_the_base_model_are_copied_as_they_are(base_folder: Path, tmp_path: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "extra_special_tokens": {}}
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((base_folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text("{}")
    (tmp_path / "saved").mkdir()
    save_tokenizer(AutoTokenizer.from_pretrained(folder), folder, tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()


def test_where_there_are_no_files_what_is_written_has_the_older_form(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()  # one of its own: the tests share the other
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|box|>"]})
    save_tokenizer(tokenizer, None, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "backend" not in written
    assert not isinstance(written.get("extra_special_tokens"), list)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert read.eos_token == tokenizer.eos_token
    assert read.chat_template == tokenizer.chat_template


def test_a_trained_adapter_has_a_tokenizer_that_older_programs_read(trained: Trained, tokenizer: Any) -> None:
    written = (trained.adapter / "tokenizer_config.json").read_text()
    assert not any(form in written for form in NEW_FORMS)
    assert AutoTokenizer.from_pretrained(trained.adapter)(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
