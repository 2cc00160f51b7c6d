"""What users name can be imported from the documented places."""

from __future__ import annotations

from importlib import import_module

import pytest

PLACES = [f"pepnet_infer{room}" for room in ("", ".export", ".schema", ".stores", ".sync")]


@pytest.mark.parametrize("place", PLACES)
def test_every_name_of_a_place_is_there(place: str) -> None:
    module = import_module(place)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{place}' has no attribute 'Enigne'"):
        module.Enigne  # noqa: B018
