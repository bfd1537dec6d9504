"""Evaluation by generation: test prompts, their answers, and the scores of those."""
