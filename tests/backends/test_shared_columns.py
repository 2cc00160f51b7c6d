"""What a request gives once: which columns are packed first, when their products are shared, that no bit changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from pepnet_infer import Engine, _kernels
from pepnet_infer.backends import native
from pepnet_infer.backends.protocol import PRECISIONS, Settings
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.network.network import Network
from pepnet_infer.rows.stores.mmap import MmapStore

ISAS = [t["isa"] for t in _kernels.isas() if t["usable"] and t["precision"] == "fp32"]


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def test_the_columns_that_a_request_gives_once(bundle: Bundle) -> None:
    # general: user_id 6, video_id 5, watched 5, tags 3, duration, age
    general, domain, prior = native.columns_of_a_request(bundle.schema)
    assert general == [(0, 6), (11, 16), (20, 21)]
    assert domain == [(0, bundle.schema.widths["domain"])]
    assert prior == [(0, 6)]
    assert native.fields_of(bundle.schema, (general, domain, [])) == {"user_id", "watched", "age", "page"}
    assert native.fields_of(bundle.schema, ([], domain, [])) == {"page"}
    assert native.fields_of(bundle.schema, ([(15, 17)], [], [])) == {"watched", "tags"}
    assert native.fields_of(bundle.schema, ([], [], [])) == frozenset()


def test_products_over_inputs_alone_start_from_shared_sums(bundle: Bundle) -> None:
    # The gate of EPNet is the only product over nothing but inputs; without EPNet experts and mix are.
    for epnet, general in ((True, [(0, 6), (11, 16), (20, 21)]), (False, [(0, 6), (11, 16), (20, 21)])):
        config = structs.replace(bundle.config, use_epnet=epnet)
        network = Network.derived(config, len(bundle.tasks))
        tensors = {name: np.zeros(shape, np.float32) for name, shape in network.tensors.items()}
        shared = native.columns_of_a_request(bundle.schema)
        model = _kernels.DenseModel(tensors, network.to_native(), "scalar", "fp32", shared)
        assert sorted(set(model.shared[0])) == general
        assert sorted(set(model.shared[1])) == (shared[1] if epnet else [])
        assert _kernels.DenseModel(tensors, network.to_native(), "scalar", "int8", shared).shared == [[], [], []]


def test_neighbouring_columns_are_one_range(bundle: Bundle) -> None:
    data = bundle.schema.to_json()
    order = ("user_id", "watched", "age", "video_id", "tags", "page", "duration")
    by_name = {f["name"]: f for f in data["fields"]}
    data["fields"] = [{**by_name[n], "kind": by_name[n]["kind"]} for n in order]
    schema = type(bundle.schema).from_json(data)
    # ids first, then bags, then dense: user_id 6, video_id 5, watched 5, tags 3, age, duration
    assert native.columns_of_a_request(schema)[0] == [(0, 6), (11, 16), (19, 20)]
    data["fields"] = [{**f, "side": "user"} for f in data["fields"]]
    schema = type(bundle.schema).from_json(data)
    assert native.columns_of_a_request(schema)[0] == [(0, 21)]


class SpyModel:
    """The real model, and which calls were told that the first columns are shared."""

    def __init__(self, model: Any) -> None:
        self._model, self.shared = model, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, general: Any, domain: Any, prior: Any, threads: int, spin: bool, shared: bool) -> Any:
        self.shared.append(shared)
        return self._model.run(general, domain, prior, threads, spin, shared)


Rank = dict[str, Any]


def requests(rows: int) -> Iterator[tuple[Rank, bool]]:
    """Requests, and whether each gives all of EPNet's first columns once."""
    user = {"user_id": 3, "watched": [1, 2, 45], "age": 20.0}
    items = {
        "video_id": list(range(rows)),
        "tags": [[i % 7] for i in range(rows)],
        "duration": [float(i) for i in range(rows)],
    }
    yield {"user": user, "items": items, "domain": 4}, True
    without = {"user_id": 3, "watched": [1, 2]}
    yield {"user": without, "items": items, "domain": 0, "context": {"age": 44.0}}, True
    ages = {**items, "age": [20.0 + i for i in range(rows)]}
    yield {"user": without, "items": ages, "domain": 1}, False
    bags = {**items, "watched": [[i % 50, 3] for i in range(rows)]}
    yield {"user": {"user_id": 3, "age": 9.0}, "items": bags, "domain": 1}, False
    # an item column given once is no obstacle: it is not among the first columns
    yield {"user": {**user, "duration": 3.0}, "items": {k: items[k] for k in ("video_id", "tags")}, "domain": 4}, True


@pytest.mark.parametrize("precision", PRECISIONS["native"])
@pytest.mark.parametrize("isa", ISAS)
def test_rank_shares_work_and_gives_the_bits_of_score(toy_bundle: Path, isa: str, precision: str) -> None:
    bundle = Bundle.open(toy_bundle, "sizes")
    backend = native.NativeBackend(bundle, Settings(precision, 2, options={"isa": isa, "unchecked": True}))
    spy: Any = SpyModel(backend.model)
    backend.model = spy
    with Engine(bundle, MmapStore(bundle.table_paths), backend) as engine:
        for rows in (1, 2, 17, 100):
            for request, shares in requests(rows):
                ranked = engine.rank(**request).values
                assert spy.shared[-1] is (shares and precision != "int8")
                once = {**request["user"], **request.get("context", {}), "tab": request["domain"]}
                batch = {**request["items"], **{name: [value] * rows for name, value in once.items()}}
                scored = engine.score(batch).values
                assert spy.shared[-1] is False
                assert ranked.tobytes() == scored.tobytes()
                assert rows == 1 or len(np.unique(ranked)) > 2
        request, _ = next(requests(3))
        request["items"] = {name: [] for name in request["items"]}
        assert engine.rank(**request).values.shape == (0, 2)
