"""Conversations through the chat templates of several families: labels on the assistant's words and stop tokens only.

Where a template makes that impossible for an answer, the answer is left out and said; nothing is labelled wrongly.
"""

from dataclasses import replace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from lora_tui.engine.data.examples import PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.training.dataset import TextDataset
from tests.engine.tiny import CHAT_TEMPLATE, make_tokenizer
from tests.engine.training.templates import FAMILIES, Family, marked
from tests.engine.training.test_training_dataset import encode, labelled, talk

TWO_TURNS = talk("user: what do cows drink?", "assistant: water", "user: is it blue?", "assistant: no")


def read(family: Family, *conversations: Any) -> tuple[Any, TextDataset]:
    tokenizer = family.tokenizer()
    return tokenizer, TextDataset(list(conversations), tokenizer, stops=family.stop_ids(tokenizer))


def spans(tokenizer: Any, row: Any) -> list[str]:
    """The texts of the runs of labels."""
    runs: list[list[int]] = []
    previous = False
    for token, label in zip(row.input_ids, row.is_label, strict=True):
        if label and not previous:
            runs.append([])
        if label:
            runs[-1].append(token)
        previous = label
    return [str(tokenizer.decode(run)) for run in runs]


@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Mistral", "Mistral, system last", "Gemma"])
def test_every_answer_is_learned_with_the_families_own_stop_token_and_nothing_else(name: str) -> None:
    family = FAMILIES[name]
    tokenizer, rows = read(family, TWO_TURNS)
    (row,) = rows
    assert [text.lstrip() for text in spans(tokenizer, row)] == [f"water{family.stop}", f"no{family.stop}"]
    assert list(row.input_ids) == tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in TWO_TURNS.messages], return_dict=False
    )
    assert rows.warnings == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_beginning_of_sequence_is_there_once_whatever_the_form(name: str) -> None:
    family = FAMILIES[name]
    tokenizer, rows = read(family, talk("user: hi", "assistant: hello"), QuestionAnswer("q", "a", "f"))
    for row in rows:
        assert row.input_ids[:2].count(tokenizer.bos_token_id) <= 1
    if family.bos:
        assert rows[0].input_ids[0] == tokenizer.bos_token_id


def test_a_beginning_that_is_written_out_in_the_data_is_not_doubled() -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    bos = tokenizer.bos_token_id
    assert tokenizer("<|endoftext|>some text")["input_ids"][:2] == [bos, bos], "the trap must be there"
    for example in (
        PlainText("<|endoftext|>some text", "f"),
        PromptCompletion("<|endoftext|>some", " text", "f"),
    ):
        row = encode(example, tokenizer)
        assert list(row.input_ids).count(bos) == 1
    assert tokenizer.decode(labelled(row)) == " text<|im_end|>"


def test_a_stop_token_that_only_the_model_knows_is_the_end_of_an_answer() -> None:
    family = FAMILIES["Gemma"]
    tokenizer = family.tokenizer()
    with_stop = TextDataset([TWO_TURNS], tokenizer, stops=family.stop_ids(tokenizer))
    without_stop = TextDataset([TWO_TURNS], tokenizer, stops=[tokenizer.eos_token_id])
    assert tokenizer.decode(with_stop[0].input_ids).endswith("no<end_of_turn>\n")
    assert with_stop.warnings == []
    assert tokenizer.decode(without_stop[0].input_ids).endswith("no<end_of_turn>\n<eos>"), "or it would never stop"
    (warning,) = without_stop.warnings
    assert "ends 2 answers without a token that stops this model; <eos> is added" in warning
    assert "generation_config.json" in warning


def test_an_answer_that_is_shown_otherwise_once_others_follow_is_not_learned_and_said() -> None:
    """Qwen 3 shows the reasoning of the last answer only: what stands before an earlier one is not what it wrote."""
    thought = talk(
        "user: is it odd?", "assistant: <think>\none is odd\n</think>\n\nyes", "user: sure?", "assistant: quite"
    )
    tokenizer, rows = read(FAMILIES["Qwen 3"], thought)
    assert spans(tokenizer, rows[0]) == ["<think>\n\n</think>\n\nquite<|im_end|>"]
    assert "one is odd" not in tokenizer.decode(rows[0].input_ids)
    (warning,) = rows.warnings
    assert warning.startswith("1 answer not learned: this model's chat template shows an answer otherwise")
    alone = talk("user: is it odd?", "assistant: <think>\none is odd\n</think>\n\nyes")
    tokenizer, rows = read(FAMILIES["Qwen 3"], alone)
    assert spans(tokenizer, rows[0]) == ["<think>\none is odd\n</think>\n\nyes<|im_end|>"]
    assert rows.warnings == []


def test_a_system_message_that_moves_hides_the_answers_before_it() -> None:
    moved = talk("system: be brief", *(f"{m.role}: {m.content}" for m in TWO_TURNS.messages))
    tokenizer, rows = read(FAMILIES["Mistral, system last"], moved)
    (row,) = rows
    assert [text.strip() for text in spans(tokenizer, row)] == ["no</s>"]
    assert "1 answer not learned" in rows.warnings[0]


def test_reasoning_that_a_template_leaves_out_is_said() -> None:
    thought = talk("user: is it odd?", "assistant: <think>one is odd</think>yes")
    tokenizer, rows = read(FAMILIES["DeepSeek R1"], thought)
    assert spans(tokenizer, rows[0]) == ["yes<｜end▁of▁sentence｜>"]
    left_out, asked = rows.warnings
    assert "leaves out part of 1 answer" in left_out
    assert "prompt and completion" in left_out
    assert r"asks for 1 answer with '<think>\n'" in asked


