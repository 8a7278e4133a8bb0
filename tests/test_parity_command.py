"""`lineside parity`: real models on real runtimes against FP32, and the passport inside a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
from onnx import TensorProto, helper, save

from lineside.cli import main
from lineside.errors import ConfigError
from lineside.records import Artefact, DecodeSettings, InputSpec
from lineside.store.bundle import open_bundle
from lineside.store.pack import pack
from lineside.tuning.ways import Way

Parity = Callable[..., dict[str, Any]]


@pytest.fixture
def parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Parity:
    def run(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["parity", *map(str, words), "--state-dir", str(tmp_path / "state"), "--json"]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    return run


def packed(folder: Path, model: Path, *words: object) -> Path:
    assert main(["bundle", "new", str(model), *map(str, words), "-o", str(folder)]) == 0
    return folder


def by_place(told: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["backend"].partition(":")[0], row["precision"]): row for row in told["rows"]}


def test_the_shipped_model_has_no_fp32_reference_and_says_so(parity: Parity, tmp_path: Path) -> None:
    told = parity("--bundle", "conveyor-parts")
    assert told["reference"]["is_fp32"] is False
    rows = by_place(told)
    assert {backend for backend, _ in rows} == {"onnxruntime", "openvino", "litert"}
    first = rows[told["reference"]["backend"].partition(":")[0], "int8"]
    assert (first["flips"], first["drift"]["max"], first["iou"]["value"], first["matched"]["value"]) == (0, 0, 1, 1)
    assert all(row["flip_rate"]["high"] > 0.5 for row in rows.values()), "three pictures show next to nothing"
    assert 0 < rows["onnxruntime", "int8"]["drift"]["mean"]["value"] < 0.1, "another file, another runtime"
    assert [one["backend"] for one in told["not_run"]] == ["openvino:cpu"]
    kept = [json.loads(path.read_text()) for path in (tmp_path / "state" / "models").glob("*/*.json")]
    assert [one["parity"] for one in kept if "parity" in one] == [told]


def test_a_detectors_fp32_file_is_its_reference(parity: Parity, tmp_path: Path, data: Path) -> None:
    models = data / "models"
    file = models / "detect/yolox_nano_416_dynamic_range.tflite"
    words = ("--labels", models / "labels/coco_labels_80.txt", "--artefact", file)
    bundle = packed(tmp_path / "yolox", models / "detect/yolox_nano_416.onnx", *words)
    told = parity("--bundle", bundle, "--data", data / "samples")
    assert told["reference"] == {
        "backend": "onnxruntime:cpu",
        "file": "yolox_nano_416.onnx",
        "precision": "fp32",
        "is_fp32": True,
    }
    rows = by_place(told)
    assert set(rows) == {("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "mixed"), ("litert", "mixed")}
    exact = rows["onnxruntime", "fp32"]
    assert (exact["flips"], exact["any_flips"], exact["drift"]["max"], exact["matched"]["value"]) == (0, 0, 0, 1)
    for row in rows.values():
        assert row["any_flips"] <= row["flips"]
        assert 0.9 < row["iou"]["low"] <= row["iou"]["value"] <= row["iou"]["high"] <= 1
        assert row["matched"]["value"] > 0.8
    assert rows["litert", "mixed"]["drift"]["max"] > 0


def test_an_int8_classifier_is_held_against_a_reference_outside_of_the_bundle(
    parity: Parity, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify, labels = data / "models/classify", data / "models/labels/imagenet_labels_1001.txt"
    bundle = packed(
        tmp_path / "int8", classify / "mobilenet_v2_224_int8_qdq.onnx", "--labels", labels, "--filter", "linear"
    )
    more = ("--bundle", bundle, "--data", data / "samples", "--backend", "onnxruntime")
    told = parity(*more, "--reference", classify / "mobilenet_v2_224_fp32.onnx")
    (row,) = told["rows"]
    assert told["reference"]["is_fp32"]
    assert (row["pictures"], row["flips"]) == (11, 3)
    assert row["flip_rate"] == pytest.approx({"value": 0.2727, "low": 0.0975, "high": 0.5656}, abs=1e-4)
    assert row["drift"]["mean"]["low"] < row["drift"]["mean"]["value"] < row["drift"]["mean"]["high"]
    assert row["drift"]["p95"] <= row["drift"]["max"]
    assert row["iou"] is None

    words = ["parity", *map(str, more), "--state-dir", str(tmp_path), "--reference"]
    assert main([*words, str(classify / "mobilenet_v2_224_int8_qdq.onnx")]) == 78
    assert "is int8: name the FP32 model" in capsys.readouterr().err
    assert main([*words, str(data / "models/detect/yolox_nano_416.onnx")]) == 78
    assert "does not run as this bundle's model" in capsys.readouterr().err


def test_openvino_in_its_own_precision_is_compared_with_fp32(parity: Parity, tmp_path: Path, data: Path) -> None:
    """Whatever the profile lets stations use, a reference is FP32; so it is where OpenVINO alone can read the file."""
    words = ("--labels", data / "models/labels/imagenet_labels_1001.txt")
    bundle = packed(tmp_path / "fp32", data / "models/classify/mobilenet_v2_224_fp32.onnx", *words)
    rows = by_place(parity("--bundle", bundle, "--data", data / "samples"))
    assert rows["onnxruntime", "fp32"]["drift"]["max"] == 0
    assert rows["openvino", "fp32"]["drift"]["max"] < 0.1
    profile = tmp_path / "exact.toml"
    profile.write_text(
        'title = "exact"\n[match]\n[[backend]]\nname = "openvino"\noptions = { precision = "f32" }\n'
        '[thermal]\nzones = ["*"]\nwarn_c = 80\ncritical_c = 90\n'
    )
    told = parity("--bundle", bundle, "--data", data / "samples", "--profile", profile)
    assert by_place(told)["openvino", "fp32"]["drift"]["max"] < 1e-4

    model = openvino.Core().read_model(data / "models/classify/mobilenet_v2_224_fp32.onnx")
    openvino.save_model(model, tmp_path / "mobilenet.xml", compress_to_fp16=False)
    own = packed(tmp_path / "ir", tmp_path / "mobilenet.xml", *words)
    told = parity("--bundle", own, "--data", data / "samples", "--profile", profile)
    assert (told["reference"]["backend"], told["reference"]["is_fp32"]) == ("openvino:cpu", True)
    assert by_place(told)["openvino", "fp32"]["drift"]["max"] < 1e-6


# --- anomaly models


def brightness(folder: Path, threshold: float | None) -> Path:
    """An anomaly model whose score is the mean of the picture."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["pred_score"], axes=[2, 3, 1], keepdims=0)],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = folder.with_suffix(".onnx")
    save(made, str(model))
    pack(
        folder,
        name="brightness",
        version="1",
        task="anomaly",
        labels=["anomaly"],
        input=InputSpec(16, 16, "bgr", "nchw", std=(255.0, 255.0, 255.0), resize="stretch"),
        decode="anomaly",
        settings=DecodeSettings(threshold=threshold),
        artefacts=[Artefact(str(model), "onnx", "fp32", "")],
        licence="CC0-1.0",
    )
    return folder


