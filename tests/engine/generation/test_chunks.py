"""Chunks cover the text, their offsets are exact, and borders lie where a reader would put them."""

import random
import time
from itertools import pairwise

import pytest

from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.chunks import Chunk, headings, split
from lora_tui.engine.generation.structure import blocks

SENTENCE = "The keeper of the light at Lorvik had a dog, a boat and a stove that smoked. "
LARGE = {
    "no blank lines": SENTENCE + "\n",
    "one line without a sentence's end": "rope sail tar mast keel ",
    "blanks": " ",
    "blanks behind a stop": ". " + " " * 4000,
    "blank lines": "\n",
}
"""What is repeated: these took time with the square of their size. `tests/bench/large_texts.py` has more."""

WORDS = ["alpha", "beta", "gamma", "straße", "東京", "naïve", "3.5", "U+2028", "{brace}", "<tag>", "`code`"]


def random_document(seed: int) -> str:
    rng = random.Random(seed)
    parts = []
    for _ in range(rng.randint(1, 25)):
        kind = rng.random()
        sentence = " ".join(rng.choices(WORDS, k=rng.randint(1, 20))).capitalize() + rng.choice(".!?")
        if kind < 0.2:
            parts.append("#" * rng.randint(1, 3) + f" Heading {rng.randint(1, 99)}\n")
        elif kind < 0.3:
            parts.append("```\n" + "x = 1\n\n" * rng.randint(1, 30) + "```\n")
        elif kind < 0.4:
            parts.append("y" * rng.randint(1, 900) + "\n\n")
        else:
            parts.append(" ".join([sentence] * rng.randint(1, 6)) + rng.choice(["\n\n", "\n", "\r\n\r\n", "\n\n\n"]))
    return "".join(parts)


def word_count(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("seed", range(60))
def test_chunks_cover_the_text_in_order_and_keep_to_the_size(seed: int) -> None:
    text = random_document(seed)
    rng = random.Random(seed)
    size = rng.choice([1, 5, 40, 200])
    overlap = rng.choice([0, 3, 30, 500])
    counter = rng.choice([estimate_tokens, word_count])
    chunks = split(text, size, overlap, counter)
    covered = 0
    for chunk in chunks:
        assert 0 <= chunk.start < chunk.end <= len(text)
        assert not text[covered : chunk.start].strip(), "text between two chunks"
        assert chunk.end > covered, "a chunk that adds nothing"
        assert chunk.tokens == counter(text[chunk.start : chunk.end])
        assert chunk.tokens <= size + 1
        covered = chunk.end
    assert not text[covered:].strip()


@pytest.mark.parametrize("seed", range(20))
def test_splitting_twice_gives_the_same_chunks(seed: int) -> None:
    text = random_document(seed)
    assert split(text, 50, 10) == split(text, 50, 10)


def passages(text: str, size: int, overlap: int = 0) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in split(text, size, overlap, word_count)]


def test_overlap_repeats_whole_sentences_of_the_passage_before() -> None:
    sentences = [f"Sentence number {n} is here." for n in range(12)]
    found = passages(" ".join(sentences), 20, 6)
    assert len(found) > 2
    for before, after in pairwise(found):
        repeated = next(s for s in reversed(sentences) if before.rstrip().endswith(s))
        assert after.startswith(repeated)


def test_paragraphs_are_not_broken_when_they_fit() -> None:
    text = "\n\n".join(f"Paragraph {n} has one sentence. And it has another one." for n in range(6))
    for passage in passages(text, 25):
        assert passage.strip().startswith("Paragraph")
        assert passage.strip().endswith("one.")


def test_a_heading_begins_a_chunk_and_never_ends_one() -> None:
    text = "".join(f"# Part {n}\n\n" + "Some words that fill it. " * 3 + "\n\n" for n in range(8))
    found = passages(text, 20)
    assert all(passage.startswith("# Part") for passage in found)
    assert not any(passage.strip().splitlines()[-1].startswith("#") for passage in found)


def test_a_heading_does_not_stand_alone_before_a_large_paragraph() -> None:
    text = "# Wings\n\n" + "A sentence of five words. " * 8
    assert len(passages(text, 40)) == 2
    assert passages(text, 40)[0].startswith("# Wings\n\nA sentence")


def test_fenced_code_that_fits_is_not_broken() -> None:
    code = "```python\n" + "a = 1\n\n# no heading\nb = 2\n\n" * 3 + "```\n"
    text = "Words before it. " * 5 + "\n\n" + code + "Words after it. " * 5
    assert any(code in passage for passage in passages(text, 32))
    assert headings(text) == []


def test_a_chunk_knows_the_heading_it_stands_under() -> None:
    text = "# Bees\n\n" + "Bees dance a lot. " * 10 + "\n\n# Ants ##\n\n" + "Ants walk in lines. " * 10
    found = [chunk.heading for chunk in split(text, 20, 0, word_count)]
    assert set(found) == {"Bees", "Ants"}
    assert headings(text) == ["Bees", "Ants"]


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    text = "We met Dr. Smith and Mrs. Jones there. They left. " * 2
    assert not any(passage.rstrip().endswith(("Dr.", "Mrs.")) for passage in passages(text, 8))


