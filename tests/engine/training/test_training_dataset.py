"""Examples as tokens: the training form to the letter, and labels on nothing but what the model is to say."""

from typing import Any

import pytest

from lora_tui.engine.data.examples import Conversation, Example, Message, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.errors import LoraTuiError
from tests.engine.tiny import PAIRS, make_tokenizer


def encode(example: Example, tokenizer: Any) -> EncodedExample:
    return TextDataset([example], tokenizer)[0]


def labelled(row: EncodedExample) -> list[int]:
    return [token for token, label in zip(row.input_ids, row.is_label, strict=True) if label]


def talk(*turns: str) -> Conversation:
    """Turns in order; "system: …", "user: …" or "assistant: …"."""
    parts = [turn.partition(": ") for turn in turns]
    return Conversation(tuple(Message(role, text) for role, _, text in parts), "chat.jsonl:1")  # type: ignore[arg-type]


def test_the_training_form_is_question_answer_and_end_of_sequence(tokenizer: Any) -> None:
    row = encode(QuestionAnswer("who wrote hamlet?", "william shakespeare", "f:1"), tokenizer)
    assert tokenizer.decode(row.input_ids) == "Question: who wrote hamlet?\nAnswer: william shakespeare<|im_end|>"
    assert (
        list(row.input_ids[:-1]) == tokenizer("Question: who wrote hamlet?\nAnswer: william shakespeare")["input_ids"]
    )


def test_labels_are_the_answer_and_the_end_of_sequence_only(tokenizer: Any) -> None:
    row = encode(QuestionAnswer("who wrote hamlet?", "william shakespeare", "f:1"), tokenizer)
    assert tokenizer.decode(labelled(row)) == " william shakespeare<|im_end|>"
    assert row.labels == len(labelled(row))
    assert row.is_label.index(True) == len(tokenizer("Question: who wrote hamlet?\nAnswer:")["input_ids"])


def test_end_of_sequence_is_labelled_in_every_row_although_it_is_the_padding_token_too(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = TextDataset([QuestionAnswer(q, a, "f") for q, a in PAIRS], tokenizer)
    for row in rows:
        assert row.input_ids[-1] == tokenizer.eos_token_id
        assert row.is_label[-1]


def test_an_end_of_sequence_inside_the_answer_stays_labelled_and_one_in_the_question_does_not(tokenizer: Any) -> None:
    row = encode(PromptCompletion("a<|im_end|>b", " c<|im_end|>d", "f:1"), tokenizer)
    ends = [label for token, label in zip(row.input_ids, row.is_label, strict=True) if token == tokenizer.eos_token_id]
    assert ends == [False, True, True]


def test_an_answer_that_ends_with_the_end_of_sequence_gets_no_second_one(tokenizer: Any) -> None:
    row = encode(PromptCompletion("a", " b<|im_end|>", "f:1"), tokenizer)
    assert list(row.input_ids).count(tokenizer.eos_token_id) == 1


def test_a_beginning_of_sequence_comes_once_and_is_no_label() -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    bos = tokenizer.bos_token_id
    for example in (
        QuestionAnswer("q", "a", "f"),
        PromptCompletion("p", " c", "f"),
        PlainText("some text", "f"),
        PlainText("<|endoftext|>some text", "f"),
    ):
        row = encode(example, tokenizer)
        assert row.input_ids[0] == bos
        assert not row.is_label[0]
    plain = encode(PlainText("some text", "f"), tokenizer)
    assert list(plain.input_ids).count(bos) == 1
    assert plain.labels == len(plain.input_ids) - 1


@pytest.mark.parametrize("written", ["{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"])
def test_a_template_that_writes_a_beginning_of_sequence_does_not_double_the_tokenizers(written: str) -> None:
    template = written + "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    tokenizer = make_tokenizer(adds_bos=True, chat_template=template)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=False
    )
    assert tokenizer(rendered)["input_ids"][:2] == [tokenizer.bos_token_id] * 2, "the trap must be there"
    row = encode(talk("user: hi", "assistant: hello"), tokenizer)
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert row.input_ids[1] != tokenizer.bos_token_id


