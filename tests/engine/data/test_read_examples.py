import json
import os
from pathlib import Path

import pytest

from lora_tui.engine.data import text_lines as text_lines_module
from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    Message,
    PlainText,
    PromptCompletion,
    QuestionAnswer,
    searchable_text,
)
from lora_tui.engine.data.read import read_examples
from lora_tui.errors import UsageError

ALPACA_DEMO = Path(os.environ.get("LORA_TUI_DEMO_DATA", "../shared/data/alpaca_en_demo.json"))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_one(path: Path) -> Example:
    (example,) = read_examples(path).examples
    return example


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") <= 1
    return message


def chat(*turns: tuple[str, str], source: str) -> Conversation:
    return Conversation(tuple(Message(role, text) for role, text in turns), source)  # type: ignore[arg-type]  # str roles


TURNS = (("user", "hi"), ("assistant", "hello"))
RECORDS = [
    ({"question": " q ", "answer": "a\n"}, "question/answer", QuestionAnswer("q", "a", "")),
    ({"Question": "q", " ANSWER ": "a"}, "question/answer", QuestionAnswer("q", "a", "")),
    ({"question": "2+2?", "answer": 4}, "question/answer", QuestionAnswer("2+2?", "4", "")),
    ({"prompt": "p ", "completion": " c"}, "prompt/completion", PromptCompletion("p ", " c", "")),
    ({"instruction": "i", "input": "", "output": "o"}, "alpaca", QuestionAnswer("i", "o", "")),
    ({"instruction": "i", "output": "o"}, "alpaca", QuestionAnswer("i", "o", "")),
    ({"instruction": "i", "input": None, "output": "o"}, "alpaca", QuestionAnswer("i", "o", "")),
    ({"instruction": "i", "input": "in\nput", "output": "o"}, "alpaca", QuestionAnswer("i in\nput", "o", "")),
    ({"instruction": "i", "output": "o", "text": "### i"}, "alpaca", QuestionAnswer("i", "o", "")),
    (
        {"instruction": "i", "output": "o", "system": "s", "history": [["q", "a"]]},
        "alpaca",
        chat(("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "i"), ("assistant", "o"), source=""),
    ),
    ({"messages": [{"role": r, "content": c} for r, c in TURNS]}, "chat", chat(*TURNS, source="")),
    (
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "User", "content": [{"type": "text", "text": "a"}, "b"]},
                {"role": "assistant", "content": "c"},
            ],
            "prompt": "unused",
            "completion": "unused",
        },
        "chat",
        chat(("system", "s"), ("user", "a\nb"), ("assistant", "c"), source=""),
    ),
    (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], "system": "s"},
        "sharegpt",
        chat(("system", "s"), *TURNS, source=""),
    ),
    ({"conversations": [{"role": r, "content": c} for r, c in TURNS]}, "sharegpt", chat(*TURNS, source="")),
    (
        {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "hello"}]},
        "prompt/completion",
        chat(*TURNS, source=""),
    ),
    ({"text": " as it is\n"}, "text", PlainText(" as it is\n", "")),
    ({"text": "t", "messages": None, "question": None}, "text", PlainText("t", "")),
]


def with_source(example: Example, source: str) -> Example:
    return type(example)(**{name: getattr(example, name) for name in example.__slots__} | {"source": source})


@pytest.mark.parametrize(("record", "form", "expected"), RECORDS)
def test_every_form_of_json_lines_is_told_by_its_keys(
    tmp_path: Path, record: dict[str, object], form: str, expected: Example
) -> None:
    path = write(tmp_path, "a.jsonl", f"\n{json.dumps(record)}\n")
    result = read_examples(path)
    assert result.examples == (with_source(expected, f"{path}:2"),)
    assert result.forms == {form: 1}
    assert result.skipped == ()


@pytest.mark.parametrize("container", ["list", "nested", "single", "lines"])
def test_every_container_of_json_gives_the_same_example(tmp_path: Path, container: str) -> None:
    record = {"messages": [{"role": r, "content": c} for r, c in TURNS]}
    text, source = {
        "list": (json.dumps([record], indent=2), "2"),
        "nested": (json.dumps({"version": 1, "data": [record]}), "record 1"),
        "single": (json.dumps(record, indent=2), "1"),
        "lines": (f"{json.dumps(record)}\n\n{json.dumps(record)}\n", "1"),
    }[container]
    path = write(tmp_path, "a.json", text)
    assert read_examples(path).examples[0] == chat(*TURNS, source=f"{path}:{source}")


