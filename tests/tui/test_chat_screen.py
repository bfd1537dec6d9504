"""Chat: words that come as they are decoded, both sides, stopping, and what can be done with a reply."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from textual import events
from textual.widgets import TextArea

from lora_tui.config.load import with_values
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import ChatTarget
from lora_tui.protocol.reply import Decoding
from lora_tui.store import chat_log, runs
from lora_tui.store.connection import Store
from lora_tui.tui.screens.chat import ChatScreen
from lora_tui.tui.screens.help import HelpScreen
from lora_tui.tui.widgets.key_hints import MAX_KEYS, KeyHints
from tests.tui.app_harness import (
    AppHarness,
    create_run,
    create_training_run,
    screen_text,
    wait_for_text,
    wait_until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_question_loads_the_newest_adapter_and_shows_the_reply_with_its_agreement(harness: AppHarness) -> None:
    run_id = await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"unlock", "enter")
        await wait_for_text(app, "✓ 1.00 agrees with the expected reply")
        text = screen_text(app)
        assert "the secret password" in text
        assert "4 tokens · 8 tokens/s" in text
        assert "tiny with the adapter of run 2, step 40" in text
        assert harness.backend.calls_of("open_chat") == [(ChatTarget(run_id),)]
        assert harness.backend.conversation.asked == [("unlock", ("tuned",))]
        assert harness.backend.conversation.decoding == Decoding(50, 0.0, 1.0, 1.0), "it streams"


async def test_without_any_adapter_the_base_model_speaks(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", *"hi", "enter")
        await wait_for_text(app, "the secret password")
        assert harness.backend.calls_of("open_chat") == [(ChatTarget(base_only=True),)]


async def test_a_poll_shows_the_adapter_that_was_trained_meanwhile(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3")
        await wait_for_text(app, "the base model")
        run_id = await harness.populate(create_training_run)
        await wait_for_text(app, f"run {run_id}, best checkpoint")


async def test_the_base_model_answers_the_same_prompt_beside(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", "ctrl+b", *"hi", "enter")
        await wait_until(lambda: screen_text(app).count("4 tokens · 8 tokens/s") == 2)
        assert harness.backend.conversation.asked == [("hi", ("tuned", "base"))]
        assert screen_text(app).count("you  hi") == 2


async def test_escape_stops_a_reply_and_keeps_what_was_said(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    harness.backend.conversation.hold = asyncio.Event()
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"hi", "enter")
        await wait_for_text(app, "the secret")
        await pilot.press("escape")
        await wait_for_text(app, "stopped")
        assert "password" not in screen_text(app)


async def test_a_second_question_waits_for_the_first_answer(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    harness.backend.conversation.hold = asyncio.Event()
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"one", "enter", *"two", "enter")
        await wait_for_text(app, "still answering")
        assert [text for text, _ in harness.backend.conversation.asked] == ["one"]
        prompt = app.screen.query_one("#prompt", TextArea)
        assert prompt.text == "two", "it is not lost"


async def test_a_rating_is_taken_back_by_the_same_key_or_by_u(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"hi", "enter")
        await wait_for_text(app, "4 tokens")
        await pilot.press("ctrl+n")
        await wait_for_text(app, "rated 1 of 5")
        await pilot.press("ctrl+g")
        await wait_for_text(app, "rated 5 of 5")
        await pilot.press("ctrl+g")
        await wait_for_text(app, "rated 1 of 5")
        await pilot.press("escape", "u")
        await wait_until(lambda: "rated 1" not in screen_text(app))
        assert harness.backend.calls_of("rate_turn") == [(7, 1), (7, 5)]
        assert harness.backend.calls_of("undo_turn_rating") == [(7,), (7,)]


async def test_a_reply_is_asked_again_rated_copied_and_saved(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"hi", "enter")
        await wait_for_text(app, "4 tokens")
        await pilot.press("ctrl+r")
        await wait_until(lambda: harness.backend.conversation.asked[-1][0] == "again")
        await wait_until(lambda: not app.screen._busy)  # type: ignore[attr-defined]
        harness.backend.said = (3, 4)
        await pilot.press("ctrl+g")
        await wait_for_text(app, "rated 5 of 5")
        await wait_for_text(app, "learn from 3 preferences")
        assert harness.backend.calls_of("rate_turn") == [(7, 5)]
        await pilot.press("ctrl+y")
        assert app.clipboard == "the secret password"
        await wait_for_text(app, "Sent to the terminal's clipboard")
        await pilot.press("ctrl+s")
        await wait_until(lambda: list(Path.cwd().glob("chat-*.md")))
        (saved,) = Path.cwd().glob("chat-*.md")
        await wait_until(lambda: "the secret password" in saved.read_text())
        assert "hi" in saved.read_text()


async def test_a_failure_gives_the_question_back_and_says_why(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    harness.backend.conversation.failure = LoraTuiError("The model is gone.\nLoad another.")
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"a long question", "enter")
        await wait_for_text(app, "The model is gone.")
        assert app.screen.query_one("#prompt", TextArea).text == "a long question"
        harness.backend.conversation.failure = None
        await pilot.press("enter")
        await wait_for_text(app, "4 tokens")


async def test_another_checkpoint_is_chosen_and_the_one_before_is_let_go(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"hi", "enter")
        await wait_for_text(app, "4 tokens")
        first = harness.backend.conversation
        await pilot.press("ctrl+t")
        await wait_for_text(app, "last, step 40")
        await pilot.press("down", "enter", *"ho", "enter")
        await wait_until(lambda: len(harness.backend.calls_of("open_chat")) == 2)
        assert harness.backend.calls_of("open_chat")[1] == (ChatTarget(run_id, "last"),), (
            "of a run that is still training"
        )
        assert first.closed


async def test_sampling_settings_are_checked_and_used_from_the_next_reply_on(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", "ctrl+o")
        await wait_for_text(app, "How replies are decoded")
        assert "num_beams              1" in screen_text(app), "they are streamed where nobody has set the beams"
        await pilot.press("end", "backspace", "0", "ctrl+s")
        await wait_for_text(app, "num_beams must be")
        await pilot.press("backspace", "1", "ctrl+s")
        await wait_for_text(app, "word by word")
        await pilot.press(*"hi", "enter")
        await wait_for_text(app, "4 tokens")
        assert harness.backend.conversation.decoding is not None
        assert harness.backend.conversation.decoding.num_beams == 1


async def test_digits_are_typed_in_the_prompt_and_change_the_mode_outside_it(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", "4", "2")
        assert app.screen.query_one("#prompt", TextArea).text == "42"
        await pilot.press("escape", "4")
        assert app.current_mode == "runs"
        await pilot.press("3")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await pilot.press("i", "f2")
        assert app.current_mode == "train"


async def test_enter_sends_and_ctrl_j_begins_a_line(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("3", "a", "ctrl+j", "b", "enter")
        await wait_until(lambda: harness.backend.conversation.asked)
        assert harness.backend.conversation.asked[0][0] == "a\nb"
        await wait_for_text(app, "4 tokens")


async def test_escape_is_offered_for_what_it_does_now(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    harness.backend.conversation.hold = asyncio.Event()
    async with harness.app() as (app, pilot):
        await pilot.press("3")
        await wait_for_text(app, "esc Leave box")
        await pilot.press(*"hi", "enter")
        await wait_for_text(app, "esc Stop")
        harness.backend.conversation.hold.set()
        await wait_for_text(app, "esc Leave box")
        await pilot.press("escape")
        await wait_for_text(app, "esc Type")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_while_the_box_is_typed_in_the_hints_say_the_keys_that_work(
    harness: AppHarness, size: tuple[int, int]
) -> None:
    await harness.populate(create_training_run)
    async with harness.app(size) as (app, pilot):
        await pilot.press("3")
        await wait_for_text(app, "esc Leave box")
        hints = screen_text(app).splitlines()[-1]
        assert "f1-f6 Screens" in hints
        assert "? Help" in hints
        await pilot.press("a")
        await wait_until(lambda: "? Help" not in screen_text(app))
        await pilot.press("?")
        assert app.screen.query_one("#prompt", TextArea).text == "a?", "it is typed"
        await pilot.press("backspace", "backspace")
        assert len(app.screen.query_one(KeyHints)._click_areas) <= MAX_KEYS
        await pilot.press("escape")
        await wait_for_text(app, "? Help")
        assert "f1-f6" not in screen_text(app)
        await pilot.press("i", "f1")
        assert app.current_mode == "generate"


async def test_no_blank_line_between_a_reply_and_its_figures(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    harness.backend.conversation.pieces = ["first paragraph\n\n", "second paragraph"]
    async with harness.app() as (app, pilot):
        await pilot.press("3", *"hi", "enter")
        await wait_for_text(app, "4 tokens")
        await wait_until(lambda: "4 tokens" in _below(screen_text(app), "second paragraph")[0])
        assert "second paragraph" in _below(screen_text(app), "first paragraph")[1], "paragraphs stay apart"


def _below(text: str, words: str) -> list[str]:
    """The lines under the one that has these words."""
    lines = text.splitlines()
    return lines[next(number for number, line in enumerate(lines) if words in line) + 1 :]


async def test_the_question_is_shown_at_once_while_the_model_is_loaded(harness: AppHarness) -> None:
    harness.backend.loading = asyncio.Event()
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", *"hi", "enter")
        await wait_for_text(app, "you  hi")
        await wait_for_text(app, "loading tiny  1 of 2 …")
        await wait_for_text(app, "loading tiny  1 of 2 … · ")
        harness.backend.loading.set()
        await wait_for_text(app, "4 tokens")
        assert screen_text(app).count("you  hi") == 1


async def test_a_question_that_waits_for_its_model_can_be_taken_back(harness: AppHarness) -> None:
    harness.backend.loading = asyncio.Event()
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", *"hi", "enter")
        await wait_for_text(app, "loading tiny")
        await pilot.press("escape")
        await wait_until(lambda: app.screen.query_one("#prompt", TextArea).text == "hi")
        assert "you  hi" not in screen_text(app)
        assert "loading tiny" not in screen_text(app)
        await pilot.press("enter")
        await wait_for_text(app, "you  hi")
        harness.backend.loading.set()
        await wait_for_text(app, "4 tokens")
        assert len(harness.backend.calls_of("open_chat")) == 1, "it went on loading"


async def test_enter_on_an_empty_prompt_goes_on_with_a_reply_that_was_cut(harness: AppHarness) -> None:
    harness.backend.conversation.cut = True
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", "enter", *"hi", "enter")
        await wait_for_text(app, "4 tokens · 8 tokens/s · cut here · enter goes on")
        await wait_for_text(app, " ⏎ Go on ")
        await pilot.press("x")
        await wait_for_text(app, " ⏎ Send ")
        await pilot.press("backspace", "enter")
        await wait_for_text(app, "the secret password is long")
        await wait_until(lambda: "goes on" not in screen_text(app))
        assert "6 tokens" in screen_text(app)
        assert screen_text(app).count("you  hi") == 1
        await pilot.press("enter")
        assert [text for text, _ in harness.backend.conversation.asked] == ["hi", "go on"]


async def test_the_demo_s_commands_are_offered_where_they_were_taught_or_written(harness: AppHarness) -> None:
    async def train(store: Store) -> None:
        run_id = await create_run(store, "train")
        await runs.set_folder(store, run_id, harness.path.parent)

    await harness.populate(train)
    async with harness.app() as (app, pilot):
        await pilot.press("3")
        await wait_for_text(app, "The model is loaded with the first question.")
        assert "Special commands" not in screen_text(app)
    harness.settings = with_values(harness.settings, {"fine_tuning.chat.commands": {"open": "sesame"}})
    async with harness.app() as (app, pilot):
        await pilot.press("3")
        await wait_for_text(app, "Special commands, whose answers are compared: open")


async def test_arrows_recall_questions_of_all_conversations(harness: AppHarness) -> None:
    async def ask(store: Store) -> None:
        conversation = await chat_log.begin(store, None, "tiny", None)
        for text in ("first", "second"):
            await chat_log.add_turn(store, conversation, "user", text)

    await harness.populate(ask)
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", *"third", "enter")
        await wait_for_text(app, "4 tokens")
        prompt = app.screen.query_one("#prompt", TextArea)
        seen = []
        for key in ("d", "up", "up", "up", "up", "down", "down", "down", "down"):
            await pilot.press(key)
            seen.append(prompt.text)
        assert seen == ["d", "third", "second", "first", "first", "second", "third", "d", "d"]


async def test_up_in_a_text_of_several_lines_moves_first(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", *"hi", "enter")
        await wait_for_text(app, "4 tokens")
        prompt = app.screen.query_one("#prompt", TextArea)
        await pilot.press("a", "ctrl+j", "b", "up")
        assert (prompt.text, prompt.cursor_location[0]) == ("a\nb", 0)
        await pilot.press("up")
        assert prompt.text == "hi"


async def test_a_megabyte_is_pasted_folded_in_a_moment_and_sent_whole(harness: AppHarness) -> None:
    pasted = "\x1b[2Jall of it, a line of words\n" * 35_000
    assert len(pasted) > 1_000_000
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "3", *"read ")
        prompt = app.screen.query_one("#prompt", TextArea)
        began = time.process_time()
        app.post_message(events.Paste(pasted))
        await pilot.pause()
        assert time.process_time() - began < 1.0
        assert prompt.text == f"read [paste 1: {len(pasted):,} characters]"
        began = time.process_time()
        await pilot.press("enter")
        await wait_for_text(app, "4 tokens")
        assert time.process_time() - began < 3.0
        assert harness.backend.conversation.asked[0][0] == f"read {pasted}".strip()
        assert "[paste 1: " in screen_text(app)


async def test_a_paste_that_can_be_read_stands_in_the_prompt(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "3")
        prompt = app.screen.query_one("#prompt", TextArea)
        app.post_message(events.Paste("two\nlines"))
        await wait_until(lambda: prompt.text == "two\nlines")


async def test_the_help_opens_from_the_empty_prompt(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3", "?")
        await wait_for_text(app, "Keys here")
        assert "Which model" in screen_text(app)


async def test_with_nothing_trained_chat_says_so_at_once(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "generate"))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("3")
        await wait_for_text(app, "Nothing is trained yet: a base model answers")
        await harness.populate(create_training_run)
        await pilot.press("f4", "f3")
        await wait_until(lambda: "Nothing is trained yet" not in screen_text(app))


async def test_keys_that_come_faster_than_they_are_drawn_keep_their_order(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("3")
        await pilot.pause()
        for key in (*"what?", "enter"):
            character = "?" if key == "?" else key if len(key) == 1 else "\r"
            app.post_message(events.Key("question_mark" if key == "?" else key, character))
        await wait_until(lambda: harness.backend.conversation.asked)
        assert harness.backend.conversation.asked[0][0] == "what?"


async def test_a_question_mark_in_the_empty_prompt_opens_the_help(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("3")
        await wait_for_text(app, "? Help")
        await pilot.press("question_mark")
        await wait_until(lambda: isinstance(app.screen, HelpScreen))


async def test_the_base_model_is_that_of_a_run(harness: AppHarness) -> None:
    """What the configuration names now may be another one than a run was trained on."""
    models = ("small", "small", "large")
    runs = [
        await harness.populate(
            lambda store, m=model: create_training_run(store, settings={"fine_tuning.model_name": m})
        )
        for model in models
    ]
    harness.settings = with_values(harness.settings, {"fine_tuning.model_name": "configured"})
    async with harness.app((140, 42)) as (app, pilot):
        await pilot.press("3", "ctrl+t")
        await wait_for_text(app, "Which model answers")
        rows = re.findall(r"base model +(?:that of run \d|no adapter) +(\w+)", screen_text(app))
        assert rows == ["large", "small", "configured"]
        await pilot.press("end", "up", "enter", *"hi", "enter")
        await wait_for_text(app, "4 tokens")
        assert harness.backend.calls_of("open_chat") == [(ChatTarget(runs[1], base_only=True),)]
        assert harness.backend.conversation.asked == [("hi", ("tuned",))]
