"""The jobs: one module for each mode of ``--run``, from its options to its result.

`registry` names the job of each mode. `preflight` refuses what can be refused before torch is imported; then `train`,
`evaluate` and chats go on. `generate`, `format_file`, `export` and `quickstart` begin without it.
"""
