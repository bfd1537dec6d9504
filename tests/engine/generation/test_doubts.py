"""A number that may have been worked out is no proof of a fault: the judge is asked about it, or else a person."""

from dataclasses import replace

import pytest

from lora_tui.engine.generation.gates import check_gates, doubts_about
from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.engine.generation.judging import PairJudge
from lora_tui.engine.generation.number_reading import counted
from lora_tui.engine.generation.prompts import Prompts
from lora_tui.engine.generation.remote_judge import RemoteJudge
from lora_tui.engine.generation.stated_numbers import unheld_numbers
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.judge import DIMENSIONS
from lora_tui.scoring.priors import GENERATION_PRIOR
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.test_judge_check import judging

PASSAGE = (
    "The ferry of Lorne carries 48 cars and 210 passengers. A crossing takes 25 minutes. The tower beside the quay is"
    " 41 metres high. The ferry was built from 1927 to 1931. The harbour has a bell, a crane and a small light."
)
ANSWER = "The ferry of Lorne carries 486 more passengers than cars on three crossings."
MORE = "How many more passengers than cars does the ferry of Lorne carry on three crossings?"


def pair(question: str, answer: str, evidence: str = PASSAGE) -> ProposedPair:
    return ProposedPair(question, answer, evidence, "")


@pytest.mark.parametrize(
    ("question", "answer", "number"),
    [
        (MORE, "486 more.", "486"),
        (MORE, "It carries 486 more.", "486"),
        ("How many crossings does the ferry make in a week of eight days?", "It makes 77 crossings.", "77"),
        ("What percentage of those on board are cars?", "About 19 percent.", "19"),
    ],
)
def test_a_number_that_had_to_be_worked_out_is_a_doubt(question: str, answer: str, number: str) -> None:
    candidate = pair(question, answer)
    assert check_gates(candidate, PASSAGE) is None
    assert doubts_about(candidate, PASSAGE) == (number,)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many passengers does the ferry of Lorne carry?", "It carries 230 passengers."),
        ("How many cars does the ferry of Lorne carry?", "It carries 58 cars."),
        ("How long does a crossing take?", "A crossing takes 35 minutes."),
        ("How high is the tower beside the quay?", "It is 14 metres high."),
        ("How high is the tower beside the quay?", "The tower has a height of 43 metres."),
        ("When was the ferry of Lorne finished?", "It was finished in 1935."),
        ("What does a crossing cost?", "It costs 12 crowns."),
    ],
)
def test_a_number_in_the_place_of_another_is_proof(question: str, answer: str) -> None:
    refusal = check_gates(pair(question, answer), PASSAGE)
    assert refusal is not None
    assert refusal.cause == "wrong number"


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_exchanged_numbers_the_order_in_which_they_are_looked_at_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, *, backwards: bool
) -> None:
    def in_order(text: str) -> list[tuple[str, str]]:
        return sorted(counted(text), reverse=backwards)

    monkeypatch.setattr("lora_tui.engine.generation.stated_numbers.counted", in_order)
    assert unheld_numbers("It carries 210 cars and 48 passengers.", PASSAGE, "What does the ferry of Lorne carry?")


def test_working_that_is_shown_counts_where_it_comes_out() -> None:
    evidence = "Four boats sail, each with a crew of 17 and 230 seats."
    for answer, doubt in (("920 people, as each seats 230.", ""), ("820 people, as each seats 230.", "820")):
        candidate = pair("How many people could sail at once?", answer, evidence)
        assert check_gates(candidate, evidence) is None
        assert doubts_about(candidate, evidence) == ((doubt,) if doubt else ())


BARN = "Of the beams of the barn 93 % are oak, the rest is pine."
MILL = "The mill opens at 9 am and closes at 11 pm, 90 days a year, and a tour takes 2 hours."
TRAIN = "The first train leaves at 6:10, and the others follow every 25 minutes."
WOODS = "Of the beams of the barn 93 % are oak and 3 % are larch, the rest is pine."


@pytest.mark.parametrize(
    ("evidence", "question", "answer", "doubts"),
    [
        (BARN, "What percentage of the beams of the barn is oak?", "46 percent are oak.", None),
        (BARN.replace(" %", " percent"), "What percentage of the beams is oak?", "46 percent are oak.", None),
        (BARN, "What share of the beams of the barn is oak?", "46 %.", None),
        (WOODS, "What share of the beams of the barn is pine?", "4 %.", ("4",)),
        (MILL, "When does the mill open and close?", "It opens at 5 am and closes at 11 pm.", None),
        (MILL.split(", and")[0], "When does the mill open?", "It opens at 5 am.", None),
        (TRAIN, "When does the fourth train leave?", "At 7:25.", ("7:25",)),
    ],
)
def test_a_share_or_time_of_day_is_a_doubt_only_where_it_can_follow(
    evidence: str, question: str, answer: str, doubts: tuple[str, ...] | None
) -> None:
    candidate = pair(question, answer, evidence)
    assert (check_gates(candidate, evidence) is None) == (doubts is not None)
    assert doubts is None or doubts_about(candidate, evidence) == doubts


