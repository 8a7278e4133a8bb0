"""Models as other projects export them: `lineside bundle new` reads them right, or refuses with the cause and the
option.

tests/foreign has files with their answers; tests/foreign_rules.py makes more of the same kinds, whose answers differ
from picture to picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from foreign_rules import CELL, NAMES, Found, Rule, scene
from lineside.cli import main
from lineside.commands.infer import Eye
from lineside.images import read_image
from lineside.records import AnomalyMap, Classification, Detections, Seen
from lineside.store.bundle import open_bundle
from lineside.vision.decode import findings

FOREIGN = Path(__file__).resolve().parent / "foreign"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SQUARES = {("bright", 96, 64, 128, 96), ("red", 224, 192, 256, 224)}
SEEDS = range(4)
ULTRALYTICS = {"author": "Ultralytics", "task": "detect", "names": "{0: 'bright', 1: 'red'}", "imgsz": "[320, 320]"}
Options = tuple[str, ...]


def new(model: Path, tmp_path: Path, *options: str | Path) -> int:
    return main(["bundle", "new", str(model), "-o", str(tmp_path / "made"), *map(str, options)])


def labels(tmp_path: Path, count: int = 2, *first: str) -> tuple[str, Path]:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in (*first, *NAMES[:count])))
    return "--labels", path


def eye(tmp_path: Path, backend: str = "onnxruntime") -> Eye:
    return Eye(open_bundle(tmp_path / "made"), backend, None)


def found_in(seen: Seen, names: tuple[str, ...]) -> tuple[Found, float]:
    """What was found, to the pixel, and the least score."""
    assert isinstance(seen, Detections)
    things = findings(seen, names)
    boxes = {(each.label, *(round(side) for side in each.box or ())) for each in things}
    assert len(boxes) == len(things)
    return boxes, min((each.score for each in things), default=1.0)  # type: ignore[return-value]


def reads_right(
    tmp_path: Path, classes: int = 2, backend: str = "onnxruntime", width: int = 320, height: int = 320
) -> None:
    """Every scene is answered as it is, and the answers differ."""
    sight = eye(tmp_path, backend)
    answers = set()
    for seed in SEEDS:
        picture, wanted = scene(seed, classes, width, height)
        found, least = found_in(sight.look(picture), sight.bundle.labels)
        assert found == wanted
        assert 0.5 < least <= 1.0
        answers.add(frozenset(found))
    assert len(answers) > 1


# --- the files


@pytest.mark.parametrize(
    ("file", "options", "decode"),
    [
        ("nms_true.onnx", (), "yolo_e2e"),
        ("y8_u8.onnx", (), "yolov8"),
        ("y8_ppp.xml", (), "yolov8"),
        ("y9dual.onnx", (), "yolov8"),
        ("nas_float.onnx", ("--labels", "l2.txt"), "yolov8"),
        ("rfdetr.onnx", ("--labels", "l2.txt"), "detr"),
        ("ssd_detout.onnx", ("--labels", "l2.txt"), "detection_output"),
        ("v7_e2e.onnx", ("--labels", "l2.txt"), "yolov7_e2e"),
        ("fomo.onnx", ("--labels", "l2.txt"), "fomo"),
    ],
)
def test_a_file_of_another_project_finds_its_two_squares(
    file: str, options: Options, decode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOREIGN)
    assert new(FOREIGN / file, tmp_path, *options) == 0
    sight = eye(tmp_path, "openvino" if file.endswith(".xml") else "onnxruntime")
    assert sight.bundle.decode == decode
    found, least = found_in(sight.look(read_image(FOREIGN / "sq.png")), sight.bundle.labels)
    assert found == SQUARES
    assert least > (0.53 if decode == "fomo" else 0.999)
    assert found_in(sight.look(read_image(FOREIGN / "nothing.png")), sight.bundle.labels)[0] == set()


def test_class_names_in_any_writing_come_from_the_file(tmp_path: Path) -> None:
    assert new(FOREIGN / "y8_cjk.onnx", tmp_path) == 0
    found, _ = found_in(eye(tmp_path).look(read_image(FOREIGN / "sq.png")), open_bundle(tmp_path / "made").labels)
    assert found == {("划痕", 96, 64, 128, 96), ("it's", 224, 192, 256, 224)}


@pytest.mark.parametrize(("names", "place"), [("l1.txt", 0), ("l2.txt", 1)])
def test_one_sigmoid_is_the_score_of_one_class_or_of_the_second_of_two(names: str, place: int, tmp_path: Path) -> None:
    assert (
        new(FOREIGN / "binary_sigmoid.onnx", tmp_path, "--labels", FOREIGN / names, "--mean", "0", "--std", "255") == 0
    )
    sight = eye(tmp_path)
    for picture, wanted in (("sq.png", 1.0), ("nothing.png", 0.0)):
        seen = sight.look(read_image(FOREIGN / picture))
        assert isinstance(seen, Classification)
        assert seen.scores[place] == pytest.approx(wanted, abs=1e-3)
        assert len(seen.scores) == place + 1
        assert place == 0 or seen.scores.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("obb_e2e.onnx", (), 'task = "obb": oriented boxes'),
        ("anomalib1.onnx", (), "threshold is not in the file: --threshold"),
        ("v7_e2e.onnx", ("--decode", "yolov5", "--labels", "l2.txt"), "expected one output [1, N, 5 + classes]"),
    ],
)
def test_what_is_not_to_be_read_is_refused_by_name(
    file: str,
    options: Options,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(FOREIGN)
    assert new(FOREIGN / file, tmp_path, *options) == 78
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "made").exists()


def test_the_threshold_of_anomalib_1_comes_from_the_user_or_from_its_metadata_file(tmp_path: Path) -> None:
    def verdicts() -> list[bool]:
        sight = eye(tmp_path)
        seen = [sight.look(read_image(FOREIGN / name)) for name in ("sq.png", "nothing.png")]
        assert sight.settings.threshold == 40
        return [isinstance(each, AnomalyMap) and each.score >= 40 for each in seen]

    assert new(FOREIGN / "anomalib1.onnx", tmp_path, "--threshold", "40") == 0
    assert verdicts() == [True, False]
    (tmp_path / "made").rename(tmp_path / "first")
    beside = tmp_path / "export"
    beside.mkdir()
    (beside / "model.onnx").write_bytes((FOREIGN / "anomalib1.onnx").read_bytes())
    (beside / "metadata.json").write_text(json.dumps({"image_threshold": [40.0], "task": "segmentation"}))
    assert new(beside / "model.onnx", tmp_path) == 0
    assert verdicts() == [True, False]


# --- heads of YOLO


def yolov8(box_format: str = "cxcywh", classes: int = 2, turn: bool = False, **more: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        rule = Rule(classes).scaled()
        head = rule.joined(box_format, **more)
        channels = 4 + classes + more.get("extra", 0)
        if turn:
            head = rule.turned(head, "output0")
        else:
            rule.add("Identity", [head], "output0")
        shape = [1, rule.cells, channels] if turn else [1, channels, rule.cells]
        return rule.save(path, {"output0": (FLOAT, shape)})

    return make


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("box_format", ["cxcywh", "xyxy"])
@pytest.mark.parametrize("turn", [False, True])
def test_a_yolov8_head_of_any_turn_and_box_format_is_read(
    classes: int, box_format: str, turn: bool, tmp_path: Path
) -> None:
    model = yolov8(box_format, classes, turn)(tmp_path / "model.onnx")
    assert new(model, tmp_path, *labels(tmp_path, classes)) == 0
    assert open_bundle(tmp_path / "made").decode == "yolov8"
    reads_right(tmp_path, classes)


def test_boxes_of_0_to_1_and_a_format_that_nothing_tells_are_read_as_the_user_says(tmp_path: Path) -> None:
    model = yolov8("xywh", 2, unit=True)(tmp_path / "model.onnx")
    assert new(model, tmp_path, *labels(tmp_path), "--box-format", "xywh") == 0
    made = open_bundle(tmp_path / "made")
    assert (made.settings.boxes, made.settings.box_format) == ("unit", "xywh")
    reads_right(tmp_path)


def test_key_points_and_masks_beside_the_classes_are_left_out(tmp_path: Path) -> None:
    pose = {**ULTRALYTICS, "task": "pose", "kpt_shape": "[17, 3]", "names": "{0: 'bright'}"}
    rule = Rule(1).scaled()
    rule.add("Identity", [rule.joined("cxcywh", extra=51)], "output0")
    rule.save(tmp_path / "pose.onnx", {"output0": (FLOAT, [1, 56, rule.cells])}, pose)
    assert new(tmp_path / "pose.onnx", tmp_path) == 0
    assert open_bundle(tmp_path / "made").settings.extra_channels == 51
    reads_right(tmp_path, 1)
    (tmp_path / "made").rename(tmp_path / "pose")
    rule = Rule(2).scaled()
    rule.add("Identity", [rule.joined("cxcywh", extra=32)], "output0")
    rule.add("Identity", [rule.constant("p", np.zeros((1, 32, 80, 80), np.float32))], "output1")
    outputs = {"output0": (FLOAT, [1, 38, rule.cells]), "output1": (FLOAT, [1, 32, 80, 80])}
    rule.save(tmp_path / "seg.onnx", outputs, {**ULTRALYTICS, "task": "segment"})
    assert new(tmp_path / "seg.onnx", tmp_path) == 0
    reads_right(tmp_path)


def e2e(path: Path, metadata: dict[str, str] | None, extra: int = 0, classes: int = 2, pad: int = 50) -> Path:
    """Rows of x1 y1 x2 y2 score class; those below 0.25 are zeros, and so are some behind them."""
    rule = Rule(classes).scaled()
    rule.best()
    parts = [rule.constant("boxes", rule.boxes("xyxy").T[None]), "best", "number"]
    if extra:
        parts.append(rule.constant("extra", np.full((1, extra, rule.cells), 7.5, np.float32)))
    rows = rule.turned(rule.add("Concat", parts, "rows", axis=1), "turned")
    rule.turned("best", "of_row")
    rule.add("Greater", ["of_row", rule.constant("least", np.float32(0.25))], "kept")
    rule.add("Where", ["kept", rows, rule.constant("zero", np.float32(0))], "zeroed")
    empty = rule.constant("empty", np.zeros((1, pad, 6 + extra), np.float32))
    rule.add("Concat", ["zeroed", empty], "output0", axis=1)
    outputs: dict[str, Any] = {"output0": (FLOAT, [1, rule.cells + pad, 6 + extra])}
    if extra == 32:
        rule.add("Identity", [rule.constant("p", np.zeros((1, 32, 80, 80), np.float32))], "output1")
        outputs["output1"] = (FLOAT, [1, 32, 80, 80])
    return rule.save(path, outputs, metadata)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_rows_that_are_suppressed_already_are_told_from_candidates_without_any_metadata(
    classes: int, tmp_path: Path
) -> None:
    assert new(e2e(tmp_path / "model.onnx", None, classes=classes), tmp_path, *labels(tmp_path, classes)) == 0
    made = open_bundle(tmp_path / "made")
    assert (made.decode, made.settings.boxes) == ("yolo_e2e", "pixels")
    reads_right(tmp_path, classes)


@pytest.mark.parametrize(("task", "extra"), [("segment", 32), ("pose", 51)])
def test_end_to_end_rows_with_masks_or_key_points_give_their_boxes(task: str, extra: int, tmp_path: Path) -> None:
    metadata = {**ULTRALYTICS, "task": task, "args": "{'nms': True}", "kpt_shape": "[17, 3]" if task == "pose" else ""}
    assert new(e2e(tmp_path / "model.onnx", metadata, extra), tmp_path) == 0
    assert open_bundle(tmp_path / "made").decode == "yolo_e2e"
    reads_right(tmp_path)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_yolov5_head_is_read_with_the_raw_heads_of_older_exporters_beside_it(classes: int, tmp_path: Path) -> None:
    rule = Rule(classes).scaled()
    rule.turned(rule.joined("cxcywh", objectness=True), "output")
    raw = np.zeros((1, 3, 10, 10, 5 + classes), np.float32)
    rule.add("Identity", [rule.constant("raw5", raw)], "345")
    outputs = {"output": (FLOAT, [1, rule.cells, 5 + classes]), "345": (FLOAT, list(raw.shape))}
    assert new(rule.save(tmp_path / "model.onnx", outputs), tmp_path, *labels(tmp_path, classes)) == 0
    assert open_bundle(tmp_path / "made").decode == "yolov5"
    reads_right(tmp_path, classes)


def dual(path: Path, gain: float, shift: int, main_first: bool) -> Path:
    """A second head whose scores are a part of the first's, and whose boxes lie `shift` pixels beside them."""
    rule = Rule().scaled()
    rule.add("Identity", [rule.joined("cxcywh")], "main")
    boxes = rule.boxes("cxcywh").T[None].copy()
    boxes[:, 0] += shift
    rule.add("Mul", ["sigmoids", rule.constant("part", np.float32(gain))], "weak")
    rule.add("Concat", [rule.constant("aux_boxes", boxes), "weak"], "aux", axis=1)
    first, second = ("main", "aux") if main_first else ("aux", "main")
    rule.add("Identity", [first], "output0")
    rule.add("Identity", [second], "output1")
    return rule.save(path, {name: (FLOAT, [1, 6, rule.cells]) for name in ("output0", "output1")}, ULTRALYTICS)