def test_an_anomaly_models_threshold_decides_and_without_one_flips_are_not_known(
    parity: Parity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for level in (10, 120, 240):
        cv2.imwrite(str(data / f"{level}.png"), np.full((16, 16, 3), level, np.uint8))
    with_one = brightness(tmp_path / "a", 0.5)
    (row,) = parity("--bundle", with_one, "--data", data, "--backend", "onnxruntime")["rows"]
    assert (row["flips"], row["drift"]["max"]) == (0, 0)
    without = brightness(tmp_path / "b", None)
    (row,) = parity("--bundle", without, "--data", data, "--backend", "onnxruntime")["rows"]
    assert (row["flips"], row["flip_rate"]) == (None, None)
    words = ["--bundle", str(without), "--data", str(data), "--state-dir", str(tmp_path)]
    capsys.readouterr()
    assert main(["parity", *words]) == 0
    assert "not known: [decode] has no threshold" in capsys.readouterr().out
    assert main(["tune", *words]) == 78
    assert "[decode] has no threshold" in capsys.readouterr().err


# --- inside a bundle


@pytest.fixture
def released(tmp_path: Path, parity: Parity) -> Path:
    parity("--bundle", "conveyor-parts", "--backend", "onnxruntime", "--into", tmp_path / "new", "--version", "9")
    return tmp_path / "new"


def test_the_passport_of_the_release_is_inside_and_shown(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = open_bundle(released)
    assert made.version == "9"
    assert made.golden is not None, "the golden answers came along"
    capsys.readouterr()
    assert main(["bundle", "show", str(released)]) == 0
    shown = capsys.readouterr().out
    assert "parity     no fp32 reference: against conveyor-parts_int8.onnx on onnxruntime:cpu, 3 pictures" in shown
    assert "decisions that flip   0, 0.0 % (0.0 to 56.1)" in shown
    told = json.loads((released / "parity.json").read_text())
    assert told["machine"]["cpu"]
    assert str(released.parent) not in json.dumps(told), "no path of the box it was made on"


def test_each_of_two_packings_keeps_what_the_other_put_in(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = released / "golden" / "0.png"
    assert main(["bundle", "golden", str(released), str(picture), "-o", str(tmp_path / "newer")]) == 0
    newer = open_bundle(tmp_path / "newer")
    assert newer.golden is not None
    assert (len(newer.golden.cases), newer.parity_sha256) == (1, open_bundle(released).parity_sha256)
    words = ["parity", "--bundle", str(tmp_path / "newer"), "--state-dir", str(tmp_path), "--backend", "onnxruntime"]
    assert main([*words, "--into", str(tmp_path / "newest")]) == 0
    newest = open_bundle(tmp_path / "newest")
    assert (newest.golden, newest.version) == (newer.golden, "9")
    assert (tmp_path / "newest/model.toml").read_text().count("[parity]") == 1
    assert main(["bundle", "verify", str(tmp_path / "newest"), "--backend", "onnxruntime"]) == 0


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.write_text(path.read_text().replace('"flips": 0', '"flips": 1')), "not the file that was"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_a_passport_edited_by_hand_is_not_shown(
    released: Path, harm: Callable[[Path], object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(released / "parity.json")
    assert main(["bundle", "show", str(released)]) == 78
    assert says in capsys.readouterr().err


def test_a_folder_that_exists_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--bundle", "conveyor-parts", "--into", str(tmp_path)]) == 78
    assert "a bundle is never changed" in capsys.readouterr().err
    assert main(["parity", "--bundle", "conveyor-parts", "--version", "2"]) == 78
    assert "give --into NEW" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_are_named_on_the_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_bundle("conveyor-parts").folder
    shown = Path(shutil.copytree(source / "golden", tmp_path / "data"))
    (shown / "bad.png").write_bytes(b"no picture")
    words = ["--bundle", "conveyor-parts", "--data", str(shown), "--backend", "onnxruntime"]
    assert main(["parity", *words, "--state-dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "3 pictures, 1 left out" in told.out
    assert "left out: image" in told.err
    assert "bad.png: not a picture" in told.err


def test_why_a_way_was_not_run_does_not_hold_the_path_of_this_machine(tmp_path: Path) -> None:
    way = Way("openvino", "cpu", Artefact(str(tmp_path / "part.tflite"), "tflite", "int8", ""))
    missed = way.not_run(ConfigError(f"{tmp_path / 'part.tflite'}: OpenVINO cannot read this model"))
    assert (missed.file, missed.why) == ("part.tflite", "OpenVINO cannot read this model")
