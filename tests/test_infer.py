"""`lineside infer` as a user calls it: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lineside.cli import main
from lineside.records import Placement
from lineside.vision.heat import overlay, to_frame


def infer(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[dict[str, object]], str]:
    """Exit status, the JSON lines, and stderr."""
    status = main(["infer", "--jsonl", *map(str, words)])
    told = capsys.readouterr()
    return status, [json.loads(line) for line in told.out.splitlines()], told.err


@pytest.fixture(scope="session")
def detector(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "yolov5n"
    model = data / "models/detect/yolov5n_224_int8.tflite"
    labels = data / "models/labels/coco_labels_80.txt"
    assert main(["bundle", "new", str(model), "--labels", str(labels), "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def spotter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An anomaly bundle in Anomalib's form: the map is the red plane, the score its largest value."""
    folder = tmp_path_factory.mktemp("anomaly")
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["input", "start", "end", "axis"], ["anomaly_map"]),
            helper.make_node("ReduceMax", ["anomaly_map"], ["pred_score"], axes=[1, 2, 3], keepdims=0),
        ],
        "red",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [
            helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, 1, 32, 32]),
        ],
        [
            onnx.numpy_helper.from_array(np.array([value], np.int64), name)
            for name, value in (("start", 0), ("end", 1), ("axis", 1))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "red.onnx"))
    words = ["--task", "anomaly", "--threshold", "0.8", "-o", str(folder / "spotter")]
    assert main(["bundle", "new", str(folder / "red.onnx"), *words]) == 0
    return folder / "spotter"


def spotted(path: Path, red: int) -> Path:
    """A grey picture with one red spot at 200..240, 60..100."""
    image = np.full((120, 320, 3), 40, np.uint8)
    image[60:100, 200:240] = (0, 0, red)
    cv2.imwrite(str(path), image)
    return path


def test_a_detector_prints_boxes_in_pixels_of_the_original(
    detector: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = data / "samples/pets.jpg"
    status, (row,), _ = infer(capsys, "--bundle", detector, photo)
    assert status == 0
    assert (row["file"], row["backend"]) == (str(photo), "litert:cpu")
    findings = row["findings"]
    assert isinstance(findings, list)
    assert [each["label"] for each in findings[:2]] == ["dog", "dog"]
    assert all(each["class_id"] == 16 for each in findings[:2])
    x1, y1, x2, y2 = findings[0]["box"]
    assert 100 < x1 < 125 < 240 < x2 < 265  # the greyhound on the left
    assert 20 < y1 < 60 < 280 < y2 < 300


def test_the_score_from_the_command_line_wins_over_the_bundles(
    detector: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = data / "samples/kite_and_cold.jpg"
    counts = {
        score: len(infer(capsys, "--bundle", detector, "--min-score", score, photo)[1][0]["findings"])  # type: ignore[arg-type]
        for score in ("0.05", "0.25", "0.6", "1")
    }
    assert counts["0.05"] > counts["0.25"] > counts["0.6"] > counts["1"] == 0


def test_a_named_backend_is_the_one_that_runs(detector: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (row,), _ = infer(capsys, "--bundle", detector, "--backend", "openvino:cpu", data / "samples/cat.jpg")
    assert row["backend"] == "openvino:cpu"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backend", "onnxruntime"), "the bundle has no artefact of format onnx"),
        (("--backend", "tensorflow"), "unknown; known are onnxruntime"),
        (("--min-score", "2"), "--min-score 2: must be between 0 and 1"),
        (("--draw", "/dev/null/out"), "--draw /dev/null/out: cannot be made"),
    ],
)
def test_a_wrong_option_ends_in_one_line_and_78(
    detector: Path, words: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, rows, told = infer(capsys, "--bundle", detector, *words, "cat.jpg")
    assert (status, rows) == (78, [])
    assert said in told
    assert len(told.splitlines()) == 1


def test_bad_pictures_are_named_with_a_remedy_and_the_others_are_looked_at(
    detector: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cat = data / "samples/cat.jpg"
    (tmp_path / "cut.jpg").write_bytes(cat.read_bytes()[:-1000])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "film.mp4").write_bytes(b"\0" * 100)
    bad = [tmp_path / "cut.jpg", tmp_path / "absent.jpg", tmp_path / "text.png", tmp_path / "film.mp4"]
    status, rows, told = infer(capsys, "--bundle", detector, cat, *bad, cat)
    assert status == 1
    assert [row["file"] for row in rows] == [str(cat)] * 2
    for path in bad:
        assert sum(str(path) in line for line in told.splitlines()) == 1
    assert "Traceback" not in told


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (20_000, 30)])
def test_a_picture_of_any_shape_is_looked_at(
    detector: Path, shape: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "odd.png"), np.full((*shape, 3), 90, np.uint8))
    status, (row,), _ = infer(capsys, "--bundle", detector, "--min-score", "0.01", tmp_path / "odd.png")
    assert status == 0
    for each in row["findings"]:  # type: ignore[attr-defined]
        x1, y1, x2, y2 = each["box"]
        assert 0 <= x1 <= x2 <= shape[1]
        assert 0 <= y1 <= y2 <= shape[0]


