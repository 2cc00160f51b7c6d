"""`bench latency`: the dense part beside its peers, whole requests, hit rates, and what a call costs in Python."""
