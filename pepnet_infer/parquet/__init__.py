"""Parquet scoring: files in, files with scores out, each of them whole or not there at all."""

from pepnet_infer.parquet.run import OFFLINE, score_parquet
from pepnet_infer.parquet.summary import FileProgress, Progress, Summary

__all__ = ["OFFLINE", "FileProgress", "Progress", "Summary", "score_parquet"]
