"""View models: state that screens show, read from the store, and functions that turn it into text or table cells.

`runs` has the list of runs, one run and the plan before a start; `generation` and `pairs` have a generation run and its
pairs; `training` and `training_text` a training run; `lessons` the lessons with the panel that a run fills. No widgets
in here: a view takes an open `Store` and returns `Content` or cells.
"""
