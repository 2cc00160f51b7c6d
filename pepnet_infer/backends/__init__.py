"""Backends run the dense part of the model.

A new one is a module with a class that has `name`, `run` and `describe` (see `protocol.Backend`), a set of options of
its own, and one line each in `create.BACKENDS` and `protocol.PRECISIONS`.
"""
