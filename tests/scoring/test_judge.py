import math

import pytest

from lora_tui.scoring.judge import DIMENSIONS, expected_level, parse_reply, ten_scale, to_unit

READ = [
    ("5 4 3", (5, 4, 3)),
    (" 5 4 3.\n", (5, 4, 3)),
    ("5, 4, 3", (5, 4, 3)),
    ("5,4,3", (5, 4, 3)),
    ("5\n4\n3", (5, 4, 3)),
    ("5/4/3", (5, 4, 3)),
    ("5 / 4 / 3", (5, 4, 3)),
    ("5/5/5", (5, 5, 5)),
    ("5 | 4 | 3", (5, 4, 3)),
    ("[5, 4, 3]", (5, 4, 3)),
    ("**5 4 3**", (5, 4, 3)),
    ("５ ４ ３", (5, 4, 3)),
    ("5, 4 and 3", (5, 4, 3)),
    ("5.0 4.0 3.0", (5, 4, 3)),
    ("4/5 5/5 3/5", (4, 5, 3)),
    ("4/5, 5/5, 3/5", (4, 5, 3)),
    ("4 out of 5, 5 out of 5, 3 out of 5", (4, 5, 3)),
    ("Score: 5 4 3", (5, 4, 3)),
    ("5 4 3\n\nThe answer is grounded in the passage but of little use.", (5, 4, 3)),
    ("H2O is in the passage: 5 4 3", (5, 4, 3)),
    ("Groundedness: 5, Correctness: 4, Usefulness: 3", (5, 4, 3)),
    ("Groundedness: 5\nCorrectness: 4\nUsefulness: 3", (5, 4, 3)),
    ("usefulness: 3; groundedness: 5; correctness: 4", (5, 4, 3)),
    ("**Groundedness**: 5\n**Correctness:** 4\n- Usefulness = **3**", (5, 4, 3)),
    ("1. Groundedness: 5\n2. Correctness: 4\n3. Usefulness: 3", (5, 4, 3)),
    (" **1. Groundedness**: 5\n **2. Correctness**: 4\n **3. Usefulness**: 3", (5, 4, 3)),
    ("Groundedness (1-5): 5\nCorrectness (1-5): 4\nUsefulness (1-5): 3", (5, 4, 3)),
    ("Groundedness: 5/5\nCorrectness: 4/5\nUsefulness: 3/5", (5, 4, 3)),
    ("Groundedness score is 5. Correctness 4. Usefulness - 3.", (5, 4, 3)),
    ("| Groundedness | 5 |\n| Correctness | 4 |\n| Usefulness | 3 |", (5, 4, 3)),
    ("Groundedness: 5 - every claim is in the passage\nCorrectness: 4 - nearly\nUsefulness: 3 - dull", (5, 4, 3)),
    ("Groundedness, correctness, usefulness: 5 4 3", (5, 4, 3)),
    ('{"groundedness": 5, "correctness": 4, "usefulness": 3}', (5, 4, 3)),
    ('{"Groundedness": "5", "Correctness": "4/5", "Usefulness": 3.0}', (5, 4, 3)),
    ('```json\n{"usefulness": 3,\n "correctness": 4,\n "groundedness": 5}\n```', (5, 4, 3)),
    ('{"reason": "1889 is on page 2", "groundedness": 5, "correctness": 4, "usefulness": 3}', (5, 4, 3)),
    ('{"reason": "says \\"groundedness\\": 2", "groundedness": 5, "correctness": 4, "usefulness": 3}', (5, 4, 3)),
    ("{'groundedness': 5, 'correctness': 4, 'usefulness': 3,}", (5, 4, 3)),
    ('{"groundedness": 5, "correctness": 4, "usefulness": 3', (5, 4, 3)),
    ('{"ratings": [5, 4, 3]}', (5, 4, 3)),
    ("Groundedness matters most. Groundedness: 5, Correctness: 4, Usefulness: 3", (5, 4, 3)),
    ("<think>4 4 4</think> 2 2 2", (2, 2, 2)),
    ("<think>\nFirst 4 4 4, no, 3 3 3.\n</think>\n\n2 2 2", (2, 2, 2)),
    ("a 4 perhaps </think> 2 2 2", (2, 2, 2)),
    ("[THINK]5 5 5[/THINK]2 2 2", (2, 2, 2)),
    ('<think>{"groundedness": 1}</think>{"groundedness": 5, "correctness": 4, "usefulness": 3}', (5, 4, 3)),
]

