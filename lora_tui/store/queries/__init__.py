"""What watchers ask of the store: summaries and windows that stay cheap however long a run gets.

`runs` has runs as rows of a list, and a run's steps, events, checkpoints and weights; `generation` has a run's pairs,
files, scores and calls to the model. Nothing here writes, and no large JSON column is decoded for a
list.
"""
