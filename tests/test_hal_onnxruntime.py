"""What lineside has ONNX Runtime do and not do with a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside.hal.ort import OrtBackend
from lineside.records import Artefact, InputSpec
from lineside.store.bundle import sha256_of

SIDE = 4
WEIGHTS = (0.5, 0.0015)  # with one scale for both the second is less than half a step


def mixed_model(path: Path) -> Path:
    """uint8 steps around a convolution whose weights are float."""
    weights = np.array(WEIGHTS, np.float32)[:, None, None, None] * np.ones((1, 3, 1, 1), np.float32)
    held = {"w": weights, "in_scale": np.float32(1), "out_scale": np.float32(0.01), "zero": np.uint8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "in_scale", "zero"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "in_scale", "zero"], ["x1"]),
        helper.make_node("Conv", ["x1", "w"], ["x2"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["x2"], ["x3"]),
        helper.make_node("QuantizeLinear", ["x3", "out_scale", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "out_scale", "zero"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 2, SIDE, SIDE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_a_layer_that_is_float_stays_float(tmp_path: Path) -> None:
    path = mixed_model(tmp_path / "mixed.onnx")
    spec = InputSpec(SIDE, SIDE, "bgr", "nchw")
    model = OrtBackend(Artefact(str(path), "onnx", "mixed", sha256_of(path)), spec, threads=1)
    (answer,) = model.infer(np.full((SIDE, SIDE, 3), 200, np.uint8))
    model.close()
    np.testing.assert_allclose(answer.raw[0, 1], 3 * 200 * WEIGHTS[1], atol=0.01)


@pytest.mark.parametrize("level", ["disabled", "basic", "extended", "all"])
def test_integer_operators_are_exact_at_every_level_of_optimisation(level: str, tmp_path: Path) -> None:
    """255 x 127 four times; in 16 bits the sum would be 65 534."""
    weights = np.full((1, 4, 1, 1), 127, np.int8)
    held = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "none": np.int8(0),
        "weights": weights,
        "step": np.float32(1 / 127),
        "wide": np.float32(4),
    }
    nodes = [
        helper.make_node("Concat", ["image", "image"], ["six"], axis=1),
        helper.make_node("Slice", ["six", "from", "to", "axis"], ["four"]),
        helper.make_node("QuantizeLinear", ["four", "one", "zero"], ["quantised"]),
        helper.make_node(
            "QLinearConv", ["quantised", "one", "zero", "weights", "step", "none", "wide", "zero"], ["summed"]
        ),
        helper.make_node("DequantizeLinear", ["summed", "wide", "zero"], ["answer"]),
    ]
    held |= {"from": np.int64([0]), "to": np.int64([4]), "axis": np.int64([1])}
    graph = helper.make_graph(
        nodes,
        "integer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    path = tmp_path / "integer.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    artefact = Artefact(str(path), "onnx", "int8", sha256_of(path))
    model = OrtBackend(artefact, InputSpec(SIDE, SIDE, "bgr", "nchw"), options={"graph_optimization": level})
    (answer,) = model.infer(np.full((SIDE, SIDE, 3), 255, np.uint8))
    model.close()
    np.testing.assert_allclose(answer.raw, 4 * 255, atol=4)