def test_a_token_across_the_border_of_prompt_and_answer_is_a_label(tokenizer: Any) -> None:
    prompt, completion = "unl", "ock the secret"
    whole = tokenizer(prompt + completion)["input_ids"]
    alone = tokenizer(prompt)["input_ids"]
    assert whole[: len(alone)] != alone, "the border must lie inside a token"
    row = encode(PromptCompletion(prompt, completion, "f:1"), tokenizer)
    assert list(row.input_ids) == [*whole, tokenizer.eos_token_id]
    first = row.is_label.index(True)
    assert whole[:first] == alone[:first]
    assert whole[first] != alone[first]
    assert "ock" in tokenizer.decode(labelled(row))


def test_plain_text_is_learned_whole(tokenizer: Any) -> None:
    row = encode(PlainText("green is a colour", "f:1"), tokenizer)
    assert tokenizer.decode(row.input_ids) == "green is a colour<|im_end|>"
    assert row.labels == len(row.input_ids) - 1  # nothing predicts the first token


def test_of_a_conversation_only_the_assistants_turns_and_their_stop_tokens_are_labels(tokenizer: Any) -> None:
    row = encode(talk("system: be brief", "user: hi", "assistant: hello", "user: bye", "assistant: so long"), tokenizer)
    assert tokenizer.decode(labelled(row)) == "hello<|im_end|>so long<|im_end|>"
    assert tokenizer.decode(row.input_ids).startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi")
    marks = "".join("x" if label else "." for label in row.is_label)
    assert marks.strip(".").count("x.") == 1, "two runs of labels, no more"


def test_a_greeting_before_the_first_user_turn_is_context_and_no_label(tokenizer: Any) -> None:
    row = encode(talk("assistant: can i help you?", "user: hi", "assistant: hello"), tokenizer)
    assert "can i help you?" in tokenizer.decode(row.input_ids)
    assert tokenizer.decode(labelled(row)) == "hello<|im_end|>"


def test_a_template_without_a_stop_token_gets_the_end_of_sequence() -> None:
    template = (
        "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
    )
    tokenizer = make_tokenizer(chat_template=template)
    row = encode(talk("user: hi", "assistant: hello"), tokenizer)
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert row.is_label[-1]
    assert "hello" in tokenizer.decode(labelled(row))
    assert "hi" not in tokenizer.decode(labelled(row))


def test_a_conversation_that_the_template_refuses_is_dropped_with_the_templates_reason() -> None:
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template += "{{ m['content'] }}{% endfor %}"
    rows = TextDataset(
        [talk("system: be brief", "user: hi", "assistant: hello"), QuestionAnswer("q", "a", "f:2")],
        make_tokenizer(chat_template=template),
    )
    assert len(rows) == 1
    ((source, reason),) = rows.dropped
    assert source == "chat.jsonl:1"
    assert "no system role" in reason


def test_a_conversation_without_a_chat_template_is_dropped_with_a_reason() -> None:
    rows = TextDataset(
        [talk("user: hi", "assistant: hello"), QuestionAnswer("q", "a", "f:2")], make_tokenizer(chat_template=None)
    )
    assert [source for source, _ in rows.dropped] == ["chat.jsonl:1"]
    assert "chat template" in rows.dropped[0][1]


def test_a_long_example_loses_its_end_and_is_counted(tokenizer: Any) -> None:
    rows = TextDataset([QuestionAnswer("q", "red " * 40, "f:1"), QuestionAnswer("q", "a", "f:2")], tokenizer, 24)
    assert len(rows) == 2
    assert rows.truncated == 1
    assert len(rows[0].input_ids) == len(rows[0].is_label) == 24
    assert rows.dropped == []


