"""What an engine asks of a store of one's own when it is loaded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pepnet_infer import CacheConfig, Engine, StoreError
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.rows.protocols import Store
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch


class Mine:
    """A store whose `check` means something else."""

    def __init__(self, bundle: Path) -> None:
        self.rows = MmapStore(Bundle.open(bundle).table_paths)

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        return self.rows.get_many(keys, dim)

    def check(self, key: int) -> bool:
        raise AssertionError("nobody of ours knows what it is")


class Away(Mine):
    """One that says that it cannot be read."""

    error: BaseException = OSError("no route")

    def check_reachable(self) -> None:
        raise self.error


def load(bundle: Path, store: Store, **options: object) -> None:
    Engine.load(bundle, threads=1, store=store, cache=CacheConfig(warm=False, **options)).close()  # type: ignore[arg-type]


def test_methods_with_common_names_are_a_stores_own(toy_bundle: Path) -> None:
    load(toy_bundle, Mine(toy_bundle))


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("no route"), MemoryError("no route")])
def test_whatever_a_store_raises_is_a_store_error_with_its_cause(
    toy_bundle: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = Away(toy_bundle)
    store.error = error
    said = f"Away: check_reachable: expected nothing or a StoreError, got {type(error).__name__}: no route"
    with pytest.raises(StoreError, match=said) as raised:
        load(toy_bundle, store)
    assert raised.value.__cause__ is error
    with caplog.at_level(logging.WARNING):
        load(toy_bundle, store, on_load="warn")
    assert said in caplog.text


def test_its_own_store_errors_and_interrupts_are_what_it_raised(toy_bundle: Path) -> None:
    store = Away(toy_bundle)
    for error in (StoreError("the reason"), KeyboardInterrupt()):
        store.error = error
        with pytest.raises(type(error)) as raised:
            load(toy_bundle, store)
        assert raised.value is error


def test_why_a_store_cannot_be_read_is_the_last_fault_before_anybody_asks_it(toy_bundle: Path) -> None:
    store = Away(toy_bundle)
    store.error = StoreError("the reason")
    with Engine.load(toy_bundle, threads=1, store=store, cache=CacheConfig(warm=False, on_load="warn")) as engine:
        counted = engine.stats()["cache"]["store"]
    assert (counted["calls"], counted["faults"], counted["last_fault"]) == (0, 0, "StoreError: the reason")
