"""Questions made from sentences by rule: what is asked, what is answered, and what is better not asked."""

import pytest

from lora_tui.engine.generation.questions.passage_facts import facts_of, names_of
from lora_tui.engine.generation.questions.rules import questions_about
from lora_tui.engine.generation.questions.signs import particularity

NAMES = frozenset({"Brell", "Linz", "Clara", "Hoffer", "Anton", "Textual", "Trieste", "Oss"})


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [  # an answer of None: whichever
        ("The funicular was opened on 3 May 1897.", "When was the funicular opened?", "On 3 May 1897."),
        ("In 1932 the council closed the old pool.", "When did the council close the old pool?", "In 1932."),
        ("Until 1931 the cars were lit with lamps.", "Until when were the cars lit with lamps?", "Until 1931."),
        ("The bridge has been closed since 1998.", "Since when has the bridge been closed?", "Since 1998."),
        ("Workers live for about six weeks.", "How long do workers live?", "For about six weeks."),
        ("The ride takes six minutes.", "How long does the ride take?", "Six minutes."),
        ("Cars depart every ten minutes.", "How often do cars depart?", "Every ten minutes."),
        ("The line is 412 metres long.", "How long is the line?", "412 metres."),
        ("The cable weighs nine tonnes.", "How much does the cable weigh?", "Nine tonnes."),
        ("A single ticket costs 2.40 crowns.", "How much does a single ticket cost?", "2.40 crowns."),
        ("Each car carries 24 passengers.", "How many passengers does each car carry?", "24 passengers."),
        ("About 300 people attended the opening.", "How many people attended the opening?", "About 300 people."),
        (
            "There are two waiting rooms in the lower station.",
            "How many waiting rooms are there in the lower station?",
            "Two waiting rooms.",
        ),
        (
            "The cable has been replaced thirteen times.",
            "How many times has the cable been replaced?",
            "Thirteen times.",
        ),
        ("The water is kept at 27 degrees.", "At what temperature is the water kept?", "27 degrees."),
        ("The funicular was opened by the mayor of Brell.", "Who opened the funicular?", "The mayor of Brell."),
        (
            "Children under eight must be accompanied by an adult.",
            "Who must accompany children under eight?",
            "An adult.",
        ),
        ("The first driver was Anton Brell.", "Who was the first driver?", "Anton Brell."),
        ("A compass is an instrument that shows the way.", "What is a compass?", "An instrument that shows the way."),
        ("The lower station is called the Foot.", "What is the lower station called?", "The Foot."),
        ("The wooden blocks are made of poplar.", "What are the wooden blocks made of?", "Poplar."),
        ("The frame consists of four wooden bars.", "What does the frame consist of?", "Four wooden bars."),
        (
            "The museum shows the original winch and a uniform.",
            "What does the museum show?",
            "The original winch and a uniform.",
        ),
        ("A smoker is used to calm the bees.", "What is a smoker used for?", "To calm the bees."),
        ("The brakes were made in Linz.", "Where were the brakes made?", "In Linz."),
        (
            "A summer worker dies after about six weeks.",
            "After how many weeks does a summer worker die?",
            "About six weeks.",
        ),
        ("The track has a gauge of one metre.", "What is the gauge of the track?", "One metre."),
        (
            "A full frame holds about two kilograms.",
            "How many kilograms does a full frame hold?",
            "About two kilograms.",
        ),
        ("The hall is open from October to April.", "When is the hall open?", "From October to April."),
        ("In winter the service ends at 9.", "When does the service end in winter?", "At 9."),
        ("Acids must be handled with gloves and goggles.", "What must acids be handled with?", "Gloves and goggles."),
        (
            "When fishing was allowed again, the members set limits.",
            "What happened when fishing was allowed again?",
            "The members set limits.",
        ),
        ("The engine stands in the upper station.", "Where does the engine stand?", "In the upper station."),
        (
            "The town council refused to pay, since it had borrowed a large sum.",
            "Why did the town council refuse to pay?",
            "Since it had borrowed a large sum.",
        ),
        (
            "The council closed the pool in 1974 in order to repair the roof.",
            "Why did the council close the pool in 1974?",
            "In order to repair the roof.",
        ),
        ("The bees cool the hive by fanning their wings.", "How do the bees cool the hive?", "By fanning their wings."),
        ("To calm the bees, use cool white smoke.", "How do you calm the bees?", "Use cool white smoke."),
        (
            "If the hive feels light, the colony needs sugar syrup.",
            "What happens if the hive feels light?",
            "The colony needs sugar syrup.",
        ),
        (
            "Swimmers must shower before they enter the pool.",
            "What must swimmers do before they enter the pool?",
            "Shower.",
        ),
        ("Grease the racks with silicone oil.", "What should you grease the racks with?", "Silicone oil."),
        (
            "Soak the nozzles in vinegar for a night.",
            "How long should you soak the nozzles in vinegar?",
            "For a night.",
        ),
        ("Check the oil every two weeks.", "How often should you check the oil?", "Every two weeks."),
        ("Mount the box on a north wall.", "Where should you mount the box?", "On a north wall."),
        ("Press MENU to enter the settings.", "How do you enter the settings?", "Press MENU."),
        ("Clear the roof before you fix the vents.", "What should you do before you fix the vents?", "Clear the roof."),
        ("The boards are scrubbed with whey.", "What are the boards scrubbed with?", "Whey."),
        ("The milk is warmed to 32 degrees.", "To what temperature is the milk warmed?", "32 degrees."),
        ("A ticket is sold for 3.20 euros.", "For how much is a ticket sold?", "3.20 euros."),
        ("The post can be reached by radio.", "How can the post be reached?", "By radio."),
        ("A code of four digits protects the door.", "What protects the door?", "A code of four digits."),
        (
            "The controller closes all vents while the alarm lasts.",
            "What does the controller do while the alarm lasts?",
            "Closes all vents.",
        ),
        (
            "The alarm rings when the air falls below zero.",
            "What happens when the air falls below zero?",
            "The alarm rings.",
        ),
        (
            "The dead band is the range in which nothing happens.",
            "What is the dead band?",
            "The range in which nothing happens.",
        ),
        ("The last bus from Oss leaves at 18:25.", "When does the last bus from Oss leave?", "At 18:25."),
        ("The tea room is on the ground floor.", "Where is the tea room?", "On the ground floor."),
        ("The committee therefore sold a silver cup.", "What did the committee sell?", "A silver cup."),
        ("Up to five tools are lent for a week.", "How many tools are lent for a week?", "Up to five tools."),
        ("So far the cable has been replaced twelve times.", "How many times has the cable been replaced?", None),
        ("The bell was raised again in 1649.", "When was the bell raised again?", "In 1649."),
        ("The tower holds roughly 40 bells.", "How many bells does the tower hold?", "Roughly 40 bells."),
    ],
)
def test_a_sentence_answers(sentence: str, question: str, answer: str) -> None:
    found = {pair.question: pair.answer for pair in questions_about(sentence, NAMES)}
    assert question in found, found
    assert answer is None or found[question] == answer


