"""Stems, beside nltk's."""

import random
import re
from pathlib import Path

from nltk.stem.porter import PorterStemmer

from lora_tui.scoring.porter import _STEP_2, _STEP_3, _STEP_4, porter_stem

TEXTS = Path(__file__).parents[1] / "bench" / "texts"


def test_every_word_of_the_texts_has_the_stem_that_nltk_gives_it() -> None:
    found = {word for text in TEXTS.glob("*/*") for word in re.findall(r"[^\W_]+", text.read_text("utf-8"))}
    assert len(found) > 4500
    nltks = PorterStemmer()
    assert [word for word in sorted(found) if porter_stem(word) != nltks.stem(word)] == []


def test_made_up_words_with_up_to_three_endings_have_the_stem_that_nltk_gives_them() -> None:
    rng, nltks = random.Random(1), PorterStemmer()
    endings = [*_STEP_2, *_STEP_3, *_STEP_4, *"s es ies sses ed ing eed ied y alli logi e ll bb".split()]
    for _ in range(20_000):
        word = "".join(rng.choices("abcdefghilmnopqrstuvwxyz", k=rng.randint(1, 5)))
        word += "".join(rng.choices(endings, k=rng.randint(0, 3)))
        assert porter_stem(word) == nltks.stem(word), word


def test_words_that_the_rules_would_spoil_are_kept() -> None:
    kept = {"skies": "sky", "dying": "die", "news": "news", "innings": "inning", "succeed": "succeed", "as": "as"}
    assert {word: porter_stem(word) for word in kept} == kept
