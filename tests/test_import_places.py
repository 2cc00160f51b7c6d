"""What users name can be imported from the documented places."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import get_type_hints

import pytest

#: What users name, by the place that has it; `export` is where everything that needs torch is.
NAMES = {
    "": "BatchLike CacheConfig CachedRows ClosedError ConfigError Engine EngineStats Features FieldConfig Scores",
    ".schema": "FeatureSchema",
    ".stores": "LmdbStore MemoryStore MmapStore RedisStore RowSource Store WritableStore fill_from",
    ".sync": "DirectoryLog FollowConfig Follower RedisLog",
}
PLACES = [f"pepnet_infer{room}" for room in ("", ".export", ".schema", ".stores", ".sync")]


@pytest.mark.parametrize("place", PLACES)
def test_every_name_of_a_place_is_there(place: str) -> None:
    module = import_module(place)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{place}' has no attribute 'Enigne'"):
        module.Enigne  # noqa: B018


@pytest.mark.parametrize("place", NAMES)
def test_what_users_name_is_in_its_place(place: str) -> None:
    assert set(NAMES[place].split()) <= set(import_module(f"pepnet_infer{place}").__all__)


def test_what_an_engine_takes_and_returns_can_be_imported() -> None:
    module = import_module("pepnet_infer")
    for name, member in vars(module.Engine).items():
        if not name.startswith("_") and inspect.isfunction(member):
            hints = get_type_hints(member, vars(import_module("pepnet_infer.engine")))
            for kind in filter(inspect.isclass, hints.values()):
                places = [import_module(place) for place in PLACES]
                ours = kind.__module__.startswith("pepnet_infer")
                assert not ours or any(kind.__name__ in place.__all__ for place in places), f"{name}: {kind}"
