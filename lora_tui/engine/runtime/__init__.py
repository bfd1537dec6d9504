"""The runtime: the engine's thread, and what it gives every job.

`engine` runs jobs and keeps sessions; `context` is what a job gets of its run; `commands` are requests of watchers;
`resume` finds and checks the run that ``--resume`` means; `process` holds settings of the whole process.
"""