def test_a_video_gives_a_line_a_frame(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for number in range(5):
        writer.write(np.full((120, 160, 3), 50 * number, np.uint8))
    writer.release()
    status, rows, _ = infer(capsys, "--bundle", detector, path)
    assert status == 0
    assert [(row["file"], row["frame"]) for row in rows] == [(str(path), number) for number in range(5)]


def test_a_folder_stands_for_its_pictures(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.png", "a.png", "notes.txt"):
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9, 3), np.uint8)) if name != "notes.txt" else (
            tmp_path / name
        ).touch()
    _, rows, _ = infer(capsys, "--bundle", detector, tmp_path)
    assert [Path(str(row["file"])).name for row in rows] == ["a.png", "b.png"]


def test_without_jsonl_a_person_can_read_it(detector: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--bundle", str(detector), str(data / "samples/cat.jpg")]) == 0
    assert "cat.jpg: cat 0.8" in capsys.readouterr().out


def test_a_classifier_with_few_classes_lists_all_whatever_the_least_score(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("no person\nperson\n")
    model = data / "models/classify/vww_96_int8.tflite"
    main(["bundle", "new", str(model), "--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "vww")])
    capsys.readouterr()
    _, (row,), _ = infer(capsys, "--bundle", tmp_path / "vww", "--min-score", "0.9", data / "samples/face.jpg")
    assert [each["label"] for each in row["top"]] == ["person", "no person"]  # type: ignore[attr-defined]
    assert set(row["top"][0]) == {"label", "class_id", "score"}  # type: ignore[index]


def test_drawings_show_the_boxes_and_do_not_overwrite_each_other(
    detector: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "pets.png"
    cv2.imwrite(str(other), np.zeros((50, 50, 3), np.uint8))
    photo = data / "samples/pets.jpg"
    infer(capsys, "--bundle", detector, "--draw", tmp_path / "out", photo, other)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pets-2.png", "pets.png"]
    drawn, original = cv2.imread(str(tmp_path / "out" / "pets.png")), cv2.imread(str(photo))
    assert drawn.shape == original.shape
    changed = (np.abs(drawn.astype(int) - original) > 40).any(axis=2)
    assert changed.any()
    assert changed.mean() < 0.1


def test_an_anomaly_model_gives_score_and_verdict_and_draws_where_it_is_hot(
    spotter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = spotted(tmp_path / "bad.png", 255), spotted(tmp_path / "good.png", 60)
    status, rows, _ = infer(capsys, "--bundle", spotter, "--draw", tmp_path / "out", bad, good)
    assert status == 0
    assert rows[0]["score"] == pytest.approx(1.0, abs=0.01)
    assert [(row["threshold"], row["anomalous"]) for row in rows] == [(0.8, True), (0.8, False)]
    drawn = cv2.imread(str(tmp_path / "out" / "bad.png")).astype(int)
    calm = cv2.imread(str(tmp_path / "out" / "good.png")).astype(int)
    assert drawn[80, 220, 2] > drawn[80, 220, 0] + 100  # red on the spot
    assert np.abs(drawn[110, 20] - 40).max() < 10  # the rest as it was
    assert calm[80, 220, 2] < 120  # far below the threshold: no red


def test_heat_comes_back_to_the_place_in_the_frame_that_made_it() -> None:
    heat = np.zeros((16, 16), np.float32)
    heat[4, 12] = 1.0  # of a 64 x 64 canvas: x 48..52, y 16..20
    letterboxed = Placement(0.5, 0.5, 0.0, 8.0, 128, 96, 64, 64)
    frame = to_frame(heat, letterboxed)
    assert frame.shape == (96, 128)
    row, column = np.unravel_index(frame.argmax(), frame.shape)
    assert abs(int(column) - 100) <= 4  # (50 - 0) / 0.5
    assert abs(int(row) - 20) <= 4  # (18 - 8) / 0.5


def test_a_picture_without_any_heat_stays_as_it_was() -> None:
    image = np.full((10, 10, 3), 77, np.uint8)
    drawn = overlay(image, np.zeros((4, 4), np.float32), Placement(1, 1, 0, 0, 10, 10, 10, 10), threshold=0.5)
    assert np.abs(drawn.astype(int) - 77).max() <= 1


def test_drawn_faces_are_blurred_unless_told_otherwise(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("face\n")
    model, photo = data / "models/face/yunet_n_dynamic.onnx", data / "samples/face.jpg"
    words = ["--decode", "yunet", "--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "yunet")]
    assert main(["bundle", "new", str(model), *words]) == 0
    capsys.readouterr()
    bundle = ("--bundle", tmp_path / "yunet")
    infer(capsys, *bundle, "--draw", tmp_path / "blurred", photo)
    infer(capsys, *bundle, "--draw", tmp_path / "kept", "--keep-faces", photo)
    inside = np.s_[95:195, 145:210]  # of the best face, clear of its box's edge
    sharp, blurred = (
        cv2.Laplacian(cv2.imread(str(tmp_path / folder / "face.png"))[inside], cv2.CV_64F).std()
        for folder in ("kept", "blurred")
    )
    assert blurred < 0.2 * sharp
