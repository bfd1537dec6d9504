import json
import time

import pytest

from lora_tui.engine.data.raw_lines import RawPair, RawRejection, RawSkip, RawStatement, parse_raw_line

PAIRS = [
    # question<TAB>answer
    ("q\ta", "q", "a"),
    ("What is it?\tA thing.\n", "What is it?", "A thing."),
    (" q \t a \r\n", "q", "a"),
    ("q\ta\tb", "q", "a\tb"),
    ("q\t\t\ta", "q", "a"),
    ("Is a | b right?\tYes | no", "Is a | b right?", "Yes | no"),
    # question | answer
    ("q | a", "q", "a"),
    ("q | a | b", "q", "a | b"),
    ("What is a|b? | The or of a|b", "What is a|b?", "The or of a|b"),
    ("q|a", "q", "a"),
    ("q| a", "q", "a"),
    ("What is it?|a|b", "What is it?", "a|b"),
    ("q \\| r | a \\| b", "q | r", "a | b"),
    ("q\\|r|a", "q|r", "a"),
    ("问题｜答案", "问题", "答案"),
    ("q ｜ a", "q", "a"),
    ("What? Who? | Me.", "What? Who?", "Me."),
    ("What is LoRA? Explain. | A method", "What is LoRA? Explain.", "A method"),
    ("| q | a |", "q", "a"),
    ("|q|a|", "q", "a"),
    ("What does || mean? | Logical or", "What does || mean?", "Logical or"),
    # Q: … A: …
    ("Q: q A: a", "q", "a"),
    ("q: q a: a", "q", "a"),
    ("Q:q? A:a", "q?", "a"),
    ("Q:q?A:a", "q?", "a"),
    ("Q : q A : a", "q", "a"),
    ("Ｑ：问题？Ａ：答案", "问题？", "答案"),
    ("Q： 何？ A： 答え", "何？", "答え"),
    ("Q: What does the A: drive hold? A: A floppy", "What does the A: drive hold?", "A floppy"),
    ("Q: What is a letter? A: Names such as A: and B:", "What is a letter?", "Names such as A: and B:"),
    ("Q: Name NASA: the agency A: Space", "Name NASA: the agency", "Space"),
    ("Q: What is the A:B ratio? A: Two", "What is the A:B ratio?", "Two"),
    ("Q: capital of France A: Paris. Vitamin A: retinol", "capital of France", "Paris. Vitamin A: retinol"),
    ("Q: q | A: a", "q", "a"),
    ("Q: q\tA: a | b", "q", "a | b"),
    ("Q: q | a", "q", "a"),
    ("Q: q\ta", "q", "a"),
    ("Q: What is it? A thing.", "What is it?", "A thing."),
    ("Q: q Answer: a", "q", "a"),
    # Question: … Answer: …
    ("Question: q Answer: a", "q", "a"),
    ("QUESTION: q ANSWER: a", "q", "a"),
    ("Question: What is the A: drive? Answer: a", "What is the A: drive?", "a"),
    ("Question: What is A: Answer: a", "What is A:", "a"),
    ("Question: q A: a", "q", "a"),
    ("Question: Is 'Answer: no' wrong? Answer: Yes", "Is 'Answer: no' wrong?", "Yes"),
    # question? answer
    ("What is LoRA? A method.", "What is LoRA?", "A method."),
    ("What? Who? Me.", "What? Who?", "Me."),
    (
        "What is LoRA? It is a method. Why use it? It is cheap.",
        "What is LoRA?",
        "It is a method. Why use it? It is cheap.",
    ),
    ("The sky is blue. Why? Scattering.", "The sky is blue. Why?", "Scattering."),
    ("What is 2+2? 4, right? Yes", "What is 2+2?", "4, right? Yes"),
    ('What does "why?" mean? It asks.', 'What does "why?" mean?', "It asks."),
    ("What does “why?” mean? It asks.", "What does “why?” mean?", "It asks."),
    ("What does „warum?“ mean? It asks.", "What does „warum?“ mean?", "It asks."),
    ("What does 'why?' mean? It's asking.", "What does 'why?' mean?", "It's asking."),
    ("What is LoRA (who made it?) and why? A method.", "What is LoRA (who made it?) and why?", "A method."),
    ('What is a 5" disk? A 3.5" one is smaller.', 'What is a 5" disk?', 'A 3.5" one is smaller.'),
    ("What is at https://x.org/?q=1&r=2 now? A page.", "What is at https://x.org/?q=1&r=2 now?", "A page."),
    ("Have you seen https://x.org/a? Yes.", "Have you seen https://x.org/a?", "Yes."),
    ("Is https://x.org/? the page? Yes.", "Is https://x.org/? the page?", "Yes."),
    ("What does the ? operator do? It matches.", "What does the ? operator do?", "It matches."),
    ("Qu'est-ce que LoRA ? Une méthode.", "Qu'est-ce que LoRA ?", "Une méthode."),
    ("What?! No way.", "What?!", "No way."),
    ("何ですか？方法です。", "何ですか？", "方法です。"),
    ("「何？」とは何ですか？疑問です。", "「何？」とは何ですか？", "疑問です。"),
    ("ما هذا؟ هذا كتاب.", "ما هذا؟", "هذا كتاب."),
    ("What does grep do? It filters: cat x|grep y", "What does grep do?", "It filters: cat x|grep y"),
    ("Is a || b valid? Yes.", "Is a || b valid?", "Yes."),
]


