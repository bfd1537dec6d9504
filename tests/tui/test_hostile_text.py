"""Text that we did not write, in every field of every screen: nothing is parsed, nothing is active, nothing breaks."""

import pytest
from rich.control import strip_control_codes
from textual.app import App
from textual.widgets import TextArea

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import ForecastText
from lora_tui.store import chat_log, events, generation
from lora_tui.store.connection import Store
from lora_tui.store.rows import AnalysisRow, ChunkRow, SourceFile
from lora_tui.text import clean
from lora_tui.tui.app import LoraApp
from tests.store.store_fixtures import make_pair
from tests.tui.app_harness import (
    AppHarness,
    FakeConversation,
    create_run,
    evaluation_event,
    screen_text,
    step_event,
    wait_until,
)

pytestmark = pytest.mark.anyio

HOSTILE = {
    # Narrow cells show the beginning, so that has a little of each.
    "acting": "[/][b \x1b[2J\x9b2J\u202e\ud800\x07\u200b "
    "[/] [bold [0] [/foo] [[a] [link=file:///etc/passwd]x[/link] [@click=app.quit]quit[/] "
    "\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2J\x1b[31mred\x1b[0m\x1b]8;;http://evil\x1b\\link "
    "\x9b2J\x9d0;title\x9c \x00\x07\x08\x0b\x0c\x7f "
    "\u202egnp.exe\u2066 \u200b\u2028\u2029\ufeff \u200f \ud800 lone \udfff",
    "wide": "漢字かな交じり文 e\u0301\u0301\u0301\u0301 👩‍👩‍👧‍👦 ﷽",
    "long": "x" * 200_000,
    "lines": "\t tab\r\nand\rreturn\n\n\n# heading\n| a | b |\n|---|---|\n```\nopen\n"
    "![img](http://evil/x.png) <script>alert(1)</script> [a](javascript:alert(1))",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def storable(text: str) -> str:
    """What the store keeps of it."""
    return text.encode(errors="replace").decode()


async def populate(store: Store, text: str) -> None:
    """A run of each mode with the text in every column that people or models fill."""
    text = storable(text)
    settings = {"data_generation.input_folder": text, "data_generation.model": text, "fine_tuning.model_name": text}
    generating = await create_run(store, "generate", "failed", error=text, settings=settings)
    async with store.transaction() as t:
        chunk = ChunkRow("c", "d", 0, 0, 9, 3, text, text)
        await generation.add_document(t, "d", 9, "utf-8", "1", [chunk])
        await generation.add_source_file(t, generating, SourceFile(text[:5000], "d", 10, 1, None))
        await generation.add_source_file(t, generating, SourceFile("b" + text[:5000], None, 10, 0, text))
        await generation.add_analysis(t, generating, AnalysisRow(1, 5, {"topics": {text: 1}}, [text], text, 1.0))
    for state in ("accepted", "rejected", "review"):
        await make_pair(
            store, generating, text, state, 5.0, answer=text, topic=text, source=text[:5000], reason=text, chunk="c",
            metrics={"judge_groundedness": 0.5, text[:100]: 0.5},
        )  # fmt: skip
    training = await create_run(store, "train", "failed", error=text, settings=settings, folder="/" + text[:200])
    async with store.transaction() as t:
        await t.execute("UPDATE runs SET name=?, device=?, host=? WHERE id=?", (text, text, text, training))
    evaluation = evaluation_event(1, 0.5, text)
    payload = {**evaluation[2], "samples": [
        {"prompt": text, "kind": kind, "reference": text, "answer": text, "metrics": {text[:50]: 0.5}, "score": 0.5}
        for kind in ("expected", "avoid", text[:20])
    ]}  # fmt: skip
    checkpoint = {"step": 1, "kind": "best", "path": text, "score": 0.5}
    plan = {"model": text, "device": text, "dtype": text, "steps": 5, "examples": 3}
    news: list[events.NewEvent] = [
        (1.0, "plan", plan), (1.0, "warning", {"message": text}),
        (1.0, "progress", {"phase": text, "done": 1, "total": 9}),
        step_event(1), (1.0, "evaluation", payload), (1.0, "checkpoint", checkpoint),
    ]  # fmt: skip
    await events.append(store, training, news)
    conversation = await chat_log.begin(store, training, text, text)
    await chat_log.add_turn(store, conversation, "user", text)
    await chat_log.add_turn(store, conversation, "assistant", text, {"tokens": 3, "seconds": 1.0})


def assert_inert(app: LoraApp) -> None:
    """Nothing on the screen can act on a terminal, and no action hides under a text."""
    text = screen_text(app)
    active = {c for c in text if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000}
    assert not active, active
    assert strip_control_codes(text) == text
    assert not set(text) & set("\u202e\u2066\u200f")
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            meta = segment.style.meta if segment.style else {}
            assert "app.quit" not in str(meta.get("@click", "")), "markup was parsed"
            assert segment.style is None or segment.style.link is None, "a link was made"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_text_is_shown_as_plain_content_everywhere(
    harness: AppHarness, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the net that catches what a widget draws: here every place must have cleaned for itself.
    monkeypatch.setattr(LoraApp, "get_line_filters", App.get_line_filters)
    await harness.populate(lambda store: populate(store, text))
    harness.backend.conversation = FakeConversation([text[:20_000], storable(text)[:20_000]])
    harness.backend.conversation.title = text
    forecast = ForecastText(((text[:100], text),), (text,))

    async def foretold(*_: object, **__: object) -> ForecastText:
        return forecast

    harness.backend.forecast_training = foretold  # type: ignore[method-assign]
    harness.backend.forecast_generation = foretold  # type: ignore[method-assign]
    async with harness.app() as (app, pilot):
        await wait_until(lambda: app.services.state.runs)
        for keys in (
            ("1",), ("1", "enter"), ("1", "v"), ("2",), ("2", "enter"), ("4",), ("4", "enter"), ("4", "n"), ("4", "d"),
            ("5", "]", "]", "]"), ("5", "]", "]", "]", "]", "]"), ("6",), ("6", "question_mark"), ("ctrl+p",),
        ):  # fmt: skip
            await pilot.press(*keys)
            await pilot.pause(0.05)
            assert_inert(app)
            while len(app.screen_stack) > 1:
                await pilot.press("escape")
                await pilot.pause()
        await pilot.press("4", "space", "down", "space", "c")
        await pilot.pause(0.05)
        assert_inert(app)
        await pilot.press("escape", "3")
        app.screen.query_one("#prompt", TextArea).text = clean(storable(text)[:2000])
        await pilot.press("enter")
        await wait_until(lambda: harness.backend.conversation.asked and not app.screen._busy, 30)  # type: ignore[attr-defined]
        await pilot.pause(0.1)
        assert_inert(app)
        app.services.report_error(LoraTuiError(text))
        app.services.notify(text)
        await pilot.pause(0.1)
        assert_inert(app)
        assert app.is_running


async def test_what_is_pasted_into_a_field_is_shown_and_does_not_act(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "3")
        app.screen.query_one("#prompt", TextArea).text = "\x1b[2J \x9b1m \u202e"
        await pilot.pause(0.1)
        assert_inert(app)
        assert "␛[2J" in screen_text(app)