HUT = "A night costs 38 francs for adults and 19 for children. Members pay ten francs less. Supper costs 29 francs."


@pytest.mark.parametrize(
    ("answer", "doubt"),
    [
        ("57 francs: 28 for the night and 29 for supper.", ""),
        ("58 francs: 28 for the night and 30 for supper.", None),  # 30 in the place of 29
        ("56 francs, as 38 and 19 are to be paid.", None),  # of what was asked for, 29 and 10 are missing
    ],
)
def test_an_operand_that_is_exchanged_is_proof_and_right_working_is_fine(answer: str, doubt: str | None) -> None:
    candidate = pair("What does a night with supper cost a member?", answer, HUT)
    assert (check_gates(candidate, HUT) is None) == (doubt is not None)
    assert doubt is None or doubts_about(candidate, HUT) == ((doubt,) if doubt else ())


def test_a_result_beside_its_operands_is_a_doubt_though_nothing_asks_for_it() -> None:
    evidence = "The barrow holds 17 sacks. A sack is filled in 13 turns of the wheel."
    candidate = pair("How long is the barrow being filled?", "For 231 turns, since 17 sacks take 13 each.", evidence)
    assert check_gates(candidate, evidence) is None
    assert doubts_about(candidate, evidence) == ("231",)


def test_a_day_or_month_may_be_worked_out_too() -> None:
    evidence = "The work begins in March and takes five months."
    asked = "When will the work on the ferry end?"
    assert doubts_about(pair(asked, "It will end in August.", evidence), evidence) == ("August",)
    assert check_gates(pair(asked, "It will end in August.", evidence), evidence) is None
    evidence = "The work begins in March."
    refusal = check_gates(pair("When does the work begin?", "The work begins in August.", evidence), evidence)
    assert refusal is not None
    assert refusal.cause == "wrong name"


def test_a_number_that_is_held_is_no_doubt() -> None:
    assert doubts_about(pair("How many cars does the ferry carry?", "It carries 48 cars."), PASSAGE) == ()
    assert doubts_about(pair("How many more passengers than cars does it carry?", "162 more."), PASSAGE) == ()


def test_every_doubt_of_an_answer_is_told() -> None:
    evidence = "The sale of 12 boats and 2 rafts begins on Monday and takes four days."
    asked = "How many boats and rafts are sold in all, and until when?"
    candidate = pair(asked, "In all 19, so 23 less, by Friday.", evidence)
    assert check_gates(candidate, evidence) is None
    assert doubts_about(candidate, evidence) == ("19", "23", "Friday")
    wrong = pair(asked, "It is 19 boats, and the sale ends on Friday, as Peter says.", evidence)
    refusal = check_gates(wrong, evidence)
    assert refusal is not None
    assert refusal.reason.startswith("«Peter»")


@pytest.mark.parametrize(
    ("answer", "doubt"),
    [
        ("It carries thirty-eight more.", "thirty-eight"),
        ("Two thirds more.", "Two thirds"),
        ("It carries " + "9" * 2900 + " more.", "9" * 39 + "…"),
        ("It carries two hundred and five more.", "two hundred and five"),
        ("It carries full486marks more.", "486"),
    ],
)
def test_a_doubt_is_told_as_the_answer_has_it_and_briefly(answer: str, doubt: str) -> None:
    assert doubts_about(pair(MORE, answer), PASSAGE) == (doubt,)


# The judge


def test_the_judge_is_told_to_work_the_number_out_and_of_no_other_pair() -> None:
    prompts, plain = Prompts("mark"), pair(MORE, "486 more.")
    doubtful = ProposedPair(MORE, "486 more.", PASSAGE, "", doubts=("486",))
    several = replace(doubtful, doubts=("486", "Friday"))
    assert "«486» and «Friday» stand in the answer" in prompts.judge(PASSAGE, several)[-1]["content"]
    asked = "«486» stands in the answer and not in the passage. Work out"
    assert asked in prompts.judge(PASSAGE, doubtful)[-1]["content"]
    assert asked in prompts.judge(PASSAGE, doubtful, in_json=True)[-1]["content"]
    assert all(asked in prompts.judge_dimension(PASSAGE, doubtful, one)[-1]["content"] for one in DIMENSIONS)
    assert "Work out" not in prompts.judge(PASSAGE, plain)[-1]["content"]
    assert prompts.judge(PASSAGE, doubtful)[0] == prompts.judge(PASSAGE, plain)[0], "the common head stays the same"


def levels(groundedness: float, correctness: float) -> dict[str, float]:
    return {"judge_groundedness": groundedness, "judge_correctness": correctness, "judge_usefulness": 1.0}


@pytest.fixture
def judge() -> PairJudge:
    return PairJudge(AdaptiveAggregator.replay(GENERATION_PRIOR, [], 0.01), 1, 5.0)