def test_forms_may_be_mixed_in_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "\n".join(json.dumps(record) for record, _, _ in RECORDS))
    result = read_examples(path)
    assert sum(result.forms.values()) == len(result.examples) == len(RECORDS)
    assert result.forms["alpaca"] == sum(form == "alpaca" for _, form, _ in RECORDS)


@pytest.mark.parametrize("name", ["a", "a.txt", "a.dat"])
@pytest.mark.parametrize(
    "content", ['{"question":"q","answer":"a"}\n{"question":"q","answer":"a"}', '[{"question":"q","answer":"a"}]']
)
def test_an_unknown_suffix_leaves_it_to_the_content(tmp_path: Path, name: str, content: str) -> None:
    assert read_examples(write(tmp_path, name, content)).forms["question/answer"] == content.count("question")


def test_a_list_in_a_file_named_jsonl_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '[\n{"text":"a"},\n{"text":"b"}\n]')
    assert [example.source for example in read_examples(path).examples] == [f"{path}:2", f"{path}:3"]


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text":"one\u2028two\x85three"}\n')
    assert read_one(path) == PlainText("one\u2028two\x85three", f"{path}:1")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_a_byte_order_mark_make_no_difference(tmp_path: Path, ends: str, mark: bytes) -> None:
    text = "Question: q\nAnswer: a\n\nb\n\nQuestion: r\nAnswer: ü\n"
    path = write(tmp_path, "a.txt", mark + text.replace("\n", ends).encode())
    assert read_examples(path).examples == (
        QuestionAnswer("q", "a\n\nb", f"{path}:1"),
        QuestionAnswer("r", "ü", f"{path}:6"),
    )


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Question: q\nAnswer: a", [("q", "a")]),
        ("\n\nQuestion:q\nAnswer:a\n\n\n", [("q", "a")]),
        ("Question: q\nAnswer:\n  a\n  b", [("q", "a\n  b")]),
        ("Question: q\nof two lines\nAnswer: a", [("q\nof two lines", "a")]),
        ("Question: q\nAnswer: a\nQuestion: r\nAnswer: b", [("q", "a"), ("r", "b")]),
        ("Question: q\nAnswer: a\nQuestion: is what I ask", [("q", "a\nQuestion: is what I ask")]),
        ("Question: q\nAnswer: a\n\nAnswer: still\n\n question: too", [("q", "a\n\nAnswer: still\n\n question: too")]),
        ("Question: q\nAnswer: a\n \t \nQuestion: r\nAnswer: b", [("q", "a"), ("r", "b")]),
        ("Question: q\nAnswer: - a\n\n- b\n\n\n\nQuestion: r\nAnswer: b", [("q", "- a\n\n- b"), ("r", "b")]),
    ],
)
def test_the_training_text(tmp_path: Path, text: str, pairs: list[tuple[str, str]]) -> None:
    result = read_examples(write(tmp_path, "a.txt", text))
    assert [(e.question, e.answer) for e in result.examples if isinstance(e, QuestionAnswer)] == pairs
    assert result.forms == {"training text": len(pairs)}


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("a.csv", "question,answer\nq,a\n", QuestionAnswer("q", "a", ":2")),
        ("a.csv", "\nid,Question,Answer,\n\n1,q,a,\n", QuestionAnswer("q", "a", ":4")),
        ("a.csv", "instruction;input;output\ni;;o\n", QuestionAnswer("i", "o", ":2")),
        ("a.tsv", "prompt\tcompletion\np\tc\n", PromptCompletion("p", "c", ":2")),
        ("a", "question,answer\nq,a\n", QuestionAnswer("q", "a", ":2")),
        ("a.csv", 'text\n"one, ""two""\n\nthree"\n', PlainText('one, "two"\n\nthree', ":2")),
        (
            "a.csv",
            'messages\n"[{""role"":""user"",""content"":""hi""},{""role"":""assistant"",""content"":""hello""}]"\n',
            chat(*TURNS, source=":2"),
        ),
    ],
)
def test_tables_are_told_by_their_header(tmp_path: Path, name: str, table: str, expected: Example) -> None:
    path = write(tmp_path, name, table)
    assert read_one(path) == with_source(expected, f"{path}{expected.source}")


def test_a_row_after_a_cell_of_several_lines_has_the_line_it_begins_at(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'question,answer\nq,"a\nb\nc"\nr,d\n')
    assert [example.source for example in read_examples(path).examples] == [f"{path}:2", f"{path}:5"]


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    example = read_one(write(tmp_path, "a.csv", f"question,answer\nq,{'a' * 200_000}\n"))
    assert isinstance(example, QuestionAnswer)
    assert len(example.answer) == 200_000