@pytest.mark.parametrize(
    "sentence",
    [
        "It was opened on 3 May 1897.",
        "The most common is the worker bee.",
        "This was built in 1932 by the mayor.",
        "The other was replaced in 1912.",
        "Some were sold in 1912.",
        "The latter was painted by the driver.",
        "The first was sold for 12 crowns.",
        "The reason is a broken valve.",
        "Let's write an app with a button.",
        "Note that the method returns a string.",
        "The line was not opened in 1912.",
        "Nobody was hurt in the fire of 1912.",
        "The car painted in red by the apprentices climbs in six minutes.",
        "In 1979 a teacher called Ruth Calder founded a society.",
        "The herring had become so rare that the government closed the fishery in 1977.",
        "A siren on the pump house sounds an hour before each spring tide.",
        "Whoever loses the key pays 25 euros.",
        "The council accepted after a long discussion.",
        "The battery sits in his hat.",
        "Bishop was about nineteen years old when he got him.",
        "The performance lasted an hour and a half.",
        "The motor moved last year.",
        "Rate rejected pairs too.",
        "The larvae grow more slowly than the bees.",
        "Members of an alpine club pay ten francs less.",
        "A clock oiled every five years runs for a century.",
        "Built-in palettes give users a quick way.",
        "We've used a closing tag in the example.",
        "The tea room seats thirty people inside and twenty in the garden.",
        "Dressing a pair of stones takes two people a full day.",
        "A model of the gears, which may be touched, stands next to the screen.",
        "The Linnet flows for 52 kilometres before it joins the Saye.",
        "At the top of the shaft is the great spur wheel, whose teeth are made of apple wood.",
        "Older members are looked after by teachers.",
        "The hut is open on a normal day.",
        "The mill closed after the war.",
        "The mill was closed in 1912 after the war.",
        "Rabbits are an exception.",
        "The funicular is the largest expense.",
        "The hut is the only one.",
        "The hut is a part of the village.",
        "The hut is a house that they left.",
        "The lamp is kept in good order.",
        "The wheel stands in use.",
        "The mill was sold in a hurry.",
        "The route hardly changed in 1912.",
        "The counters walk the path on six evenings.",
        "The next day the wheel goes into the brine for two hours.",
        "The sisters send a cake on his birthday.",
        "The boat lies at Brell on Mondays, at Oss on Tuesdays and at Linz.",
        "A ticket costs six pounds for everybody else.",
    ],
)
def test_a_sentence_that_leans_on_others_or_is_unclear_is_not_asked_about(sentence: str) -> None:
    assert questions_about(sentence, NAMES) == []


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        ("The funicular was opened in 1897 by the mayor of Brell.", {("fact", "time"), ("fact", "person")}),
        ("A compass is an instrument that shows the way.", {("definition", "thing")}),
        ("The bees cool the hive by fanning their wings.", {("procedure", "means")}),
    ],
)
def test_a_pair_has_the_type_that_it_is(sentence: str, kinds: set[tuple[str, str]]) -> None:
    assert {(pair.type, pair.kind) for pair in questions_about(sentence, NAMES)} >= kinds


