"""The ratios that are looked at first: each of our precisions against the peers it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pepnet_infer.bench.report import Table

#: Ours and the other: the fastest in like precision, what people run today, and what the next precision down brings.
PAIRS = (
    ("engine-native-bf16", "openvino-bf16"),
    ("engine-native-bf16", "onnxruntime"),
    ("engine-native", "onnxruntime"),
    ("engine-native-int8", "engine-native-bf16"),
)


def named_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns an entry per pair and batch size of which both have a figure, from the rows of a comparison.

    ratio, low, high, within_rounds: see `summary.speedups`. The rest says what the ratio is worth: how steady ours was
    (p99 over p50), what share of the machine it reached, and the errors (root mean square) that both made.
    """
    by_peer = {(row["peer"], row["batch"]): row for row in rows}
    entries = []
    for ours, against in PAIRS:
        for size in dict.fromkeys(row["batch"] for row in rows):
            row, other = by_peer.get((ours, size)), by_peer.get((against, size))
            if row is None or other is None:
                continue
            entries.append(
                {
                    "peer": ours,
                    "against": against,
                    "batch": size,
                    **row["speedups"][against],
                    "p99_over_p50": row["p99_ms"] / row["p50_ms"],
                    "matrix_share": row["matrix_share"],
                    "read_share": row["read_share"],
                    "rms": row["rms"],
                    "against_rms": other["rms"],
                }
            )
    return entries


def ratio_table(entries: Sequence[dict[str, Any]]) -> Table:
    """Returns the entries as a table."""
    columns = (
        "ours",
        "against",
        "batch",
        "ratio",
        "95 %",
        "within rounds",
        "p99/p50",
        "matrix peak",
        "weights read",
        "rms error",
        "other's",
    )
    cells = [
        (
            entry["peer"],
            entry["against"],
            str(entry["batch"]),
            f"{entry['ratio']:.2f}×",
            f"{entry['low']:.2f}–{entry['high']:.2f}",
            f"{entry['within_rounds']:.2f}×",
            f"{entry['p99_over_p50']:.2f}",
            share(entry["matrix_share"]),
            share(entry["read_share"]),
            f"{entry['rms']:.1e}",
            f"{entry['against_rms']:.1e}",
        )
        for entry in entries
    ]
    note = (
        "Ratio: the other's p50 over ours, with its 95 % interval. Within rounds: the median of the ratios of the two "
        "calls of each round. Shares, p99/p50 and rms error are ours."
    )
    return Table("Our precisions against the peers to beat", columns, cells, frozenset({"ours", "against"}), note)


def share(value: float | None) -> str:
    """Returns a share as per cent, a dash where it is not known."""
    return "–" if value is None else f"{value:.0%}"
