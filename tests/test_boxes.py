"""Overlap and suppression against a plain definition of both."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lineside.records import Placement
from lineside.vision.boxes import MAX_CANDIDATES, iou, nms, settle, to_frame

WHOLE = Placement(1.0, 1.0, 0.0, 0.0, 640, 480, 640, 480)


def plain_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def plain_nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, max_iou: float) -> list[int]:
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        rivals = [other for other in kept if classes[other] == classes[index]]
        if all(plain_iou(boxes[index].tolist(), boxes[other].tolist()) <= max_iou for other in rivals):
            kept.append(index)
    return kept


def some_boxes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 300, (count, 2))
    boxes = np.hstack([corner, corner + random.uniform(1, 150, (count, 2))]).astype(np.float32)
    scores = random.permutation(count).astype(np.float32) / max(count, 1)  # no ties: their order is not promised
    return boxes, scores, random.integers(0, 3, count).astype(np.int32)


@settings(deadline=None)
@given(count=st.integers(0, 60), seed=st.integers(0, 2**31), max_iou=st.sampled_from([0.2, 0.45, 0.7]))
def test_suppression_keeps_the_best_of_each_class_and_place(count: int, seed: int, max_iou: float) -> None:
    boxes, scores, classes = some_boxes(count, seed)
    assert nms(boxes, scores, classes, max_iou, 1000).tolist() == plain_nms(boxes, scores, classes, max_iou)


def test_a_score_of_zero_is_not_dropped_by_suppression() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    assert nms(boxes, np.zeros(2, np.float32), np.zeros(2, np.int32), 0.5, 10).size == 2


def test_only_the_best_findings_are_kept() -> None:
    boxes = np.array([[x, 0, x + 5, 5] for x in range(0, 100, 10)], np.float32)
    scores = np.linspace(0.1, 1.0, 10, dtype=np.float32)
    found = settle(boxes, scores, np.zeros(10, np.int32), WHOLE, 0.5, 3)
    assert np.allclose(found.scores, [1.0, 0.9, 0.8])
    assert found.boxes[0].tolist() == [90, 0, 95, 5]


def test_far_too_many_candidates_leave_the_best() -> None:
    count = MAX_CANDIDATES * 3
    boxes, _, classes = some_boxes(count, 1)
    scores = np.random.default_rng(2).permutation(count).astype(np.float32) / count
    found = settle(boxes, scores, classes, WHOLE, 0.5, 50)
    assert found.scores[0] == scores.max()
    assert (np.diff(found.scores) <= 0).all()


@settings(deadline=None)
@given(
    first=arrays.arrays(np.float32, (4,), elements=st.floats(0, 100, width=32)),
    second=arrays.arrays(np.float32, (4,), elements=st.floats(0, 100, width=32)),
)
def test_overlap_is_the_shared_area_over_the_united_one(first: np.ndarray, second: np.ndarray) -> None:
    boxes = [np.sort(box.reshape(2, 2), axis=0).reshape(1, 4) for box in (first, second)]
    found = float(iou(boxes[0], boxes[1])[0, 0])
    assert abs(found - plain_iou(boxes[0][0].tolist(), boxes[1][0].tolist())) < 1e-3


def test_a_box_is_cut_at_the_frames_edges() -> None:
    boxes = np.array([[-10, -10, 700, 500], [650, 10, 660, 20]], np.float32)
    assert to_frame(boxes, WHOLE).tolist() == [[0, 0, 640, 480], [640, 10, 640, 20]]
