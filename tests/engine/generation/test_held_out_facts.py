"""Which pairs are kept from training: those about sentences that are drawn by their words."""

from lora_tui.engine.generation.held_out_facts import is_held_out, without_held_out

SENTENCES = [f"The mill number {n} of the valley was built in {1700 + n} by its owner." for n in range(400)]
PASSAGE = " ".join(SENTENCES)


def drawn(share: float, seed: int = 42) -> list[str]:
    return [sentence for sentence in SENTENCES if is_held_out(sentence, sentence, share, seed)]


def test_about_the_share_of_sentences_is_drawn_and_none_at_zero() -> None:
    assert drawn(0.0) == []
    assert 60 <= len(drawn(0.2)) <= 100
    assert drawn(0.2) != drawn(0.2, seed=7)


def test_a_larger_share_holds_out_what_a_smaller_one_does() -> None:
    assert set(drawn(0.1)) < set(drawn(0.3))


def test_a_quotation_of_a_part_and_of_more_belong_to_the_fact() -> None:
    fact = drawn(0.2)[0]
    place = SENTENCES.index(fact)
    assert is_held_out(" ".join(fact.split()[3:9]), PASSAGE, 0.2, 42)
    assert is_held_out(f"{fact} {SENTENCES[place + 1]}", PASSAGE, 0.2, 42)
    assert is_held_out(f"**{fact.upper()}**", PASSAGE, 0.2, 42)


def test_what_asks_questions_does_not_see_the_sentences_that_are_held_out() -> None:
    shown = without_held_out(PASSAGE, 0.2, 42)
    assert all(fact not in shown for fact in drawn(0.2))
    assert sum(sentence in shown for sentence in SENTENCES) == 400 - len(drawn(0.2))
    assert without_held_out(PASSAGE, 0.0, 42) == PASSAGE