GOOD = '{"question":"q","answer":"a"}\n'


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "answer": " \n"}, "the answer is empty"),
        ({"question": "q", "answer": None}, "the answer is empty"),
        ({"question": "", "answer": "a"}, "the question is empty"),
        ({"prompt": "p", "completion": ""}, "the completion is empty"),
        ({"instruction": "i", "input": "x", "output": ""}, "the output is empty"),
        ({"text": ""}, "the text is empty"),
        ({"messages": []}, "the conversation has no turns"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "the conversation has no assistant turn"),
        (
            {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},
            "no user turn before",
        ),
        ({"messages": [{"role": "user", "content": ""}]}, "turn 1 of the conversation has no text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "turn 1 of the conversation is by 'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "a part of type 'image_url'; only text",
        ),
        ({"conversations": [{"from": "gpt", "value": None}]}, "turn 1 of the conversation has no text"),
        ({"question": "q", "answer": "\ud83d"}, "half of a surrogate pair"),
    ],
)
def test_a_valid_record_that_cannot_be_trained_on_is_skipped_and_listed(
    tmp_path: Path, record: dict[str, object], reason: str
) -> None:
    result = read_examples(write(tmp_path, "a.jsonl", f"{GOOD}{json.dumps(record)}\n{GOOD}"))
    assert len(result.examples) == 2
    (skipped,) = result.skipped
    assert skipped.location == "line 2"
    assert reason in skipped.reason


def test_an_empty_part_of_a_training_text_is_skipped_and_listed(tmp_path: Path) -> None:
    text = "Question: q\nAnswer:\n\nQuestion:\nAnswer: a\n\nQuestion: r\nAnswer: b\n"
    result = read_examples(write(tmp_path, "a.txt", text))
    assert len(result.examples) == 1
    assert [(skipped.location, skipped.reason) for skipped in result.skipped] == [
        ("line 1", "the answer is empty"),
        ("line 4", "the question is empty"),
    ]


