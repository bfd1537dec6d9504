"""Conversations with a model.

`session` holds the loaded model and its stored turns, `streaming` decodes the replies of both sides on the inference
thread, `history` keeps their messages and makes prompts of them.
"""
