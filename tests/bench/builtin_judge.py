"""What the built-in judge makes of known pairs: does the round trip tell right answers from spoilt ones?

    python -m tests.bench.builtin_judge
    python -m tests.bench.builtin_judge --labelled 60 [--sets third fourth] [--seconds 300]

The first prints each canary with the levels (0-1) of its right and its spoilt pair, and how many the judge tells by
`MARGIN`, as a judge behind an endpoint is measured; about 100 processor seconds. The second judges labelled pairs of
the tests, half of them right, and prints how well the level sets right from wrong apart (AUROC), by kind of fault, with
the answer held against its rivals and without; about 4 processor seconds a pair.
"""

import argparse
import asyncio
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lora_tui.config.models import Settings
from lora_tui.engine.generation.builtin_model import BuiltinModel
from lora_tui.engine.generation.canaries import CANARIES, KNOWN_PAIRS, MARGIN
from lora_tui.engine.generation.generation_model import ProposedPair, UnrecordedCall
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.runtime.context import RunContext
from tests.bench.builtin_writer import auroc

LABELLED = Path(__file__).parents[1] / "engine/generation/labelled_pairs.json"
FAULTS = ("wrong number", "wrong name", "negated", "off the passage")


class _HereAndNow:
    """A context whose torch thread is the caller's."""

    stop = threading.Event()

    async def in_torch_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)


def _judge() -> BuiltinModel:
    return BuiltinModel(cast(RunContext, _HereAndNow()), load_base(Settings(), lambda *_: None, "builtin"))


async def labelled(number: int, sets: Sequence[str], seconds: float) -> None:
    """Print how well the judge sets right labelled pairs from wrong ones apart."""
    data = json.loads(LABELLED.read_text("utf-8"))
    of_sets = [pair for pair in data["pairs"] if pair.get("set", "first") in sets]
    draw = random.Random(1)
    right = draw.sample([pair for pair in of_sets if pair["kind"] == "right"], number // 2)
    by_kind = [[pair for pair in of_sets if pair["kind"] == kind] for kind in FAULTS]
    wrong = [draw.sample(found, min(len(found), number // 8)) for found in by_kind]
    judge, began, until = _judge(), time.process_time(), time.monotonic() + seconds
    levels: dict[str, list[tuple[float, float]]] = defaultdict(list)
    # A passage is read once for the pairs about it.
    pairs = sorted([*right, *(pair for found in wrong for pair in found)], key=lambda pair: pair["passage"])
    for pair in pairs:
        if time.monotonic() > until:
            break
        passage = data["passages"][pair["passage"]]["text"]
        proposed = ProposedPair(pair["question"], pair["answer"], pair["evidence"], "")
        await judge.judge(passage, proposed, UnrecordedCall())
        trip = judge._scores[passage, pair["question"], pair["answer"]]
        levels[pair["kind"]].append((trip.level, replace(trip, rival=None).level))
    print(f"{sum(map(len, levels.values()))} of {len(pairs)} pairs, {len(levels['right'])} of them right")
    all_wrong = [level for kind in FAULTS for level in levels[kind]]
    for kind, found in [*((kind, levels[kind]) for kind in FAULTS), ("all", all_wrong)]:
        told = [auroc([one[which] for one in levels["right"]], [one[which] for one in found]) for which in (0, 1)]
        print(f"{kind:18}{len(found):4}  AUROC {told[0]:.2f}, without rivals {told[1]:.2f}")
    print(f"{time.process_time() - began:.0f} processor seconds")


async def main() -> None:
    judge = _judge()
    began = time.process_time()
    level = {
        known: (await judge.judge(known.passage, known.pair, UnrecordedCall())).metrics["judge_correctness"]
        for known in KNOWN_PAIRS
    }
    for canary in CANARIES:
        print(f"{canary.fault:26}{level[canary.right]:.2f} {level[canary.spoilt]:.2f}  {canary.spoilt.answer}")
    above = [level[canary.right] - level[canary.spoilt] for canary in CANARIES]
    told = sum(difference >= MARGIN for difference in above)
    higher = sum(difference > 0 for difference in above)
    print(f"tells {told} of {len(CANARIES)}; rates the right one higher at all in {higher}")
    print(f"{time.process_time() - began:.0f} processor seconds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--labelled", type=int, default=0)
    parser.add_argument("--sets", nargs="*", default=["third", "fourth"])
    parser.add_argument("--seconds", type=float, default=300.0)
    chosen = parser.parse_args()
    asyncio.run(labelled(chosen.labelled, chosen.sets, chosen.seconds) if chosen.labelled else main())
