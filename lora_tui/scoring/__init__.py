"""Scoring: pure functions from texts and replies to numbers in [0, 1]; no I/O, nothing of ours imported.

- `words` is the tokenizer and normaliser, `metrics` the text metrics that stand on it (BLEU, ROUGE, token F1, …).
- `judge` reads the levels out of an LLM judge's reply.
- `aggregator` makes one score of many metrics, with weights that learn from feedback.
- `agreement` measures how scores agree with people's ratings; `guarantee` is what ratings promise of all the rest.
"""
