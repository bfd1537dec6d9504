"""Using a model that is loaded: `decode` generates text and scores given text.

Chat, evaluation and the built-in model stand on it.
"""