@pytest.mark.parametrize("main_first", [True, False])
def test_of_two_heads_that_find_the_same_the_surer_one_is_read(main_first: bool, tmp_path: Path) -> None:
    assert new(dual(tmp_path / "model.onnx", 0.7, 2, main_first), tmp_path) == 0
    assert open_bundle(tmp_path / "made").settings.outputs == ("output0" if main_first else "output1",)
    reads_right(tmp_path)


def test_two_heads_that_find_different_things_are_refused_until_the_user_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = dual(tmp_path / "model.onnx", 1.0, 150, True)
    assert new(model, tmp_path) == 78
    said = capsys.readouterr().err
    assert "can be read in 2 ways" in said
    assert "--outputs output0" in said
    assert "--outputs output1" in said
    assert new(model, tmp_path, "--outputs", "output0") == 0
    reads_right(tmp_path)


# --- boxes and scores apart


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("box_format", ["xyxy", "cxcywh"])
@pytest.mark.parametrize(("boxes_name", "scores_name"), [("pred_bboxes", "pred_scores"), ("913", "904")])
def test_boxes_and_scores_apart_are_read_whatever_they_are_called(
    classes: int, box_format: str, boxes_name: str, scores_name: str, tmp_path: Path
) -> None:
    rule = Rule(classes).scaled()
    rule.add("Identity", [rule.constant("boxes", rule.boxes(box_format)[None])], boxes_name)
    rule.turned("sigmoids", scores_name)
    outputs = {boxes_name: (FLOAT, [1, rule.cells, 4]), scores_name: (FLOAT, [1, rule.cells, classes])}
    model = rule.save(tmp_path / "model.onnx", outputs)
    assert new(model, tmp_path, *labels(tmp_path, classes)) == 0
    reads_right(tmp_path, classes)


