"""Graphs that torch runs give what ONNX's own reference gives."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")
pytest.importorskip("tools.tiny_models", reason="only a checkout holds the recipe")
pytest.importorskip("onnx", reason="a tool of the recipe only")

import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tools.tiny_models.onnx_on_torch import TorchGraph

pytestmark = pytest.mark.slow


def test_it_computes_what_the_reference_computes() -> None:
    """Convolutions, a recurrent layer, shapes, slices, products and a resize in one graph."""
    rng = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> object:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name)

    def whole(name: str, *values: int) -> object:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[2, 1], dilations=[1], strides=[2]),
        helper.make_node("LeakyRelu", ["c"], ["r"], alpha=0.2),
        helper.make_node("ConvTranspose", ["r", "v"], ["u"], strides=[3], pads=[1, 1]),
        helper.make_node("Transpose", ["u"], ["t"], perm=[2, 0, 1]),
        helper.make_node(
            "LSTM", ["t", "lw", "lr", "lb"], ["y"], hidden_size=3, direction="bidirectional"
        ),
        helper.make_node("Shape", ["y"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["length"], axis=0),
        helper.make_node("Concat", ["length", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["y", "flat"], ["f"]),
        helper.make_node("Slice", ["f", "one", "end", "zero", "two"], ["cut"]),
        helper.make_node("MatMul", ["cut", "m"], ["p"]),
        helper.make_node("Softmax", ["p"], ["out"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, None])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 5])],
        [
            weights("w", 6, 4, 3), weights("b", 6), weights("v", 6, 5, 4),
            weights("lw", 2, 12, 5), weights("lr", 2, 12, 3), weights("lb", 2, 24),
            weights("m", 6, 5),
            whole("zero", 0), whole("one", 1), whole("two", 2), whole("end", 2**62),
            whole("rest", -1),
        ],
    )  # fmt: skip
    # [length, 2, 1, 3] flattens to [length, 6].
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    given = {"x": rng.standard_normal((1, 4, 20)).astype(np.float32)}
    (wanted,) = ReferenceEvaluator(model).run(None, given)
    (found,) = TorchGraph(model, torch.device("cpu")).run(given)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)
