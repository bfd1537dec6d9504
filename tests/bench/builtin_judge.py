"""What the built-in judge makes of the canary pairs: does the round trip tell right answers from spoilt ones?

    python -m tests.bench.builtin_judge

It prints each canary with the levels (0-1) of its right and its spoilt pair, and how many the judge tells by `MARGIN`,
as a judge behind an endpoint is measured. About 100 processor seconds.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from lora_tui.config.models import Settings
from lora_tui.engine.generation.builtin_model import BuiltinModel
from lora_tui.engine.generation.canaries import CANARIES, KNOWN_PAIRS, MARGIN
from lora_tui.engine.generation.generation_model import UnrecordedCall
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.runtime.context import RunContext


class _HereAndNow:
    """A context whose torch thread is the caller's."""

    stop = threading.Event()

    async def in_torch_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)


async def main() -> None:
    base = load_base(Settings(), lambda *_: None, "builtin")
    judge = BuiltinModel(cast(RunContext, _HereAndNow()), base)
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
    asyncio.run(main())
