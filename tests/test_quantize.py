"""`lineside quantize` on ONNX models: what it recovers, names and refuses, on real runtimes and real models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from lineside.cli import main
from lineside.store.bundle import open_bundle
from quantizing import (
    COLOURS,
    NATIVE,
    SIDE,
    attention_model,
    colour_model,
    colour_pictures,
    labels,
    save,
    spot_detector,
    spot_pictures,
    unsavable,
)

Captured = pytest.CaptureFixture[str]
ON_ORT = ("--backend", "onnxruntime")  # an OpenVINO IR comes only where NNCF is installed: test_quantize_openvino.py
PLAIN = ("--mean", "0", "--std", "1", "--color", "bgr")


def quantize(*words: str | Path) -> int:
    return main(["quantize", *map(str, words), *NATIVE])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_pictures(tmp_path_factory.mktemp("pictures"), 90)


def made(tmp_path: Path, model: Path, images: Path, *words: str | Path) -> tuple[int, Path]:
    """Exit status and folder of a bundle of three colours, for ONNX Runtime unless `words` say otherwise."""
    bundle = tmp_path / "made"
    asked = ("--images", images, "--labels", labels(tmp_path / "labels.txt"), "-o", bundle, *PLAIN)
    return quantize(model, *asked, *(words if "--backend" in words else (*words, *ON_ORT))), bundle


def report(bundle: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((bundle / "quantize.json").read_text())
    return read


# --- what it makes


def test_a_model_that_takes_int8_well_becomes_a_bundle_that_says_how(
    tmp_path: Path, pictures: Path, capsys: Captured
) -> None:
    both = (*ON_ORT, "--backend", "openvino")
    code, folder = made(tmp_path, colour_model(tmp_path / "model.onnx"), pictures, *both)
    assert code == 0, capsys.readouterr().err
    bundle = open_bundle(folder)
    assert [one.precision for one in bundle.artefacts if one.format == "onnx"] == ["int8"]
    assert (bundle.task, bundle.labels, bundle.input.color) == ("classify", COLOURS, "bgr")
    said = report(folder)
    assert said["pictures"] == {"calibration": 45, "validation": 45}
    assert said["onnx"]["layers_in_float"] == []  # type: ignore[index]
    rows = {(row["file"], row["backend"]): row for row in said["artefacts"]}  # type: ignore[index]
    assert rows["model_int8.onnx", "onnxruntime"]["flips"] == rows["model_int8.onnx", "openvino"]["flips"] == 0
    assert "| model_int8.onnx | int8 | onnxruntime |" in (folder / "quantize.md").read_text()
    out = capsys.readouterr().out
    assert "45 validation pictures cannot show flips below 2.0%: 189 could" in out
    assert main(["infer", "--bundle", str(folder), str(pictures / "002_red.png")]) == 0
    assert ": red" in capsys.readouterr().out


def test_activations_are_uint8_and_weights_int8_with_a_scale_per_channel(tmp_path: Path, pictures: Path) -> None:
    _, folder = made(tmp_path, colour_model(tmp_path / "model.onnx"), pictures)
    graph = onnx.load(str(folder / "model_int8.onnx")).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero_points = [held[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"]
    assert set(zero_points) == {np.dtype(np.uint8)}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in held]
    kinds = {held[node.input[0]].dtype for node in weights}
    assert kinds == {np.dtype(np.int8), np.dtype(np.int32)}, "int32: biases"
    assert {held[node.input[1]].size for node in weights if held[node.input[0]].ndim == 4} == {3, 4}


def test_layers_that_break_accuracy_stay_in_float_and_are_named(
    tmp_path: Path, pictures: Path, capsys: Captured
) -> None:
    code, folder = made(tmp_path, colour_model(tmp_path / "model.onnx", outlier=200), pictures)
    out, err = capsys.readouterr()
    assert code == 0, err
    said = report(folder)
    naive, *_, chosen = said["onnx"]["tried"]  # type: ignore[index]
    assert naive["what"] == "min-max, everything"
    assert naive["flips"] > 0.05 * naive["pictures"], "else the model shows nothing"
    assert chosen["flips"] <= 0.02 * chosen["pictures"]
    assert said["onnx"]["layers_in_float"] == ["stem", "middle"]  # type: ignore[index]
    assert "stays in float: stem (Conv), which alone moves the scores by " in out
    assert "| middle | Conv | " in (folder / "quantize.md").read_text()
    assert [one.precision for one in open_bundle(folder).artefacts] == ["mixed"]
    nodes = onnx.load(str(folder / "model_int8.onnx")).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    inputs = {node.name: makers.get(node.input[0], "image") for node in nodes if node.op_type == "Conv"}
    assert inputs == {"stem": "image", "middle": "Relu", "head": "DequantizeLinear"}


def test_a_search_without_time_says_what_it_did_not_try(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    model = colour_model(tmp_path / "model.onnx", outlier=200)
    code, folder = made(tmp_path, model, pictures, "--search-s", "0", "--accept-flips")
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "Not tried with the ONNX file for want of time (--search-s 0): percentile, " in out
    assert "any layer alone, or in float" in out
    assert "Not tried, for want of time (`--search-s`): percentile, " in (folder / "quantize.md").read_text()
    assert len(report(folder)["onnx"]["tried"]) == 2  # type: ignore[index]


def test_it_refuses_what_flips_too_much_and_writes_nothing(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    code, folder = made(tmp_path, unsavable(tmp_path / "bad.onnx"), pictures)
    err = capsys.readouterr().err
    assert code == 1
    assert "refused: more than 2.0% of the decisions flip" in err
    assert not folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx", "labels.txt"]
    code, folder = made(tmp_path, unsavable(tmp_path / "bad.onnx"), pictures, "--accept-flips")
    assert code == 0
    assert report(folder)["bounds"]["accepted"] is True  # type: ignore[index]
    assert "exceeded and accepted by hand" in (folder / "quantize.md").read_text()


def test_one_scale_over_a_concatenated_head_is_found_and_the_head_left_in_float(
    tmp_path: Path, capsys: Captured
) -> None:
    images = spot_pictures(tmp_path / "spots", 60)
    words = ("--decode", "yolov8", "--mean", "0", "--std", "1", "--color", "bgr", "--resize", "stretch")
    folder = tmp_path / "made"
    names = labels(tmp_path / "labels.txt")
    model = spot_detector(tmp_path / "model.onnx")
    code = quantize(model, "--images", images, "--labels", names, "-o", folder, *words, *ON_ORT)
    assert code == 0, capsys.readouterr().err
    naive, careful, *_ = report(folder)["onnx"]["tried"]  # type: ignore[index]
    assert naive["loss"] > 0.2, "one step over boxes of 256 pixels is 1: scores become 0 or 1"
    assert careful == {**careful, "what": "min-max, tail in float", "flips": 0}
    assert report(folder)["onnx"]["layers_in_float"] == []  # type: ignore[index]
    assert {"head", "sigmoid", "reshape_scores"} <= set(report(folder)["onnx"]["nodes_in_float"])  # type: ignore[index]


def test_of_a_transformer_only_layers_with_weights_are_int8(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    code, folder = made(tmp_path, attention_model(tmp_path / "model.onnx"), pictures, "--max-flips", "1")
    assert code == 0, capsys.readouterr().err
    nodes = onnx.load(str(folder / "model_int8.onnx")).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    fed = {node.name: [makers.get(name) for name in node.input] for node in nodes}
    for name in ("products", "softmax", "mix"):
        assert "DequantizeLinear" not in fed[name], name
    for name in ("stem", "middle", "last"):
        assert fed[name][1] == "DequantizeLinear", name


def test_an_anomaly_model_keeps_its_scores(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], name="conv", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("ReduceMean", ["y"], ["mean"], name="mean", axes=[2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["pred_score"], name="score"),
    ]
    reddish = np.array([-0.5, -0.5, 1], np.float32).reshape(1, 3, 1, 1) / 16
    model = save(tmp_path / "model.onnx", nodes, {"w": reddish}, [1, 3, SIDE, SIDE], {"pred_score": [1, 1]})
    words = ("--decode", "anomaly", "--threshold", "0.7", "--images", pictures, "-o", tmp_path / "made", *ON_ORT)
    assert quantize(model, *words, *PLAIN) == 0, capsys.readouterr().err
    made_of = report(tmp_path / "made")["artefacts"]
    (row,) = [row for row in made_of if row["precision"] == "int8" and "left_out" not in row]  # type: ignore[attr-defined]
    assert row["loss"] == row["drift"] < 0.02
    assert open_bundle(tmp_path / "made").task == "anomaly"


# --- what accuracy is


def test_with_labels_it_is_measured_against_the_truth(tmp_path: Path, capsys: Captured) -> None:
    images = colour_pictures(tmp_path / "by_class", 60, by_class=True)
    model = colour_model(tmp_path / "model.onnx")
    code, folder = made(tmp_path, model, images, "--labels-from", "folders", "--keep-float")
    assert code == 0, capsys.readouterr().err
    rows = [row for row in report(folder)["artefacts"] if "left_out" not in row]  # type: ignore[attr-defined]
    assert [row["accuracy"] for row in rows if row["backend"] == "onnxruntime"] == [1.0, 1.0]
    assert "top-1 accuracy on the labels, where the float model has 1.000" in (folder / "quantize.md").read_text()
    assert [one.precision for one in open_bundle(folder).artefacts] == ["int8", "fp32"]


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_boxes_come_from_coco_and_from_yolo_files(tmp_path: Path, capsys: Captured, form: str) -> None:
    images = spot_pictures(tmp_path / "spots", 40)
    model, names = spot_detector(tmp_path / "model.onnx"), labels(tmp_path / "labels.txt")
    words = ("--decode", "yolov8", "--mean", "0", "--std", "1", "--color", "bgr", "--resize", "stretch")
    words = (*words, "--labels", names, "--images", images)  # type: ignore[assignment]
    assert main(["bundle", "new", str(model), *map(str, words[:-2]), "-o", str(tmp_path / "float")]) == 0
    capsys.readouterr()
    assert main(["infer", "--jsonl", "--backend", "onnxruntime", "--bundle", str(tmp_path / "float"), str(images)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    truth = write_coco(tmp_path, found) if form == "coco" else write_yolo(tmp_path / "yolo", found)
    code = quantize(model, *words, "--labels-from", truth, "-o", tmp_path / "made", *ON_ORT)
    assert code == 0, capsys.readouterr().err
    rows = [row["accuracy"] for row in report(tmp_path / "made")["artefacts"]]  # type: ignore[attr-defined]
    assert rows[0] == 1.0, "the labels are what the float model found"
    assert min(rows) > 0.98


def write_coco(folder: Path, found: list[dict[str, object]]) -> Path:
    boxes = [(number, each) for number, row in enumerate(found) for each in row["findings"]]  # type: ignore[attr-defined]
    content = {
        "categories": [{"id": 7 + number, "name": name} for number, name in enumerate(COLOURS)],
        "images": [{"id": number, "file_name": Path(str(row["file"])).name} for number, row in enumerate(found)],
        "annotations": [
            {
                "image_id": number,
                "category_id": 7 + each["class_id"],
                "bbox": [*each["box"][:2], each["box"][2] - each["box"][0], each["box"][3] - each["box"][1]],
            }
            for number, each in boxes
        ],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def write_yolo(folder: Path, found: list[dict[str, object]]) -> Path:
    folder.mkdir()
    for row in found:
        lines = []
        for each in row["findings"]:  # type: ignore[attr-defined]
            x1, y1, x2, y2 = (side / 64 for side in each["box"])
            lines.append(f"{each['class_id']} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}")
        (folder / f"{Path(str(row['file'])).stem}.txt").write_text("\n".join(lines))
    return folder


# --- what is refused


def test_an_empty_folder_of_pictures_is_refused(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "empty").mkdir()
    code, _ = made(tmp_path, colour_model(tmp_path / "model.onnx"), tmp_path / "empty")
    assert code == 78
    assert "empty: no picture in this folder: put 100 or more pictures" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_named_and_skipped(tmp_path: Path, capsys: Captured) -> None:
    images = colour_pictures(tmp_path / "pictures", 30)
    (images / "cut.png").write_bytes((images / "000_blue.png").read_bytes()[:200])
    code, folder = made(tmp_path, colour_model(tmp_path / "model.onnx"), images)
    assert code == 0
    assert "skipped: image" in capsys.readouterr().err
    assert "cut.png" in (folder / "quantize.md").read_text()
    assert report(folder)["pictures"] == {"calibration": 15, "validation": 15}


def test_a_folder_of_nothing_but_unreadable_pictures_is_refused(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_text("no picture")
    code, _ = made(tmp_path, colour_model(tmp_path / "model.onnx"), folder)
    err = capsys.readouterr().err
    assert code == 78
    assert "0 of 5 pictures could be read" in err
    assert "3.jpg" in err


def test_a_model_of_any_size_needs_a_size(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    model = colour_model(tmp_path / "model.onnx", side="side")
    code, _ = made(tmp_path, model, pictures)
    assert code == 78
    assert "give --size WIDTHxHEIGHT" in capsys.readouterr().err
    code, folder = made(tmp_path, model, pictures, "--size", "48x32")
    assert code == 0, capsys.readouterr().err
    assert (open_bundle(folder).input.width_px, open_bundle(folder).input.height_px) == (48, 32)


def test_an_operator_that_no_backend_knows_is_named(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    more = [helper.make_node("Sharpen", ["x6"], ["logits"], name="sharp", domain="com.example")]
    code, _ = made(tmp_path, colour_model(tmp_path / "model.onnx", more=more), pictures)
    assert code == 78
    assert "no backend knows the operator Sharpen of com.example (node sharp)" in capsys.readouterr().err


def test_a_model_that_is_int8_already_is_refused(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    _, folder = made(tmp_path, colour_model(tmp_path / "model.onnx"), pictures)
    capsys.readouterr()
    again = ("--images", pictures, "--labels", tmp_path / "labels.txt", "-o", tmp_path / "again")
    assert quantize(folder / "model_int8.onnx", *again) == 78
    assert "is int8 already: give the float model" in capsys.readouterr().err


def test_a_model_with_nothing_to_quantise_is_refused(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["y"], name="pool"),
        helper.make_node("Flatten", ["y"], ["logits"], name="flat"),
    ]
    model = save(tmp_path / "model.onnx", nodes, {}, [1, 3, SIDE, SIDE], {"logits": [1, 3]})
    code, _ = made(tmp_path, model, pictures)
    assert code == 78
    assert "no convolution or fully connected layer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-flips", "2"), "--max-flips 2: a share, 0 to 1"),
        (("--calibration", "0"), "--calibration 0: at least 1"),
        (("--search-s", "-1"), "--search-s -1: seconds, 0 or more"),
        (("--search-s", "nan"), "--search-s nan: seconds, 0 or more"),
        (("--backend", "tensorrt"), "--backend tensorrt: is not installed"),
        (("--backend", "litert"), "nothing that it runs can be made of onnx: LiteRT wants a float"),
        (("--labels-from", "nowhere"), "--labels-from nowhere: holds boxes, but the task is classify"),
        (("--labels-from", "folders"), "none of the 45 validation pictures has a label there"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    tmp_path: Path, pictures: Path, capsys: Captured, words: tuple[str, ...], said: str
) -> None:
    code, folder = made(tmp_path, colour_model(tmp_path / "model.onnx"), pictures, *words)
    assert code == 78
    assert said in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("package", ["onnx", "ai_edge_quantizer"])
def test_without_the_extra_the_line_that_installs_it_is_named(tmp_path: Path, pictures: Path, package: str) -> None:
    model = Path(__file__).with_name("colours_float.tflite")
    if package == "onnx":
        model = colour_model(tmp_path / "model.onnx")
    words = [model, "--images", pictures, "--labels", labels(tmp_path / "labels.txt"), "-o", tmp_path / "made", *PLAIN]
    hidden = f"import sys; sys.modules[{package!r}] = None; from lineside.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", hidden, "quantize", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert f"'{package}' cannot be imported" in done.stderr
    assert "pip install 'lineside[quantize]'" in done.stderr


def test_an_output_folder_with_something_in_it_is_left_alone(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    code, folder = made(tmp_path, colour_model(tmp_path / "model.onnx"), pictures)
    assert code == 78
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
