"""Generate: the pairs as they come, what they cost, and what can be done with them."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.protocol.backend import ForecastText
from lora_tui.store import events, generation, runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import MetricLine, PairDetail, pair_detail
from lora_tui.store.rows import AnalysisRow, PairRow
from lora_tui.tui.screens.generate import GenerateScreen
from lora_tui.tui.screens.pair import PairScreen
from lora_tui.tui.text import metric_name
from lora_tui.tui.views import pairs as pair_texts
from lora_tui.tui.views.generation import GenerationView, histogram_line
from lora_tui.tui.widgets.row_list import RowList
from tests.store.store_fixtures import make_call, make_chunk, make_file, make_pair
from tests.tui.app_harness import PLAN, AppHarness, create_run, screen_text, wait_for_text, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def create_generation_run(store: Store, state: str = "running", pairs: int = 12) -> int:
    """A run with pairs of every verdict, two files, calls and an analysis."""
    run_id = await create_run(store, "generate", "running", settings={"data_generation.total_examples": 20})
    chunk = await make_chunk(store)
    await make_file(store, run_id, "bees.md")
    await make_file(store, run_id, "logs.pdf", "needs the docs extra")
    verdicts: Sequence[tuple[str, float | None, str]] = (
        ("accepted", 8.4, ""), ("rejected", 5.1, "scores 5.1 of 10"), ("review", None, "the judge could not be asked"),
        ("waiting", None, ""),
    )  # fmt: skip
    for number in range(pairs):
        verdict, score, reason = verdicts[number % 4]
        await make_pair(
            store, run_id, f"Why does bee {number} dance?", verdict, score, source="bees.md", chunk=chunk,
            reason=reason, answer=f"To show way {number}.",
        )  # fmt: skip
    for status in ("ok", "ok", "sent"):
        tokens = {"prompt_tokens": 400, "completion_tokens": 60} if status == "ok" else {}
        ended: dict[str, Any] = {"sent_at": 1000.0, "ended_at": 1002.0} if status == "ok" else {}
        await make_call(store, run_id, 1, status, **tokens, **ended)
    await make_call(store, run_id, 1, "server_error", http_status=503, ended_at=1003.0)
    statistics = {"files": 2, "files_covered": 1, "different_topics": 1, "entropy": 1.5}
    async with store.transaction() as t:
        analysis = AnalysisRow(1, 5, statistics, ["Ask why more often."], "Too many bees.", 1000.0)
        await generation.add_analysis(t, run_id, analysis)
    if state != "running":
        from lora_tui.store import runs

        await runs.end(store, run_id, state, {}, None)
    return run_id


async def decide(store: Store, run_id: int, pair_id: int, verdict: str) -> None:
    """Decide on a pair as the engine does: row and event in one."""
    decision = generation.Decision(verdict, 9.0, 7.0, 1, "aggregator", "accepted", "scores 9")
    async with store.transaction() as t:
        await generation.decide(t, pair_id, decision, {}, {})
        await events.insert(t, run_id, [(1.0, "pair", {"pair": pair_id, "verdict": verdict})])


async def test_a_run_shows_sources_pairs_figures_and_its_analysis(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app((180, 40)) as (app, _):
        await wait_for_text(app, "Pairs (12) · all")
        await wait_for_text(app, "Analysis 1 (after 5 accepted)")
        text = screen_text(app)
        for expected in (
            "3 of 20 accepted", "✗ 3 rejected", "? 3 review", "… 3 to judge", "50 % pass",
            "1 in flight · 4 calls · 0 retried · 1 failed", "2.0 s a call, 95 % under 2.0 s", "800 tokens in · 120 out",
            "server_error 503 ×1", "threshold 7", "Too many bees.", "↳ Ask why more often.", "– logs.pdf",
            "✓ accepted", "✗ rejected", "? review", "… judging", "● run 1 · generate · 3/20 · 1 in flight",
        ):  # fmt: skip
            assert expected in text, expected


async def test_the_number_of_calls_that_the_endpoint_can_take_is_shown_once_it_is_found(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)

    async def tell(found: bool) -> None:
        progress = {"phase": "generating", "done": 3, "total": 20, "limit": 48, "limit_found": found}
        async with await Store.open(harness.path) as store, store.transaction() as t:
            await events.insert(t, run_id, [(time.time(), "progress", progress)])

    await tell(found=False)
    async with harness.app((140, 42)) as (app, _):
        await wait_for_text(app, "· 1 in flight")
        await tell(found=True)
        await wait_for_text(app, "· 3/20 · 1 of 48 in flight")
        await wait_for_text(app, "1 of 48 in flight · 4 calls")


async def test_each_of_several_endpoints_is_shown_and_one_that_is_left_out_with_its_reason(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    one = {"url": "http://one:8000/v1", "roles": ["writes", "judges"], "state": "works", "in_flight": 46, "limit": 48}
    one |= {"limit_found": True, "tokens_per_s": 812.4, "answers": 1204, "reason": ""}
    two = one | {"url": "http://two:8000/v1", "state": "left out", "reason": "http://two refuses the key in [b]K"}
    progress = {"phase": "generating", "done": 3, "total": 20, "endpoints": [one, two]}
    async with await Store.open(harness.path) as store, store.transaction() as t:
        await events.insert(t, run_id, [(time.time(), "progress", progress)])
    async with harness.app((140, 42)) as (app, _):
        await wait_for_text(app, "http://one:8000/v1: 46 of 48 in flight · 812 tokens/s · 1,204 done")
        await wait_for_text(app, "http://two:8000/v1 is left out: http://two refuses the key in [b]K")
    async with harness.app((80, 24)) as (app, _):
        await wait_for_text(app, "1 of 2 endpoints work · http://two:8000/v1 is left out: ")


async def test_reasons_have_a_column_where_there_are_any_and_do_not_repeat_the_score(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_run(store, "generate"))

    async def add(verdict: str, score: float, reason: str) -> None:
        async with await Store.open(harness.path) as store:
            await make_pair(store, run_id, "Why?", verdict, score, reason=reason, chunk=await make_chunk(store))

    await add("accepted", 8.0, "")
    async with harness.app((140, 30)) as (app, _):
        await wait_for_text(app, "8.0")
        assert "why not" not in screen_text(app)
    await add(
        "rejected", 5.1, "scores 5.1 of 10, the threshold is 7; most is lost by the judge's usefulness (0.40 of 1)"
    )
    await add(
        "review", 8.0, "no judge has worked out 486, which neither evidence nor question says: a person should look"
    )
    async with harness.app((140, 30)) as (app, _):
        await wait_for_text(app, "why not")
        await wait_for_text(app, "the judge's useful")
        await wait_for_text(app, "no judge has work")
        assert "scores 5.1" not in screen_text(app)


async def test_a_run_that_has_found_all_the_text_holds_says_so(harness: AppHarness) -> None:
    async def run(store: Store) -> None:
        run_id = await create_run(store, "generate", "running", settings={"data_generation.model": "builtin"})
        chunk = await make_chunk(store)
        await make_pair(store, run_id, "Why?", "accepted", 8.0, chunk=chunk)
        await make_call(store, run_id, 1, "ok", sent_at=1000.0, ended_at=1009.0)
        await runs.end(store, run_id, "finished", {"reason": "nothing new accepted in a whole pass"}, None)

    await harness.populate(run)
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "1 of 100 accepted ")
        await wait_for_text(app, " all found ")
        text = screen_text(app)
        assert "on this machine · no cost" in text
        assert "a call" not in text, "its calls are batches, of which each waits for the others"
        await pilot.press("up", "home")
        assert "end: newest" not in screen_text(app), "nothing comes any more"


async def test_new_pairs_are_followed_until_the_cursor_is_moved_and_again_from_the_end(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        rows = app.screen.query_one("#pairs", RowList)
        await wait_until(lambda: rows.cursor == 11)
        await make_pair(store, run_id, "A thirteenth?", "waiting", source="bees.md")
        await wait_for_text(app, "A thirteenth?")
        assert rows.cursor == 12
        await pilot.press("up", "up")
        await make_pair(store, run_id, "A fourteenth?", "waiting", source="bees.md")
        await wait_until(lambda: rows.count == 14)
        assert rows.cursor == 10, "it stays where the user has put it"
        await pilot.press("end")
        await make_pair(store, run_id, "A fifteenth?", "waiting", source="bees.md")
        await wait_until(lambda: rows.cursor == 14)


async def test_a_verdict_shows_on_the_pair_it_is_about(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_generation_run(store, pairs=4))
    async with harness.app((180, 40)) as (app, _), await Store.open(harness.path) as store:
        await wait_for_text(app, "… judging")
        await decide(store, run_id, 4, "accepted")
        await wait_until(lambda: screen_text(app).count("✓ accepted") == 2)
        assert "… judging" not in screen_text(app)


async def test_filter_and_search_narrow_the_list_and_follow_what_changes(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("f")
        await wait_for_text(app, "Pairs (3) · accepted")
        await decide(store, run_id, 4, "accepted")
        await wait_for_text(app, "Pairs (4) · accepted")
        screen = app.screen
        assert isinstance(screen, GenerateScreen)
        assert screen._pairs.window is not None
        assert list(screen._pairs.window.ids) == [1, 4, 5, 9], "it stands where it was proposed"
        await pilot.press("escape", "slash", *"way 7")
        await wait_for_text(app, "Pairs (1) · all, «way 7»")
        await pilot.press("enter", "escape")
        await wait_for_text(app, "Pairs (12) · all")


async def test_a_chosen_source_shows_its_pairs_alone(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    await harness.populate(lambda store: make_pair(store, run_id, "From elsewhere?", source="other.md"))
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "From elsewhere?")
        app.screen.query_one("#sources").focus()
        await pilot.press("home", "enter")
        await wait_for_text(app, "Pairs (12) · all, from bees.md")
        assert "From elsewhere?" not in screen_text(app)


async def test_a_pair_opens_with_its_evidence_marked_and_its_neighbours_a_key_away(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("home", "enter")
        await wait_for_text(app, "Why does bee 0 dance?")
        text = screen_text(app)
        assert "Bees dance in the dark." in text
        assert "To show way 0." in text
        assert "✓ accepted  8.4 of 10, threshold 7" in text
        assert "judge: grounded" in text
        assert "by the score" in text
        await pilot.press("right")
        await wait_for_text(app, "Why does bee 1 dance?")
        await pilot.press("escape")
        await wait_until(lambda: not isinstance(app.screen, PairScreen))
        assert app.screen.query_one("#pairs", RowList).cursor == 1, "the list stands where one has looked last"


async def test_people_accept_reject_edit_and_undo_by_key(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("home", "r", "a", "up", "u")
        await wait_until(lambda: harness.backend.calls_of("undo"))
        assert harness.backend.calls_of("override") == [([1], "rejected"), ([2], "accepted")], "the cursor goes on"
        assert harness.backend.calls_of("undo") == [(run_id,)]
        await pilot.press("e")
        await wait_for_text(app, "ctrl+s" if "ctrl+s" in screen_text(app) else "^s Save")
        await pilot.press("end", "!", "ctrl+s")
        await wait_until(lambda: harness.backend.calls_of("edit"))
        assert harness.backend.calls_of("edit") == [(2, "Why does bee 1 dance?!", "To show way 1.")]


async def test_marked_pairs_are_judged_at_once(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("home", "m", "m", "down", "m", "m", "up", "m")
        await wait_for_text(app, "Pairs (12) · all · 3 marked")
        assert screen_text(app).count("◆") == 3
        await pilot.press("a")
        await wait_until(lambda: harness.backend.calls_of("override"))
        assert harness.backend.calls_of("override") == [([1, 2, 4], "accepted")]
        await wait_for_text(app, "→ 6.6")
        await wait_until(lambda: "marked" not in screen_text(app))
        await pilot.press("M")
        await wait_for_text(app, "12 marked")
        await pilot.press("escape")
        await wait_until(lambda: "marked" not in screen_text(app))


async def test_pairs_are_sorted_by_key_and_by_a_click_on_a_heading(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("o")
        await wait_for_text(app, "Pairs (12) · all · by score ▲")
        rows = app.screen.query_one("#pairs", RowList)
        assert "score▲" in screen_text(app)
        assert screen_text(app).index("bee 1 dance") < screen_text(app).index("bee 0 dance"), "the lowest first"
        assert rows.cursor == 0
        await decide(store, run_id, 2, "accepted")  # from 5.1, where the cursor is, to 9
        await wait_until(lambda: rows.cursor == 5)
        await pilot.press("o")
        await wait_for_text(app, "score▼")
        assert screen_text(app).index("bee 1 dance") < screen_text(app).index("bee 0 dance"), "now it is the highest"
        await pilot.press("end")
        assert not rows.following, "a sorted list has no newest row at its end"
        heading = next(line for line in screen_text(app).splitlines() if "question" in line)
        await pilot.click(rows, offset=(heading.index("question") - rows.region.x, 0))
        await wait_for_text(app, "by question ▲")
        await pilot.press("escape")
        await wait_for_text(app, "Pairs (12) · all ")
        assert rows.following


@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
async def test_question_and_answer_are_the_last_to_be_cut(harness: AppHarness, width: int) -> None:
    await harness.populate(create_generation_run)
    async with harness.app((width, 40)) as (app, _):
        await wait_for_text(app, "Why does bee 11 dance?")
        await wait_for_text(app, "To show way 11.")


async def test_of_rejected_pairs_the_reason_is_the_last_to_be_cut(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app((80, 40)) as (app, pilot):
        await wait_for_text(app, "Why does bee 11 dance?")
        assert "scores 5.1 of 10" not in screen_text(app)
        await pilot.press("f", "f")
        await wait_for_text(app, "Pairs (3) · rejected")
        assert "scores 5.1 of 10" in screen_text(app)


async def test_a_verdict_shows_what_it_did_to_weights_and_score(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("home", "enter")
        await wait_for_text(app, "Why does bee 0 dance?")
        await pilot.press("a")
        await wait_for_text(app, "evidence holds it 0.250 → 0.253")
        assert "BLEU 0.100 → 0.097" in screen_text(app)
        assert "score    6.4 → 6.6" in screen_text(app)


async def test_a_verdict_leaves_the_passage_where_it_is_read_and_a_neighbour_shows_its_evidence(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def long_passage(store: Store, pair_id: int) -> PairDetail | None:
        detail = await pair_detail(store, pair_id)
        line = "Bees are small.\n"
        return detail and replace(detail, passage=line * 60 + detail.pair.evidence + "\n" + line * 60)

    monkeypatch.setattr("lora_tui.tui.screens.pair.pair_detail", long_passage)
    await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("home", "enter")
        await wait_for_text(app, "Why does bee 0 dance?")
        passage = app.screen.query_one("#passage-box")
        await wait_until(lambda: passage.scroll_y > 0)
        passage.scroll_to(y=5, animate=False)
        await wait_until(lambda: passage.scroll_y == 5)
        await pilot.press("a")
        await wait_for_text(app, "evidence holds it 0.250 → 0.253")
        await pilot.pause()
        assert passage.scroll_y == 5
        await pilot.press("right")
        await wait_for_text(app, "Why does bee 1 dance?")
        await wait_until(lambda: passage.scroll_y > 5)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
async def test_a_warning_of_the_plan_is_whole(
    harness: AppHarness, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = "data_generation.total_examples = 5000: the text holds about 800 pairs, so 4,200 would say them again"

    async def warned(settings: Settings) -> ForecastText:
        return ForecastText((("pairs", "5,000"),), (warning,))

    monkeypatch.setattr(harness.backend, "forecast_generation", warned)
    async with harness.app(size) as (app, pilot):
        await pilot.press("escape")
        await wait_for_text(app, "! data_generation.total_examples = 5000")
        await wait_for_text(app, "say them again")


async def test_a_live_run_is_paused_continued_and_stopped_by_key(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await wait_for_text(app, "space Pause")
        await pilot.press("space")
        await wait_until(lambda: harness.backend.calls_of("send_command"))
        await events.append(store, run_id, [(1.0, "paused", {"paused": True})])
        await wait_for_text(app, "Go on")
        assert "paused" in screen_text(app)
        await pilot.press("space", "x")
        await wait_until(lambda: harness.backend.calls_of("stop"))
        assert harness.backend.calls_of("send_command") == [(run_id, "pause"), (run_id, "continue")]


async def test_a_run_that_waits_for_its_endpoint_says_why_and_that_it_is_back(harness: AppHarness) -> None:
    run_id = await harness.populate(create_generation_run)
    reason = "Connection refused \x1b[31mEVIL"
    async with harness.app((80, 24)) as (app, _), await Store.open(harness.path) as store:
        now = time.time()
        await events.append(store, run_id, [(now - 75, "waiting", {"waiting": True, "reason": reason})])
        await wait_for_text(app, "waiting for the endpoint for 1m 1")
        assert "Connection refused" in screen_text(app)
        assert "\x1b[31mEVIL" not in screen_text(app)
        await events.append(store, run_id, [(now, "waiting", {"waiting": False, "reason": ""})])
        await wait_until(lambda: "waiting for the endpoint" not in screen_text(app))
        again = {"reason": "HTTP 503: overloaded", "seconds": 60.0, "try": 2, "tries": 6}
        await events.append(store, run_id, [(time.time(), "retry", again)])
        await wait_for_text(app, "trying again in")
        assert "HTTP 503: overloaded" in screen_text(app)


@pytest.fixture
def foreign_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Settings that came from elsewhere and would send a key of this machine there."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "own"))
    return {
        "data_generation.api_key_env": "AWS_SECRET_ACCESS_KEY",
        "data_generation.base_url": "https://m.example/v1",
    }


async def test_a_key_that_the_configuration_names_is_asked_about_before_it_is_sent(
    harness: AppHarness, foreign_key: dict[str, str], tmp_path: Path
) -> None:
    harness.settings = with_values(harness.settings, foreign_key)
    harness.key_named_in = tmp_path / "config.toml"
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "s")
        await wait_for_text(app, "Send the value of AWS_SECRET_ACCESS_KEY there?")
        assert "https://m.example" in screen_text(app)
        await pilot.press("enter")
        await wait_until(lambda: "Send the value" not in screen_text(app))
        assert harness.backend.calls_of("start") == []
        await pilot.press("s")
        await wait_for_text(app, "Send the value of AWS_SECRET_ACCESS_KEY there?")
        await pilot.press("s")
        await wait_until(lambda: harness.backend.calls_of("start"))


async def test_a_key_that_a_stored_run_names_is_asked_about_before_it_goes_on(
    harness: AppHarness, foreign_key: dict[str, str]
) -> None:
    await harness.populate(lambda store: create_run(store, "generate", settings=foreign_key, state="stopped"))
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "stopped")
        await pilot.press("4")
        await wait_for_text(app, "1 run")
        await pilot.press("R")
        await wait_for_text(app, "Send the value of AWS_SECRET_ACCESS_KEY there?")
        assert harness.backend.calls_of("start") == []
        await pilot.press("s")
        await wait_until(lambda: harness.backend.calls_of("start"))


async def test_without_a_run_the_screen_says_what_starting_would_do_and_starts(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape")
        await wait_for_text(app, "No pairs yet. s starts: gpt-4 reads training_input.")
        await wait_for_text(app, "at least 230")
        await pilot.press("s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("generate", {}, None)]


async def test_nothing_is_offered_that_needs_pairs_before_there_are_any(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape")
        await wait_for_text(app, "s Start")
        for hint in ("Open", "Search", "Filter", "Accept"):
            assert hint not in screen_text(app), hint


async def test_a_local_model_costs_nothing_and_counts_no_tokens(harness: AppHarness) -> None:
    async def local(store: Store) -> None:
        run_id = await create_run(store, "generate", settings={"data_generation.model": "builtin"})
        await make_pair(store, run_id)
        await make_call(store, run_id, 1, "ok", ended_at=1002.0)

    await harness.populate(local)
    async with harness.app() as (app, _):
        await wait_for_text(app, "on this machine · no cost")
        assert "tokens in" not in screen_text(app)


async def test_a_quickstart_says_on_generate_that_it_has_gone_on_to_training(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_run(store, "quickstart", "running"))
    async with harness.app() as (app, _), await Store.open(harness.path) as store:
        await wait_for_text(app, "run 1 · quickstart")
        assert "training begins" not in screen_text(app)
        await events.append(store, run_id, [(time.time(), "plan", PLAN)])
        await wait_for_text(app, "The pairs are done and training begins: 2 shows it.")
        await wait_for_text(app, "0/100 · training: 2")


async def test_that_training_began_long_ago_is_no_news(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_run(store, "quickstart", "running"))
    await harness.populate(lambda store: events.append(store, run_id, [(1.0, "plan", PLAN)]))
    async with harness.app() as (app, _):
        await wait_for_text(app, "0/100 · training: 2")
        assert "training begins" not in screen_text(app)


async def test_in_a_small_terminal_every_panel_is_a_key_away(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "3 of 20 accepted")
        await pilot.press("v")
        await wait_for_text(app, "logs.pdf")
        await pilot.press("v")
        await wait_for_text(app, "Too many bees.")
        await pilot.press("v")
        await wait_for_text(app, "3 of 20 accepted")


async def test_money_is_shown_where_prices_are_set(harness: AppHarness) -> None:
    async def priced(store: Store) -> None:
        prices = {"data_generation.prompt_price": 1000.0, "data_generation.completion_price": 5000.0,
                  "data_generation.budget_dollars": 5.0}  # fmt: skip
        run_id = await create_run(store, "generate", "running", settings=prices)
        await make_pair(store, run_id)
        await make_call(store, run_id, 1, "ok", prompt_tokens=400, completion_tokens=60, ended_at=1002.0)

    await harness.populate(priced)
    async with harness.app() as (app, _):
        await wait_for_text(app, "$0.70 of $5.00")


@pytest.mark.parametrize(
    ("accepted", "others", "bars"),
    [
        ({}, {}, None),
        ({15: 2}, {3: 1, 14: 1000}, "   ▁          █┆▁    "),
        ({14: 1, 19: 1}, {14: 1, 0: 0}, "              █┆    ▄"),
        ({n: n for n in range(20)}, {}, " ▁▁▂▂▃▃▃▄▄▅▅▆▆▆┆▇▇███"),
    ],
)
def test_the_bars_of_the_histogram_are_as_high_as_their_share_of_the_highest(
    accepted: dict[int, int], others: dict[int, int], bars: str | None
) -> None:
    counts = [[part.get(n, 0) for n in range(20)] for part in (accepted, others)]
    run: Any = None
    view = GenerationView(run, {"evaluation_threshold": 7.5}, histogram=(counts[0], counts[1]))
    line = histogram_line(view, 40).plain
    assert line == ("score  no pair is judged yet" if bars is None else f"score 0 {bars} 10")


async def test_a_run_that_has_ended_leads_to_training_on_its_pairs_by_one_key(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_generation_run(store, "finished"))
    harness.backend.next_run = run_id + 1
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "✓ 3 pairs accepted    t  train on them")
        assert "t Train on them" in screen_text(app).splitlines()[-1]
        await pilot.press("t")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("accepted_file") == [(run_id,)]
        assert harness.backend.calls_of("start") == [("train", {"train_data_file": "pairs.txt"}, None)]
        await wait_until(lambda: app.current_mode == "train")
        # Train goes on with them: its plan, and another run that is begun there.
        await wait_until(lambda: (Path("pairs.txt"),) in harness.backend.calls_of("forecast_training"))
        await pilot.press("s")
        await wait_until(lambda: len(harness.backend.calls_of("start")) == 2)
        assert harness.backend.calls_of("start")[1] == ("train", {"train_data_file": "pairs.txt"}, None)


@pytest.mark.parametrize("state", ["running", "finished"])
async def test_without_accepted_pairs_or_while_it_goes_on_nothing_leads_to_training(
    harness: AppHarness, state: str
) -> None:
    pairs = 12 if state == "running" else 1  # the first is accepted
    run_id = await harness.populate(lambda store: create_generation_run(store, state, pairs))
    if state == "finished":
        await harness.populate(lambda store: decide(store, run_id, 1, "rejected"))
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "12" if state == "running" else "1 rejected")
        assert "rain on them" not in screen_text(app)
        await pilot.press("t")
        await pilot.pause()
        assert not harness.backend.calls_of("accepted_file")


CHARGE = "gpt-4 at https://api.openai.com/v1 is paid for by use, and no budget is set. Price: not known."


async def test_what_costs_money_is_asked_about_once(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_generation_run(store, "finished"))
    harness.backend.charge = CHARGE
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("s")
        await wait_for_text(app, "is paid for by use")
        await pilot.press("enter")  # the answer that does no harm
        await wait_until(lambda: len(app.screen_stack) == 1)
        assert not harness.backend.calls_of("start")
        for _ in range(2):
            await pilot.press("s")
            await pilot.pause(0.2)
            if len(app.screen_stack) > 1:
                await pilot.press("s")
        await wait_until(lambda: len(harness.backend.calls_of("start")) == 2)


async def test_a_limit_can_be_set_on_the_way(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_generation_run(store, "finished"))
    harness.backend.charge = CHARGE
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("s")
        await wait_for_text(app, "is paid for by use")
        await pilot.press("b")
        await wait_for_text(app, "Stop after how many tokens")
        await pilot.press("ctrl+a", "ctrl+k", *"20,000", "enter")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.settings.data_generation.budget_tokens == 20_000


async def test_what_is_being_loaded_is_shown_with_how_long_it_takes(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_run(store, "generate", "running"))
    fetching = {"phase": "fetching the built-in model", "done": 40_000_000, "total": 93_000_000}
    async with harness.app((80, 24)) as (app, _), await Store.open(harness.path) as store:
        await events.append(store, run_id, [(time.time() - 60, "progress", fetching)])
        await wait_for_text(app, "fetching the built-in model  40 of 93 MB · 1m ")
        loading = {"phase": "loading SmolLM2-135M-Instruct", "done": 0, "total": 1}
        await events.append(store, run_id, [(time.time() - 4, "progress", loading)])
        await wait_for_text(app, "loading SmolLM2-135M-Instruct · ")
        await events.append(store, run_id, [(time.time(), "progress", {**loading, "done": 1})])
        await wait_for_text(app, "of 100 accepted")


async def test_pairs_of_earlier_runs_about_the_same_files_can_be_trained_on_too(harness: AppHarness) -> None:
    async def twice(store: Store) -> list[int]:
        return [await create_generation_run(store, "finished") for _ in range(2)]

    _, newer = await harness.populate(twice)
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "✓ 3 pairs accepted    t  train on them    T  train on all 6, with earlier")
        await pilot.press("T")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("accepted_file") == [(newer, "with earlier")]


async def test_a_warning_of_a_run_is_said_once(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_run(store, "generate", "running"))
    async with harness.app((80, 24)) as (app, _), await Store.open(harness.path) as store:
        warning = {"message": "pairs.txt is there already: the pairs of run 1 stay in pairs.run-1.txt"}
        await events.append(store, run_id, [(time.time(), "warning", warning), (1.0, "warning", {"message": "old"})])
        await wait_for_text(app, "pairs of run 1 stay")
        assert [note.message for note in app._notifications] == [warning["message"]]


async def test_a_run_that_was_stopped_can_be_gone_on_with_as_well(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_generation_run(store, "stopped"))
    async with harness.app((80, 24)) as (app, _):
        await wait_for_text(app, "✓ 3 pairs accepted    t  train on them    R  go on")


async def test_what_each_of_several_judges_said_is_in_its_words_and_their_distance_among_the_measures() -> None:
    names = ("judge_correctness", "judge_disagreement", "judge_correctness@\x1b[31mone")
    metrics = tuple(MetricLine(name, 0.5, f"about {name}") for name in names)
    detail = PairDetail(cast(PairRow, None), "", "", metrics, (), ())
    shown = pair_texts.metrics_text(detail).plain
    assert "judges are apart" in shown
    assert "one" not in shown
    assert "about judge_correctness@" in pair_texts.judge_text(detail).plain
    assert "\x1b" not in pair_texts.judge_text(detail).plain
    assert metric_name("judge_correctness@one") == "correct, one"


async def test_commands_that_the_configuration_names_are_asked_about_before_they_run(
    harness: AppHarness, tmp_path: Path
) -> None:
    harness.settings = with_values(harness.settings, {"data_generation.extractors": {"rtf": "unrtf {file}"}})
    harness.commands_named_in = tmp_path / "config.toml"
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "s")
        await wait_for_text(app, "rtf: unrtf {file}")
        await pilot.press("enter")
        await wait_until(lambda: "Run them?" not in screen_text(app))
        assert harness.backend.calls_of("start") == []
        await pilot.press("s")
        await wait_for_text(app, "Run them?")
        await pilot.press("r")
        await wait_until(lambda: harness.backend.calls_of("start"))
