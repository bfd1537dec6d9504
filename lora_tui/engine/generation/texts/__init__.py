"""Texts beside the pairs: documents, conversations, and further wordings of pairs, written about a run's passages.

What puts a folder's knowledge into a model is pairs and documents together, and documents help most that are written
around the questions (Synthetic Mixed Training, arXiv 2603.23562). `text_stage` has them written once the pairs are
there: by an endpoint's model (`remote_texts`), or by rule where the built-in model works (`rule_texts`).
"""
