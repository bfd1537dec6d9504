"""What each sign of a pair says about it: weights of a logistic sum, fitted on marked pairs.

A table by itself because it is written by a program, ``python -m tests.bench.writer_weights``.
"""

from collections.abc import Mapping

BIAS = 1.61
WEIGHTS: Mapping[str, float] = {
    "answer": 0.32,
    "answer clause": 0.11,
    "answer duration": -0.18,
    "answer frequency": -0.02,
    "answer means": 0.04,
    "answer person": 0.37,
    "answer place": -0.04,
    "answer quantity": 0.06,
    "answer thing": -0.16,
    "answer time": 0.12,
    "anybody": -0.13,
    "bare noun": -0.22,
    "clause in answer": -0.19,
    "clause in question": -0.76,
    "clauses": 0.13,
    "commas": 0.05,
    "few words": -0.24,
    "first word": -0.60,
    "fluency": 0.54,
    "gain": 0.33,
    "light verb": -0.38,
    "long answer": -0.08,
    "long question": -0.27,
    "long sentence": -0.35,
    "name or number": -0.11,
    "one word": -0.05,
    "part of a sentence": -0.31,
    "rule how_much": -0.04,
    "rule instruction": 0.15,
    "rule what_is": 0.15,
    "rule what_object": -0.39,
    "rule what_with_preposition": 0.05,
    "rule when": -0.01,
    "rule where": -0.20,
    "rule who_did": 0.48,
    "rule why": -0.30,
    "said before": 0.12,
    "subject bare": -0.38,
    "subject mention": 0.29,
    "subject pronoun": 0.21,
    "vague noun": -1.53,
}
