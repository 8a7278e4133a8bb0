"""`lineside quantize` on TFLite models: whole where that is right, else weighted layers only, on LiteRT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lineside.cli import main
from lineside.hal.tflite import read_tflite
from lineside.quantize import tflite
from lineside.store.bundle import open_bundle
from quantizing import NATIVE, colour_pictures, labels, spot_pictures

pytest.importorskip("ai_edge_quantizer", reason="INT8 TFLite needs ai-edge-quantizer: pip install 'lineside[quantize]'")

HERE = Path(__file__).parent
PLAIN = ("--mean", "0", "--std", "1", "--color", "bgr", "--resize", "stretch")


def quantize(tmp_path: Path, model: str, images: Path, *words: str) -> tuple[int, Path]:
    asked = [HERE / model, "--images", images, "--labels", labels(tmp_path / "labels.txt"), "-o", tmp_path / "made"]
    return main(["quantize", *map(str, asked), *PLAIN, *NATIVE, *words]), tmp_path / "made"


def test_a_classifier_is_int8_from_pixels_to_answer(tmp_path: Path) -> None:
    code, folder = quantize(tmp_path, "colours_float.tflite", colour_pictures(tmp_path / "pictures", 60))
    assert code == 0
    (artefact,) = open_bundle(folder).artefacts
    assert artefact.format == "tflite"
    said = json.loads((folder / "quantize.json").read_text())
    used = [row for row in said["artefacts"] if row["precision"] != "fp32" and "left_out" not in row]
    assert [row["flips"] for row in used] == [0]
    whole = next(row for row in said["artefacts"] if row["precision"] == "int8")
    assert whole["flips"] == 0, "whether or not it was the faster one here"


def test_one_scale_over_a_concatenated_head_leaves_the_head_in_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = spot_pictures(tmp_path / "spots", 40)
    code, folder = quantize(tmp_path, "spots_float.tflite", images, "--decode", "yolov8")
    out = capsys.readouterr().out
    assert code == 0, out
    assert "No spots_int8.tflite, everything: " in out
    assert "holds boxes and scores with one quantisation step of 0.9" in out
    (artefact,) = open_bundle(folder).artefacts
    assert (Path(artefact.path).name, artefact.precision) == ("spots_but_tail.tflite", "mixed")
    file = read_tflite(artefact.path)
    assert (file.inputs[0].dtype, file.outputs[0].dtype) == ("int8", "float32")


def test_layers_that_break_accuracy_stay_in_float_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first layer's fourth channel is 200 times as large as the others, and the second layer takes that away."""
    code, folder = quantize(tmp_path, "outlier_float.tflite", colour_pictures(tmp_path / "pictures", 60))
    out, err = capsys.readouterr()
    assert code == 0, err
    said = json.loads((folder / "quantize.json").read_text())
    rows = {row["file"]: row for row in said["artefacts"]}
    assert rows["outlier_int8.tflite"]["flips"] > 0.05 * rows["outlier_int8.tflite"]["pictures"]
    assert rows["outlier_by_layer.tflite"]["flips"] == 0
    assert said["tflite"]["layers_in_float"] == ["CONV_2D_0", "CONV_2D_1"]
    assert "stays in float: CONV_2D_0 (Conv), which alone moves the scores by " in out
    (artefact,) = open_bundle(folder).artefacts
    assert (Path(artefact.path).name, artefact.precision) == ("outlier_by_layer.tflite", "mixed")
    assert operators(artefact.path)[:3] == ["CONV_2D float32", "CONV_2D float32", "QUANTIZE int8"]
    assert "| CONV_2D_1 | Conv | " in (folder / "quantize.md").read_text()


def test_of_a_transformer_one_way_is_to_quantise_its_weighted_layers_only(tmp_path: Path) -> None:
    layers = tflite.read_layers(HERE / "attention_float.tflite")
    assert layers.network.attention
    assert [block.op for block in layers.network.blocks] == ["Conv"] * 3
    pictures = [np.random.default_rng(seed).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32) for seed in range(4)]
    path = str(tmp_path / "made.tflite")
    tflite.quantise(layers, tflite.collect(layers.path, pictures), layers.network.unsafe, Path(path))
    kinds = operators(path)
    assert kinds.count("CONV_2D int8") == 3
    assert "SOFTMAX float32" in kinds
    assert "BATCH_MATMUL float32" in kinds
    code, folder = quantize(
        tmp_path,
        "attention_float.tflite",
        colour_pictures(tmp_path / "pictures", 40),
        "--max-flips",
        "1",
        "--max-loss",
        "1",
    )
    assert code == 0
    files = {row["file"] for row in json.loads((folder / "quantize.json").read_text())["artefacts"]}
    assert {"attention_int8.tflite", "attention_mixed.tflite"} <= files


def operators(path: str) -> list[str]:
    """Kind and output type of every operator in order."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer

    model = flatbuffer.read_model(path)
    (graph,) = model.subgraphs
    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        kind = flatbuffer.TFL_OP_CODE_TO_NAME[code].value if code in flatbuffer.TFL_OP_CODE_TO_NAME else "QUANTIZE"
        found.append(f"{kind} {flatbuffer.TENSOR_CODE_TO_TYPE[graph.tensors[operator.outputs[0]].type].lower()}")
    return found


def test_what_only_one_calibration_picture_has_is_not_cut_off(tmp_path: Path) -> None:
    """The library's own calibration is a moving average: a defect on one picture of fifty would vanish."""
    grey = [np.full((1, 32, 32, 3), 100, np.float32)] * 20
    bright = np.full((1, 32, 32, 3), 250, np.float32)
    source, path = HERE / "colours_float.tflite", tmp_path / "made.tflite"
    tflite.quantise(tflite.read_layers(source), tflite.collect(source, [bright, *grey]), (), path)
    spec = read_tflite(str(path)).inputs[0]
    assert (127 - spec.zero_point) * spec.scale == pytest.approx(250, abs=1)
