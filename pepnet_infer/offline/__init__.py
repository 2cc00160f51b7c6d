"""Parquet scoring: files in, files with scores out, each of them whole or not there at all."""

from pepnet_infer.offline.run import OFFLINE, Summary, score_parquet

__all__ = ["OFFLINE", "Summary", "score_parquet"]
