"""Latency benchmarks: presets, workloads, peers and reports."""