def test_a_doubtful_number_is_accepted_if_the_judge_finds_that_it_follows(judge: PairJudge) -> None:
    decision = judge.decide(levels(1.0, 1.0), ["486"])
    assert decision.verdict == "accepted"
    assert decision.reason.endswith("; the judge finds that 486 follows from the passage")
    several = judge.decide(levels(1.0, 1.0), ["486", "Friday"])
    assert several.reason.endswith("; the judge finds that 486 and Friday follow from the passage")


def test_one_that_the_judge_is_not_sure_of_is_rejected_where_another_pair_would_pass(judge: PairJudge) -> None:
    assert judge.decide(levels(1.0, 0.5)).verdict == "accepted"
    decision = judge.decide(levels(1.0, 0.5), ["486"])
    assert (decision.verdict, decision.cause) == ("rejected", "doubtful number")
    assert "does not find that 486 follows from the passage (3.0 of 5)" in decision.reason


@pytest.mark.parametrize(
    "metrics",
    [
        {"coverage": 0.9},
        {"coverage": 0.0},
        {"judge_correctness": 0.95, "judge_probability": 0.95},
        {"judge_correctness": 0.1, "judge_probability": 0.1},
    ],
)
def test_one_that_no_judge_has_worked_out_is_left_to_a_person(judge: PairJudge, metrics: dict[str, float]) -> None:
    decision = judge.decide(metrics, ["486"])
    assert (decision.verdict, decision.cause) == ("review", "doubtful number")
    assert "a person should look" in decision.reason


def test_one_is_left_to_a_person_if_the_judge_is_known_to_take_wrong_numbers(judge: PairJudge) -> None:
    assert judge.decide(levels(1.0, 1.0), ["486"], can_reckon=False).verdict == "review"


# A run


def asking_about_passengers(harness: GenerationHarness) -> None:
    """One pair of the run is the doubtful one, the others are what the server writes."""
    harness.write("ferry.txt", PASSAGE)
    usual = harness.server.pair_of

    def pair_of(passage: str, number: int) -> dict[str, str]:
        if passage.startswith("The ferry of Lorne") and number == 0:
            return {"evidence": PASSAGE[:54], "question": MORE, "answer": ANSWER, "topic": "ferry"}
        return usual(passage, number)

    harness.server.pair_of = pair_of


def doubtful_event(harness: GenerationHarness) -> dict[str, object]:
    return next(event for event in harness.events("pair") if event["question"] == MORE)


@pytest.mark.parametrize(("digits", "verdict"), [("5 5 4", "accepted"), ("3 5 5", "rejected")])
def test_in_a_run_the_judge_decides_and_the_reason_says_so(
    harness: GenerationHarness, digits: str, verdict: str
) -> None:
    asking_about_passengers(harness)
    harness.server.digits = lambda prompt: digits if "«486» stands in" in prompt else "5 5 4"
    outcome = harness.run(total_examples=8, evaluation_threshold=5.0)
    event = doubtful_event(harness)
    assert event["verdict"] == verdict
    assert "486 follows from the passage" in str(event["reason"])
    assert outcome.result["reasons"].get("doubtful number", 0) == (verdict == "rejected")
    asked = [one for one in harness.server.received if "«486» stands" in str(one.body["messages"][-1]["content"])]
    assert len(asked) == 1


def test_in_a_run_a_judge_that_took_a_wrong_number_for_right_does_not_decide(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.jobs.generate.is_own_network", lambda url: False)
    asking_about_passengers(harness)
    harness.server.digits = judging("wrong number")
    outcome = harness.run(check_judge=True, total_examples=8)
    assert doubtful_event(harness)["verdict"] == "review"
    assert outcome.result["reasons"]["doubtful number"] == 1


def test_what_a_judge_missed_is_known_to_a_run_that_goes_on_when_its_check_is_long_forgotten(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.jobs.generate.is_own_network", lambda url: False)
    harness.server.digits = judging("wrong number")
    first = harness.run(check_judge=True, total_examples=2)
    monkeypatch.setattr("lora_tui.engine.generation.workers.recall_check", lambda key: None)
    asking_about_passengers(harness)
    harness.run(resume=first.run_id, check_judge=True, total_examples=20)
    assert doubtful_event(harness)["verdict"] == "review"


@pytest.mark.parametrize(("key", "verdict"), [("check one", "accepted"), ("", "review")])
def test_a_judge_that_is_to_be_checked_and_was_not_does_not_decide(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch, key: str, verdict: str
) -> None:
    monkeypatch.setattr("lora_tui.engine.jobs.generate.is_own_network", lambda url: False)
    monkeypatch.setattr(RemoteJudge, "check_key", property(lambda judge: key))
    asking_about_passengers(harness)
    harness.server.digits = judging()
    harness.run(check_judge=True, total_examples=8)
    assert doubtful_event(harness)["verdict"] == verdict
