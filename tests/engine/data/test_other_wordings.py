"""Questions as others would ask them: each rule once, and nothing made of what no rule knows."""

import pytest

from lora_tui.engine.data.other_wordings import other_wordings, with_place_last


@pytest.mark.parametrize(
    ("question", "answer", "wording"),
    [
        ("Who built it?", "It was built by Oda Quist.", "Which person built it"),
        ("Who keeps the mill?", "The mill is kept by Ada Moss.", "By whom is the mill kept"),
        ("When was it built?", "It was built in 1868.", "In which year was it built"),
        ("When was it opened?", "It was opened on 3 May 1897.", "On what date was it opened"),
        ("When does the market begin?", "It begins at half past four.", "At what time does the market begin"),
        ("When does the guild meet?", "It meets every second Thursday.", "On which day does the guild meet"),
        ("In which year did it burn?", "It burned in 1954.", "When did it burn"),
        ("Where does the ferry land?", "It lands at Sallow Quay.", "At what place does the ferry land"),
        ("In which town is the sawmill?", "It is in Orlen.", "Where is the sawmill"),
        ("Why is it closed?", "It is closed for repairs.", "For what reason is it closed"),
        ("How often does it run?", "Every forty minutes.", "How frequently does it run"),
        ("How long does the dough rest?", "It rests for nineteen hours.", "How many hours does the dough rest"),
        ("How heavy is the robot?", "It weighs 23 kilograms.", "What is the weight of the robot"),
        ("How many members has the guild?", "It has 64 members.", "What is the number of members of the guild"),
        ("How much water does it hold?", "It holds two litres.", "What amount of water does it hold"),
        ("What does a ticket cost?", "Six crowns.", "How much must I pay for a ticket"),
        ("What is the largest boat called?", "The Heron.", "What is the name of the largest boat"),
        ("What is the name of the bell?", "Old Ada.", "What do you call the bell"),
        ("What colour is the door?", "It is green.", "Which colour is the door"),
        ("Which oil does it need?", "Linseed oil.", "What kind of oil does it need"),
        ("What is the town's motto?", "Tie twice.", "Tell me the town's motto"),
        ("What is sold there?", "Books are sold there.", "Which thing is sold there"),
    ],
)
def test_a_question_has_other_wordings_that_its_answer_fits(question: str, answer: str, wording: str) -> None:
    found = other_wordings(question, answer)
    assert wording in found
    assert question.rstrip("?") not in found
    assert len(found) == len(set(found)) < 9


@pytest.mark.parametrize(
    "question", ["Wie heißt der Turm?", "Tell me a story.", "Is it open?", "¿Quién lo construyó?", "What", ""]
)
def test_what_no_rule_knows_stays(question: str) -> None:
    assert other_wordings(question, "Der Turm heißt Anna.") == []


def test_what_a_question_is_about_moves_behind_its_question_word() -> None:
    assert with_place_last("With the C4, how long does it last?") == "How long does it last with the C4?"
    assert with_place_last("In 1932, the pool closed.") == "In 1932, the pool closed."
