"""Graphs that ONNX Runtime is not given: they do not fit their config, or name values outside of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from small_graph import graph

from pepnet_infer import BundleError
from pepnet_infer.backends import ort_session
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.ort_session import check_graph_is_whole
from pepnet_infer.bundle.bundle import Bundle


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (("x", 1, ["batch", 3]),)}, r"expected inputs general, domain, prior, got 'x'"),
        ({"inputs": (("general", 1, ["batch", 4]),)}, r"input 'general': expected float32 \[batch, 3\], got .*4"),
        ({"inputs": (("general", 11, ["batch", 3]),)}, r"onnxruntime cannot load it|expected float32"),
        ({"inputs": (("general", 1, [8, 3]),)}, r"input 'general': expected any batch size, got 8 only"),
        ({"outputs": 3}, r"expected one output float32 \[batch, 2\], got scores .*3"),
    ],
)
def test_a_graph_that_does_not_fit_its_config_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    fake = graph(tmp_path / "g.onnx", **changes)
    with pytest.raises(BundleError, match=message):
        create_backend(fake, "onnxruntime")


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    fake = graph(tmp_path / "g.onnx")
    fake.onnx_path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"g\.onnx: onnxruntime cannot load it"):
        create_backend(fake, "onnxruntime")


@pytest.mark.parametrize("name", [b"batch", b"scores"])
def test_a_graph_whose_names_are_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    fake = graph(tmp_path / "g.onnx")
    data = fake.onnx_path.read_bytes()
    fake.onnx_path.write_bytes(data.replace(name, b"\xff" + name[1:]))
    with pytest.raises(BundleError, match=r"g\.onnx: expected names in UTF-8, got|onnxruntime cannot load it"):
        create_backend(fake, "onnxruntime")


@pytest.mark.parametrize("inside", ["initializer", "attribute"])
@pytest.mark.parametrize("location", ["../secret", "*/_ORT_MEM_ADDR_/*"])
def test_a_graph_with_values_elsewhere_is_refused(toy_bundle: Path, tmp_path: Path, inside: str, location: str) -> None:
    # onnxruntime 1.20 reads a file of any name, and memory at any address
    bundle = Bundle.open(toy_bundle, "sizes")
    model = onnx.load(str(bundle.onnx_path))
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "16"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    if inside == "attribute":
        node = helper.make_node("Constant", [], [tensor.name])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, node)
    graph = model.SerializeToString()
    (tmp_path / "dense.onnx").write_bytes(graph)
    with pytest.raises(BundleError, match=r"dense\.onnx: expected a graph with all of its values in it"):
        create_backend(bundle.with_dense(bundle.dense(), graph, 8), "onnxruntime")
    with pytest.raises(BundleError, match=r"x: expected a graph with all of its values in it"):
        check_graph_is_whole("x", str(tmp_path / "dense.onnx"))


def test_a_place_across_two_reads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_session, "_CHUNK", 64)
    for at in range(50, 70):
        data = bytes([1]) * at + b"\x0a\x08location" + bytes([1]) * 40
        with pytest.raises(BundleError):
            check_graph_is_whole("x", data)
        check_graph_is_whole("x", data.replace(b"\x08location", b"_location"))