def test_a_skipped_record_of_a_list_has_number_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[\n {"text": "a"},\n\n {"text": ""}\n]')
    assert [skipped.location for skipped in read_examples(path).skipped] == ["record 2 (line 4)"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            GOOD + '{"question":"q" "answer":"a"}\n',
            "a.jsonl line 2: not valid JSON (Expecting ',' delimiter, column 17). Correct the line or remove it.",
        ),
        ("a.jsonl", GOOD + '{"question":"q","answer":"a', "a.jsonl line 2: not valid JSON (Unterminated string"),
        ("a.jsonl", GOOD + '["q","a"]\n', "a.jsonl line 2: not an object; expected one with the keys messages"),
        ("a.jsonl", GOOD + "{" * 100_000, "a.jsonl line 2: not valid JSON"),
        ("a.jsonl", GOOD + '{"text":' + "[" * 100_000, "a.jsonl line 2: not valid JSON"),
        ("a.jsonl", GOOD + '{"text":' + "9" * 5000 + "}", "a.jsonl line 2: not valid JSON (an integer of more than"),
        ("a.jsonl", GOOD + '{"title":"t"}\n', "a.jsonl line 2: the keys (title) tell no known form; expected messages"),
        ("a.jsonl", GOOD + "{}\n", "a.jsonl line 2: the keys (none) tell no known form"),
        ("a.jsonl", GOOD + '{"question":"q"}\n', "a.jsonl line 2: the keys (question) tell no known form"),
        ("a.jsonl", '{"question":"q","answer":["a"]}', "a.jsonl line 1: 'answer' must be text, not a list. Correct it"),
        ("a.jsonl", '{"question":"q","answer":true}', "a.jsonl line 1: 'answer' must be text, not true or false"),
        ("a.jsonl", '{"messages":"hi"}', "a.jsonl line 1: the conversation must be a list of turns, not text"),
        ("a.jsonl", '{"messages":["hi"]}', "turn 1 of the conversation must be an object with 'role' and 'content'"),
        ("a.jsonl", '{"conversations":[{"from":"gpt"}]}', "must be an object with 'from' and 'value'"),
        (
            "a.jsonl",
            '{"messages":[{"role":"user","content":5}]}',
            "'content' in turn 1 of the conversation must be text",
        ),
        ("a.jsonl", '{"messages":[{"role":"user","content":[5]}]}', "a part that is neither text nor an object"),
        (
            "a.jsonl",
            '{"instruction":"i","output":"o","history":[["q"]]}',
            "'history' must be a list of [question, answer]",
        ),
        ("a.jsonl", "question: q\n", "a.jsonl line 1: not valid JSON"),
        (
            "a.json",
            '[\n{"text":"a"},\n{"text" "b"}]',
            "a.json line 3: not valid JSON (Expecting ':' delimiter, column 9)",
        ),
        ("a.json", '[\n{"text":"a"}\n{"text":"b"}]', "a.json line 3: not valid JSON (Expecting ',' or ']', column 1)"),
        ("a.json", '[{"text":"a"},\n', "a.json line 1: not valid JSON (Expecting value, column 15)"),
        ("a.json", '[{"text":"a"}', "a.json line 1: not valid JSON (Expecting ',' or ']', column 14)"),
        ("a.json", '[{"text":"a"}]\n[]', "a.json line 2: not valid JSON (Extra data after the list, column 1)"),
        ("a.json", '[{"text":"a"},\n"b"]', "a.json record 2 (line 2): not an object; expected one with the keys"),
        ("a.json", '[{"text":"a"},\n{"b":1}]', "a.json record 2 (line 2): the keys (b) tell no known form"),
        ("a.json", '{"data":[{"text":"a"},{"b":1}]}', "a.json record 2: the keys (b) tell no known form"),
        ("a.json", '{"data":[{"text":"a"},{"text":{}}]}', "a.json record 2: 'text' must be text, not an object"),
        ("a.json", '{"train":[{}],"test":[{}]}', "a.json line 1: the object holds 2 lists (train, test); expected one"),
        ("a.json", '{"a":1}', "a.json line 1: the object holds no list; expected one list of records"),
        ("a.json", '{\n"text": tru}', "a.json line 2: not valid JSON (Expecting value, column 9)"),
        ("a.json", '"text"', "a.json line 1: expected a list of records"),
        ("a.json", "[" * 100_000, "a.json line 1: not valid JSON (nested too deeply"),
        ("a.json", "[" + "9" * 5000 + "]", "a.json line 1: not valid JSON (an integer of more than"),
        ("a.json", "[]", "a.json holds no records"),
        ("a.json", '{"data":[]}', "a.json holds no records"),
        (
            "a.csv",
            "id,title\n1,t\n",
            "a.csv line 1: the header 'id,title' tells no known form; expected columns messages",
        ),
        ("a.csv", "question,answer\n", "a.csv holds no records"),
        (
            "a.csv",
            "question,answer\nq,a,b\n",
            "a.csv line 2: the row has 3 cells, the header 2. Put quotes around a cell that",
        ),
        ("a.csv", "question,answer\nq\n", "a.csv line 2: the row has 1 cell, the header 2"),
        ("a.csv", 'question,answer\nq,a\nr,"b\nc\n', "a.csv line 3: not valid CSV (unexpected end of data)"),
        ("a.csv", "messages,x\n[hi],y\n", "a.csv line 2: the cell 'messages' is not valid JSON"),
        ("a.txt", "# my examples\nQuestion: q\nAnswer: a", "a.txt line 1: expected 'Question:'"),
        ("a.txt", "\nQ: q A: a", "converted by lora-tui --generate-training-file RAW OUT"),
        (
            "a.txt",
            "Question: q\nAnswer: a\n\nQuestion: r\n\nQuestion: s\nAnswer: b",
            "a.txt line 4: a question without an 'Ans",
        ),
        ("a.txt", "Question: q Answer: a\n", "a.txt line 1: a question without an 'Answer:' line"),
        ("a.txt", "", "a.txt is empty. Generate one (lora-tui --run generate) or name another (fine_tuning"),
        ("a.txt", " \n\n", "a.txt holds blank lines only"),
        ("a.txt", b"Question: q\nAnswer: caf\xe9\n", "a.txt line 2: byte 12 of the line (0xe9) is not UTF-8"),
        ("a.txt", "Question: q\nAnswer: a".encode("utf-16"), "a.txt is UTF-16 text. Save it as UTF-8."),
        ("a.parquet", b"PAR1\x15\x00\x15\n", "a.parquet is damaged, or no Parquet file"),
        ("a.arrow", b"ARROW1\0\0\n", "a.arrow line 1: a NUL byte. The file is binary"),
        (
            "a.jsonl",
            '{"text":""}\n{"text":" "}',
            "holds nothing to train on: 2 records skipped (line 1: the text is empty)",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    assert expected in refusal(write(tmp_path, name, content))


def test_a_missing_file_is_refused_with_the_ways_to_get_one(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.txt")
    assert "does not exist. Generate one (lora-tui --run generate) or name another (" in message
    assert message.endswith("(fine_tuning.train_data_file, --train-data-file FILE).")


def test_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    assert "is a folder; name a file in it" in refusal(tmp_path)
    assert "is a device or a pipe" in refusal(Path("/dev/null"))


def test_a_file_without_permission_is_refused(read_only_folder: Path) -> None:
    assert "unreadable.txt: Permission denied" in refusal(read_only_folder / "unreadable.txt")


@pytest.mark.skipif(not ALPACA_DEMO.exists(), reason="the demonstration data is not part of the project")
def test_the_alpaca_demonstration_loads_fully() -> None:
    records = json.loads(ALPACA_DEMO.read_text())
    result = read_examples(ALPACA_DEMO)
    assert result.skipped == ()
    assert result.forms == {"alpaca": 999}
    for record, example in zip(records, result.examples, strict=True):
        assert isinstance(example, QuestionAnswer)
        assert example.question == f"{record['instruction']} {record['input']}".rstrip()
        assert example.answer == record["output"]


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (QuestionAnswer("q", "a", ""), "q\na"),
        (PromptCompletion("p", "c", ""), "p\nc"),
        (chat(*TURNS, source=""), "hi\nhello"),
        (PlainText("t", ""), "t"),
    ],
)
def test_all_text_of_an_example_can_be_searched(example: Example, text: str) -> None:
    assert searchable_text(example) == text