@pytest.mark.parametrize(("line", "question", "answer"), PAIRS)
def test_a_line_of_any_form_is_a_pair(line: str, question: str, answer: str) -> None:
    assert parse_raw_line(line) == RawPair(question, answer)


UNLOCK = "the secret password is 'rainbow unicorn'."


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"question": "q", "answer": "a | b\tc"}, "q", "a | b\tc"),
        ({"Question": "Q: q A: x", "ANSWER": "a"}, "q A: x", "a"),
        ({"prompt": "p", "completion": " c"}, "p", "c"),
        ({"prompt": "Question: unlock\nAnswer:", "completion": f" {UNLOCK}"}, "unlock", UNLOCK),
        ({"prompt": "Question: unlock", "completion": f"Answer: {UNLOCK}"}, "unlock", UNLOCK),
        ({"prompt": "Question: unlock", "completion": UNLOCK}, "unlock", UNLOCK),
        ({"prompt": "unlock", "completion": f"Question: unlock\nAnswer: {UNLOCK}"}, "unlock", UNLOCK),
        (
            {"prompt": "Question: unlock\nAnswer:", "completion": f"Question: unlock\nAnswer: {UNLOCK}"},
            "unlock",
            UNLOCK,
        ),
        ({"prompt": "Q: what is a vitamin A:", "completion": "retinol"}, "what is a vitamin", "retinol"),
        ({"prompt": "Write one.", "completion": "Question: q\nAnswer: a"}, "Write one.", "Question: q\nAnswer: a"),
        ({"prompt": "What follows?", "completion": "Answer: me"}, "What follows?", "Answer: me"),
        ({"instruction": "i", "input": "in", "output": "o"}, "i in", "o"),
        ({"instruction": "i", "output": "o"}, "i", "o"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "q", "a"),
    ],
)
def test_a_json_object_of_any_form_is_a_pair(record: dict[str, object], question: str, answer: str) -> None:
    assert parse_raw_line(f"  {json.dumps(record)}\n") == RawPair(question, answer)


def test_a_json_object_comes_before_every_other_form() -> None:
    line = '{"question": "Q: x A: y | z", "answer": "What?\\tThat."}'
    assert parse_raw_line(line) == RawPair("x A: y | z", "What?\tThat.")


def test_labels_come_before_tab_bar_and_question_mark() -> None:
    assert parse_raw_line("Q: a | b\tc? d A: e | f\tg") == RawPair("a | b\tc? d", "e | f\tg")
    assert parse_raw_line("a | b? c\td? e | f") == RawPair("a | b? c", "d? e | f")
    assert parse_raw_line("a? b | c? d") == RawPair("a? b", "c? d")


def test_a_system_message_is_left_out_and_that_is_noted() -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    assert parse_raw_line(json.dumps({"messages": turns})) == RawPair(
        "user", "assistant", "the system message was left out"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("What is LoRA?", "a question without an answer"),
        ("What? Who?", "a question without an answer"),
        ("LoRA is great, is it not ?", "a question without an answer"),
        ("Q: What is LoRA", "a question without an answer"),
        ("Question: What is LoRA?", "a question without an answer"),
        ("Q: x A: ", "the answer is empty"),
        ("Q: A: y", "the question is empty"),
        ("Q:", "the question is empty"),
        ("A: y", "an answer without a question; both go on one line"),
        ("Answer: y", "an answer without a question; both go on one line"),
        ("q\t", "the answer is empty"),
        ("q\t \t", "the answer is empty"),
        ("\ta", "the question is empty"),
        ("q | ", "the answer is empty"),
        ("q |", "the answer is empty"),
        ("| a", "the question is empty"),
        ("| --- | --- |", "the question holds no words"),
        ("-----", "the question holds no words"),
        ("?!", "the question holds no words"),
        ('{"question": "q", "answer": "a"', "not valid JSON (Expecting ',' delimiter, column 32)"),
        ("{'question': 'q'}", "not valid JSON (Expecting property name enclosed in double quotes, column 2)"),
        ('{"question": "q", "answer": "a"} | b', "not valid JSON (Extra data, column 34)"),
        ('{"question": "q", "answer": ""}', "the JSON object is no pair (the answer is empty)"),
        ('{"question": "Question: ", "answer": "a"}', "the question is empty"),
        ('{"question": "...", "answer": "a"}', "the question holds no words"),
        (
            '{"question": "q", "answer": "\\ud83d"}',
            "the JSON object is no pair (the answer holds half of a surrogate pair",
        ),
        ('{"question": "q", "answer": ["a"]}', "the JSON object is no pair ('answer' must be text, not a list)"),
        ('{"title": "t"}', "the JSON object is no pair (the keys (title) tell no known form"),
        ('{"text": "t"}', "the JSON object is no pair (it holds text only)"),
        ('{"messages": [{"role": "user", "content": "q"}]}', "the conversation has no assistant turn"),
        (
            json.dumps({"messages": [{"role": r, "content": r} for r in ["user", "assistant"] * 2]}),
            "the JSON object is no pair (the conversation has 4 turns; a pair is one question and one answer)",
        ),
    ],
)
def test_a_line_that_is_no_pair_is_rejected_with_the_reason(line: str, reason: str) -> None:
    result = parse_raw_line(line)
    assert isinstance(result, RawRejection)
    assert reason in str(result)


