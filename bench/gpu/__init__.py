"""The peers on a GPU, for gpu_check.py: of this package it needs the source tree, numpy and msgspec, and torch."""