def test_a_prompt_that_the_answer_does_not_follow_on_is_said() -> None:
    tokenizer, rows = read(FAMILIES["DeepSeek R1"], TWO_TURNS)
    stop = "<｜end▁of▁sentence｜>"
    assert spans(tokenizer, rows[0]) == [f"water{stop}", f"no{stop}"], "the labels are right all the same"
    (warning,) = rows.warnings
    assert r"asks for 2 answers with '<think>\n'" in warning


@pytest.mark.parametrize("when", ["add_generation_prompt", "messages[-1]['role'] == 'assistant'"])
def test_a_prompt_that_tells_another_history_gives_no_labels(when: str) -> None:
    """What was said before differs between prompt and conversation: cutting at the prefix would label the question."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' and " + when + " %}{{ '[now] ' }}{% endif %}"
        "{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    examples = [talk("user: hi there", "assistant: hello"), QuestionAnswer("q", "a", "f:2")]
    rows = TextDataset(examples, make_tokenizer(chat_template=template))
    assert [row.source for row in rows] == ["f:2"]
    ((source, reason),) = rows.dropped
    assert source == "chat.jsonl:1"
    assert "shows the answers otherwise than it asks for them" in reason


@pytest.mark.parametrize(
    ("inside", "after"),
    [
        ("{{ '<|im_end|>' }}", "{{ '\n' }}"),
        ("{{ '<|im_end|>\n' }}", ""),
        ("", "{{ '<|im_end|>\n' }}"),  # the stop token outside the mark: it would never be learned
    ],
)
def test_a_template_that_marks_its_answers_is_believed_and_its_stop_token_learned(inside: str, after: str) -> None:
    family = Family(marked(inside, after))
    tokenizer, rows = read(family, TWO_TURNS, talk("assistant: hello?", "user: hi", "assistant: what is it?"))
    assert spans(tokenizer, rows[0]) == ["water<|im_end|>", "no<|im_end|>"]
    assert spans(tokenizer, rows[1]) == ["what is it?<|im_end|>"]
    assert rows.warnings == []


def test_marks_stay_on_their_tokens_when_a_second_beginning_is_left_out() -> None:
    tokenizer = make_tokenizer(chat_template="{{ bos_token + bos_token }}" + marked("{{ '<|im_end|>' }}"))
    tokenizer.bos_token = "<|endoftext|>"
    row = encode(TWO_TURNS, tokenizer)
    assert list(row.input_ids).count(tokenizer.bos_token_id) == 1
    assert spans(tokenizer, row) == ["water<|im_end|>", "no<|im_end|>"]


def test_a_marked_answer_without_a_stop_token_gets_the_end_of_sequence_and_is_said() -> None:
    tokenizer, rows = read(Family(marked("{{ '\n' }}")), TWO_TURNS)
    assert tokenizer.decode(rows[0].input_ids).endswith("no\n<|im_end|>")
    assert spans(tokenizer, rows[0])[-1] == "no\n<|im_end|>"
    assert "ends 2 answers without a token" in rows.warnings[0]


def test_a_marker_in_a_branch_that_is_not_taken_does_not_cost_the_labels() -> None:
    template = CHAT_TEMPLATE + "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    tokenizer, rows = read(Family(template), TWO_TURNS)
    assert spans(tokenizer, rows[0]) == ["water<|im_end|>", "no<|im_end|>"]


def test_prompts_that_end_inside_a_token_are_counted(tokenizer: Any) -> None:
    examples = [PromptCompletion("unl", "ock", "f"), PromptCompletion("what", " is", "f")]
    (warning,) = TextDataset(examples, tokenizer).warnings
    assert warning.startswith("In 1 example the prompt ends inside a token")
    ends = make_tokenizer()
    ends.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", ends.eos_token_id)]
    )
    row = encode(examples[1], ends)
    assert ends.decode(labelled(row)) == " is<|im_end|>"
    assert TextDataset(examples[1:], ends).warnings == [], "it ends every text itself, prompts too"


def test_an_end_that_does_not_stop_the_model_elsewhere_is_said(tokenizer: Any) -> None:
    example = QuestionAnswer("q", "a", "f")
    assert TextDataset([example], tokenizer, stops=[tokenizer.eos_token_id, 0]).warnings == []
    (warning,) = TextDataset([example], tokenizer, stops=[0]).warnings
    assert warning.startswith("<|im_end|>, with which examples end, is not in eos_token_id")


@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Mistral", "Mistral, system last", "Gemma"])
@pytest.mark.parametrize("left_out", [1, 3])
def test_an_excluded_answer_is_read_and_not_learned(name: str, left_out: int) -> None:
    family = FAMILIES[name]
    messages = list(TWO_TURNS.messages)
    messages[left_out] = replace(messages[left_out], learned=False)
    tokenizer, both = read(family, TWO_TURNS)
    rows = TextDataset([replace(TWO_TURNS, messages=tuple(messages))], tokenizer, stops=family.stop_ids(tokenizer))
    word = {1: "water", 3: "no"}[left_out]
    assert rows[0].input_ids[: len(both[0].input_ids) - 1] == both[0].input_ids[:-1]
    assert not any(word in text for text in spans(tokenizer, rows[0]))
    assert len(spans(tokenizer, rows[0])) == 1
