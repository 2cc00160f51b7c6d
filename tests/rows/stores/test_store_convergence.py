"""Any order, split and replay of one stream of updates leaves a writable store in one state: that of a dict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pepnet_infer.rows.protocols import WritableStore
from pepnet_infer.rows.stores.lmdb import LmdbStore
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.stores.redis import RedisStore

pytestmark = pytest.mark.property

DIM = 2
KEYS = [0, 1, 5, (3 << 48) | 5, (3 << 48) | 6]
#: (key, version, is it a row): what a version of a key is follows from the two, as an update stream has it.
Update = tuple[int, int, bool]
NewStore = Callable[[], WritableStore]


@pytest.fixture(scope="module", params=["memory", "lmdb", "redis"])
def new_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewStore]:
    """Returns a function that gives an empty store; what is slow to open is one store, with keys of its own a time."""
    if request.param == "memory":
        yield MemoryStore
        return
    folder = tmp_path_factory.mktemp("stores")
    store: LmdbStore | RedisStore
    if request.param == "lmdb":
        store = LmdbStore(folder / "lmdb", durable=False)
    else:
        store = RedisStore(request.getfixturevalue("redis_server").url, prefix=str(folder), timeout=10)
    shifts = itertools.count()

    class Fresh:
        """The store with keys shifted to where nothing was written."""

        def __init__(self) -> None:
            self.shift = np.uint64(next(shifts) << 20)

        def __getattr__(self, name: str) -> Callable[..., object]:
            return lambda keys, *rest: getattr(store, name)(keys + self.shift, *rest)

    yield Fresh
    store.close()


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Update], list[Update]]:
    """A stream of updates, and the same stream in another order with some of it played again."""
    ends = draw(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 6), st.booleans()), min_size=1, max_size=25))
    kinds = {(key, version): row for key, version, row in ends}
    stream = [(key, version, kinds[key, version]) for key, version, _ in ends]
    again = draw(st.lists(st.sampled_from(stream), max_size=10))
    return stream, draw(st.permutations(stream + again))


def play(store: WritableStore, stream: list[Update], cuts: list[int]) -> int:
    """Writes a stream in pieces: neighbours of one kind, and no more than the next cut says, go in one call."""
    applied, sizes = 0, itertools.cycle(cuts)
    for is_row, group in itertools.groupby(stream, key=lambda update: update[2]):
        left = list(group)
        while left:
            size = next(sizes)
            part, left = left[:size], left[size:]
            keys, versions = (np.array([update[i] for update in part], np.uint64) for i in (0, 1))
            if is_row:
                rows = np.array([[key % 1000, version] for key, version, _ in part], np.float32)
                applied += store.put_many(
                    keys, rows, versions, rows[:, 1] / 2, np.where(versions % 2 == 0, np.inf, 4e9)
                )
            else:
                applied += store.delete_many(keys, versions)
    return applied


def expected(stream: list[Update]) -> tuple[dict[int, tuple[int, bool]], int]:
    """What a dict makes of a stream → (key: version, is it a row; how many updates applied)."""
    state: dict[int, tuple[int, bool]] = {}
    applied = 0
    for key, version, is_row in stream:
        if key not in state or version > state[key][0]:
            state[key] = version, is_row
            applied += 1
    return state, applied


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_any_order_split_and_replay_converges(
    new_store: NewStore, history: tuple[list[Update], list[Update]], cuts: list[int]
) -> None:
    stream, other = history
    wanted, _ = expected(stream)
    for updates in (stream, other, stream + other):
        store = new_store()
        assert play(store, updates, cuts) == expected(updates)[1]
        got = store.get_many(np.array(KEYS, np.uint64), DIM)
        for i, key in enumerate(KEYS):
            version, is_row = wanted.get(key, (0, False))
            assert (got.versions[i], got.found[i]) == (version, is_row)
            assert got.rows[i].tolist() == ([key % 1000, version] if is_row else [0, 0])
            np.testing.assert_equal(got.scores[i], np.float32(version / 2 if is_row else np.nan))
            assert got.expires[i] == (4e9 if is_row and version % 2 else np.inf)
        assert play(store, updates, cuts) == 0
