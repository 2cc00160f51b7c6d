"""A log in a directory, on a disk that publisher and followers share. Nothing to install.

    deltas/POSITION/      a delta; positions are numbers of 20 digits, from the microsecond in which the log began
    bundles/POSITION/     a bundle: deltas after POSITION lead on from it
    followers/NAME.json   how far a follower has come
    writer.lock           held by a publisher while it appends

Entries are written beside their place, forced to the disk and renamed, so that one is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pepnet_infer.errors import UpdateError
from pepnet_infer.files import sync_folder, sync_tree
from pepnet_infer.sync.delta import MANIFEST, DeltaHead, read_head
from pepnet_infer.sync.transport import Entry, Kind, Position, Progress, bundle_version, check_follower, read_progress

_POSITION = re.compile(r"[0-9]{20}")
_LEFT_OVER = re.compile(r"\.[0-9]{20}(\.gone)?")
_FOLDERS: dict[Kind, str] = {"delta": "deltas", "bundle": "bundles"}
#: Seconds between two looks at the directory while nothing is there: a shared disk tells nobody of a rename.
_LOOK_S = 0.02


class DirectoryLog:
    """A `Transport` over a directory. One that is not there is made by the first append."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))

    def append(self, delta: Path) -> Position:
        """Puts a delta at the end, linked where the file system can; see `Transport.append`.

        Whether it is there already is looked at from the end back to a delta that leads to an earlier version.
        """
        version = read_head(delta).model_version
        with self._locked():
            there = self._find(delta, version)
            if there is not None:
                return there
            with self._writing("delta") as (number, staging):
                shutil.copytree(delta, staging, symlinks=True, copy_function=_link)
                return self._place(staging, "delta", number)

    def append_bundle(self, bundle: Path) -> Position:
        """Copies a bundle to the end; see `Transport.append_bundle`."""
        with self._locked(), self._writing("bundle") as (number, staging):
            shutil.copytree(bundle, staging, symlinks=True)
            return self._place(staging, "bundle", number)

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns deltas after a position; see `Transport.read`."""
        ends = time.monotonic() + wait_s
        while True:
            there = self._positions("delta")
            # Of what was ever read something as late stays: a bundle, when all deltas before it go.
            if after and after > max([*there, *self._positions("bundle")], default=after):
                after = ""
            there = [position for position in there if position > after][:most]
            left = ends - time.monotonic()
            if there or left <= 0:
                return [self._entry("delta", position) for position in there]
            time.sleep(min(_LOOK_S, left))

    def newest_bundle(self) -> Entry | None:
        """Returns the last full bundle."""
        there = self._positions("bundle")
        return self._entry("bundle", there[-1]) if there else None

    def last_bundle(self) -> tuple[Position, int] | None:
        """Returns the last full bundle's place and model version."""
        entry = self.newest_bundle()
        return None if entry is None else (entry.position, bundle_version(entry.path))

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta."""
        there = self._positions("delta")
        return (there[-1], read_head(self._entry("delta", there[-1]).path)) if there else None

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes durably how far a follower has come."""
        check_follower(follower)
        folder = self.path / "followers"
        staging = folder / f".{follower}.{secrets.token_hex(4)}"
        with _failures(folder):
            _make(folder)
            try:
                with open(staging, "x", encoding="utf-8") as file:
                    json.dump(progress._asdict(), file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staging, folder / f"{follower}.json")
                sync_folder(folder)
            finally:
                staging.unlink(missing_ok=True)

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come."""
        found = {}
        for path in sorted((self.path / "followers").glob("*.json")):
            with _failures(path):
                found[path.stem] = read_progress(str(path), path.read_bytes())
        return found

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs; see `Transport.trim`."""
        with self._locked():
            bundle = self.newest_bundle()
            if bundle is None:
                return 0
            deltas = self._positions("delta")
            progress, since = self.progress(), time.time() - silent_after_s
            heard = [p.position for p in progress.values() if p.at >= since]
            for name in [name for name, p in progress.items() if p.at < since]:
                (self.path / "followers" / f"{name}.json").unlink(missing_ok=True)
            edge = min([bundle.position, *heard])
            old = [p for p in deltas[: max(0, len(deltas) - keep)] if p <= edge]
            gone = [self._entry("delta", p).path for p in old]
            gone += [self._entry("bundle", p).path for p in self._positions("bundle")[:-1]]
            hidden = [path.with_name(f".{path.name}.gone") for path in gone]
            with _failures(self.path):
                # Renamed first, and that on the disk: a reader finds an entry whole or not at all, after a crash too.
                for path, away in zip(gone, hidden, strict=True):
                    os.rename(path, away)
                for folder in {path.parent for path in gone}:
                    sync_folder(folder)
                for away in hidden:
                    shutil.rmtree(away)
            return len(gone)

    def _positions(self, kind: Kind) -> list[Position]:
        folder = self.path / _FOLDERS[kind]
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UpdateError("transport", f"{folder}: cannot be read: {error}") from error
        return sorted(name for name in names if _POSITION.fullmatch(name))

    def _entry(self, kind: Kind, position: Position) -> Entry:
        return Entry(position, kind, self.path / _FOLDERS[kind] / position)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _failures(self.path):
            _make(self.path)
            lock = os.open(self.path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with _failures(self.path):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _writing(self, kind: Kind) -> Iterator[tuple[int, Path]]:
        """Yields the next number and a place to build the entry in, which is gone afterwards. We hold the lock."""
        folder = self.path / _FOLDERS[kind]
        with _failures(folder):
            _make(folder)
            for left in folder.glob(".*"):
                if _LEFT_OVER.fullmatch(left.name):  # of a writer that died
                    shutil.rmtree(left)
        # A bundle stands where the last delta does: what comes after it leads on from it.
        there = [*self._positions("delta"), *self._positions("bundle")]
        number = int(max(there)) + 1 if there else time.time_ns() // 1000
        staging = folder / f".{number:020d}"
        try:
            with _failures(staging):
                yield number, staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _find(self, delta: Path, version: int) -> Position | None:
        for position in reversed(self._positions("delta")):
            path = self._entry("delta", position).path
            try:
                found = read_head(path).model_version
            except UpdateError:  # damaged since; followers say so
                continue
            if found < version:
                return None
            if found == version:
                with _failures(path):
                    if (path / MANIFEST).read_bytes() == (delta / MANIFEST).read_bytes():
                        return position
        return None

    def _place(self, staging: Path, kind: Kind, number: int) -> Position:
        entry = self._entry(kind, f"{number:020d}")
        sync_tree(staging)
        os.rename(staging, entry.path)
        sync_folder(entry.path.parent)
        return entry.position


def _link(source: str, target: str) -> None:
    """Gives a file that nobody changes any more a second name, or copies it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _make(folder: Path) -> None:
    """Makes a folder, and those above it, that are still there after a crash."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UpdateError("transport", f"{path}: cannot be used: {error}") from error