def questions_of(passage: str) -> dict[str, str]:
    return {fact.pair.question: fact.pair.answer for fact in facts_of(passage).facts}


def test_it_stands_for_the_subject_before() -> None:
    found = facts_of("The lower station stands on Tanner Quay. It was rebuilt in 2004.").facts
    rebuilt = next(fact for fact in found if fact.pair.question == "When was the lower station rebuilt?")
    assert rebuilt.pair.answer == "In 2004."
    assert rebuilt.evidence == "The lower station stands on Tanner Quay. It was rebuilt in 2004."


def test_he_stands_for_the_one_person_before() -> None:
    questions = questions_of("The plans were drawn by the engineer Leopold Frisk. He died in 1907.")
    assert questions["When did Leopold Frisk die?"] == "In 1907."


def test_she_stands_for_a_person_whom_an_occupation_shows() -> None:
    questions = questions_of("The present manager, Marlene Huber, keeps bees. She introduced the market in 2014.")
    assert questions["When did Marlene Huber introduce the market?"] == "In 2014."


def test_the_marks_of_links_and_emphasis_are_not_asked_about() -> None:
    passage = "Use it often. The *new* [screen](./screens.md#new) was released in 2021."
    (fact,) = facts_of(passage).facts
    assert fact.pair.question == "When was the new screen released?"
    assert fact.evidence == "The *new* [screen](./screens.md#new) was released in 2021."


def test_a_pronoun_with_two_possible_meanings_is_not_asked_about() -> None:
    questions = questions_of("Leopold Frisk met Anton Brell in the station. He died in 1907.")
    assert not any("die" in question for question in questions)


def test_a_new_paragraph_begins_without_pronouns() -> None:
    assert questions_of("The station is old.\n\nIt was rebuilt in 2004.") == {}


def test_a_sentence_of_two_statements_is_asked_about_both() -> None:
    questions = questions_of("The line is 284 metres long and rises 121 metres between the two stations.")
    assert questions["How long is the line?"] == "284 metres."
    assert questions["How high does the line rise between the two stations?"] == "121 metres."


def test_the_second_clause_has_a_subject_of_its_own() -> None:
    questions = questions_of("The roof was sold in 1912, and the platform was moved to Oss in 1913.")
    assert questions["When was the roof sold?"] == "In 1912."
    assert questions["When was the platform moved to Oss?"] == "In 1913."


def test_names_keep_their_capitals_and_other_words_lose_them() -> None:
    texts = ["Users like Textual. Textual sends events.", "Dogs need a ticket, and all Textual apps do."]
    assert names_of(texts) == {"Textual"}


def test_headings_code_and_tables_hold_no_sentences() -> None:
    passage = (
        "# The line was opened in 1890.\n\n    The line was opened in 1891.\n\n"
        "```\nThe line was opened in 1892.\n```\n\n| The line was opened in 1893. |\n\n"
        "- The line was closed in 1894.\n"
    )
    assert list(questions_of(passage)) == ["When was the line closed?"]


def test_initials_and_abbreviations_end_no_sentence() -> None:
    questions = questions_of("The bridge was built by Dr. A. Marl in 1912. The product of A and B. The roof is new.")
    assert questions["Who built the bridge in 1912?"] == "Dr. A. Marl."


def test_what_stands_between_commas_is_a_statement_of_its_own() -> None:
    questions = questions_of(
        "The director of the survey, Konrad Tolk, was led to the cellar, which was blasted into the rock in 1926."
    )
    assert questions["Who was the director of the survey?"] == "Konrad Tolk."
    assert questions["When was the cellar blasted into the rock?"] == "In 1926."
    assert not any(
        "Mill Lane" in question
        for question in questions_of("Owners use the door on Mill Lane, which was built in 1912.")
    )


