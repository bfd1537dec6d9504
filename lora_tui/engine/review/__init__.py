"""What people decide while they look: ratings, overrides, edits, undo, and what becomes of a run.

Coroutines over a `Store`, on the loop of whoever holds it, in any process, also while another one owns the run. Each is
one transaction: what a person does is stored with everything that follows from it, or not at all. What a person can
mend is raised as `UsageError`.
"""

from lora_tui.engine.review.pairs import Changed, edit_pair, override_pair, undo
from lora_tui.engine.review.ratings import Rated, rate_sample, rate_turn, unrate_sample, unrate_turn
from lora_tui.engine.review.runs import Deleted, delete_run, rename_run

__all__ = [
    "Changed",
    "Deleted",
    "Rated",
    "delete_run",
    "edit_pair",
    "override_pair",
    "rate_sample",
    "rate_turn",
    "rename_run",
    "undo",
    "unrate_sample",
    "unrate_turn",
]
