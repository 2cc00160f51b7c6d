"""The log in Redis: entries of the stream, their chunks and the log's state, as they are or out of a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz.corpus import SCHEMA
from fuzz.delta import change_delta
from fuzz.directories import Tree, read_tree
from fuzz.following import OneDelta, follow
from fuzz.mutations import NUMBERS, TEXTS, change_bytes, change_json, dump_json
from fuzz.target import Outcome, Target, shown
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.sync.delta import open_delta
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.redis_entry import Spool
from pepnet_infer.sync.logs.redis_protocol import bundle_head, delta_head, read_entries, read_state
from pepnet_infer.sync.logs.transport import read_progress

LOG, UPLOAD, POSITION = "0123456789abcdef" * 2, "fedcba9876543210", f"{5:020d}-{0:020d}"
STREAM_ID = b"5-0"
_CHUNKED = "dense.onnx"  # the file that is not in the entry itself
_ITEM = f"{POSITION} {UPLOAD} 1 9 7 3 1000000000.0 {SCHEMA.hash}"


@dataclass
class Server:
    """What a server holds: the one entry's fields, chunks, and what a look at the log's state gives."""

    fields: dict[bytes, bytes]
    index: list[list[Any]]  #: what the field of that name held at first
    chunks: dict[str, bytes]
    state: list[bytes] = field(default_factory=lambda: [LOG.encode(), b"", b"", _ITEM.encode(), b""])
    progress: dict[bytes, bytes] = field(default_factory=dict)
    followed: bool = False  #: whether an engine follows it even where its delta is refused
    how: str = ""


class RedisTarget(Target[Server]):
    """Decodes what a server would give, without one."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._base = read_tree(corpus / "delta")
        self._spool = scratch / "spool"
        self._bundle = Bundle.open(corpus / "bundle")

    def make(self, random: Random) -> Server:
        """Returns changes of an entry, of the delta in it, or of the log's state."""
        tree = Tree(dict(self._base))
        if random.random() < 0.35:
            change_delta(random, self._base, tree)
            tree.strange.clear()
        server = _packed(tree)
        server.how, server.followed = tree.how, random.random() < 0.15
        if not tree.how or random.random() < 0.3:
            for _ in range(random.choice((1, 1, 2))):
                _change(random, server)
        return server

    def show(self, mutant: Server) -> str:
        """Returns what the server holds."""
        lines = [mutant.how, *(f"{name!r}: {shown(data, 600)}" for name, data in mutant.fields.items())]
        return "\n".join(
            [*lines, f"{mutant.state}", f"{mutant.progress}", f"{ {k: len(v) for k, v in mutant.chunks.items()} }"]
        )

    def run(self, mutant: Server) -> Outcome:
        """Decodes everything; follows the delta that comes out."""
        shutil.rmtree(self._spool, ignore_errors=True)
        log, trimmed, bundle, delta, bundles_trimmed = mutant.state
        state = read_state([log, trimmed, bundle, delta, bundles_trimmed, STREAM_ID, b""])
        bundle_head(state.bundle)
        delta_head(state.delta)
        for text in mutant.progress.values():
            read_progress("progress", text)
        parts = [part for pair in mutant.fields.items() for part in pair]
        (found,) = read_entries([log, [STREAM_ID, mutant.fields.get(b"kind", b""), b"1", parts]])[1]
        get = mutant.chunks.get
        spool = Spool(self._spool)
        entry = spool.write(LOG, "delta", POSITION, found.fields, lambda upload, number: get(f"{upload}:{number}"))
        if state.log:
            spool.sweep(state.log, state.trimmed, state.bundles_trimmed)
        if entry.fault is not None:
            raise entry.fault
        open_delta(entry.path, self._bundle.schema, self._bundle.network)
        return follow(self._bundle, OneDelta(entry.path))


