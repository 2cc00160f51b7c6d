"""AUC by task and page of scored KuaiRand exposures, from their labels in the file that was scored.

python examples/auc_of_scores.py SCORES.parquet INTERACTIONS.parquet --first-date 20220506

Rows of the two files match one by one: scored files keep the order of their input. Exact repeats are left out.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from pepnet_infer.cli.output import show_table
from pepnet_infer.export.train.metrics import evaluate

LABELS = {name: f"is_{name}" for name in ("click", "like", "follow", "forward", "hate")} | {"long_view": "long_view"}


def main() -> None:
    """Reads both files, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores")
    parser.add_argument("interactions")
    parser.add_argument("--first-date", type=int, default=20220506, help="rows of earlier days are left out")
    parser.add_argument("--min-positives", type=int, default=100, help="cells with fewer are shown as a dash")
    args = parser.parse_args()

    scores, log = pq.read_table(args.scores), pq.read_table(args.interactions)
    if scores["user_id"].to_pylist() != log["user_id"].to_pylist():
        parser.error("the scored rows are not those of the interactions: column user_id differs")
    keep = log["date"].to_numpy() >= args.first_date
    if "is_dup" in log.column_names:
        keep &= log["is_dup"].to_numpy() == 0
    labels = np.stack([log[label].to_numpy()[keep] for label in LABELS.values()], axis=1)
    scored = np.stack([scores[f"score_{task}"].to_numpy()[keep] for task in LABELS], axis=1)
    users = log["user_id"].to_numpy()[keep]
    pages, page = np.unique(log["tab"].to_numpy()[keep], return_inverse=True)

    rows = []
    for cell in evaluate(list(LABELS), labels, users, page, pages, [scored], args.min_positives):
        figures = [f"{values[0]:.4f}" if cell.stable else "–" for values in (cell.auc, cell.gauc)]
        rows.append((cell.domain, cell.task, f"{cell.rows:,}", f"{cell.positives:,}", *figures))
    head = ("page", "task", "rows", "positives", "AUC", "GAUC")
    show_table(Console(), f"AUC of {keep.sum():,} rows from {args.first_date} on", head, rows)


if __name__ == "__main__":
    main()
