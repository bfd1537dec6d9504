"""Human review: what people decide while they watch, and what follows from it.

`pairs` overrides verdicts on pairs and texts, edits pairs, and undoes both; `ratings` rates answers and replies; `runs`
renames and deletes runs, and weighs their topics; `aggregators` replays all stored feedback into the metric weights.

Coroutines over a `Store`, callable from any process, also while another one owns the run. Each is one transaction: a
decision is stored with everything that follows from it, or not at all. What a user can fix is raised as `UsageError`.
"""