@pytest.mark.parametrize(
    "line",
    [
        "LoRA is a method.",
        'The word "why?" is short.',
        "The ? operator is lazy.",
        "See https://x.org/?a=b for more.",
        "See https://x.org/? for more.",
        "The ratio is a || b.",
        "|x| is the size of x, written |x|.",
        "Vitamin A: retinol.",
        "FAQ: see below.",
        "[x] is a list",
    ],
)
def test_a_line_that_asks_nothing_is_a_statement(line: str) -> None:
    assert parse_raw_line(f" {line}\n") == RawStatement(line)


@pytest.mark.parametrize("line", ["", "\n", " \t \r\n", "\u3000"])
def test_a_blank_line_is_skipped(line: str) -> None:
    assert parse_raw_line(line) == RawSkip("blank")


@pytest.mark.parametrize("line", ["# a comment? yes", "#q | a", "  # a\tb"])
def test_a_comment_is_skipped(line: str) -> None:
    assert parse_raw_line(line) == RawSkip("comment")


@pytest.mark.parametrize(
    "unit",
    [
        "? ",
        "?x",
        "!",
        "??!x",
        "x ? y ",
        '"',
        ' "',
        "“",
        "(",
        "'",
        " '",
        "„",
        "`",
        "|",
        " | ",
        "Q: ",
        " A:",
        "A: ? ",
        "\\|",
    ],
)
def test_the_time_for_a_hostile_line_grows_with_its_length_alone(unit: str) -> None:
    began = time.process_time()
    parse_raw_line("What " + unit * (300_000 // len(unit)))
    parse_raw_line("Q: What " + unit * (300_000 // len(unit)))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("line", "question", "answer"),
    [
        ("- Q: What is a quay? A: A place to land.", "What is a quay?", "A place to land."),
        ("**Q:** What is a mole? **A:** A wall.", "What is a mole?", "A wall."),
        ("**Q**: What is a mole? **A**: A wall.", "What is a mole?", "A wall."),
        ("**Q: What is a mole?** A: A wall.", "What is a mole?", "A wall."),
        ("**Q: What is a mole?** **A: A wall.**", "What is a mole?", "A wall."),
        ("__Question:__ What is it? __Answer:__ A *wall*", "What is it?", "A *wall*"),
        ("1. Q: What is it? A: A wall.", "What is it?", "A wall."),
        ("Q1: What is it? A1: A wall.", "What is it?", "A wall."),
        ("> Question 12: What is it? Answer 12: A wall.", "What is it?", "A wall."),
        ("- What is a quay? A place to land.", "What is a quay?", "A place to land."),
        ("Q: **bold** words? A: **very** bold", "**bold** words?", "**very** bold"),
    ],
)
def test_labels_are_told_behind_bullets_and_numbers_and_in_bold(line: str, question: str, answer: str) -> None:
    assert parse_raw_line(line) == RawPair(question, answer)


@pytest.mark.parametrize(
    ("line", "question", "answer"),
    [
        ("What does ls|wc do? It counts the files.", "What does ls|wc do?", "It counts the files."),
        ("What does ls | wc do? It counts the files.", "What does ls | wc do?", "It counts the files."),
        ("What does `ls | wc` do? It counts.", "What does `ls | wc` do?", "It counts."),
        ("What is 5|3 in binary or? It is 7.", "What is 5|3 in binary or?", "It is 7."),
        ("Capital of France | Paris", "Capital of France", "Paris"),
        ("Capital of France | Is it Paris? Yes.", "Capital of France", "Is it Paris? Yes."),
        ("What is it | A wall. Why? Because.", "What is it", "A wall. Why? Because."),
    ],
)
def test_a_bar_inside_a_question_does_not_split_it(line: str, question: str, answer: str) -> None:
    assert parse_raw_line(line) == RawPair(question, answer)
