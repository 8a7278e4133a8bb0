"""`lineside quantize` on real models that lineside did not train, with real photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lineside.cli import main
from lineside.store.bundle import open_bundle
from quantizing import NATIVE


def photos(data: Path, folder: Path, count: int) -> Path:
    """The sample photos, and as many of crowds as are wanted."""
    folder.mkdir()
    crowds = sorted((data / "faces_mask" / "images").iterdir())
    for path in [*sorted((data / "samples").glob("*.jpg")), *crowds[:: len(crowds) // count]][:count]:
        shutil.copy(path, folder / path.name)
    return folder


def quantised(data: Path, tmp_path: Path, model: str, count: int, *words: str) -> dict[str, Any]:
    """The report of a bundle that was made of this model."""
    images = photos(data, tmp_path / "photos", count)
    asked = [str(data / "models" / model), "--images", str(images), "-o", str(tmp_path / "made"), *words, *NATIVE]
    assert main(["quantize", *asked]) == 0
    read: dict[str, Any] = json.loads((tmp_path / "made" / "quantize.json").read_text())
    return read


def coco(data: Path) -> tuple[str, str]:
    return "--labels", str(data / "models" / "labels" / "coco_labels_80.txt")


def test_a_real_detector_loses_little_and_runs_as_a_bundle(data: Path, tmp_path: Path) -> None:
    words = ("--decode", "fastestdet", *coco(data), "--backend", "onnxruntime", "--search-s", "5", "--max-loss", "0.1")
    said = quantised(data, tmp_path, "detect/fastestdet_352.onnx", 20, *words)
    rows = {row["precision"]: row for row in said["artefacts"] if "left_out" not in row}
    assert rows["int8"]["size_mb"] < 0.5 * rows["fp32"]["size_mb"]
    assert rows["int8"]["flips"] == 0
    assert rows["int8"]["loss"] <= 0.1
    assert main(["infer", "--bundle", str(tmp_path / "made"), str(data / "samples" / "cat.jpg")]) == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_yolox_nano_loses_a_fifth_of_its_findings_in_plain_int8_and_few_layers_in_float_bring_them_back(
    data: Path, tmp_path: Path
) -> None:
    words = ("--decode", "yolox", *coco(data), "--backend", "onnxruntime", "--search-s", "200", "--max-loss", "0.05")
    said = quantised(data, tmp_path, "detect/yolox_nano_416.onnx", 60, *words)
    naive, *_ = said["onnx"]["tried"]
    best = next(one for one in said["onnx"]["tried"] if one["what"] == said["onnx"]["chosen"])
    assert naive["what"] == "min-max, everything"
    assert naive["loss"] > best["loss"] + 0.05, "five points and more"
    assert best["loss"] <= 0.05
    assert set(said["onnx"]["layers_in_float"]) & {"Conv_41", "Conv_44"}, "the two whose activations reach widest"
    assert len(said["onnx"]["layers_in_float"]) <= 16, "of 113: which of the small ones depends on the processor"
    assert [one.precision for one in open_bundle(tmp_path / "made").artefacts] == ["mixed"]


def test_mobilenet_v2_keeps_its_decisions_where_it_is_sure(data: Path, tmp_path: Path) -> None:
    labels = ("--labels", str(data / "models" / "labels" / "imagenet_labels_1001.txt"))
    words = (*labels, "--backend", "onnxruntime", "--max-flips", "0.4", "--max-loss", "0.2")
    said = quantised(data, tmp_path, "classify/mobilenet_v2_224_fp32.onnx", 36, *words)
    rows = {row["precision"]: row for row in said["artefacts"] if "left_out" not in row}
    int8 = rows.get("int8") or rows["mixed"]
    assert int8["loss"] <= 0.2
    assert int8["size_mb"] < 0.4 * rows["fp32"]["size_mb"]
