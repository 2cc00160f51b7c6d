"""Logs that carry deltas and bundles from a publisher to followers: a directory, or Redis Streams."""
