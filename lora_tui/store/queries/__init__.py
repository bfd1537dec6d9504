"""What watchers ask while they look: summaries and windows that stay cheap however long a run gets.

Nothing here writes, and no big JSON column is decoded for a list. `lines` has runs and conversations, `pairs` a run's
pairs and files, `calls` what was asked of the model, `curves` what a trainer reports.
"""

from lora_tui.store.queries.calls import CallFailures, CallFigures, call_figures
from lora_tui.store.queries.curves import (
    StepColumns,
    WeightVersion,
    checkpoints,
    events_of_kinds,
    newest_event,
    step_columns,
    weight_history,
)
from lora_tui.store.queries.detail import DecisionLine, MetricLine, PairDetail, pair_detail
from lora_tui.store.queries.runs import ConversationLine, RunLine, conversations, data_version, run_lines
from lora_tui.store.queries.generation import (
    PairFilter,
    PairLine,
    ScoreHistogram,
    SourceLine,
    pair_ids,
    pair_lines,
    pairs_matching,
    score_histogram,
    source_lines,
)

__all__ = [
    "CallFailures",
    "CallFigures",
    "ConversationLine",
    "DecisionLine",
    "MetricLine",
    "PairDetail",
    "PairFilter",
    "PairLine",
    "RunLine",
    "ScoreHistogram",
    "SourceLine",
    "StepColumns",
    "WeightVersion",
    "call_figures",
    "checkpoints",
    "conversations",
    "data_version",
    "events_of_kinds",
    "newest_event",
    "pair_detail",
    "pair_ids",
    "pair_lines",
    "pairs_matching",
    "run_lines",
    "score_histogram",
    "source_lines",
    "step_columns",
    "weight_history",
]
