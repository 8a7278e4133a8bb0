"""tools/score_models.py and what it computes with: known cases, other ways to the same number, and real bundles."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
import lists
import score

import score_models
import score_plot
from lineside.cli import main as lineside

BOX = (10.0, 10.0, 30.0, 30.0)
RIGHT_BY_10 = (20.0, 10.0, 40.0, 30.0)  # IoU 1/3 with BOX
ELSEWHERE = (100.0, 100.0, 130.0, 130.0)
SMALL = (60.0, 60.0, 70.0, 70.0)


def found(*rows: tuple[float, tuple[float, ...]]) -> NDArray[np.float32]:
    return np.array([(value, *box) for value, box in rows], np.float32).reshape(-1, 5)


def boxes(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_a_finding_is_right_once_and_by_its_best_overlap() -> None:
    rows = score.match(found((0.6, BOX), (0.9, BOX), (0.8, ELSEWHERE)), boxes(BOX), 0.5)
    assert rows == [(pytest.approx(0.9), True), (pytest.approx(0.8), False), (pytest.approx(0.6), False)]


def test_the_overlap_that_is_asked_for_decides() -> None:
    shifted = found((0.9, RIGHT_BY_10))
    assert score.match(shifted, boxes(BOX), 0.33) == [(pytest.approx(0.9), True)]
    assert score.match(shifted, boxes(BOX), 0.34) == [(pytest.approx(0.9), False)]


def test_what_is_skipped_is_neither_right_nor_wrong() -> None:
    truth, skipped = boxes(BOX, ELSEWHERE), np.array([True, False])
    rows = score.match(found((0.9, BOX), (0.8, ELSEWHERE), (0.7, SMALL)), truth, 0.5, skipped, least_side_px=20)
    assert rows == [(pytest.approx(0.8), True)]
    assert len(score.match(found((0.7, SMALL)), truth, 0.5, skipped)) == 1  # without a least size it is wrong


def test_average_precision_of_a_case_done_by_hand() -> None:
    # of three objects two are found: right at 0.9 (precision 1), wrong at 0.8, right at 0.7 (2/3), so (1 + 2/3) / 3
    truths = [np.array([(0, *BOX)], np.float32), np.array([(0, *BOX), (0, *ELSEWHERE)], np.float32)]
    seen = [
        np.array([(0, 0.9, *BOX), (0, 0.8, *SMALL)], np.float32),
        np.array([(0, 0.7, *ELSEWHERE)], np.float32),
    ]
    first, absent = score.average_precision(seen, truths, 2)
    assert first == pytest.approx((1 + 2 / 3) / 3)
    assert np.isnan(absent)


def test_a_picture_drawn_twice_counts_as_two_pictures() -> None:
    random = np.random.default_rng(3)
    matched = [[(float(random.random()), bool(random.random() < 0.6)) for _ in range(4)] for _ in range(6)]
    totals = [5] * 6
    times = np.array([2, 0, 1, 3, 0, 1])
    repeated = [each for number, each in enumerate(matched) for _ in range(times[number])]
    drawn = score.gather(matched, totals).precision(times)
    assert drawn == pytest.approx(score.gather(repeated, [5] * len(repeated)).precision())


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    random = np.random.default_rng(5)
    scores = random.integers(0, 6, 40).astype(float)  # many are equal
    positive = random.random(40) < 0.4
    pairs = list(product(scores[positive], scores[~positive]))
    by_hand = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert score.auroc(scores, positive) == pytest.approx(by_hand)
    assert score.auroc(-scores, positive) == pytest.approx(1 - by_hand)


def test_auroc_is_the_area_under_the_curve_of_all_thresholds() -> None:
    random = np.random.default_rng(6)
    scores, positive = random.normal(size=60).round(1), random.random(60) < 0.5
    levels = [np.inf, *sorted(set(scores), reverse=True)]
    hits = [float((scores[positive] >= level).mean()) for level in levels]
    alarms = [float((scores[~positive] >= level).mean()) for level in levels]
    assert score.auroc(scores, positive) == pytest.approx(np.trapezoid(hits, alarms))


def test_the_interval_of_auroc_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    true = 0.921  # of two normal distributions two standard deviations apart: Phi(2 / sqrt 2)
    positive = np.arange(70) < 40
    held = 0
    for _ in range(300):
        estimate = score.auroc_estimate(random.normal(size=70) + 2.0 * positive, positive)
        held += (estimate.low or 0) <= true <= (estimate.high or 1)
    assert 0.92 <= held / 300 <= 0.99


def test_the_interval_of_a_perfect_auroc_has_a_width() -> None:
    positive = np.arange(70) < 40
    perfect = score.auroc_estimate(positive.astype(float), positive)
    assert perfect.value == 1
    assert perfect.high == pytest.approx(1)
    assert 0.9 < (perfect.low or 0) < 0.99
    with pytest.raises(ValueError, match="must be both"):
        score.auroc_estimate(np.ones(3), np.ones(3, bool))


def test_an_interval_over_groups_is_wider_where_groups_differ() -> None:
    random = np.random.default_rng(8)
    group = np.repeat(np.arange(12), 10)
    positive = group % 2 == 0
    scores = positive + random.normal(size=12)[group] + 0.2 * random.normal(size=120)
    apart = score.auroc_by_group(scores, positive, list(range(120)))
    together = score.auroc_by_group(scores, positive, group.tolist())
    assert together.value == apart.value
    assert (together.high or 0) - (together.low or 0) > 2 * ((apart.high or 0) - (apart.low or 0))


def test_photos_of_one_tile_are_one_group() -> None:
    files = ["exp1_num_900.jpg", "exp2_num_100.jpg", "exp3_num_1040.jpg", "exp4_num_240.jpg", "exp1_num_391.jpg"]
    assert lists.tile_groups(files) == [2, 0, 2, 0, 1]


@pytest.mark.parametrize(
    ("name", "pictures", "counts"),
    [
        ("deeppcb", 375, {"boxes": 2341}),
        ("faces_mask", 150, {"boxes": 793}),
        ("bsdata", 70, {"ok": 30, "pitting": 40, "groups": 4}),
        ("magnetic_tile", 136, {"ok": 40, "blowhole": 29, "break": 21, "crack": 14, "fray": 8, "uneven": 24}),
    ],
)
def test_a_list_is_what_its_data_folder_says(data: Path, name: str, pictures: int, counts: dict[str, int]) -> None:
    shown = list(lists.LISTS[name].read(data))
    assert len(shown) == pictures
    labels = [each.label for each in shown]
    there = {label: labels.count(label) for label in counts}
    there |= {"boxes": sum(len(each.boxes) for each in shown), "groups": len({each.group for each in shown})}
    assert {key: there[key] for key in counts} == counts
    assert all(len(each.names) == len(each.boxes) == len(each.skipped) for each in shown)


def make_bundle(data: Path, folder: Path, model: str, labels: str) -> Path:
    (folder / "labels.txt").write_text(labels)
    words = ["bundle", "new", str(data / "models" / model), "--labels", str(folder / "labels.txt")]
    assert lineside([*words, "-o", str(folder / "made")]) == 0
    return folder / "made"


def test_a_face_detector_scores_as_the_data_says(data: Path, tmp_path: Path) -> None:
    made = make_bundle(data, tmp_path, "face/ultraface_rfb_320.onnx", "face\n")
    out = tmp_path / "scores.json"
    words = [str(made), "--on", "faces_mask", "--backend", "onnxruntime", "--data", str(data), "--json", str(out)]
    assert score_models.main(words) == 0
    (row,) = json.loads(out.read_text())
    assert row["metrics"]["AP50"]["value"] == pytest.approx(0.868, abs=0.01)
    assert row["metrics"]["AP50"]["low"] < 0.86 < 0.87 < row["metrics"]["AP50"]["high"]
    assert row["counts"] == {"pictures": 150, "face": 382}
    assert row["model_ms"] > 0


def test_a_classifier_is_scored_by_whether_the_part_is_good(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for labels in ("ok\npitting\n", "pitting\nOK\n"):  # a model for persons, its two outputs named either way
        made = make_bundle(data, tmp_path, "classify/vww_96_int8.tflite", labels)
        out = tmp_path / "scores.json"
        words = [str(made), "--on", "bsdata", "--backend", "litert", "--data", str(data), "--json", str(out)]
        assert score_models.main(words) == 0
        (row,) = json.loads(out.read_text())
        found.append({name: metric["value"] for name, metric in row["metrics"].items()})
        shutil.rmtree(made)
    assert set(found[0]) == {"AUROC", "AUROC by group", "accuracy", "escapes", "overkill"}
    for metrics in found:
        assert metrics["accuracy"] == pytest.approx(
            1 - (40 * metrics["escapes"] + 30 * metrics["overkill"]) / 70, abs=1e-5
        )
    for metric in ("AUROC", "accuracy", "escapes", "overkill"):
        assert found[0][metric] == pytest.approx(1 - found[1][metric], abs=1e-5), metric
    assert "| made 1 | vww_96_int8.tflite | litert | AUROC 0." in capsys.readouterr().out


def test_the_float_file_is_scored_beside_those_of_the_bundle(data: Path, tmp_path: Path) -> None:
    made = make_bundle(data, tmp_path, "face/yunet_s_320_320.onnx", "face\n")
    other = tmp_path / "other.onnx"
    shutil.copyfile(data / "models" / "face/yunet_n_320_320.onnx", other)
    out = tmp_path / "scores.json"
    words = [str(made), "--on", "faces_mask", "--backend", "onnxruntime", "--artefact", str(other)]
    assert score_models.main([*words, "--data", str(data), "--json", str(out)]) == 0
    mine, beside = (row["metrics"]["AP50"]["value"] for row in json.loads(out.read_text()))
    assert mine == pytest.approx(0.782, abs=0.01)
    assert beside == pytest.approx(0.882, abs=0.01)


def test_the_page_gets_the_table_and_a_plot_with_a_point_for_each_row(data: Path, tmp_path: Path) -> None:
    made = make_bundle(data, tmp_path, "face/yunet_s_320_320.onnx", "face\n")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{score_models.BEGIN}\nold\n{score_models.END}\nafter\n")
    words = [str(made), "--on", "faces_mask", "--backend", "onnxruntime", "--data", str(data), "--write", str(page)]
    assert score_models.main(words) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| made 1 | yunet_s_320_320.onnx | onnxruntime | AP50 0.78" in text
    assert "old" not in text
    plot = cv2.imread(str(tmp_path / "page.png"))
    assert plot is not None
    for backend, colour in score_plot.COLOURS.items():  # beside the one of the legend, at the bottom
        area = (np.abs(plot[: -score_plot.LEGEND_H].astype(int) - colour).max(axis=2) < 30).sum()
        assert (area > 20) == (backend == "onnxruntime"), backend
    page.write_text("no marks\n")
    assert score_models.main(words) == 78


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["conveyor-parts", "--on", "deeppcb"], "labels have no copper, mousebite, open, pinhole, short, spur"),
        (["nobody"], "does not exist"),
        (["conveyor-parts", "--backend", "tensorflow"], "tensorflow"),
        (["conveyor-parts", "--artefact", "absent.onnx"], "absent.onnx: model file does not exist"),
        (["conveyor-parts", "--on", "faces_mask", "--data", "nowhere"], "has no faces_mask"),
    ],
)
def test_what_cannot_be_scored_is_said(
    data: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if "--data" in words else ["--data", str(data)]
    assert score_models.main([*words, *where]) == 78
    assert told in "".join(capsys.readouterr())