STYLES = [
    ("**5** **4** **3**", (5, 4, 3)),
    ("`5` `4` `3`", (5, 4, 3)),
    ("[5] [4] [3]", (5, 4, 3)),
    ("(5), (4), (3)", (5, 4, 3)),
    ('["5", "4", "3"]', (5, 4, 3)),
    ("5\ufe0f\u20e3 4\ufe0f\u20e3 3\ufe0f\u20e3", (5, 4, 3)),
    ("1. 5\n2. 4\n3. 3", (5, 4, 3)),
    ("1) **5**\n2) **4**\n3) **3**", (5, 4, 3)),
    ("1. 5/5\n2. 4/5\n3. 3/5", (5, 4, 3)),
    ("1. 5 2. 4 3. 3", (5, 4, 3)),
    ("1. 5 - all of it\n2. 4 - nearly\n3. 3 - dull", (5, 4, 3)),
    ("4.5 4 3", (4.5, 4, 3)),
    ('{"groundedness": 5, "correctness": 4, "usefulness": 3.5}', (5, 4, 3.5)),
    ("5 4 3\n\nIt says that the tower was built in 1703, at a cost of 12,000 crowns.", (5, 4, 3)),
    ("5 4 3 - the tower has 12 windows", (5, 4, 3)),
    ("Groundedness: 5, built in 1703\nCorrectness: 4\nUsefulness: 3", (5, 4, 3)),
    ("**Groundedness:** **5**/5\n**Correctness:** **4**/5\n**Usefulness:** **3**/5", (5, 4, 3)),
    (
        '{"groundedness": {"reason": "1703", "score": 5}, "correctness": {"score": 4}, "usefulness": {"score": 3}}',
        (5, 4, 3),
    ),
]
"""How models write levels whatever they are asked for; a reason behind them may hold numbers of its own."""

READ += STYLES

REFUSED = [
    "",
    "   ",
    "5",
    "Score: 10",
    "Score: 5",
    "10 10 10",
    "0 0 0",
    "6 5 4",
    "5 4",
    "I would give 5 4",
    "5 4 3 2",
    "5 4 3\n5 4 3",
    "543",
    "5.4.3",
    "4,5 3,5 4,0",
    "-5 4 3",
    "5-4-3",
    "8/10 9/10 7/10",
    "4/10 5/10 3/10",
    "4/5",
    "4/5 3",
    "4 5 5/5",
    "4/5 4/5",
    "5% 4% 3%",
    "5th 4th 3rd",
    "gpt5 h4 r3",
    "five four three",
    "5 stars, 4 stars, 3 stars",
    "On a scale of 1 to 5, I rate it 4.",
    "Reply with three digits such as 5 4 3",
    "For example: 5 4 3",
    "The passage of 1889 gets 5 4 3",
    "Groundedness: 5",
    "Groundedness: 5, Correctness: 4",
    "Groundedness: 5, Correctness: 4, Usefulness: 10",
    "Groundedness: 5, Correctness: 4, Usefulness: 0",
    "Groundedness: 4 or 5, Correctness: 4, Usefulness: 3",
    "Groundedness: 5, Groundedness: 4, Usefulness: 3",
    "Groundedness: 5, Correctness: 4, Usefulness: 3. Groundedness: 2",
    "5 groundedness, 4 correctness, 3 usefulness",
    "Usefulness, correctness, groundedness: 5 4 3",
    "Groundedness: 5, Correctness: high, Usefulness: 3 4",
    '{"groundedness": 5, "correctness": 4}',
    '{"groundedness": 5, "correctness": 4, "usefulness": 7}',
    '{"groundedness": 5, "correctness": 4, "usefulness": null}',
    '{"groundedness": 5, "correctness": 4, "usefulness": true}',
    '{"groundedness": 5, "correctness": 4, "usefulness": 3, "usefulness": 1}',
    '{"groundedness": 5, "correctness": 4, "usefulness": 3, "draft": {"usefulness": 1}}',
    '{"groundedness": 5, "correctness": 4, "usefulness": 3} Rather 2 2 2.',
    '{"score": 5}',
    '{"groundedness": 5, "correctness": 4, "usefulness": 3, "usefulness": null}',
    "Groundedness: 4/5.5, Correctness: 3/5.5, Usefulness: 2/5.5",
    "Groundedness: 4/5/5, Correctness: 4/5, Usefulness: 3/5",
    '{"groundedness": 5, "correctness": 4, "use',
    "5 4 3\nOn reflection, 2 2 2 is better.",
    "5 4 3, but usefulness could be 2",
    "5 4 3. Overall: 2",
    "Groundedness: 5 (of 5 claims)\nCorrectness: 4 or 5\nUsefulness: 3",
    "1. 5\n2. 4\n3. 3\n4. 2",
    "1. 5\n2. 4",
    "5.5 4 3",
    "<think>4 4 4",
    "<think>4 4 4</think>",
    "5 4 3 <think>no, 2 2 2",
    "I cannot rate this pair.",
    "[" * 100_000 + "{" * 100_000 + "}",
]