class RedisServerTarget(RedisTarget):
    """The same out of a real server, which it starts."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        from redis import Redis

        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server: expected it on the PATH (Debian: apt-get install redis-server)")
        socket = scratch / "redis.sock"
        options = [
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(scratch),
        ]
        # It ends with the worker: nobody else holds the other end of its standard input.
        command = ["sh", "-c", '"$@" & server=$!; cat; kill -9 $server', "sh", program, *options]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.01)
        self._client = Redis(unix_socket_path=str(socket))
        self._url = f"unix://{socket}"

    def run(self, mutant: Server) -> Outcome:
        """Puts everything where a publisher would."""
        shutil.rmtree(self._spool, ignore_errors=True)
        client = self._client
        client.flushall()
        if mutant.fields:
            client.xadd("{fuzz}:log", mutant.fields, id=STREAM_ID)  # type: ignore[arg-type]
        for name, data in mutant.chunks.items():
            client.set(f"{{fuzz}}:blob:{name}", data)
        log, trimmed, bundle, delta, bundles_trimmed = mutant.state
        client.hset("{fuzz}:state", mapping={"log": log, "trimmed": trimmed, "bundles_trimmed": bundles_trimmed})
        for key, item in (("bundles", bundle), ("deltas", delta)):
            if item:
                client.rpush(f"{{fuzz}}:{key}", item)
        if mutant.progress:
            client.hset("{fuzz}:progress", mapping=mutant.progress)  # type: ignore[arg-type]
        with RedisLog(self._url, "fuzz", spool=self._spool, timeout_s=2.0, patience_s=0.01) as log_there:
            outcome: Outcome = "accepted"
            try:
                for entry in log_there.read(""):
                    open_delta(entry.path, self._bundle.schema, self._bundle.network)
            except self.refusals:
                outcome = "refused"
            if outcome == "accepted" or mutant.followed:
                outcome = follow(self._bundle, log_there)
            for look in (log_there.progress, log_there.last_delta, log_there.last_bundle):
                try:
                    look()
                except self.refusals:
                    outcome = "refused"
            return outcome


def _packed(tree: Tree) -> Server:
    fields, chunks, index = {b"log": LOG.encode(), b"kind": b"delta", b"upload": UPLOAD.encode()}, {}, []
    for number, (name, data) in enumerate(tree.files.items()):
        if name == _CHUNKED:
            chunks[f"{UPLOAD}:0"] = data
            index.append([name, len(data), 0, 1])
        else:
            fields[b"f%d" % number] = data
            index.append([name, len(data), 0, 0])
    fields[b"index"] = json.dumps(index).encode("utf-8", "surrogatepass")
    return Server(fields, index, chunks)


def _change(random: Random, server: Server) -> None:
    how = random.random()
    if how < 0.4:
        server.how += " index"
        server.fields[b"index"] = dump_json(change_json(random, server.index))
    elif how < 0.6:
        name = random.choice(list(server.fields) or [b"index"])
        server.how += f" field {name!r}"
        server.fields[name] = random.choice(
            (b"", change_bytes(random, server.fields.get(name, b"")), random.choice(TEXTS).encode("utf-8", "replace"))
        )
    elif how < 0.7:
        server.how += " without a field"
        server.fields.pop(random.choice(list(server.fields) or [b""]), None)
    elif how < 0.75:
        server.how += " chunk"
        server.chunks = random.choice(({}, {name: change_bytes(random, data) for name, data in server.chunks.items()}))
    elif how < 0.9:
        server.how += " state"
        place = random.randrange(5)
        item = server.state[place] or _ITEM.encode()
        words = item.split(b" ")
        words[random.randrange(len(words))] = random.choice(
            (str(random.choice(NUMBERS)).encode(), b"", b"nan", b"inf", random.choice(TEXTS).encode("utf-8", "replace"))
        )
        server.state[place] = random.choice((b" ".join(words), change_bytes(random, item)))
    else:
        server.how += " progress"
        progress = {"position": POSITION, "model_version": 7, "at": 1e9}
        server.progress = {change_bytes(random, b"other"): dump_json(change_json(random, progress))}
