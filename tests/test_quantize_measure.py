"""Flips, loss, average precision and ranges: the arithmetic behind `lineside quantize`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.quantize.graph import Block, Network
from lineside.quantize.measure import Judge, Reading, Score, average_precision
from lineside.quantize.pictures import find_pictures, load
from lineside.quantize.ranges import Method, Ranges, entropy_limits
from lineside.quantize.search import Bounds, Candidate, Found, search
from lineside.records import AnomalyMap, Classification, DecodeSettings, Detections, InputSpec
from quantizing import colour_pictures

SPEC = InputSpec(8, 8, "bgr", "nchw", resize="stretch")
BOX, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def reading(decode: str) -> Reading:
    return Reading(SPEC, decode, DecodeSettings(min_score=0.3, threshold=0.5), ("a", "b", "c"))


def classes(*scores: float) -> Classification:
    return Classification(np.array(scores, np.float32))


def boxes(*found: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([class_id for _, _, class_id in found], np.int32),
    )


def test_a_classifier_flips_where_its_first_class_changes_and_loses_only_where_it_was_sure() -> None:
    sure, torn = classes(0.9, 0.05, 0.05), classes(0.46, 0.44, 0.1)
    judge = Judge(reading("classify"), [sure, torn, sure, torn], None)
    score = judge.score([classes(0.1, 0.8, 0.1), classes(0.44, 0.46, 0.1), sure, torn])
    assert (score.flips, score.unsure, score.loss) == (2, 1, 0.25)
    assert judge.score([sure, torn, sure, torn]) == Score(4, 0, 0.0, None, 0.0, 0)


def test_with_labels_loss_is_accuracy_and_a_flip_to_the_truth_is_none() -> None:
    one, other = classes(0.9, 0.1, 0.0), classes(0.1, 0.9, 0.0)
    judge = Judge(reading("classify"), [one, one], [0, 1])
    assert judge.accuracy == 0.5
    assert judge.score([one, other]).loss == 0.0
    assert judge.score([one, other]).accuracy == 1.0
    assert judge.score([other, one]).loss == 0.5


def test_a_detector_flips_where_anything_becomes_nothing_and_loses_sure_findings() -> None:
    reference = [boxes((BOX, 0.9, 0)), boxes((BOX, 0.9, 0), (ELSEWHERE, 0.35, 1)), boxes((BOX, 0.1, 0))]
    judge = Judge(reading("yolov8"), reference, None)
    same = judge.score(reference)
    assert (same.flips, same.loss, same.drift) == (0, 0.0, 0.0)
    gone = judge.score([boxes((BOX, 0.2, 0)), boxes((BOX, 0.8, 0)), boxes((BOX, 0.1, 0))])
    assert gone.flips == 1
    assert gone.loss == pytest.approx(1 / 3), "three sure findings in the two, one of them alone; weak ones don't count"
    moved = judge.score([boxes((ELSEWHERE, 0.9, 0)), *reference[1:]])
    assert moved.flips == 0
    assert moved.loss == pytest.approx(2 / 4)
    renamed = judge.score([boxes((BOX, 0.9, 2)), *reference[1:]])
    assert renamed.loss == pytest.approx(2 / 4)


def test_an_anomaly_model_flips_at_its_threshold() -> None:
    judge = Judge(reading("anomaly"), [AnomalyMap(0.6), AnomalyMap(0.2)], None)
    score = judge.score([AnomalyMap(0.4), AnomalyMap(0.2)])
    assert (score.flips, score.loss) == (1, pytest.approx(0.25))


def test_scores_that_are_no_number_are_as_far_off_as_can_be() -> None:
    judge = Judge(reading("classify"), [classes(0.9, 0.1, 0.0)], None)
    assert judge.score([classes(float("nan"), 0.1, 0.0)]).drift == 1.0


def test_average_precision_of_a_known_case() -> None:
    """Two objects, three findings: hit, miss, hit: 1/2 x 1 + 1/2 x 2/3."""
    truth = np.array([[0, *BOX], [0, *ELSEWHERE]], np.float32)
    found = boxes((BOX, 0.9, 0), ((100.0, 100.0, 110.0, 110.0), 0.8, 0), (ELSEWHERE, 0.7, 0))
    assert average_precision([found], [truth]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision([boxes()], [truth]) == 0.0


def test_no_flip_in_few_pictures_shows_little() -> None:
    assert Score(10, 0, 0.0, None, 0.0).interval == (0.0, pytest.approx(0.2775, abs=1e-3))


def test_no_picture_is_both_for_calibration_and_for_validation(tmp_path: Path) -> None:
    found = find_pictures(colour_pictures(tmp_path, 21))
    split = load(found, SPEC, 100, 300)
    ours, theirs = ({shot.path for shot in shots} for shots in (split.calibration, split.validation))
    assert (len(ours), len(theirs)) == (10, 11)
    assert not ours & theirs
    again = load(found, SPEC, 100, 300)
    assert [shot.path for shot in again.validation] == [shot.path for shot in split.validation]


@given(st.floats(1, 1000), st.booleans())
def test_entropy_cuts_a_lonely_outlier_and_keeps_what_is_common(reach: float, both_signs: bool) -> None:
    edges = np.linspace(-reach if both_signs else 0.0, reach, 2049)
    centres = (edges[1:] + edges[:-1]) / 2
    counts = (1e6 * np.exp(-((centres / (0.2 * reach)) ** 2))).astype(np.int64)
    counts[-1] = 3
    low, high = entropy_limits(counts, edges)
    assert 0.3 * reach < high < 0.95 * reach
    assert (low < -0.3 * reach) if both_signs else low == 0.0


def test_percentile_cuts_both_ends_and_the_picture_is_never_cut() -> None:
    counts = np.full(2048, 10_000)
    counts[0] = counts[-1] = 1
    counts[1:200] = counts[-200:-1] = 0
    ranges = Ranges("image", {"image": -1.0, "x": -1.0}, {"image": 1.0, "x": 1.0}, {"image": counts, "x": counts})
    limits = ranges.limits("percentile")
    assert limits["image"] == (-1.0, 1.0)
    assert limits["x"] == (pytest.approx(-0.805, abs=0.01), pytest.approx(0.805, abs=0.01))
    assert ranges.limits("min-max")["x"] == (-1.0, 1.0)


# --- the search, on a model that is a table of what each layer breaks


class Table:
    """Blocks "0", "1", ... of which some flip decisions while they are INT8."""

    def __init__(self, harm: Sequence[int], tail_harm: int = 0, scale: dict[Method, float] | None = None) -> None:
        self.harm, self.tail_harm, self.scale = harm, tail_harm, scale or {}
        blocks = tuple(Block(str(number), "Conv", (str(number), f"{number}act")) for number in range(len(harm)))
        self.network = Network(Path("none"), "image", blocks, ("tail",), attention=False)
        self.made: list[str] = []
        self.alone = 0
        self.now_s, self.make_s, self.drift_s = 0.0, 3.0, 1.0

    def _flips(self, method: Method, in_float: frozenset[str]) -> int:
        layers = sum(harm for number, harm in enumerate(self.harm) if str(number) not in in_float)
        return int((layers + self.tail_harm * ("tail" not in in_float)) * self.scale.get(method, 1.0))

    def make(self, what: str, method: Method, in_float: frozenset[str]) -> Candidate:
        self.made.append(what)
        self.now_s += self.make_s
        flips = min(100, self._flips(method, in_float))
        return Candidate(what, method, in_float, Score(100, flips, 0.0, None, flips / 100))

    def drift(self, method: Method, in_float: frozenset[str]) -> float:
        self.alone += 1
        self.now_s += self.drift_s
        return self._flips(method, in_float | {"tail"}) / 100


BOUNDS = Bounds(0.02, 0.02)


def found(table: Table, budget_s: float = 1000.0) -> Found:
    return search(table.network, table, BOUNDS, lambda words: None, budget_s=budget_s, clock=lambda: table.now_s)


def test_a_model_that_holds_needs_no_search_and_the_best_calibration_is_taken() -> None:
    table = Table([0] * 8, tail_harm=50)
    table.scale = {"entropy": 0.0}
    result = found(table)
    assert result.tried[0].score.flips == 50
    assert (result.best.score.flips, result.floats, table.alone) == (0, (), 0)


def test_as_few_layers_as_will_do_stay_in_float_worst_first() -> None:
    result = found(Table([0, 9, 0, 30, 1, 0, 20, 0, 0, 0]))
    assert [block.name for block in result.floats] == ["1", "3", "6"]
    assert [each.block.name for each in result.blamed[:3]] == ["3", "6", "1"]
    assert result.best.score.flips == 1
    assert result.best.in_float >= {"3", "3act", "tail"}


def test_the_calibration_that_is_best_with_all_layers_need_not_be_best_with_some_in_float() -> None:
    class Fickle(Table):
        def _flips(self, method: Method, in_float: frozenset[str]) -> int:
            flips = super()._flips(method, in_float)
            return flips - 5 if method == "entropy" and flips > 20 else flips + 5 * (method == "entropy")

    result = found(Fickle([40, 1, 0, 0]))
    assert result.best.method != "entropy"
    assert [block.name for block in result.floats] == ["0"]


def test_where_nothing_holds_the_nearest_is_given() -> None:
    result = found(Table([50, 50, 50, 50]))
    assert not BOUNDS.hold(result.best.score)
    assert result.best.score.flips == min(one.score.flips for one in result.tried)


def test_a_short_budget_judges_neighbours_together() -> None:
    table = Table([0] * 60 + [40] + [0] * 59)
    result = found(table, budget_s=120.0)
    assert table.alone <= 54, "half of what four calibrations leave"
    assert "60" in {block.name for block in result.floats}
    assert BOUNDS.hold(result.best.score)
    assert table.now_s <= 120.0


@pytest.mark.parametrize("budget_s", [0.0, 5.0, 13.0, 20.0, 30.0, 60.0, 100.0, 200.0, 400.0])
@pytest.mark.parametrize("harmful", [1, 7, 40])
def test_a_search_ends_in_time_and_says_what_it_did_not_try(budget_s: float, harmful: int) -> None:
    table = Table([9] * harmful + [0] * (120 - harmful))
    table.scale = {"entropy": 0.9}
    result = found(table, budget_s=budget_s)
    least_s = 2 * table.make_s
    assert table.now_s <= max(least_s, budget_s) + table.drift_s, "or one look at the layers that are left"
    told = " ".join(result.untried)
    assert ("entropy, tail in float" in result.untried) == (budget_s < 12), told
    assert told or BOUNDS.hold(result.best.score)
    assert budget_s < 400 or not told


def test_little_time_is_enough_to_come_to_many_layers() -> None:
    """One, two, four, ... of 120 would take seven tries of three calibrations each."""
    table = Table([9] * 40 + [0] * 80)
    result = found(table, budget_s=60.0)
    assert BOUNDS.hold(result.best.score)
    assert any(words.startswith("fewer than") for words in result.untried)
    assert table.now_s <= 60.0
