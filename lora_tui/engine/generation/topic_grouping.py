"""Grouping of a folder's topics into larger ones by a model: one call before the first pair, its reply kept for good.

Asked for where a folder has `LEAST_TOPICS` files or more. A run needs no groups: where the call fails, or its reply
cannot be read, files and headings are the tree. Shown to the model are names alone, of files and of their headings.
Apart from `topic_tree`, which is made without a model.
"""

import re
import time
from collections import defaultdict
from collections.abc import Sequence

from lora_tui.engine.generation.generation_model import CallFailed, CallStopped, GenerationModel
from lora_tui.engine.generation.ledger import BudgetSpent, run_shielded
from lora_tui.engine.generation.topic_tree import TopicTree, grouped
from lora_tui.engine.generation.workers import Workers
from lora_tui.secrets import redact
from lora_tui.store import events, tasks
from lora_tui.store import topics as store_topics
from lora_tui.store.rows import NewTask
from lora_tui.text import one_line

TOPICS = "topics"
"""The kind and the key of the task."""

LEAST_TOPICS, _MOST_TOPICS = 10, 150
_HEADINGS_SHOWN = 6
_LINE = re.compile(
    r"^[^\w\n]*(?:\d{1,2}[.)]\s+)?(.{2,80}?)[*_\s]*[:：][*_\s]*([\d\s,;–-]+(?:(?:and|&)\s*\d+)?)\W*$", re.M
)
_NUMBERS = re.compile(r"(\d+)(?:\s*[–-]\s*(\d+))?")


async def group_topics(workers: Workers, model: GenerationModel) -> None:
    """Have a model group the topics of a run's tree, unless it has been asked before; stores what comes of it."""
    tree, store, run_id = workers.planner.tree, workers.store, workers.run_id
    if tree is None or len(_roots(tree)) < LEAST_TOPICS or any(one.origin == "model" for one in tree.topics.values()):
        return
    async with store.transaction() as t:
        await tasks.add_tasks(t, run_id, [NewTask(TOPICS, TOPICS)])
    pending = await tasks.pending_tasks(store, run_id, TOPICS, 1)
    if not pending:
        return
    (task,) = pending
    call, failure, groups = workers.call(task), "", list[tuple[str, list[int]]]()
    try:
        groups = groups_of(await model.group_topics(outline_of(tree), call))
    except CallStopped:
        return
    except (CallFailed, BudgetSpent) as problem:
        failure = str(problem) or "the budget is spent"
    finally:
        await call.abandon()
    joined = grouped(tree, groups)

    async def keep() -> None:
        async with store.transaction() as t:
            await call.settle(t)
            await store_topics.put_topics(t, run_id, joined.topics.values())
            await tasks.end_task(t, task.id, "dead" if failure else "done", failure or None)
            named = [topic.name for topic in joined.topics.values() if topic.origin == "model"]
            payload = {"topics": len(joined.leaves), "groups": named}
            await events.insert(t, run_id, [(time.time(), "topics", payload)])

    await run_shielded(keep())
    tree.topics = joined.topics
    tree.reweigh({})


def outline_of(tree: TopicTree) -> str:
    """Return a line for each topic that no other is above, with its number and the names beneath it."""
    beneath: defaultdict[int | None, list[str]] = defaultdict(list)
    for topic in tree.topics.values():
        beneath[topic.parent].append(topic.name)
    roots = _roots(tree)
    step = -(-len(roots) // _MOST_TOPICS)
    lines = []
    for number in roots[::step]:
        inner = ", ".join(one_line(name, 40) for name in beneath[number][:_HEADINGS_SHOWN])
        lines.append(f"{number}. {one_line(tree.name_of(number), 60)}" + (f" ({inner})" if inner else ""))
    return "\n".join(lines)


def groups_of(reply: str) -> list[tuple[str, list[int]]]:
    """Return the larger topics of a reply, each with the numbers of its members; none where a line has no such form."""
    found = []
    for line in _LINE.finditer(reply):
        numbers = [
            number
            for first, last in _NUMBERS.findall(line[2])
            for number in range(int(first), min(int(last or first), int(first) + _MOST_TOPICS) + 1)
        ]
        found.append((one_line(redact(line[1].strip(" *_#\"'")), 60), numbers))
    return found


def _roots(tree: TopicTree) -> Sequence[int]:
    return [topic.number for topic in tree.topics.values() if topic.parent is None]
