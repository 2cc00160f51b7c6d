"""Seeded, structured fuzzers of everything that comes from outside; `make fuzz`, or `python -m fuzz --help`."""
