"""The store: one SQLite file that holds everything a run did, and the only package that knows SQL.

`connection` opens the file, `schema` brings it to the current version, `rows` types what comes out, and one module for
each subject holds its queries: `runs`, `events`, `corpus`, `tasks`, `generation`, `people`, `training`, `feedback`,
`chat`. What watchers ask while they look is in `looking`.
"""
