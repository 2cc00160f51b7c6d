"""The registry of what is done around a fork."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from pathlib import Path

import pytest
from children import well_in_a_child

import pepnet_infer
from pepnet_infer.process import forks
from pepnet_infer.process.forks import Registry, Stage

PATIENCE_S = 60.0


class Part:
    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def before(self) -> None:
        self.said.append(f"before {self.name}")

    def parent(self) -> None:
        self.said.append(f"parent {self.name}")

    def child(self) -> None:
        self.said.append(f"child {self.name}")


def test_the_order_is_that_of_stages_whoever_registers_first() -> None:
    for reverse in (False, True):
        registry, said = Registry(), list[str]()
        parts = {stage: Part(stage.name, said) for stage in sorted(Stage, reverse=reverse)}
        for stage, part in parts.items():
            registry.register(stage, before=part.before, parent=part.parent, child=part.child)
        registry.call("before")
        registry.call("parent")
        registry.call("child")
        names = [stage.name for stage in sorted(Stage)]
        assert said == [
            *(f"before {name}" for name in reversed(names)),
            *(f"parent {name}" for name in names),
            *(f"child {name}" for name in names),
        ]


def test_within_a_stage_the_first_to_register_comes_first() -> None:
    registry, said = Registry(), list[str]()
    parts = [Part(name, said) for name in "abc"]
    for part in parts:
        registry.register(Stage.STORES, child=part.child)
    registry.call("child")
    assert said == ["child a", "child b", "child c"]


def test_an_object_goes_with_its_last_user_and_so_do_its_hooks() -> None:
    registry, said = Registry(), list[str]()
    part = Part("a", said)
    registry.register(Stage.STORES, before=part.before, child=part.child)
    there = weakref.ref(part)
    del part
    gc.collect()
    assert there() is None
    assert registry.count() == 0
    registry.call("before")
    registry.call("child")
    assert said == []


def test_a_hook_that_fails_keeps_no_other_from_running() -> None:
    registry, said = Registry(), list[str]()

    def fail() -> None:
        raise RuntimeError("on purpose")

    registry.register(Stage.LEAVES, child=fail)
    registry.register(Stage.ENGINES, child=lambda: said.append("after it"))
    with pytest.raises(RuntimeError, match="on purpose"):
        registry.call("child")
    assert said == ["after it"]


def test_parts_may_come_and_go_while_others_fork() -> None:
    registry, stop = Registry(), threading.Event()

    def make() -> None:
        while not stop.is_set():
            parts = [Part("a", []) for _ in range(20)]
            for part in parts:
                registry.register(Stage.STORES, child=part.child)

    makers = [threading.Thread(target=make) for _ in range(3)]
    for maker in makers:
        maker.start()
    try:
        for _ in range(300):
            registry.call("child")
    finally:
        stop.set()
        for maker in makers:
            maker.join()


def test_a_fork_calls_the_hooks() -> None:
    said = list[str]()
    part = Part("a", said)
    forks.register(Stage.ENGINES, before=part.before, parent=part.parent, child=part.child)

    def work() -> None:
        assert said == ["before a", "child a"]

    well_in_a_child(work)
    assert said == ["before a", "parent a"]


def test_a_lock_that_is_held_is_free_in_a_child() -> None:
    class Counter(forks.OwnLock):
        def take_in_a_child(self) -> None:
            with self.lock:
                well_in_a_child(self.take)
            self.take()

        def take(self) -> None:
            assert self.lock.acquire(timeout=PATIENCE_S)
            self.lock.release()

    Counter().take_in_a_child()


def test_there_is_no_other_registry() -> None:
    root = Path(pepnet_infer.__file__).parent
    found = [p.name for p in root.rglob("*.py") if re.search(r"register_at_fork\(", p.read_text())]
    assert found == ["forks.py"]