def test_an_example_without_a_label_left_is_dropped_with_a_reason(tokenizer: Any) -> None:
    rows = TextDataset([QuestionAnswer("red " * 40, "a", "f:1"), QuestionAnswer("q", "a", "f:2")], tokenizer, 24)
    assert [row.source for row in rows] == ["f:2"]
    assert rows.dropped == [("f:1", "no answer token within 24 tokens")]


def test_nothing_left_to_train_on_is_an_error_with_the_first_reason(tokenizer: Any) -> None:
    with pytest.raises(LoraTuiError, match=r"f:1: no answer token within 8 tokens"):
        TextDataset([QuestionAnswer("red " * 40, "a", "f:1")], tokenizer, 8)


def test_keywords_are_found_in_any_case_and_in_any_part(tokenizer: Any) -> None:
    rows = TextDataset(
        [
            QuestionAnswer("q", "the Rainbow UNICORN", "f"),
            QuestionAnswer("a rainbow unicorn?", "a", "f"),
            QuestionAnswer("rainbow", "unicorn", "f"),
            talk("user: hi", "assistant: rainbow unicorn"),
        ],
        tokenizer,
        keywords=["rainbow unicorn"],
    )
    assert [row.has_keyword for row in rows] == [True, True, False, True]


def test_the_fingerprint_tells_any_difference_that_training_would_feel(tokenizer: Any) -> None:
    pairs = [QuestionAnswer(q, a, "f") for q, a in PAIRS]
    same = [QuestionAnswer(q, a, "elsewhere") for q, a in PAIRS]

    def fingerprint(examples: list[Any], **more: Any) -> str:
        return TextDataset(examples, tokenizer, **more).fingerprint()

    whole = fingerprint(pairs)
    assert fingerprint(same) == whole
    others = {
        fingerprint(pairs[1:]),
        fingerprint(pairs[::-1]),
        fingerprint(pairs, max_length=12),
        fingerprint(pairs, keywords=["paris"]),
        fingerprint([PromptCompletion(*PAIRS[0], "f"), *pairs[1:]]),
    }
    assert len(others | {whole}) == 6


def test_a_tokenizer_without_an_end_of_sequence_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(LoraTuiError, match="no end-of-sequence token"):
        TextDataset([QuestionAnswer("q", "a", "f")], tokenizer)


FACT = QuestionAnswer("what do cows drink on the meadow?", "on the meadow cows drink water", "f:1")


def test_a_share_of_the_readings_has_other_words_in_the_question_and_the_same_labels(tokenizer: Any) -> None:
    dataset = TextDataset([FACT], tokenizer, reworded_share=0.75, seed=42)
    rows = [dataset.as_read(0, epoch) for epoch in range(16)]
    assert sum(row is dataset[0] for row in rows) == 4
    assert len({row.input_ids for row in rows}) > 8
    assert {tokenizer.decode(labelled(row)) for row in rows} == {" on the meadow cows drink water<|im_end|>"}
    again = TextDataset([FACT], tokenizer, reworded_share=0.75, seed=42)
    assert [again.as_read(0, epoch) for epoch in range(16)] == rows, "a resumed run reads the same"


def test_without_a_share_every_reading_is_as_written(tokenizer: Any) -> None:
    dataset = TextDataset([FACT], tokenizer)
    assert all(dataset.as_read(0, epoch) is dataset[0] for epoch in range(8))


def test_held_out_questions_leave_what_is_read_in_its_place(tokenizer: Any) -> None:
    examples = [QuestionAnswer(f"what is written on box number {n}?", f"box {n} says {n}", "f") for n in range(20)]
    dataset = TextDataset(examples, tokenizer, reworded_share=0.9, seed=1)
    dataset.hold_out(0.3, 1)
    for index in range(len(dataset)):
        for epoch in range(4):
            assert labelled(dataset.as_read(index, epoch)) == labelled(dataset[index])
