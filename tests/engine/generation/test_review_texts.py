"""A person accepts or rejects what was written beside pairs, and the file that is trained on follows."""

import pytest

from lora_tui.engine.review.pairs import override_text
from lora_tui.errors import UsageError
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import on_store


def test_a_rejected_text_leaves_the_file_and_comes_back_when_it_is_accepted(harness: GenerationHarness) -> None:
    end = harness.run(total_examples=4, forms=["qa", "rewrite"], mix__rewrite=0.5, evaluation_threshold=0.0)
    assert end.state == "finished", end.error
    (text_id, title) = harness.rows("SELECT id, title FROM texts WHERE state='accepted' ORDER BY id LIMIT 1")[0]
    before = harness.output.read_text().splitlines()
    said = on_store(harness, override_text, text_id, "rejected")
    assert said.message.startswith("Rejected: «")
    assert "is written again" in said.message
    assert len(harness.output.read_text().splitlines()) == len(before) - 1
    assert harness.events("text")[-1]["verdict"] == "rejected"
    assert harness.events("text")[-1]["title"] == title
    on_store(harness, override_text, text_id, "accepted")
    assert harness.output.read_text().splitlines() == before
    assert on_store(harness, override_text, text_id, "accepted").message.startswith("Accepted already")
    with pytest.raises(UsageError, match="no text 999"):
        on_store(harness, override_text, 999, "rejected")
