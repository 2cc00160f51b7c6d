"""Checkpoint → bundle: the graph, simplified and compared with float64, and the native kernels measured."""