def test_a_list_is_not_broken_where_it_fits_and_stays_with_the_line_that_announces_it() -> None:
    items = "".join(f"- Item {n} of the list.\n\n" for n in range(6))
    text = "Words before it, not few. " * 4 + "\n\nThese are the parts:\n\n" + items + "Words after it. " * 9
    whole = next(passage for passage in passages(text, 44) if "Item 0" in passage)
    assert whole.startswith("These are the parts:")
    assert items.strip() in whole


def test_a_further_paragraph_of_an_item_belongs_to_its_list() -> None:
    text = "- One thing.\n\n  More of it.\n\n- Another thing.\n\nNo item."
    kinds = [(block.kind, text[block.start : block.end].strip()) for block in blocks(text)]
    assert [kind for kind, _ in kinds] == ["list", "list", "list", "text"]
    assert kinds[1][1] == "More of it."


ROWS = "".join(f"| Harbour {n} | {n} m |\n" for n in range(12))
TABLE = "| Port | Depth |\n| --- | --- |\n" + ROWS


def test_a_table_that_fits_is_not_broken() -> None:
    text = "Some words before it. " * 4 + "\n\n" + TABLE + "\n" + "Some words after it. " * 6
    assert any(TABLE in passage for passage in passages(text, 100))


def test_each_later_part_of_a_large_table_has_its_head_as_context() -> None:
    found = split("# Depths\n\n" + TABLE + ROWS * 3, 64, 10, word_count)
    assert len(found) > 2
    assert found[0].context == ""
    for chunk in found[1:]:
        assert chunk.context == "# Depths\n\n| Port | Depth |\n| --- | --- |"


def test_the_headings_above_a_passage_are_its_context() -> None:
    text = "# Bees\n\n## Wings\n\n" + "They have four of them. " * 12 + "\n\nHouse\n=====\n\n" + "It has a door. " * 12
    found = split(text, 25, 5, word_count)
    contexts = list(dict.fromkeys(chunk.context for chunk in found))
    assert contexts == ["", "# Bees\n\n## Wings", "# House"]
    assert headings(text) == ["Bees", "Wings", "House"]


def test_a_context_takes_a_quarter_of_the_size_at_most() -> None:
    text = "".join(f"{'#' * n} {'word ' * 9}\n\n" for n in range(1, 6)) + "A sentence of five words. " * 60
    assert 0 < max(word_count(chunk.context) for chunk in split(text, 40, 0, word_count)) <= 10


def test_an_edit_changes_the_passages_around_it_alone() -> None:
    rng = random.Random(5)
    words = [f"word{n}" for n in range(400)]
    paragraphs = [
        " ".join(
            " ".join(rng.choices(words, k=rng.randint(6, 14))).capitalize() + "." for _ in range(rng.randint(2, 5))
        )
        for _ in range(300)
    ]
    text = "\n\n".join(paragraphs)
    edited = "A sentence that was not there before, at the very beginning of it all.\n\n" + text
    before, after = passages(text, 200, 20), passages(edited, 200, 20)
    assert len(set(after) - set(before)) <= 6
    assert len(before) > 40


def test_white_space_alone_gives_no_chunk() -> None:
    assert split(" \n\n\t \n", 10, 2) == []
    assert split("", 10, 2) == []


@pytest.mark.parametrize("form", LARGE)
def test_a_large_text_takes_time_in_proportion_to_its_size(form: str) -> None:
    text = "# " + LARGE[form] * (2_500_000 // len(LARGE[form])) + "end"
    began = time.process_time()
    chunks = split(text, 400, 40)
    assert time.process_time() - began < 5  # 0.1 to 0.4 s here; what grew with the square took 7 s and more
    assert chunks[-1].end == len(text)
    assert sum(chunk.tokens for chunk in chunks) <= 1.3 * estimate_tokens(text) + 400


def test_a_part_without_borders_is_counted_a_few_times_only() -> None:
    counted = 0

    def counter(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return estimate_tokens(text)

    split("rope sail " * 100_000, 400, 40, counter)
    assert counted < 100 * 1_000_000


def test_a_heading_of_a_whole_page_is_cut() -> None:
    assert max(len(chunk.heading) for chunk in split("# " + "word " * 5000, 400, 40)) <= 200
    assert headings("# one\n\n# one\n\n# two\n\n# three", 2) == ["one", "two"]


def test_the_estimate_counts_ideograms_singly() -> None:
    assert estimate_tokens("word" * 10) == 10
    assert estimate_tokens("東京都") == 3
    assert estimate_tokens("") == 0


def test_one_short_text_is_one_chunk() -> None:
    assert split("Short.", 10, 2) == [Chunk(0, 6, 2, "")]
