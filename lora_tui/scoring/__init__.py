"""Scoring: text metrics, the judge's scale and the adaptive aggregator, as pure functions that do no I/O."""
