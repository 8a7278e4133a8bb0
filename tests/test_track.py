"""The tracker keeps one id per object: prediction, overlap, low scores, gaps in time, neighbours that touch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.errors import ConfigError
from lineside.triggers.track import Tracker, assign, overlap

FRAME_NS = 33_333_333


def boxes_at(centers: list[tuple[float, float]], width: float = 60, height: float = 80) -> np.ndarray:
    return np.array([(x - width / 2, y - height / 2, x + width / 2, y + height / 2) for x, y in centers], np.float32)


def full(count: int, score: float = 0.9) -> np.ndarray:
    return np.full(count, score, np.float32)


def test_two_touching_parts_keep_their_ids_although_their_order_in_the_list_changes() -> None:
    tracker, ids = Tracker(), set()
    for frame in range(40):
        x = 20 + 12.0 * frame
        boxes = boxes_at([(x, 100), (x - 60, 100)])
        order = [0, 1] if frame % 3 else [1, 0]
        got = tracker.step(boxes[order], full(2), frame * FRAME_NS)
        ids.add(tuple(got[np.argsort(order)].tolist()))
    assert len(ids) == 1
    assert len(set(ids.pop())) == 2


def test_overlapping_parts_that_are_found_as_one_box_for_some_frames_come_apart_as_before() -> None:
    tracker = Tracker()
    before = after = np.empty(0)
    for frame in range(30):
        x = 50 + 8.0 * frame
        boxes = boxes_at([(x, 100), (x + 45, 100)])
        if 12 <= frame < 16:
            boxes = np.array([[boxes[0, 0], boxes[0, 1], boxes[1, 2], boxes[1, 3]]], np.float32)
        got = tracker.step(boxes, full(len(boxes)), frame * FRAME_NS)
        before, after = (got, after) if frame < 12 else (before, got)
    assert before.tolist() == after.tolist()


def test_objects_that_meet_and_pass_each_other_keep_their_ids() -> None:
    tracker, last = Tracker(), []
    for frame in range(60):
        got = tracker.step(
            boxes_at([(50 + 8.0 * frame, 100), (530 - 8.0 * frame, 125)]), full(2), frame * FRAME_NS
        ).tolist()
        assert not last or got == last
        last = got


def test_a_low_score_continues_a_confirmed_track_but_never_starts_one() -> None:
    tracker = Tracker(high_score=0.5, low_score=0.1, min_hits=3)
    assert tracker.step(boxes_at([(0, 0)]), full(1, 0.3), 0).tolist() == [-1]
    for frame in range(1, 6):
        assert tracker.step(boxes_at([(frame, 0)]), full(1), frame * FRAME_NS).tolist() == [0]
    assert tracker.step(boxes_at([(6, 0)]), full(1, 0.2), 6 * FRAME_NS).tolist() == [0]
    assert tracker.step(boxes_at([(7, 0)]), full(1, 0.05), 7 * FRAME_NS).tolist() == [-1]


def test_a_track_ends_by_time_and_not_by_the_number_of_frames() -> None:
    slow, fast = Tracker(max_age_s=0.5), Tracker(max_age_s=0.5)
    none = np.empty((0, 4), np.float32)
    for tracker in (slow, fast):
        for frame in range(4):
            tracker.step(boxes_at([(100, 100)]), full(1), frame * FRAME_NS)
    last_ns = 3 * FRAME_NS
    for step in range(1, 41):  # 400 ms in 40 empty frames: still there
        fast.step(none, full(0), last_ns + step * 10_000_000)
    assert fast.step(boxes_at([(100, 100)]), full(1), last_ns + 410_000_000).tolist() == [0]
    slow.step(none, full(0), last_ns + 600_000_000)  # one empty frame, but late
    assert slow.step(boxes_at([(100, 100)]), full(1), last_ns + 610_000_000).tolist() == [1]


def test_two_labels_for_one_object_make_one_track() -> None:
    tracker = Tracker()
    for frame in range(5):
        got = tracker.step(boxes_at([(100 + frame, 50), (101 + frame, 51)]), full(2), frame * FRAME_NS).tolist()
        assert sorted(got) == [-1, 0]


def test_neighbours_that_move_more_than_half_their_spacing_a_frame_are_told_apart_once_the_flow_is_known() -> None:
    tracker, owner = Tracker(), {}
    at = 0.0
    for frame in range(60):
        at += min(30.0 + frame, 70.0)  # spacing 100; in the end nearer to the neighbour's old place than to the own
        there = [part for part in range(60) if 0 < at - 100 * part < 700]
        boxes = boxes_at([(at - 100 * part, 100) for part in there])
        for part, track in zip(there, tracker.step(boxes, full(len(boxes)), frame * FRAME_NS).tolist(), strict=True):
            assert owner.setdefault(part, track) == track
    assert len(set(owner.values())) == len(owner) > 30


def test_empty_frames_and_no_tracks_are_no_special_case() -> None:
    tracker = Tracker()
    assert tracker.step(np.empty((0, 4), np.float32), full(0), 0).tolist() == []
    assert tracker.step(boxes_at([(5, 5)]), full(1), 1).tolist() == [0]
    assert tracker.step(np.empty((0, 4), np.float32), full(0), 2).tolist() == []


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="low"):
        Tracker(low_score=0.6, high_score=0.5)
    with pytest.raises(ConfigError, match="min_hits"):
        Tracker(min_hits=0)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda rows: st.integers(1, 5).flatmap(
            lambda columns: st.lists(
                st.lists(st.integers(-20, 100), min_size=columns, max_size=columns), min_size=rows, max_size=rows
            )
        )
    )
)
def test_assignment_has_the_greatest_total_of_all_assignments(table: list[list[int]]) -> None:
    gain = np.array(table, np.float64)
    pairs = assign(gain.copy())
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(gain[pair] > 0 for pair in pairs)
    tall = np.maximum(gain if gain.shape[0] <= gain.shape[1] else gain.T, 0)
    best = max(
        sum(tall[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(tall.shape[1]), tall.shape[0])
    )
    assert sum(gain[pair] for pair in pairs) == pytest.approx(best)


def test_overlap_of_known_boxes() -> None:
    a = np.array([[0.0, 0, 10, 10]])
    iou, diou = overlap(a, np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]]))
    assert iou[0].tolist() == pytest.approx([1, 1 / 3, 0])
    assert diou[0].tolist() == pytest.approx([1, 1 / 3 - 25 / 325, -400 / 1000])


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_the_same_frames_give_the_same_ids(random: object, count: int) -> None:
    rng = np.random.default_rng(random.randint(0, 2**31))  # type: ignore[attr-defined]
    frames = [
        (boxes_at([tuple(rng.uniform(0, 500, 2)) for _ in range(count)]), rng.uniform(0, 1, count).astype(np.float32))
        for _ in range(12)
    ]
    runs = []
    for _ in range(2):
        tracker = Tracker()
        runs.append([tracker.step(b, s, n * FRAME_NS).tolist() for n, (b, s) in enumerate(frames)])
    assert runs[0] == runs[1]
    for ids in runs[0]:
        given = [track for track in ids if track >= 0]
        assert len(set(given)) == len(given)
