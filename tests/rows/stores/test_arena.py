"""Rows in an arena whose work breaks off in the middle: an interrupt there, or a process that forks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pepnet_infer.rows.stores.arena import RowArena


class Breaks(np.ndarray):
    """Numbers whose next change is the last: what comes after it is not done."""

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(at, value)
        raise KeyboardInterrupt


def test_no_two_keys_get_one_row_when_placing_breaks_off() -> None:
    rows, keys = RowArena(), np.arange(9, dtype=np.uint64)
    slots, _ = rows.add(keys)
    known = rows.known
    rows.known = known.view(Breaks)
    with pytest.raises(KeyboardInterrupt):
        rows.place(slots[:4], 2)
    rows.known = known
    rows.place(slots, 2)
    assert len(set(known["row"][slots].tolist())) == len(keys)
