"""What a publisher knows of each id of a table: what was pushed and when, what waits, and its score."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.export.publish.push_policy import PushPolicy
from pepnet_infer.rows.gset import Gset
from pepnet_infer.rows.stores.arena import Arena, Records
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Positions
from pepnet_infer.storage.tensorfile import Array

_KNOWN = np.dtype(
    [
        ("updates", np.int64),  # occurrences in training; those of the bundle have reached any number
        ("touched", np.float64),  # when last
        ("window", np.int64),  # the interval of the last push
        ("pushes", np.int64),  # within it
        ("expires", np.float64),  # of the row that was pushed last
        ("score", np.float64),  # S as of `scored`
        ("scored", np.int64),  # interval of the score
        ("pending", np.uint8),
        ("pushed", np.uint8),  # followers have a row of it
        ("deleted", np.uint8),  # by the trainer, not yet pushed
        ("known", np.uint8),  # 0: forgotten
    ]
)
#: Names of tensors → their dtypes, as `IdBook.to_tensors` and `Selection.noted` return them. All have one axis.
_FIELDS = {name: _KNOWN[name] for name in _KNOWN.names or ()}
BOOK = {"key": np.dtype(np.uint64), **_FIELDS}
NOTED = {"keys": np.dtype(np.uint64), "expires": np.dtype(np.float64), "gone": np.dtype(np.uint64)}
_OF_THE_BUNDLE = 1 << 40
_NEVER = np.iinfo(np.int64).min
_BLANK = {"window": _NEVER, "scored": np.iinfo(np.int32).min, "expires": -np.inf}
_FEW = 1 << 12  # ids whose memory is not worth a thought


class Selection(NamedTuple):
    """What one pass pushes."""

    keys: Keys  # ascending
    scores: npt.NDArray[np.float32]
    expires: npt.NDArray[np.float64]
    gone: Keys  # ascending: deleted, over the cap, forgotten
    held: dict[str, int]  # by reason
    slots: Positions
    gone_slots: Positions

    def noted(self) -> dict[str, Array]:
        """Returns what must not be forgotten while nobody knows whether it came into the log."""
        return {"keys": self.keys, "expires": self.expires, "gone": self.gone}


class IdBook:
    """For one thread."""

    def __init__(self, policy: PushPolicy, gset: Gset) -> None:
        self.policy, self._gset = policy, gset
        self._ids = Arena(_KNOWN, **_BLANK)

    def slots(self) -> int:
        """Returns how many ids there is memory for, forgotten ones included."""
        return len(self._ids)

    def start(self, keys: Keys, scores: npt.NDArray[np.float32], now: float) -> None:
        """Begins with the ids of a bundle: followers have their rows."""
        slots = self._add(keys)
        known = self._known
        known["score"][slots], known["scored"][slots] = scores, self._score_interval(now)
        known["updates"][slots], known["pushed"][slots] = _OF_THE_BUNDLE, 1

    def touch(self, keys: Keys, positive: npt.NDArray[np.bool_] | None, now: float) -> int:
        """Counts occurrences in training, each once for every time it is in `keys`. Returns how many ids waited."""
        distinct, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
        slots = self._add(distinct)
        known = self._known
        waited = int(np.count_nonzero(known["pending"][slots]))
        known["updates"][slots] += counts
        known["touched"][slots] = now
        known["pending"][slots], known["deleted"][slots] = 1, 0
        interval = self._score_interval(now)
        samples = np.zeros(len(keys)) if positive is None else positive
        plus = np.bincount(which.reshape(-1), weights=samples, minlength=len(distinct))
        before = self._gset.decayed(known["score"][slots], interval - known["scored"][slots])
        known["score"][slots] = before + self._gset.gain(plus, counts - plus)
        known["scored"][slots] = np.maximum(interval, known["scored"][slots])
        return waited

    def delete(self, keys: Keys) -> None:
        """Notes that the trainer has no such ids any more."""
        slots = self._add(np.unique(keys))
        self._known["deleted"][slots], self._known["pending"][slots] = 1, 0

    def choose(self, now: float, everything: bool = False) -> Selection:
        """Returns what is pushed now; `everything`: whatever waits. Nothing changes before `pushed`."""
        policy, known, keys = self.policy, self._known, self._ids.keys
        there = known["known"] != 0
        waiting = there & (known["pending"] != 0)
        ripe = known["updates"] >= policy.min_updates
        if policy.mode == "limit":
            free = (known["window"] != self._window(now)) | (known["pushes"] < policy.limit)
        else:
            # Beyond now + ttl: from before the clock went back. Waiting for it could take for ever.
            free = (known["expires"] <= now) | (known["expires"] > now + policy.ttl)
        free |= everything
        chosen = waiting & ripe & free
        held = {
            "updates": int(np.count_nonzero(waiting & ~ripe)),
            policy.mode: int(np.count_nonzero(waiting & ripe & ~free)),
        }
        gone = there & (known["deleted"] != 0)
        gone |= there & ~ripe & (known["touched"] <= now - policy.unseen_after)
        chosen &= ~gone
        scores = self._scores(now)
        if policy.max_ids is not None:
            rows = np.flatnonzero((there & (known["pushed"] != 0) & ~gone) | chosen)
            over = len(rows) - policy.max_ids
            if over > 0:
                lowest = rows[np.lexsort((keys[rows], scores[rows]))[:over]]
                held["capped"] = over
                chosen[lowest], gone[lowest] = False, True
        slots, away = self._ordered(chosen), self._ordered(gone)
        expires = np.full(len(slots), now + policy.ttl)
        # A deletion is of what followers have; of the others nobody has heard.
        told = keys[away[known["pushed"][away] != 0]]
        return Selection(keys[slots], scores[slots].astype(np.float32), expires, told, held, slots, away)

    def pushed(self, chosen: Selection, now: float) -> None:
        """Notes that what was chosen is in the log."""
        known, slots, window = self._known, chosen.slots, self._window(now)
        again = known["window"][slots] == window
        known["pushes"][slots] = np.where(again, known["pushes"][slots], 0) + 1
        known["window"][slots] = window
        known["pending"][slots], known["pushed"][slots] = 0, 1
        known["expires"][slots] = chosen.expires
        for name in ("pending", "pushed", "deleted", "known", "updates"):
            known[name][chosen.gone_slots] = 0
        known["window"][chosen.gone_slots], known["expires"][chosen.gone_slots] = _NEVER, -np.inf
        self._shrink()

    def may_be_pushed(self, noted: dict[str, Any], now: float) -> None:
        """Takes what `Selection.noted` returned for pushed; all of it still waits: it may have been touched since."""
        slots, away = self._add(noted["keys"]), self._add(noted["gone"])
        known = self._known  # which may have grown
        known["window"][slots], known["pushes"][slots] = self._window(now), 1
        known["pushed"][slots], known["expires"][slots] = 1, noted["expires"]
        known["pushed"][away], known["deleted"][away] = 0, 0

    def counts(self) -> dict[str, int]:
        """Returns known, pending and pushed ids."""
        known = self._known
        return {
            "known": int(np.count_nonzero(known["known"])),
            "pending": int(np.count_nonzero(known["pending"] | known["deleted"])),
            "rows": int(np.count_nonzero(known["pushed"])),
        }

    def to_tensors(self) -> dict[str, Array]:
        """Returns everything, for `from_tensors`."""
        there = self._known["known"] != 0
        known = self._known[there]
        return {
            "key": self._ids.keys[there],
            **{name: np.ascontiguousarray(known[name]) for name in known.dtype.names or ()},
        }

    def from_tensors(self, tensors: dict[str, Any]) -> None:
        """Takes back what `to_tensors` returned."""
        slots = self._add(tensors["key"])
        for name in _FIELDS:
            self._known[name][slots] = tensors[name]

    @property
    def _known(self) -> Records:
        return self._ids.known[: len(self._ids)]

    def _add(self, keys: Keys) -> Positions:
        order = np.argsort(keys, kind="stable")
        slots = np.empty(len(keys), np.int64)
        slots[order], _ = self._ids.add(keys[order])
        fresh = slots[self._known["known"][slots] == 0]
        self._known["score"][fresh], self._known["known"][fresh] = 0.0, 1
        return slots

    def _shrink(self) -> None:
        """Begins anew with the ids that are known, where most are forgotten: slots are never given twice."""
        if len(self._ids) > _FEW and 2 * np.count_nonzero(self._known["known"]) < len(self._ids):
            kept = self.to_tensors()
            self._ids = Arena(_KNOWN, **_BLANK)
            self.from_tensors(kept)

    def _ordered(self, mask: npt.NDArray[np.bool_]) -> Positions:
        slots = np.flatnonzero(mask)
        return slots[np.argsort(self._ids.keys[slots])]

    def _scores(self, now: float) -> npt.NDArray[np.float64]:
        age = self._score_interval(now) - self._known["scored"]
        return np.asarray(self._gset.decayed(self._known["score"], age), np.float64)

    def _score_interval(self, now: float) -> int:
        return int(self._gset.interval_of(now))

    def _window(self, now: float) -> int:
        return int(now // self.policy.interval)
