"""The type of a question is told from its words."""

import pytest

from lora_tui.engine.generation.question_types import QUESTION_TYPES, question_type_of

LABELLED: tuple[tuple[str, str, str], ...] = (
    # type, question, answer; some are questions that people marked as right (tests/bench/writer_marks.tsv)
    ("fact", "When did the annual meeting take place in the club house?", "On Saturday 9 November."),
    ("fact", "Who installed the pump?", "Erdmann and Co. from Rossbach."),
    ("fact", "How long does the walk from the village along the river take?", "About half an hour."),
    ("fact", "Within how many days does Emil Santangelo answer every complaint in writing?", "Ten days."),
    ("fact", "Where did the motor stand?", "In the old engine house above the wheel."),
    ("fact", "What are the wooden blocks made of?", "Poplar."),
    ("fact", "At what temperature is the teaching pool kept?", "31 degrees."),
    ("fact", "What did the basin serve as during the Second World War?", "A reservoir for the fire brigade."),
    ("fact", "Since when has a family with two cubs used the old culvert?", "Since 2016."),
    ("fact", "What is the capital of Norway?", "Oslo."),
    ("fact", "Which company built the second tower?", "The carriage works of Thorne."),
    ("fact", "What does the steam under the lid keep?", "The crust soft."),
    ("fact", "Does the pool open on Mondays?", "Yes, from nine."),
    ("fact", "What is the default value of `speed`?", "It is 1.0."),
    ("reason", "Why is apple wood used?", "Because it is hard."),
    ("reason", "For what reason was the tide mill given up in 1936?", "Roller mills produced whiter flour."),
    ("reason", "What is the purpose of the easing function?", "It determines the journey a value takes."),
    ("reason", "What caused the fire of 1911?", "A lamp in the loft."),
    ("reason", "When a worker is exclusive, why are earlier ones cancelled?", "So that only one runs."),
    ("definition", "What is a funicular?", "A railway whose cars are pulled by a cable."),
    ("definition", "What does `CSS` stand for?", "Cascading Style Sheets."),
    ("definition", "What are the upper boxes called?", "Supers."),
    ("definition", "What is the hive tool?", "A flat piece of steel with which boxes and frames are loosened."),
    ("definition", "What is meant by an exclusive worker?", "One that cancels the others."),
    ("definition", "What is the `action_set_background` method?", "An action method which sets the background."),
    ("definition", "Which term describes the pull of the moon on the sea?", "The tide."),
    ("procedure", "How do you mount a widget?", "Call the mount method."),
    ("procedure", "How is the cheese pressed?", "Under a stone, for two days."),
    ("procedure", "How does the animator change a value?", "In small increments."),
    ("procedure", "What are the steps for cleaning the filter?", "Open it, rinse it, dry it."),
    ("procedure", "In what order are the valves opened?", "From the top."),
    ("procedure", "What should you do if somebody gets dizzy or has trouble breathing?", "Call an ambulance at once."),
    ("comparison", "How does a worker differ from a thread?", "A worker is managed by Textual."),
    ("comparison", "What is the difference between duration and speed?", "Duration is how long it takes."),
    ("comparison", "How are the two mills similar?", "Both have one wheel."),
    ("comparison", "Compared with the first pump, how strong is the second?", "Twice as strong."),
    ("comparison", "What do honey bees and wasps have in common?", "Both live in colonies."),
    ("consequence", "What happens if the cable is slack?", "The brake closes."),
    ("consequence", "What happened when fishing was allowed again?", "The cooperative set limits of its own."),
    ("consequence", "What are the effects of a late frost?", "The blossoms fall."),
    ("consequence", "What does a speed of 2 result in?", "It completes in 5 seconds."),
    ("consequence", "How does a higher temperature affect the dough?", "It rises faster."),
    ("application", "How would you fade a widget out over two seconds?", "Animate its opacity to 0."),
    ("application", "You want to show a number of files. Which widget should you use?", "A data table."),
    ("application", "If a visitor loses a key, what should they be told?", "To go to the cabin."),
    ("application", "When should you set `exclusive`?", "When only the newest result counts."),
    ("application", "A member cannot come on Saturday. How can she vote?", "By letter."),
    ("exception", "Which members are not allowed to vote?", "Those under sixteen."),
    ("exception", "What is a common mistake when rinsing the filter?", "Using hot water."),
    ("exception", "When does the rule not apply?", "On holidays."),
    ("exception", "What are the limitations of the free ticket?", "It holds on weekdays only."),
    ("exception", "Who may not enter the engine house?", "Children."),
)


def test_most_questions_of_every_type_are_told() -> None:
    wrong = [(wanted, question_type_of(q, a), q) for wanted, q, a in LABELLED if question_type_of(q, a) != wanted]
    assert len(wrong) <= 0.08 * len(LABELLED), wrong
    right = {wanted for wanted, q, a in LABELLED if question_type_of(q, a) == wanted}
    assert right == QUESTION_TYPES.keys()


@pytest.mark.parametrize(
    ("question", "asked", "found"),
    [
        ("Warum steht die Mühle still?", "fact", "reason"),
        ("Was ist der Unterschied zwischen beiden?", "fact", "comparison"),
        ("水車はいつ建てられましたか。", "exception", "exception"),
        ("水車はいつ建てられましたか。", "", "fact"),
    ],
)
def test_what_the_words_do_not_tell_stays_as_it_was_asked(question: str, asked: str, found: str) -> None:
    assert question_type_of(question, "", asked) == found


def test_a_fact_is_a_fact_whatever_was_asked() -> None:
    assert question_type_of("When was the mill built?", "In 1712.", asked="comparison") == "fact"
