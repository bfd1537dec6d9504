"""The file of held-out facts: whatever a passage holds comes back, and a damaged line is named."""

from pathlib import Path

import pytest

from lora_tui.engine.data.knowledge import KnowledgeQuestion, knowledge_lines, read_knowledge
from lora_tui.errors import LoraTuiError


def test_a_passage_keeps_its_line_ends_whatever_they_are(tmp_path: Path) -> None:
    odd = "one\u2028two\u0085three\x0cfour\x1cfive\r\nsix\vseven"
    questions = [KnowledgeQuestion("Who?", "Me.", "a.txt", odd), KnowledgeQuestion("Wo?", "Hier", "ä.txt", "x")]
    path = tmp_path / "pairs.knowledge.jsonl"
    path.write_text(knowledge_lines(questions), encoding="utf-8", newline="")
    assert read_knowledge(path) == questions
    with path.open("a", encoding="utf-8") as file:
        file.write('{"question": 1}\n')
    with pytest.raises(LoraTuiError, match="line 3: not a held-out question"):
        read_knowledge(path)
