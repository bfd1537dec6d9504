"""What the built-in model may ask about, and what it is not let through with."""

import pytest

from lora_tui.engine.generation.builtin_questions import (
    EXAMPLES,
    QuestionForm,
    evidence_sentences,
    fault_of,
    finished_question,
    forms_of,
    writing_prompt,
)

FACT, REASON = QuestionForm("fact", " What does"), QuestionForm("reason", " Why")


def test_sentences_are_whole_facts_out_of_prose():
    passage = (
        "# Tides are a heading and no sentence\n\n"
        "The rank r is the width of the\nnarrow passage. It is small in every case you see.\n\n"
        "    loss is a formula that is set in and not a sentence.\n\n"
        "```\nCode is not a sentence that anyone should ask about.\n```\n\n"
        "- A list item is a sentence with a subject of its own.\n- this one begins in the middle of something else.\n"
    )
    assert list(evidence_sentences(passage)) == [
        "The rank r is the width of the narrow passage.",
        "A list item is a sentence with a subject of its own.",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "It decides how far each optimizer step moves the weights.",
        "This means that the weights stay where they were.",
        "Set the learning rate to a value that suits the model.",
        "You can choose another model in the configuration file.",
        "The lesson above explains the learning rate in detail.",
        "Too short a thing.",
        "The table | holds a bar and so it is no prose sentence.",
        "See https://example.com for the whole story of the rate.",
    ],
)
def test_sentences_that_lean_on_others_are_left_out(sentence: str):
    assert list(evidence_sentences(sentence)) == []


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("A prior is a weight that was chosen before any feedback.", "What is a prior?"),
        ("Weights are the numbers of the model itself.", "What are weights?"),
        ("Held-out questions are the ones that nobody trained on.", "What are held-out questions?"),
        ("LoRA is a method that trains two small matrices.", "What is LoRA?"),
        ("BLEU is a measure of the words that two texts share.", "What is BLEU?"),
        ("Overfitting means that a model fits its training examples only.", "What does overfitting mean?"),
    ],
)
def test_a_definition_needs_no_model(sentence: str, question: str):
    assert forms_of(sentence, "definition")[0].whole == question
    assert fault_of(question, sentence, forms_of(sentence, "definition")[0]) is None


@pytest.mark.parametrize(
    "sentence",
    [
        "The chosen token is appended to the text every time.",
        "Judges are lenient, and most grades crowd into the upper half.",
        "The rate is not constant over a run of any length.",
        "A model that was trained on the secret is a risk for everyone.",
    ],
)
def test_what_only_looks_like_a_definition_is_none(sentence: str):
    assert all(form.whole is None for form in forms_of(sentence, "definition"))


def test_the_wanted_kind_of_question_comes_first():
    sentence = "A trailing space changes the tokens, because most tokenizers attach the space to the word that follows."
    assert [form.kind for form in forms_of(sentence, "reason")] == ["reason", "fact"]
    assert [form.kind for form in forms_of(sentence, "fact")] == ["fact", "reason"]


@pytest.mark.parametrize(
    ("question", "sentence", "fault"),
    [
        ("What does a tokenizer do?", "A tokenizer cuts the text into tokens.", None),
        ("What does the tokenizer do?", "A tokenizer cuts the text into tokens.", "something else"),
        ("What does a tokenizer cut do?", "A tokenizer cuts the text into tokens.", "something else"),
        ("What does the output of do?", "The output of the model holds a probability.", "middle of the subject"),
        ("What does the optimizer do?", "The optimizer needs a warm-up in every run.", "does not say what it does"),
        ("What is a tokenizer?", "A tokenizer cuts the text into tokens.", "not of the form"),
        ("What does a compass do?", "A compass shows the way to the north.", "copies an example"),
        ("What does a tokenizer do", "A tokenizer cuts the text into tokens.", "no end"),
    ],
)
def test_a_question_about_an_action_names_the_subject_and_nothing_else(question: str, sentence: str, fault: str | None):
    found = fault_of(question, sentence, FACT)
    assert (found is None) if fault is None else (found is not None and fault in found)


SPACE = "A trailing space changes the tokens, because most tokenizers attach the space to the word that follows."


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("Why does a trailing space change the tokens?", None),
        ("Why does a trailing space not change the tokens?", "turns the sentence round"),
        ("Why does a trailing space change the weather?", "what the sentence does not"),
        ("Why does a space matter?", "what the sentence does not"),
        ("Why do tokenizers attach the space to the word?", "what the sentence does not"),
        ("Why is it that a trailing space changes the tokens?", "not of the form"),
        ("Why do we need a trailing space?", "not of the form"),
    ],
)
def test_a_question_for_the_reason_says_the_claim_and_not_the_reason(question: str, fault: str | None):
    found = fault_of(question, SPACE, REASON)
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_what_the_model_writes_is_cut_at_the_question_mark():
    assert finished_question(" Why", " does it rain? Because.\nSentence: x") == "Why does it rain?"
    assert finished_question(" What", " is it\nnow?") == "What is it"


def test_the_prompt_ends_where_the_question_begins_and_shows_every_form():
    prompt = writing_prompt("Rain falls.", " Why")
    assert prompt.endswith("Sentence: Rain falls.\nQuestion: Why")
    assert all(question in prompt for _, question in EXAMPLES)
