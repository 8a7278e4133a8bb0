"""INT8 OpenVINO IR by NNCF: what is quantised, what stays in float, and when the bundle has it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from lineside.cli import main
from lineside.quantize import graph, ir
from lineside.quantize.measure import Score
from lineside.quantize.report import Row
from lineside.quantize.search import Bounds
from lineside.quantize.work import used_in_openvino
from lineside.store.bundle import open_bundle
from quantizing import NATIVE, SIDE, attention_model, colour_model, colour_pictures, labels

SHAPE = (1, 3, SIDE, SIDE)


def row(file: str, latency_ms: float, flips: int = 0) -> Row:
    return Row(file, "int8", "openvino", 1.0, latency_ms, Score(100, flips, 0.0, None, 0.0))


@pytest.mark.parametrize(
    ("onnx_row", "xml_row", "used"),
    [
        (row("m.onnx", 10), row("m.xml", 5), "m.xml"),
        (row("m.onnx", 10), row("m.xml", 9.9), "m.onnx"),
        (row("m.onnx", 10), row("m.xml", 5, flips=9), "m.onnx"),
        (row("m.onnx", 5, flips=9), row("m.xml", 10), "m.xml"),
    ],
)
def test_openvino_gets_the_ir_where_it_is_faster_and_right(onnx_row: Row, xml_row: Row, used: str) -> None:
    other = Row("m.onnx", "int8", "onnxruntime", 1.0, 7.0, Score(100, 0, 0.0, None, 0.0))
    rows = used_in_openvino([other, onnx_row, xml_row], Bounds(0.02, 0.02))
    assert [each.file for each in rows if each.backend == "openvino" and not each.left_out] == [used]
    assert rows[0] == other


# --- with NNCF


@pytest.fixture
def nncf() -> None:
    pytest.importorskip("nncf", reason="INT8 OpenVINO IR needs NNCF: pip install 'lineside[quantize]'")


def inputs(count: int = 8) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.uniform(0, 255, SHAPE).astype(np.float32) for _ in range(count)]


def silu_model(path: Path) -> Path:
    """The colour model with SiLU in place of ReLU, as YOLO has it."""
    model = onnx.load(str(colour_model(path)))
    for number, node in enumerate(list(model.graph.node)):
        if node.op_type == "Relu":
            gate = helper.make_node("Sigmoid", node.input, [f"gate{number}"], name=f"sigmoid{number}")
            product = helper.make_node("Mul", [node.input[0], f"gate{number}"], node.output, name=f"silu{number}")
            at = list(model.graph.node).index(node)
            model.graph.node.remove(node)
            model.graph.node.insert(at, gate)
            model.graph.node.insert(at + 1, product)
    onnx.save(model, str(path))
    return path


def made(tmp_path: Path, model: Path, in_float: tuple[str, ...] = ()) -> tuple[graph.Network, Path]:
    network = graph.prepare(model, SHAPE, tmp_path)
    path = tmp_path / "made.xml"
    ir.quantise(network.path, inputs(), {*network.tail, *in_float}, network.attention, path)
    return network, path


@pytest.mark.usefixtures("nncf")
def test_no_quantisation_step_lands_inside_of_silu(tmp_path: Path) -> None:
    import openvino

    _, path = made(tmp_path, silu_model(tmp_path / "model.onnx"))
    model = openvino.Core().read_model(str(path))
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert kinds.count("FakeQuantize") >= 3
    assert kinds.count("Swish") == 2
    assert "Sigmoid" not in kinds, "SiLU apart: NNCF would quantise the gate"


@pytest.mark.usefixtures("nncf")
def test_what_breaks_in_the_onnx_file_stays_in_float_in_the_ir(tmp_path: Path) -> None:
    import openvino

    def fed_by_steps(path: Path) -> dict[str, bool]:
        model = openvino.Core().read_model(str(path))
        found = {}
        for node in model.get_ops():
            if node.get_type_name() == "Convolution":
                source = node.input_value(0).get_node().get_type_name()
                found[node.get_friendly_name().partition("/")[0]] = source == "FakeQuantize"
        return found

    assert fed_by_steps(made(tmp_path, colour_model(tmp_path / "model.onnx"))[1])["middle"]
    kept = made(tmp_path, colour_model(tmp_path / "model.onnx"), ("stem", "stem_relu", "middle", "middle_relu"))[1]
    assert fed_by_steps(kept) == {"stem": False, "middle": False, "head": True}


@pytest.mark.usefixtures("nncf")
def test_nncf_does_not_quieten_our_own_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        made(tmp_path, colour_model(tmp_path / "model.onnx"))
    logging.getLogger("lineside.test").warning("still heard")
    assert "still heard" in caplog.text


@pytest.mark.usefixtures("nncf")
def test_of_a_transformer_what_attention_gives_stays_in_float(tmp_path: Path) -> None:
    import openvino

    network, path = made(tmp_path, attention_model(tmp_path / "model.onnx"))
    assert network.attention
    assert ir.layers(path) >= 3
    nodes = {node.get_friendly_name(): node for node in openvino.Core().read_model(str(path)).get_ops()}
    assert nodes["mean"].input_value(0).get_node().get_type_name() != "FakeQuantize"
    assert nodes["logits"].input_value(0).get_node().get_type_name() == "FakeQuantize", "the last product has weights"


@pytest.mark.usefixtures("nncf")
def test_the_ir_is_measured_beside_the_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = colour_model(tmp_path / "model.onnx", outlier=200)
    words = [model, "--images", colour_pictures(tmp_path / "pictures", 60), "--labels", labels(tmp_path / "labels.txt")]
    words += ["--mean", "0", "--std", "1", "--color", "bgr", "-o", tmp_path / "made", *NATIVE]
    assert main(["quantize", *map(str, words)]) == 0, capsys.readouterr().err
    rows = json.loads((tmp_path / "made" / "quantize.json").read_text())["artefacts"]
    in_openvino = {row["file"]: row for row in rows if row["backend"] == "openvino"}
    assert set(in_openvino) == {"model.onnx", "model_int8.onnx", "model_int8_8bit.onnx", "model_int8.xml"}
    used = [file for file, row in in_openvino.items() if row["precision"] != "fp32" and "left_out" not in row]
    assert len(used) == 1
    assert in_openvino[used[0]]["flips"] <= 0.02 * in_openvino[used[0]]["pictures"]
    formats = {artefact.format for artefact in open_bundle(tmp_path / "made").artefacts}
    assert formats == ({"onnx", "openvino"} if used == ["model_int8.xml"] else {"onnx"})
