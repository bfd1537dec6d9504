"""The jobs: one module for each mode of ``--run``, from its options to its result."""
