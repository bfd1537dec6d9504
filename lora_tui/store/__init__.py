"""The store: one SQLite file that holds everything a run did, and the only package that knows SQL.

- `connection` opens the file and runs transactions, `schema` holds the tables and their migrations,
  `rows` the dataclasses that come out, one a table.
- One module for each subject reads and writes it: `runs`, `events` (and commands), `training`, `generation` (passages,
  pairs, decisions, analyses), `tasks` (and calls), `reviews` (what people decide), `feedback` (and the aggregator's
  weights), `chat_log`. Functions whose first parameter is `t` work inside the caller's transaction.
- `queries` holds what watchers ask: summaries and windows that stay cheap however long a run gets.
"""
