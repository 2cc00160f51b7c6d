"""What the embedding cache's lookups are compared with: each copies the rows of a batch of ids to a destination."""

from pepnet_infer.bench.cache_peers.contender import Batch, Contender, Destination, Workload
from pepnet_infer.bench.cache_peers.native import Gather, PeerLibrary

__all__ = ["Batch", "Contender", "Destination", "Gather", "PeerLibrary", "Workload"]
