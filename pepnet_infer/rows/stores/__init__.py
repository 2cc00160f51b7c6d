"""Stores of embedding rows: memory, LMDB, Redis, and the mapped files of a bundle."""
