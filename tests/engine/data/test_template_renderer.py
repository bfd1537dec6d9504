"""Chat templates in a process of their own: the same text as transformers, and an end to those that have none."""

import os
import signal
from typing import Any

import pytest

from lora_tui.engine.data import template_renderer
from lora_tui.engine.data.template_renderer import (
    ChatTemplateError,
    TemplateRefusedError,
    render_chat,
    render_marked_chat,
)
from tests.engine.tiny import make_tokenizer
from tests.engine.training import templates

MESSAGES = [{"role": "user", "content": "hi ✓ \ud800"}, {"role": "assistant", "content": "yo"}]


def with_template(template: Any) -> Any:
    return make_tokenizer(chat_template=template)


WRITTEN = [
    value for name, value in vars(templates).items() if name.isupper() and isinstance(value, str) and "{" in value
]


@pytest.mark.parametrize("template", WRITTEN)
def test_what_is_rendered_is_what_transformers_renders(template: Any) -> None:
    tokenizer = with_template(template)
    for prompt in (True, False):
        wanted = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt)
        assert render_chat(tokenizer, MESSAGES, generation_prompt=prompt) == wanted


def test_marked_answers_are_found_in_the_text() -> None:
    marked = "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    text, spans = render_marked_chat(with_template(marked), MESSAGES)
    assert [text[start:end] for start, end in spans] == ["hi ✓ \ud800", "yo"]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for", r"line 1: unexpected 'end of template'"),
        ("a\n{{ b }\n", r"line 2: "),
        ('{{ "a" * 10**10 }}', "more memory than a template may"),
        ('{{ "a"|center(10**10) }}', "more memory than a template may"),
        (
            "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "more memory than a template may",
        ),
        ('{{ "a"|center(3 * 10**7) }}', "it writes 30,000,000 characters"),
        ("{{ cycler.__init__.__globals__ }}", "what a template may not"),
        ({"one": "a", "other": "b"}, "multiple chat templates"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_by_its_file(template: Any, told: str, tmp_path: Any) -> None:
    tokenizer = with_template(template)
    if isinstance(template, str):
        tokenizer.save_pretrained(tmp_path)
        tokenizer.name_or_path = str(tmp_path)
    with pytest.raises(ChatTemplateError, match=told) as caught:
        render_chat(tokenizer, MESSAGES)
    assert not isinstance(template, str) or "chat_template.jinja" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert render_chat(with_template("fine"), MESSAGES) == "fine", "the next one is rendered all the same"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].content.x }}", "no element 7"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
    ],
)
def test_a_conversation_that_a_template_does_not_take_is_told_apart(template: str, told: str) -> None:
    with pytest.raises(TemplateRefusedError, match=told):
        render_chat(with_template(template), MESSAGES)


def test_a_template_without_an_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_renderer, "SECONDS", 0.5)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match=r"was stopped"):
        render_chat(with_template(endless), MESSAGES)
    monkeypatch.undo()
    assert render_chat(with_template("fine"), MESSAGES) == "fine"


def test_a_process_that_was_killed_is_started_again() -> None:
    assert render_chat(with_template("one"), MESSAGES) == "one"
    child = template_renderer._PROCESS._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert render_chat(with_template("two"), MESSAGES) == "two"
