"""A thread that keeps an engine at the newest version in a log."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from contextlib import AbstractContextManager
from math import inf
from time import monotonic
from typing import cast

from msgspec import structs

from pepnet_infer._kernels import SharedLock
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import StoreError, UpdateError
from pepnet_infer.process import forks
from pepnet_infer.process.cpu import NO_THREAD
from pepnet_infer.process.pace import Pace, wait_for
from pepnet_infer.quoting import MOST_MESSAGE, clip
from pepnet_infer.stats import FollowStats
from pepnet_infer.sync.delta import DeltaHead, open_delta, read_head
from pepnet_infer.sync.drift_guard import DriftGuard
from pepnet_infer.sync.entry_faults import MAY_PASS, OUT_OF_REACH, bundle_refusal, passing, refusal
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.transport import BundleHead, Entry, Position, Progress, Transport
from pepnet_infer.sync.sync_stats import LogHealth, NewestVersion, SyncStats
from pepnet_infer.sync.updater import Updater
from pepnet_infer.throttled_warnings import Seldom
from pepnet_infer.versions.loading import Loading
from pepnet_infer.versions.model_version import Versions

_LOG = logging.getLogger("pepnet_infer.sync")
_NUMBERS = itertools.count(1)  # of this process's followers
_WRITE_BACK_S = 0.005  # between two looks whether the calls are over that a write-back waits for
_SAY_AGAIN_S = 10.0  # between two acknowledgements of an engine that has nothing new
_MOST_EARLY = 64  # deltas that wait for one before them
_ENTRY_PATIENCE_S = 60.0  # for an entry that cannot be read in a log that can be
_BUNDLE_AGAIN_S = 60.0  # until a bundle is tried again that failed for another reason than its content


class Follower:
    """Reads deltas in order, checks them, and puts their versions in place; see docs/sync.md.

    A delta on the version in place is applied, and one that leads no further is skipped. One that comes before the one
    it is on waits for it, or for a bundle in the log that leads there. What does not pass its checks is refused:
    counted by reason and logged, while the last good version serves. Whatever an entry holds, the follower goes on to
    what comes after it. A log, a disk or a store that is away is waited for instead. A follower that starts reads the
    log from its engine's version on, so that it needs nothing of its own on the disk.
    """

    def __init__(
        self, versions: Versions, loading: Loading, transport: Transport, config: FollowConfig, gate: SharedLock
    ) -> None:
        self._versions, self._transport, self._config = versions, transport, config
        self._name = config.name or f"{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}"
        self._stats = SyncStats()
        self._gate = gate  # held around every change of the version
        self._pace = Pace(config.share)
        self.guard = None if config.guard is None else DriftGuard(config.guard)  #: what is offered rows of calls
        self.updater = Updater(versions, loading, config, self._stats, self.guard, self._pace.rest)
        self._position: Position = ""
        self._log = ""  # which log was read last
        self._newest = NewestVersion()
        self._seldom = Seldom()  # log lines, by reason of a refusal, or by kind of entry and type of our own error
        self._health = LogHealth(self._stats, config.wait_s)
        self._said: Progress | None = None
        self._refused_bundles: dict[tuple[Position, int], float] = {}  # not tried before this time of `monotonic`
        self._held_up: tuple[Position, float] = ("", 0.0)  # the entry that cannot be read, and since when
        self._write_back_again = 0.0  # not before then, of `monotonic`
        self._early: dict[int, Entry] = {}  # deltas that came before the one they are on, by base version
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pepnet-follow", daemon=True)
        forks.register(forks.Stage.FOLLOWERS, child=self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        """In a child process it does not follow; its counts can be read and it can be closed."""
        self._gate, self._stop = SharedLock(), threading.Event()
        self._stop.set()

    def start(self) -> None:
        """Catches up with what is in the log now, then goes on in the background.

        Raises UpdateError: "missing" where there is no log, "threads" where the process can have no more of them.
        """
        while self._step(0.0) and not self._stop.is_set():
            pass
        self._look_for_bundle()
        while self._step(0.0) and not self._stop.is_set():
            pass
        self._acknowledge()
        try:
            self._thread.start()
        except RuntimeError as error:
            raise UpdateError("threads", f"follow: expected a thread to follow with, but {NO_THREAD}") from error

    def wait_for(self, version: int, timeout_s: float) -> bool:
        """Waits until new calls get `version` or a later one. Returns whether they do."""
        return wait_for(lambda: self._versions.now.model_version >= version, timeout_s)

    def rollback(self, version: int) -> None:
        """Goes back to one of the last `keep` versions. Deltas of the versions left are refused from here on.

        The log goes on from here with a delta on this version, or a bundle, whose version is above those left. Raises
        UpdateError for a version that is not kept, and while calls of an earlier version do not end.
        """
        with self._gate.alone():
            self._pace.begin(hurry=True)
            self.updater.rollback(version)
        _LOG.warning("rolled back to model version %d", version)

    def hold(self) -> AbstractContextManager[object]:
        """Keeps the version in place for as long as the block lasts; what comes meanwhile waits."""
        return self._gate.alone()

    def stats(self) -> FollowStats:
        """Returns counters since the engine began to follow, as plain JSON values."""
        version = self._versions.now.model_version
        said = {
            **self._stats.read(),
            "model_version": version,
            "newest_version": max(self._newest.version, version),
            "lag_s": round(max(self._newest.lag_s(version), self._health.unread_s), 3),
            "last_read_s": round(self._health.last_read_s, 3),
            "layered_rows": self.updater.layered_rows,
            "following": self._thread.is_alive() and not self._health.away,
        }
        return cast(FollowStats, said)

    def close(self) -> None:
        """Stops following. The version in place stays."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        idle = 0
        while not self._stop.is_set():
            try:
                if self._step(self._config.wait_s):
                    idle = 0
                    self._acknowledge()
                    continue
                idle += 1
                if idle >= 2:  # a delta of the same version may be on its way
                    self._look_for_bundle()
                self._acknowledge()
            except UpdateError as error:
                if not self._health.has_said(error):
                    self._health.fault(error.reason, "not done yet, and tried again", error)
                self._stop.wait(self._config.retry_s)
            except Exception as error:  # a thread that dies would leave the engine behind
                if self._seldom.due(type(error).__name__):
                    _LOG.exception("the follower goes on after an error of its own")
                self._health.fault("internal", "an error of the follower", error)
                self._stop.wait(self._config.retry_s)

    def _step(self, wait_s: float) -> bool:
        """Takes what is in the log after the last position. Returns whether there was anything."""
        with self._health.reading():
            waits = _WRITE_BACK_S if self.updater.waiting else self._config.wait_s
            entries = self._transport.read(self._position, min(wait_s, waits))
            log_before, self._log = self._log, self._transport.read_from
        if log_before not in ("", self._log):
            self._stats.count("replaced")
            self._early.clear()
            _LOG.warning("the log is another one than before: %s", self._log)
        elif entries and entries[0].position <= self._position:
            got = f"expected entries after {self._position}, got {entries[0].position}"
            self._health.fault("end", "the log lost its end: it is read from its start", UpdateError("log", got))
        with self._gate.alone(unless=self._stop.is_set) as may:  # not once it is closed
            self._pace.begin(hurry=wait_s == 0 or len(entries) > 1)
            for entry in entries:
                if not may or self._stop.is_set():
                    return True
                self._take(entry)
                self._position = entry.position  # an earlier one where the log begins anew, or lost its end
                self._take_early()
            if may:
                self._write_back()
        return bool(entries)

    def _write_back(self) -> None:
        """Writes rows back. Where that fails, calls see them through the overlay all the same."""
        if monotonic() < self._write_back_again:
            return
        try:
            self.updater.write_back()
        except Exception as error:  # of memory, or of the store: nothing that stands in the way of what comes next
            self._write_back_again = monotonic() + self._config.retry_s
            self._health.fault("write-back", "rows of a version cannot be written back yet", error)

    def _take(self, entry: Entry) -> None:
        """Puts an entry in place, or refuses it: whatever it holds, and whatever that leads to.

        Raises UpdateError, with everything as it was, where it is to be tried again: the log, the store or the disk is
        away, or memory is short.
        """
        head: DeltaHead | None = None
        try:
            if entry.fault is not None:
                raise entry.fault
            head = read_head(entry.path)
            self._newest.seen(head.model_version, head.produced_at)
            self._put_in_place(entry, head)
        except MemoryError as error:
            self._wait_or_refuse(entry, head, UpdateError("memory", f"{entry.path}: expected memory, got: {error}"))
        except Exception as error:
            refused = refusal(entry.path, error, "failed")
            self._say_own("delta", entry.path, error, refused)
            if isinstance(error, StoreError):  # of rows that were looked up for the guard: the delta is tried again
                raise refused from error
            self._wait_or_refuse(entry, head, refused)

    def _put_in_place(self, entry: Entry, head: DeltaHead) -> None:
        version = self.updater.model_version
        if head.model_version <= version:
            self._stats.count("skipped")
            return
        if head.base_version > max(version, self.updater.left_behind):
            self._stats.count("gaps")
            self._take_bundle()
            if head.base_version > (version := self.updater.model_version):
                if self._seldom.due("gap"):
                    said = "expected a delta on version %d, got one on %d: it waits for those between, or for a bundle"
                    _LOG.warning(f"%s: {said}", entry.path, version, head.base_version)
                self._wait_with(entry, head.base_version)
                return
        if head.model_version <= self.updater.left_behind:
            raise UpdateError("left", f"{entry.path}: version {head.model_version} was rolled back")
        bundle = self._versions.now.bundle
        most = self._config.max_delta_bytes
        delta = open_delta(entry.path, bundle.schema, bundle.network, self._pace.rest, most)
        self.updater.apply(delta)
        rows = sum(len(table.keys) for table in delta.rows.values())
        self._stats.applied(rows, delta.bytes, delta.dense is not None, max(0.0, time.time() - head.produced_at))
        self._newest.reached(head.model_version)
        self._write_back()

    def _wait_or_refuse(self, entry: Entry, head: DeltaHead | None, error: UpdateError) -> None:
        """Raises `error` where the entry is to be tried again; else refuses it."""
        if error.reason in OUT_OF_REACH:
            raise error
        now = monotonic()
        if error.reason in MAY_PASS:
            if self._held_up[0] != entry.position:
                self._held_up = entry.position, now
            if now - self._held_up[1] < _ENTRY_PATIENCE_S:
                raise error
        elif entry.fault is None:
            self._transport.identity()  # what went with the whole log is not the entry's fault
        if head is not None:
            self._newest.refused(head.model_version)
        self._refuse(error)

    def _wait_with(self, entry: Entry, base: int) -> None:
        """Keeps a delta until the one that it is on has come."""
        self._early[base] = entry
        if len(self._early) > _MOST_EARLY:
            last = max(self._early)
            path = self._early.pop(last).path
            self._refuse(UpdateError("base", f"{path}: expected deltas up to version {last} before it, got none"))

    def _take_early(self) -> None:
        while (entry := self._early.get(base := self.updater.model_version)) is not None:
            self._take(entry)
            self._early.pop(base, None)  # not before: what failed on the way is tried again
        version = self.updater.model_version
        self._early = {base: entry for base, entry in self._early.items() if base > version}

    def _look_for_bundle(self) -> None:
        with self._gate.alone(unless=self._stop.is_set) as may:  # not once it is closed
            if may:
                self._pace.begin(hurry=True)
                self._take_bundle()
                self._take_early()

    def _take_bundle(self) -> None:
        """Goes on from the newest bundle in the log that can be used, if it is ahead.

        One that cannot be used is refused once, and the one before it tried.
        """
        for head in self._transport.bundles():
            if monotonic() < self._refused_bundles.get(head[:2], 0.0):
                continue
            if head.fault is None and head.model_version <= max(self.updater.model_version, self.updater.left_behind):
                return
            try:
                if self._put_bundle_in_place(head):
                    self._stats.count("bundles")
                    self._newest.reached(self.updater.model_version)
                    return
            except Exception as error:  # whatever the bundle holds: the version before goes on, a newer bundle repairs
                self._refuse_bundle(head, error)

    def _put_bundle_in_place(self, head: BundleHead) -> bool:
        if head.fault is not None:
            raise head.fault
        entry = self._transport.bundle(head.position)
        if entry is None:
            if any(head.position == there.position for there in self._transport.bundles()):
                raise UpdateError("unreadable", f"bundle at {head.position}: expected what the log lists, got nothing")
            return False  # trimmed meanwhile: there is a newer one
        bundle = Bundle.open(entry.path)
        if bundle.model_version != head.model_version:
            got = f"{bundle.model_version}, and {head.model_version} where it is listed"
            raise UpdateError("bundle", f"{entry.path}: model_version: expected one, got {got}")
        self.updater.replace_bundle(bundle)
        return True

    def _refuse_bundle(self, head: BundleHead, error: Exception) -> None:
        """Refuses a bundle, which is not tried again soon. Raises `error` where the log is out of reach."""
        if isinstance(error, UpdateError) and error.reason in OUT_OF_REACH:
            raise error
        self._transport.identity()  # what went with the whole log is not the bundle's fault
        where = f"bundle at {head.position}"
        refused = bundle_refusal(where, error)
        self._say_own("bundle", where, error, refused)
        may_pass = (
            refused.reason in MAY_PASS or isinstance(error, StoreError | MemoryError) or passing(error) is not None
        )
        self._refused_bundles[head[:2]] = monotonic() + _BUNDLE_AGAIN_S if may_pass else inf
        self._refuse(refused)

    def _say_own(self, kind: str, where: object, error: Exception, refused: UpdateError) -> None:
        """Logs an error of the follower's own that an entry led to, seldom: a log may be full of such entries."""
        if refused.reason == "internal" and self._seldom.due(f"{kind} {type(error).__name__}"):
            _LOG.error("%s: an error of the follower; the version before goes on", where, exc_info=error)

    def _refuse(self, error: UpdateError) -> None:
        said = clip(error, MOST_MESSAGE)
        count = self._stats.refused(error.reason, said)
        if self._seldom.due(error.reason):  # a log full of foreign entries would fill the process's own
            _LOG.error("refused (%s, %d so far): %s", error.reason, count, said)

    def _acknowledge(self) -> None:
        """Tells the log how far this engine is, when that is news or has not been said for some time."""
        now = time.time()
        said, progress = self._said, Progress(self._position, self._versions.now.model_version, now)
        if said is None or progress != structs.replace(said, at=now) or abs(now - said.at) >= _SAY_AGAIN_S:
            self._said = progress
            try:
                with self._health.asking():
                    self._transport.acknowledge(self._name, progress)
            except UpdateError as error:  # a log that one may only read can be followed all the same
                self._health.fault("acknowledge", "the log does not take how far this follower is", error)
