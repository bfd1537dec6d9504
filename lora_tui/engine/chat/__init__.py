"""Conversations with a model: session, streaming replies, history."""
