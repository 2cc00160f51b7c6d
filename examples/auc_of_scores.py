"""AUC by task and page, computed from scored parquet and the labels of the file that was scored.

python examples/auc_of_scores.py SCORES.parquet INTERACTIONS.parquet --first-date 20220506 [--json]

Rows of the two files match one by one: scored files keep the order of their input. Exact repeats are left out.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pepnet_infer.cli.output import show_table
from pepnet_infer.export.train.metrics import auc, gauc

LABELS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "forward": "is_forward",
    "hate": "is_hate",
}


def main() -> None:
    """Reads both files, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores")
    parser.add_argument("interactions")
    parser.add_argument("--first-date", type=int, default=20220506, help="rows of earlier days are left out")
    parser.add_argument("--min-positives", type=int, default=100, help="cells with fewer are shown as a dash")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    scores, log = pq.read_table(args.scores), pq.read_table(args.interactions)
    if scores.num_rows != log.num_rows:
        parser.error(f"expected as many scored rows as interactions, got {scores.num_rows} and {log.num_rows}")
    if not scores["user_id"].cast(pa.int64()).equals(log["user_id"].cast(pa.int64())):
        parser.error("the scored rows are not those of the interactions: column user_id differs")
    keep = log["date"].to_numpy() >= args.first_date
    if "is_dup" in log.column_names:
        keep &= log["is_dup"].to_numpy() == 0
    domain, user = log["tab"].to_numpy()[keep], log["user_id"].to_numpy()[keep]

    result: dict[str, dict[str, dict[str, float | int]]] = {}
    pages = [int(p) for p in np.argsort(-np.bincount(domain), kind="stable") if (domain == p).any()]
    for task, label in LABELS.items():
        y, s = log[label].to_numpy()[keep], scores[f"score_{task}"].to_numpy()[keep]
        result[task] = {"all": {"auc": auc(y, s), "gauc": gauc(y, s, user), "positives": int(y.sum())}}
        for page in pages:
            here = domain == page
            result[task][str(page)] = {"auc": auc(y[here], s[here]), "positives": int(y[here].sum())}

    if args.json:
        # JSON has no NaN: an AUC of one class alone is null
        finite = {
            t: {p: {k: v if v == v else None for k, v in c.items()} for p, c in d.items()} for t, d in result.items()
        }
        print(json.dumps(finite, indent=2, allow_nan=False))
        return
    rows = []
    for task, cells in result.items():
        figures = [(c["positives"], c[k]) for c in cells.values() for k in ("auc", "gauc") if k in c]
        shown = ["–" if positives < args.min_positives else f"{value:.4f}" for positives, value in figures]
        rows.append((task, f"{cells['all']['positives']:,}", *shown))
    head = ("task", "positives", "AUC", "GAUC", *(f"tab {p} ({(domain == p).sum():,})" for p in pages))
    show_table(Console(), f"AUC of {keep.sum():,} rows from {args.first_date} on", head, rows)


if __name__ == "__main__":
    main()