@pytest.mark.parametrize(("text", "levels"), READ)
def test_a_reply_with_one_reading_is_read(text: str, levels: tuple[float, float, float]) -> None:
    reply = parse_reply(text)
    assert reply is not None
    assert tuple(getattr(reply, name) for name in DIMENSIONS) == levels


@pytest.mark.parametrize(("text", "levels"), READ)
def test_offsets_point_at_the_digits_of_the_original_text(text: str, levels: tuple[float, float, float]) -> None:
    reply = parse_reply(text)
    assert reply is not None
    assert tuple(int(text[place]) for place in reply.offsets) == tuple(map(int, levels))


def test_offsets_lie_behind_the_reasoning() -> None:
    text = "<think>2 2 2</think>2 2 2"
    reply = parse_reply(text)
    assert reply is not None
    assert reply.offsets == (20, 22, 24)


@pytest.mark.parametrize("text", REFUSED)
def test_a_reply_with_no_reading_or_more_than_one_is_refused(text: str) -> None:
    assert parse_reply(text) is None


def test_a_hostile_reply_of_200_kb_is_refused_at_once() -> None:
    for piece in (" ", "\n", "1", "1.", "1 ", "/", "1/", '"', "<", "</think> ", "groundedness ", "(scale ", "*#_"):
        assert parse_reply(piece * (200_000 // len(piece)) + "a") is None


def test_levels_become_metrics_in_zero_to_one() -> None:
    reply = parse_reply("5 3 1")
    assert reply is not None
    assert reply.metrics() == {"judge_groundedness": 1.0, "judge_correctness": 0.5, "judge_usefulness": 0.0}


def test_the_expected_level_weighs_digits_by_probability() -> None:
    level, mass = expected_level({"3": math.log(0.1), "4": math.log(0.6), "5": math.log(0.3)})
    assert level == pytest.approx(4.2)
    assert mass == pytest.approx(1.0)
    assert ten_scale(to_unit(level)) == 8.0


def test_what_is_no_level_lowers_the_mass_and_not_the_level() -> None:
    level, mass = expected_level({"4": math.log(0.2), " 4": math.log(0.1), "10": math.log(0.3), "The": math.log(0.2)})
    assert level == pytest.approx(4.0)
    assert mass == pytest.approx(0.3)


def test_a_digit_counts_with_the_white_space_marks_of_raw_tokens() -> None:
    top = {"▁2": math.log(0.25), "Ġ2": math.log(0.25), "4\n": math.log(0.5)}
    assert expected_level(top) == pytest.approx((3.0, 1.0))


@pytest.mark.parametrize(
    "top", [{}, {"10": 0.0}, {"5": -math.inf}, {"5": -9999.0}, {"5": math.nan}, {"0": 0.0, "6": 0.0}]
)
def test_without_mass_on_a_level_the_level_is_nan(top: dict[str, float]) -> None:
    level, mass = expected_level(top)
    assert math.isnan(level)
    assert mass == 0


def test_a_log_probability_above_zero_counts_as_certain() -> None:
    assert expected_level({"5": 1000.0, "1": 0.0}) == (3.0, 1.0)


def test_rounding_in_log_probabilities_cannot_leave_the_scale() -> None:
    level, mass = expected_level({"5": 1e-7, "5 ": -1e-7})
    assert (level, mass) == (5.0, 1.0)


@pytest.mark.parametrize(("level", "shown"), [(1, 0), (2, 2.5), (3, 5), (4, 7.5), (5, 10), (3.333, 5.83)])
def test_levels_on_the_scale_people_see(level: float, shown: float) -> None:
    assert ten_scale(to_unit(level)) == shown