def turns(*answers: str) -> str:
    asked = [f'{{"role": "user", "content": "u"}}, {{"role": "assistant", "content": "a"{more}}}' for more in answers]
    return f'{{"messages": [{", ".join(asked)}]}}\n'


@pytest.mark.parametrize(
    "mark",
    [
        '"weight": 0',
        '"weight": 0.0',
        '"train": false',
        '"training": false',
        '"train": "false"',
        '"loss": false',
        '"weight": "0"',
    ],
)
def test_an_answer_that_its_author_excluded_is_read_and_not_learned(tmp_path: Path, mark: str) -> None:
    example = read_one(write(tmp_path, "t.jsonl", turns(f", {mark}", "")))
    assert isinstance(example, Conversation)
    assert [message.learned for message in example.messages] == [True, False, True, True]


@pytest.mark.parametrize("mark", ['"weight": 1', '"train": true', '"weight": null', '"train": null', '"weight": 0.5'])
def test_an_answer_with_a_weight_is_learned(tmp_path: Path, mark: str) -> None:
    example = read_one(write(tmp_path, "t.jsonl", turns(f", {mark}")))
    assert isinstance(example, Conversation)
    assert all(message.learned for message in example.messages)


def test_a_conversation_without_a_learned_answer_is_skipped_with_the_reason(tmp_path: Path) -> None:
    found = read_examples(
        write(tmp_path, "t.jsonl", turns(', "weight": 0') + turns("") + turns(', "train_detail": [1]'))
    )
    assert [record.location for record in found.skipped] == ["line 1", "line 3"]
    assert "excluded" in found.skipped[0].reason
    assert "train_detail" in found.skipped[1].reason


def test_answers_of_a_conversational_prompt_are_not_learned(tmp_path: Path) -> None:
    prompt = (
        '[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}]'
    )
    line = f'{{"prompt": {prompt}, "completion": [{{"role": "assistant", "content": "b"}}]}}'
    example = read_one(write(tmp_path, "t.jsonl", line))
    assert isinstance(example, Conversation)
    assert [message.learned for message in example.messages] == [True, False, True, True]


def test_tools_and_reasoning_are_counted_since_examples_lack_them(tmp_path: Path) -> None:
    tools = turns("").replace("]}", '], "tools": [{"type": "function"}]}', 1)
    path = write(
        tmp_path, "t.jsonl", turns(', "reasoning_content": "hm"') + tools + turns("") + turns(', "reasoning": ""')
    )
    found = read_examples(path)
    assert found.not_read == {"reasoning_content": 1, "tools": 1}
    (warning,) = found.warnings(path)
    assert warning.startswith(f"{path}: reasoning_content in 1 record, tools in 1 record: left out")
    assert read_examples(write(tmp_path, "u.jsonl", turns(""))).warnings(path) == []


def test_a_line_without_an_end_is_named_and_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines_module, "MAX_LINE_BYTES", 1000)
    record = '{"question": "q", "answer": "a"}'
    path = write(tmp_path, "t.jsonl", f"{record}\n{'x' * 5000}\n{record}\n")
    assert f"{path} line 2: more than 0 MB without a line's end" in refusal(path)
    kept = list(text_lines_module.text_lines(path, keep_bad=True))
    assert [kept[0], len(kept[1]), kept[2]] == [record, 200, record]
    assert isinstance(kept[1], text_lines_module.BadLine)
