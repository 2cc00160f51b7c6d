"""Embedding rows: where they come from, and how a batch asks for them."""