def detr(path: Path, classes: int, first: int = 0, empty: int = 0, softmax: bool = False) -> Path:
    """cx cy w h of 0 to 1 and logits; `first` and `empty` columns of no class before and behind them."""
    rule = Rule(classes).scaled()
    rule.add("Identity", [rule.constant("boxes", rule.boxes("cxcywh", unit=True)[None])], "dets")
    parts = ["logits"]
    if first:
        parts.insert(0, rule.constant("no_first", np.full((1, first, rule.cells), -12.0, np.float32)))
    if empty:
        parts.append(rule.constant("no_last", np.full((1, empty, rule.cells), 0.0 if softmax else -12.0, np.float32)))
    rule.turned(rule.add("Concat", parts, "all", axis=1) if len(parts) > 1 else "logits", "labels")
    columns = first + classes + empty
    return rule.save(path, {"dets": (FLOAT, [1, rule.cells, 4]), "labels": (FLOAT, [1, rule.cells, columns])})


@pytest.mark.parametrize(
    ("classes", "first", "empty", "softmax", "options"),
    [
        (3, 0, 0, False, ()),
        (2, 1, 0, False, ("--first-class", "1")),
        (2, 0, 1, False, ("--first-class", "0")),
        (2, 0, 1, True, ("--scores", "softmax")),
    ],
)
def test_logits_and_centres_of_0_to_1_are_read_as_detr_and_its_kin_give_them(
    classes: int, first: int, empty: int, softmax: bool, options: Options, tmp_path: Path
) -> None:
    model = detr(tmp_path / "model.onnx", classes, first, empty, softmax)
    assert new(model, tmp_path, *labels(tmp_path, classes), *options) == 0
    assert open_bundle(tmp_path / "made").decode == "detr"
    reads_right(tmp_path, classes)


