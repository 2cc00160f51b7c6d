"""The network as data: a list of operations, what derives it from a config, and its float64 interpreter."""