def test_a_clause_that_is_followed_by_another_is_read_by_itself() -> None:
    questions = questions_of("During the update the display shows a moving bar, and the power must never be cut.")
    assert questions["What does the display show during the update?"] == "A moving bar."


def test_she_is_not_the_man_who_was_named_last() -> None:
    questions = questions_of(
        "Clara Hoffer drew maps. She travelled with Anton Brell in a boat. The lake froze. She died in 1907."
    )
    assert "When did Clara Hoffer die?" in questions


@pytest.mark.parametrize(
    ("title", "sentence", "question"),
    [
        ("Staying at the Seven Winds Hut", "Boots stay in the porch.", "Where do boots stay at the Seven Winds Hut?"),
        (
            "The Bora espresso machine",
            "The tray is emptied by hand.",
            "How is the tray emptied with the Bora espresso machine?",
        ),
        ("Survey of Hallin Cave", "The entrance is a narrow shaft.", "What is the entrance of Hallin Cave?"),
        ("Settings", "The tray is emptied by hand.", "How is the tray emptied?"),
        ("Leonora Baske, who drew the marshes", "The tray is emptied by hand.", "How is the tray emptied?"),
    ],
)
def test_a_question_without_a_name_gets_that_of_its_document(title: str, sentence: str, question: str) -> None:
    assert question in questions_of(f"{title}\n\n{sentence}")


MILL = "The Tarrow Mill\n\nThe mill stands on the Linnet."


@pytest.mark.parametrize(
    ("others", "question"),
    [
        ([MILL], "When is bread sold at the Tarrow Mill?"),
        ([], "When is bread sold?"),
        ([MILL, "The Saye Mill\n\nIt is old."], "When is bread sold?"),  # which of the two?
        (["The Lindenweg pool\n\nIt is old."], "When is bread sold?"),  # nothing is said of a pool
    ],
)
def test_a_document_gets_the_name_of_what_its_folder_is_about(others: list[str], question: str) -> None:
    passage = "Prices\n\nBread is sold in August. The mill is dear, and the mill knows it."
    assert question in [fact.pair.question for fact in facts_of(passage, beginnings=others).facts]


def test_a_bare_noun_in_a_question_is_named_in_full() -> None:
    passage = "Prices\n\nA ticket for the mill costs two crowns. Nobody minds the mill."
    questions = [fact.pair.question for fact in facts_of(passage, beginnings=[MILL]).facts]
    assert questions == ["How much does a ticket for the Tarrow Mill cost?"]


def test_a_relative_is_known_from_another_document() -> None:
    others = ["My grandfather Anselm Rook bought a cart.", "My aunt Philippa Rook wrote plays."]
    passage = "My grandfather made sixty puppets. My aunt wrote the plays. She died in 1990. He died in 1950."
    questions = {fact.pair.question: fact.pair.answer for fact in facts_of(passage, beginnings=others).facts}
    assert questions["How many puppets did Anselm Rook make?"] == "Sixty puppets."
    assert questions["When did Philippa Rook die?"] == "In 1990."
    assert questions["When did Anselm Rook die?"] == "In 1950."


def test_he_is_not_a_known_man_where_somebody_else_was_introduced() -> None:
    others = ["My grandfather Anselm Rook bought a cart."]
    passage = "My grandfather carved. The oldest puppet is the Night Watchman. He weighs two kilograms."
    assert not any("weigh" in fact.pair.question for fact in facts_of(passage, beginnings=others).facts)


def test_a_surname_is_asked_about_by_the_full_name() -> None:
    questions = questions_of("The plans were drawn by the engineer Leopold Frisk. Frisk died in 1907.")
    assert questions["When did Leopold Frisk die?"] == "In 1907."


def test_what_is_said_to_be_something_without_an_article_is_a_name() -> None:
    assert "What is Skerrow?" in questions_of("Skerrow is a harbour town on the island of Marn.")
    assert "What is honey?" in questions_of("Honey is a food made by bees. Most honey is golden.")


def test_a_text_is_particular_by_its_names_and_numbers() -> None:
    assert particularity(["The bees sleep.", "Anna sleeps at 9.", "The mill in Oss is old."]) == pytest.approx(2 / 3)
    general = facts_of("The queen lays two eggs in spring.").facts[0].signs
    particular = facts_of("The clock was built by Anna in Oss in 1744. The clock strikes in spring.").facts
    assert general["unnamed"] == 0.0
    assert [fact.signs["unnamed"] for fact in particular if "strike" in fact.pair.question] == [pytest.approx(0.5)]
