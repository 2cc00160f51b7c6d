"""The engines that are compared: each scores the dense part of the same bundle on the same rows."""

from pepnet_infer.bench.peers.registry import BASELINE, Peer, PeerSpec, all_peers

__all__ = ["BASELINE", "Peer", "PeerSpec", "all_peers"]
