"""What pronouns and bare nouns are taken for, and what is told about pairs that may be doubtful."""

import pytest

from lora_tui.engine.generation.questions import rules
from lora_tui.engine.generation.questions.passage_facts import Fact, facts_of, with_full_names
from lora_tui.engine.generation.questions.reading import QuestionAnswer
from lora_tui.engine.generation.questions.signs import of_words


def facts(passage: str, opening: str = "") -> dict[str, Fact]:
    return {fact.pair.question: fact for fact in facts_of(passage, "", opening).facts}


def test_it_stands_for_what_was_completed() -> None:
    found = facts("The Four Bridges Tram Museum\n\nThe museum opened in 1983. It owns 31 trams.")
    assert "When did the Four Bridges Tram Museum open?" in found
    assert "How many trams does the Four Bridges Tram Museum own?" in found


def test_a_bare_noun_is_completed_from_the_title() -> None:
    found = facts("House rules of the Black Bishop chess club\n\nThe club was founded in 1931.")
    fact = found["When was the Black Bishop chess club founded?"]
    assert fact.signs["subject mention"] == 1
    assert fact.evidence == "The club was founded in 1931."


def test_a_later_passage_knows_the_names_of_its_opening() -> None:
    opening = "# The Bora espresso machine: operation and care\n\nRinse the tank."
    found = facts("The machine weighs 24 kilograms.", opening)
    assert "How much does the Bora espresso machine weigh?" in found
    assert "How much does the machine weigh?" in facts("The machine weighs 24 kilograms.")


def test_a_name_that_ends_in_the_noun_completes_it() -> None:
    found = facts("Hallin Cave lies on Mount Oder. The entrance is narrow. The cave was discovered in 1958.")
    assert "When was Hallin Cave discovered?" in found


def test_a_noun_with_two_fuller_mentions_stays_as_it_is() -> None:
    found = facts("The Tarn bridge and the Saye bridge are old. The bridge was built in 1912.")
    assert found["When was the bridge built?"].signs["subject several"] == 1


def test_another_room_is_not_taken_for_the_room() -> None:
    found = facts("The club was founded in the back room of a hat shop. The room was painted in 1912.")
    assert "When was the room painted?" in found


def test_it_is_doubtful_where_an_object_could_be_meant() -> None:
    doubtful = facts("The flood tore off the wheel. It was found in 1802.")
    assert doubtful["When was the flood found?"].signs["subject doubtful"] == 1
    plain = facts("The wheel was torn off. It was found in 1802.")
    assert plain["When was the wheel found?"].signs["subject pronoun"] == 1


def test_he_stands_for_a_subject_that_is_a_name_no_list_knows() -> None:
    passage = "Gudrun Pohl opened the meeting. Karsten Voss gave up the post. He retired in 1912."
    assert "When did Karsten Voss retire?" in facts(passage)


def test_a_stranger_in_the_sentence_makes_the_person_unclear() -> None:
    passage = (
        "The plans were drawn by the engineer Leopold Frisk. The post of Karsten Voss was free. He retired in 1912."
    )
    assert not any("retire" in question for question in facts(passage))


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("Lime is the enemy of every boiler.", "What is the enemy of every boiler?", "Lime."),
        ("The meeting ended at ten to six.", "When did the meeting end?", "At ten to six."),
        ("The lamp burns until ten at night.", "Until when does the lamp burn?", "Until ten at night."),
        ("Next year the cellar will be closed for four months.", None, None),
        (
            "According to the laboratory in Brno the calcite was found in 1912.",
            "When was the calcite found?",
            "In 1912.",
        ),
        ("Two otters have learned to wait at its upper end.", None, None),
        ("The wheels are turned on a lathe from 1921.", None, None),
        ("The tour includes a ride in the driver's cabin.", None, None),
        ("The cup is played for from October to March.", None, None),
        ("Rabbits are an exception.", None, None),
        ("The sensor has been sold under the name Trotline.", None, None),
        ("The clinic can be reached by tram 3.", None, None),
        ("The kidneys are tested in patients older than eight years.", None, None),
        ("The wheel controls how much water falls on the stone.", None, None),
    ],
)
def test_seen_faults(sentence: str, question: str | None, answer: str | None) -> None:
    found = {question: fact.pair.answer for question, fact in facts(sentence).items()}
    if question is None:
        assert found == {}
    else:
        assert question in found
        assert answer is None or found[question] == answer


@pytest.mark.parametrize(
    ("answer", "torn"),
    [
        ("Techniques used.", 1.0),
        ("A model that is used to describe.", 1.0),
        ("Literary, musical, artistic.", 1.0),
        ("A smaller gear, the wallower.", 0.0),
        ("Coins and cards.", 0.0),
    ],
)
def test_an_answer_that_stops_half_way_is_told(answer: str, torn: float) -> None:
    pair = QuestionAnswer("What does it need?", answer, "fact", "thing", "what_object")
    assert rules._is_torn(pair) == torn


@pytest.mark.parametrize(
    ("question", "sign", "value"),
    [
        ("When was the group founded?", "vague noun", 1.0),
        ("When was the group of climbers founded?", "vague noun", 0.0),
        ("What does a veterinarian take?", "light verb", 1.0),
        ("What is the most frequent sign?", "vague noun", 1.0),
        ("What is the most frequent sign of an allergy?", "vague noun", 0.0),
        ("Who built the mill in 1712?", "name or number", 1.0),
    ],
)
def test_what_the_words_of_a_question_tell(question: str, sign: str, value: float) -> None:
    assert of_words(question, "In 1912.", "It was so in 1912.")[sign] == value


def test_the_year_of_a_chronicles_paragraph_is_told() -> None:
    found = facts("1630. Swedish riders stay for nine weeks. The bell is raised in 1649.\n\nThe inn closes in May.")
    assert "How long do Swedish riders stay in 1630?" in found
    assert "When is the bell raised?" in found
    assert "When does the inn close?" in found


def test_my_aunt_is_called_by_her_name() -> None:
    found = facts(
        "My aunt Philippa Rook kept bees. She sold honey in 1934. My aunt died in 1951. My uncle left in 1952."
    )
    assert "When did Philippa Rook sell honey?" in found
    assert found["When did Philippa Rook die?"].evidence == "My aunt died in 1951."
    assert not any("uncle" in question for question in found)


@pytest.mark.parametrize(
    ("question", "whole"),
    [
        ("When did Frisk varnish the boat?", "When did Leopold Frisk varnish the boat?"),
        ("Who sold Frisk Street near Frisk's boat?", "Who sold Frisk Street near Leopold Frisk's boat?"),
        ("What was painted by Frisk?", "What was painted by Leopold Frisk?"),
        ("When did Leopold Frisk give Frisk's boat away?", None),
        ("When did the Frisk family sell the shop?", None),
        ("What is made by Frisk furniture?", None),
        ("When was the Mill built?", None),
    ],
)
def test_a_surname_is_told_in_full_where_it_stands_for_the_person(question: str, whole: str | None) -> None:
    people = {"Frisk": "Leopold Frisk", "Mill": "John Mill"}
    pair = QuestionAnswer(question, "In 1912.", "fact", "thing", "what_object")
    assert with_full_names(pair, people).question == (whole or question)
