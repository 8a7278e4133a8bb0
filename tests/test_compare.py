"""Flips, drift, overlap and their intervals, against values worked out by hand or by a textbook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.records import AnomalyMap, Classification, Detections
from lineside.tuning.compare import Tally, enough, matched, mean, rate


def detections(*found: tuple[int, float, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([label for label, _, _ in found], np.int32),
    )


def classes(*scores: float) -> Classification:
    return Classification(np.array(scores, np.float32))


BOX, MOVED, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (2.0, 0.0, 12.0, 10.0), (50.0, 50.0, 60.0, 60.0)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1)],
)
def test_wilsons_interval_is_that_of_newcombes_tables(count: int, of: int, low: float, high: float) -> None:
    found = rate(count, of)
    assert (found.value, found.low, found.high) == pytest.approx((count / of, low, high), abs=1e-4)


@given(st.floats(0.001, 0.5))
def test_so_many_pictures_are_enough_and_one_less_is_not(most: float) -> None:
    count = enough(most)
    assert (rate(0, count).high or 0) <= most + 1e-6
    assert (rate(0, count - 1).high or 0) > most - 1e-6 if count > 1 else True


def test_a_bootstrap_draws_pictures_and_is_the_same_each_time() -> None:
    alike = mean([[0.1] * 10 for _ in range(20)])
    assert (alike.value, alike.low, alike.high) == (0.1, 0.1, 0.1)
    apart = mean([[0.0] * 10] * 10 + [[1.0] * 10] * 10)
    assert apart == mean([[0.0] * 10] * 10 + [[1.0] * 10] * 10)
    # 20 pictures, not 200 values: 1.96 * 0.5 / sqrt(20) to each side
    assert (apart.low, apart.high) == pytest.approx((0.28, 0.72), abs=0.04)
    assert mean([[0.3, 0.5]]).low is None, "of one picture nothing is known of how others would differ"


def test_the_first_class_makes_the_decision_of_a_classifier() -> None:
    tally = Tally()
    tally.add(classes(0.8, 0.2), classes(0.6, 0.4))
    tally.add(classes(0.8, 0.2), classes(0.4, 0.6))
    assert tally.flips == [False, True]
    drift = tally.drift()
    assert drift is not None
    assert (drift.mean.value, drift.max) == pytest.approx((0.3, 0.4))


def test_which_labels_were_found_makes_the_decision_of_a_detector() -> None:
    tally = Tally()
    one = detections((0, 0.9, BOX))
    tally.add(one, detections((0, 0.8, MOVED)))
    tally.add(one, detections((1, 0.9, BOX)))
    tally.add(one, detections())
    tally.add(detections(), detections())
    assert tally.flips == [False, True, True, False]
    assert tally.any_flips == [False, False, True, False]
    assert (tally.both, tally.either) == (1, 4)
    assert tally.overlaps[0] == [pytest.approx(80 / 120)]
    drift = tally.drift()
    assert drift is not None
    assert drift.mean.value == pytest.approx(0.1)


def test_each_finding_has_one_partner_of_its_own_class() -> None:
    wanted = detections((0, 0.9, BOX), (0, 0.8, MOVED), (1, 0.7, ELSEWHERE))
    seen = detections((0, 0.9, BOX), (0, 0.5, ELSEWHERE))
    assert matched(wanted, seen) == [(0, 0, 1.0)]
    assert sorted(matched(wanted, wanted)) == [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]


def test_an_anomaly_models_threshold_makes_the_decision() -> None:
    tally = Tally(threshold=3.0)
    tally.add(AnomalyMap(3.5), AnomalyMap(3.1))
    tally.add(AnomalyMap(3.0), AnomalyMap(2.9))
    assert tally.flips == [False, True]
    without = Tally()
    without.add(AnomalyMap(3.5), AnomalyMap(0.0))
    assert without.flip_rate is None


@pytest.mark.parametrize(
    "seen", [classes(float("nan"), 0.5), AnomalyMap(float("inf")), detections((0, float("nan"), BOX)), detections()]
)
def test_an_answer_that_is_no_number_or_of_another_kind_is_none(seen: object) -> None:
    wanted = {Classification: classes(0.5, 0.5), AnomalyMap: AnomalyMap(0.5)}.get(type(seen), detections((0, 0.9, BOX)))
    if isinstance(seen, Detections) and not len(seen.scores):
        wanted = classes(0.5, 0.5)
    with pytest.raises(ValueError, match=r"no number|where the reference gives"):
        Tally(threshold=1.0).add(wanted, seen)  # type: ignore[arg-type]