def test_a_column_more_than_labels_is_refused_until_the_user_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(detr(tmp_path / "model.onnx", 2, 1), tmp_path, *labels(tmp_path)) == 78
    assert "--first-class 1 if it is the first, --first-class 0 if it is the last" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(320, 320), (384, 320)])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_second_input_that_takes_the_pictures_size_gets_it(
    size: tuple[int, int], backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    width, height = size
    rule = Rule(2, width, height).scaled()
    rule.best()
    rule.add("Cast", ["orig_target_sizes"], "sizes", to=FLOAT)
    rule.add("Concat", ["sizes", "sizes"], "whwh", axis=1)
    unit = rule.constant("unit", rule.boxes("xyxy", unit=True)[None])
    rule.add("Mul", [unit, "whwh"], "boxes")
    rule.add("Squeeze", ["best", rule.constant("axis", np.int64([1]))], "scores")
    rule.add("Squeeze", ["number_i", "axis"], "labels")
    more = [helper.make_tensor_value_info("orig_target_sizes", INT64, [1, 2])]
    outputs = {
        "labels": (INT64, [1, rule.cells]),
        "boxes": (FLOAT, [1, rule.cells, 4]),
        "scores": (FLOAT, [1, rule.cells]),
    }
    model = rule.save(tmp_path / "model.onnx", outputs, more_inputs=more)
    assert new(model, tmp_path, *labels(tmp_path)) == 0
    assert f"orig_target_sizes = {width},{height}" in capsys.readouterr().out
    assert open_bundle(tmp_path / "made").decode == "labelled_boxes"
    reads_right(tmp_path, 2, backend, width, height)


def test_a_second_input_that_nobody_knows_is_refused_until_its_value_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule().scaled()
    rule.add("Mul", [rule.joined("cxcywh"), "strength"], "output0")
    more = [helper.make_tensor_value_info("strength", FLOAT, [1])]
    model = rule.save(tmp_path / "model.onnx", {"output0": (FLOAT, [1, 6, rule.cells])}, more_inputs=more)
    assert new(model, tmp_path, *labels(tmp_path)) == 78
    assert "nothing tells that of 'strength' float32 [1]: --constant strength=VALUE" in capsys.readouterr().err
    assert new(model, tmp_path, *labels(tmp_path), "--constant", "strength=1") == 0
    reads_right(tmp_path)


# --- lists of findings


def kept(rule: Rule, first_class: int, dtype: int = INT64) -> None:
    """`k_boxes` [N, 4], `k_labels` [N], `k_scores` [N] of the cells above 0.25: as many rows as there are."""
    rule.best()
    one = rule.constant("one", np.int64([-1]))
    rule.add("Reshape", ["best", one], "flat_best")
    rule.add("Reshape", ["number_i", one], "flat_number")
    rule.add("Add", ["flat_number", rule.constant("offset", np.int64(first_class))], "shifted")
    rule.add("Cast", ["shifted"], "typed", to=dtype)
    rule.add("Greater", ["flat_best", rule.constant("least", np.float32(0.25))], "above")
    rule.add("NonZero", ["above"], "where_2d")
    rule.add("Reshape", ["where_2d", one], "where")
    boxes = rule.constant("cells", rule.boxes("xyxy"))
    for source, output in ((boxes, "k_boxes"), ("typed", "k_labels"), ("flat_best", "k_scores")):
        rule.add("Gather", [source, "where"], output, axis=0)


@pytest.mark.parametrize("names", [("boxes", "labels", "scores"), ("2953", "2954", "2955")])
@pytest.mark.parametrize("first_class", [0, 1])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_as_many_boxes_as_were_found_are_read_as_torchvision_gives_them(
    names: tuple[str, str, str], first_class: int, backend: str, tmp_path: Path
) -> None:
    rule = Rule().scaled()
    kept(rule, first_class)
    for source, name in zip(("k_boxes", "k_labels", "k_scores"), names, strict=True):
        rule.add("Identity", [source], name)
    boxes, numbers, scores = names
    outputs = {boxes: (FLOAT, ["n", 4]), numbers: (INT64, ["n"]), scores: (FLOAT, ["n"])}
    assert new(rule.save(tmp_path / "model.onnx", outputs), tmp_path, *labels(tmp_path)) == 0
    made = open_bundle(tmp_path / "made")
    assert (made.decode, made.settings.first_class or 0) == ("labelled_boxes", first_class)
    reads_right(tmp_path, 2, backend)


def test_a_label_list_that_begins_with_the_background_needs_no_shift(tmp_path: Path) -> None:
    rule = Rule().scaled()
    kept(rule, 1)
    for name in ("boxes", "labels", "scores"):
        rule.add("Identity", [f"k_{name}"], name)
    outputs = {"boxes": (FLOAT, ["n", 4]), "labels": (INT64, ["n"]), "scores": (FLOAT, ["n"])}
    model = rule.save(tmp_path / "model.onnx", outputs)
    assert new(model, tmp_path, *labels(tmp_path, 2, "__background__")) == 0
    reads_right(tmp_path)


@pytest.mark.parametrize("shape", [[1, 1, 100, 7], [1, 100, 7], [100, 7]])
@pytest.mark.parametrize("first_class", [0, 1])
def test_a_detection_output_of_openvino_and_caffe_is_read(shape: list[int], first_class: int, tmp_path: Path) -> None:
    rule = Rule().scaled()
    rule.best()
    rule.add("Add", ["number", rule.constant("offset", np.float32(first_class))], "shifted")
    image = rule.constant("image", np.zeros((1, 1, rule.cells), np.float32))
    boxes = rule.constant("boxes", rule.boxes("xyxy", unit=True).T[None])
    rule.turned(rule.add("Concat", [image, "shifted", "best", boxes], "rows", axis=1), "turned")
    rule.add("Reshape", ["turned", rule.constant("shape", np.int64(shape))], "detection_out")
    model = rule.save(tmp_path / "model.onnx", {"detection_out": (FLOAT, shape)})
    assert new(model, tmp_path, *labels(tmp_path)) == 0
    made = open_bundle(tmp_path / "made")
    assert (made.decode, made.settings.first_class or 0) == ("detection_output", first_class)
    reads_right(tmp_path)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(("decode", "score_first"), [("yolov7_e2e", False), ("nas_flat", True)])
def test_rows_without_a_batch_are_read_as_yolov7_and_yolo_nas_write_them(
    free: bool, decode: str, score_first: bool, tmp_path: Path
) -> None:
    rule = Rule().scaled()
    kept(rule, 0, FLOAT)
    if free:
        boxes, number, score = "k_boxes", "k_labels", "k_scores"
        count: int | str = "found"
    else:
        boxes, number, score, count = "cells", "typed", "flat_best", rule.cells
    column = rule.constant("column", np.int64([-1, 1]))
    rule.add("Reshape", [score, column], "score")
    rule.add("Reshape", [number, column], "class")
    rule.add("Mul", ["score", rule.constant("none", np.float32(0))], "image")
    order = ["score", "class"] if score_first else ["class", "score"]
    rule.add("Concat", ["image", boxes, *order], "output", axis=1)
    model = rule.save(tmp_path / "model.onnx", {"output": (FLOAT, [count, 7])})
    assert new(model, tmp_path, *labels(tmp_path)) == 0
    assert open_bundle(tmp_path / "made").decode == decode
    reads_right(tmp_path)


# --- grids and anchors


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_fomo_grid_gives_the_boxes_of_its_cells_and_neighbours_are_one(
    classes: int, channels_last: bool, tmp_path: Path
) -> None:
    rule = Rule(classes).scaled()
    background = rule.constant("background", np.zeros((1, 1, rule.rows, rule.columns), np.float32))
    rule.add("Concat", [background, "map"], "all", axis=1)
    rule.add("Softmax", ["all"], "soft", axis=1)
    shape = [1, 1 + classes, rule.rows, rule.columns]
    if channels_last:
        rule.add("Transpose", ["soft"], "grid", perm=[0, 2, 3, 1])
        shape = [1, rule.rows, rule.columns, 1 + classes]
    else:
        rule.add("Identity", ["soft"], "grid")
    assert new(rule.save(tmp_path / "model.onnx", {"grid": (FLOAT, shape)}), tmp_path, *labels(tmp_path, classes)) == 0
    assert open_bundle(tmp_path / "made").decode == "fomo"
    reads_right(tmp_path, classes)
    picture = np.full((320, 320, 3), 60, np.uint8)
    picture[64:128, 32:128] = 255  # six cells
    picture[128:160, 128:160] = 255  # and one at their corner
    found, _ = found_in(eye(tmp_path).look(picture), open_bundle(tmp_path / "made").labels)
    assert found == {("bright", 32, 64, 160, 160)}


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_raw_heads_of_an_efficientdet_are_read_with_its_anchors(joined: bool, classes: int, tmp_path: Path) -> None:
    """Only the first anchor of level 5, whose cells are the rule's, is ever sure; it is made as large as its cell."""
    rule = Rule(classes).scaled()
    outputs: dict[str, Any] = {}
    parts: tuple[list[str], list[str]] = ([], [])
    for level in range(3, 8):
        side = -(-320 // 2**level)
        if level == 5:
            rest = rule.constant("rest", np.full((1, 8 * classes, side, side), -20.0, np.float32))
            scores = rule.add("Concat", ["map", rest], f"cls_{level}", axis=1)
        else:
            off = rule.constant(f"off_{level}", np.full((1, 9 * classes, side, side), -20.0, np.float32))
            scores = rule.add("Identity", [off], f"cls_{level}")
        sides = np.zeros((1, 9, 4, side, side), np.float32)
        sides[:, :, 2:] = np.log(1 / 4)
        boxes = rule.add("Identity", [rule.constant(f"reg_{level}", sides.reshape(1, 36, side, side))], f"box_{level}")
        outputs |= {scores: (FLOAT, [1, 9 * classes, side, side])}
        for name, channels, joints in ((scores, classes, parts[0]), (boxes, 4, parts[1])):
            rule.add("Transpose", [name], f"{name}_t", perm=[0, 2, 3, 1])
            shape = rule.constant(f"{name}_s", np.int64([1, -1, channels]))
            joints.append(rule.add("Reshape", [f"{name}_t", shape], f"{name}_j"))
    outputs |= {f"box_{level}": (FLOAT, [1, 36, -(-320 // 2**level), -(-320 // 2**level)]) for level in range(3, 8)}
    if joined:
        total = sum(9 * (-(-320 // 2**level)) ** 2 for level in range(3, 8))
        rule.add("Concat", parts[0], "classification", axis=1)
        rule.add("Concat", parts[1], "regression", axis=1)
        outputs = {"regression": (FLOAT, [1, total, 4]), "classification": (FLOAT, [1, total, classes])}
    model = rule.save(tmp_path / "model.onnx", outputs)
    assert new(model, tmp_path, *labels(tmp_path, classes)) == 0
    assert open_bundle(tmp_path / "made").decode == "efficientdet"
    reads_right(tmp_path, classes)


# --- classifiers


def whole(path: Path, classes: int, end: str, name: str = "out", metadata: dict[str, str] | None = None) -> Path:
    """The brightest cell of each class, as logits, sigmoids or a softmax over the classes."""
    rule = Rule(classes, gain=8.0).scaled()
    rule.add("ReduceMax", ["logits"], "most", axes=[2], keepdims=0)
    if end == "Softmax":
        rule.add("Softmax", ["most"], name, axis=1)
    else:
        rule.add(end, ["most"], name)
    return rule.save(path, {name: (FLOAT, [1, classes])}, metadata)


@pytest.mark.parametrize(
    ("end", "options", "sums"),
    [
        ("Identity", (), True),
        ("Softmax", (), True),
        ("Sigmoid", (), False),
        ("Identity", ("--scores", "sigmoid"), False),
    ],
)
def test_logits_softmaxes_and_sigmoids_of_a_classifier_become_scores_of_0_to_1(
    end: str, options: Options, sums: bool, tmp_path: Path
) -> None:
    model = whole(tmp_path / "model.onnx", 3, end)
    assert (
        new(model, tmp_path, *labels(tmp_path, 3), "--mean", "0", "--std", "255", "--resize", "stretch", *options) == 0
    )
    sight = eye(tmp_path)
    for seed in SEEDS:
        picture, there = scene(seed, 3)
        seen = sight.look(picture)
        assert isinstance(seen, Classification)
        assert (abs(float(seen.scores.sum()) - 1) < 1e-3) == sums
        kinds = {each[0] for each in there}
        for label, score in zip(NAMES, seen.scores.tolist(), strict=False):
            if not sums:
                assert (score > 0.5) == (label in kinds)
        assert NAMES[int(seen.scores.argmax())] in kinds


def test_preparation_comes_from_the_files_beside_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "mobilevit"
    folder.mkdir()
    whole(folder / "model.onnx", 2, "Identity", "class_logits")
    told = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True, "do_center_crop": True}
    told |= {"size": {"shortest_edge": 360}, "crop_size": {"height": 320, "width": 320}, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "bright", "1": "red"}}))
    assert new(folder / "model.onnx", tmp_path) == 0
    made = open_bundle(tmp_path / "made")
    assert made.labels == ("bright", "red")
    assert (made.input.color, made.input.resize) == ("bgr", "center_crop")
    assert made.input.std == pytest.approx((255.0,) * 3)
    assert made.input.crop_fraction == pytest.approx(320 / 360)


def test_a_file_beside_the_model_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole(tmp_path / "model.onnx", 2, "Identity")
    (tmp_path / "metadata.yaml").write_text("task: classify\nnames: !!python/object {}\n")
    assert new(tmp_path / "model.onnx", tmp_path) == 78
    assert "metadata.yaml: stands beside the model and cannot be read (line 2" in capsys.readouterr().err


def test_a_classifier_of_ultralytics_takes_0_to_1_and_the_whole_centre(tmp_path: Path) -> None:
    metadata = {**ULTRALYTICS, "task": "classify"}
    assert new(whole(tmp_path / "model.onnx", 2, "Softmax", metadata=metadata), tmp_path) == 0
    made = open_bundle(tmp_path / "made").input
    assert (made.color, made.mean, made.std) == ("rgb", (0.0,) * 3, (255.0,) * 3)
    assert (made.resize, made.crop_fraction) == ("center_crop", 1.0)


# --- what the graph does itself


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("dtype", "first"), [(TensorProto.UINT8, "bytes"), (FLOAT, "normalises pixels")])
def test_pixels_go_in_as_they_are_where_the_graph_normalises(
    swapped: bool, dtype: int, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule()
    rule.add("Cast", ["images"], "float", to=FLOAT)
    rule.add("Transpose", ["float"], "planes", perm=[0, 3, 1, 2])
    source = "planes"
    if swapped:
        source = rule.add("Gather", ["planes", rule.constant("order", np.int64([2, 1, 0]))], "turned", axis=1)
    rule.add("Div", [source, rule.constant("most", np.float32([255]))], "unit")
    rule.rule("unit")
    rule.add("Identity", [rule.joined("cxcywh")], "output0")
    outputs = {"output0": (FLOAT, [1, 6, rule.cells])}
    model = rule.save(tmp_path / "model.onnx", outputs, ULTRALYTICS, layout="nhwc", dtype=dtype)
    assert new(model, tmp_path) == 0
    assert first in capsys.readouterr().out
    made = open_bundle(tmp_path / "made").input
    assert (made.color, made.mean, made.std) == ("bgr" if swapped else "rgb", (0.0,) * 3, (1.0,) * 3)
    reads_right(tmp_path)


def test_a_quantised_input_that_could_hold_two_values_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(FOREIGN / "y8_u8.onnx", tmp_path, "--mean", "0", "--std", "255") == 78
    assert "leave 2 different values of a pixel's 256" in capsys.readouterr().err


# --- signs


def test_a_model_fed_with_another_normalisation_is_refused_by_its_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = yolov8()(tmp_path / "model.onnx")
    assert new(model, tmp_path, *labels(tmp_path), "--mean", "-255", "--std", "1") == 78
    assert "every candidate" in capsys.readouterr().err


def test_a_model_that_sees_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = whole(tmp_path / "model.onnx", 2, "Softmax")
    assert new(model, tmp_path, *labels(tmp_path), "--mean", "0", "--std", "1000000000") == 78
    assert "the same answer to each of 5 pictures" in capsys.readouterr().err


def test_masks_of_a_semantic_segmentation_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = Rule(2)
    rule.add("Identity", ["images"], "masks")
    model = rule.save(tmp_path / "model.onnx", {"masks": (FLOAT, [1, 3, 320, 320])})
    assert new(model, tmp_path, *labels(tmp_path)) == 78
    assert "masks of a segmentation, which lineside does not read" in capsys.readouterr().err


def test_an_output_of_another_size_than_promised_is_a_config_error_when_it_comes(tmp_path: Path) -> None:
    from lineside.errors import ConfigError
    from lineside.records import DecodeSettings, InputSpec, Placement, Tensor, TensorSpec
    from lineside.vision.decode import open_decoder

    promised = (TensorSpec("output0", (1, None, 7), "float32"),)
    decoder = open_decoder("yolov5", promised, NAMES[:2], InputSpec(320, 320, "rgb", "nchw"), DecodeSettings())
    came = (Tensor("output0", np.zeros((100, 7), np.float32)),)
    whole_canvas = Placement(1.0, 1.0, 0.0, 0.0, 320, 320, 320, 320)
    with pytest.raises(ConfigError, match=r"the model gave output0 \[100, 7\], which this decoder cannot read"):
        decoder.decode(came, whole_canvas)


def test_cells_are_as_the_rule_says() -> None:
    picture, there = scene(0)
    assert {tuple(picture[round(top) + 1, round(left) + 1]) for _, left, top, *_ in there} <= {(255,) * 3, (0, 0, 255)}
    assert all(right - left == CELL for _, left, _, right, _ in there)


def test_oriented_boxes_are_not_taken_for_another_family_where_no_metadata_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule().scaled()
    rule.best()
    angle = rule.constant("angle", np.full((1, 1, rule.cells), 0.6, np.float32))
    boxes = rule.constant("boxes", rule.boxes("cxcywh").T[None])
    rule.turned(rule.add("Concat", [boxes, "best", "number", angle], "rows", axis=1), "output0")
    model = rule.save(tmp_path / "model.onnx", {"output0": (FLOAT, [1, rule.cells, 7])})
    assert new(model, tmp_path, *labels(tmp_path)) == 78
    assert "oriented boxes" in capsys.readouterr().err


@pytest.mark.parametrize(("gain", "code"), [(0.01, 0), (1.0, 78)])
def test_the_threshold_of_anomalib_2_is_a_half_only_where_its_scores_are_normalised(
    gain: float, code: int, tmp_path: Path
) -> None:
    rule = Rule(1).scaled()
    rule.add("ReduceMax", ["logits"], "most", axes=[1, 2], keepdims=0)
    rule.add("Abs", ["most"], "size")
    rule.add("Mul", ["size", rule.constant("part", np.float32(gain))], "pred_score")
    rule.add("Identity", ["map"], "anomaly_map")
    outputs = {"pred_score": (FLOAT, [1]), "anomaly_map": (FLOAT, [1, 1, 10, 10])}
    assert new(rule.save(tmp_path / "model.onnx", outputs), tmp_path) == code
    assert code or open_bundle(tmp_path / "made").settings.threshold == 0.5
