"""tools/train/paired.py: two networks compared on the same pictures, on cases that are known."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
from paired import Run, differences, interval, read_run, summary, within_places

OURS = Run(1, 0, "a", (320, 128), 8, ("p", "p", "q", "q"), (1, 0, 1, 0), (0.9, 0.1, 0.8, 0.2))
THEIRS = replace(OURS, net="b", scores=(0.9, 0.6, 0.2, 0.1))


def test_accuracy_auroc_and_difference_of_a_case_done_by_hand() -> None:
    found = summary([OURS, THEIRS], "a", "b")
    assert found["runs_of_each"] == 1
    assert found["a"] == {
        "size": "320x128",
        "epochs": 8,
        "accuracy": 1.0,
        "auroc": 1.0,
        "auroc_of_each": [1.0],
        "auroc_by_place": {"p": 1.0, "q": 1.0},
    }
    assert found["b"]["accuracy"] == 0.5  # type: ignore[index]
    assert found["b"]["auroc"] == 0.75  # type: ignore[index]  # of four pairs, 0.2 and 0.6 are the wrong way
    assert found["accuracy_difference"] == 0.5
    assert differences([OURS, THEIRS], "a", "b") == {"p": [(0.5, 2)], "q": [(0.5, 2)]}


def test_auroc_by_place_is_the_mean_over_seeds_of_places_with_both_kinds() -> None:
    good_only = replace(OURS, truth=(1, 0, 0, 0))
    assert within_places([good_only]) == {"p": 1.0}
    assert within_places([OURS, replace(OURS, seed=2, scores=(0.1, 0.9, 0.8, 0.2))]) == {"p": 0.5, "q": 1.0}


def test_only_what_both_have_run_counts() -> None:
    alone = replace(OURS, seed=2, scores=(0.1, 0.9, 0.1, 0.9))
    assert summary([OURS, THEIRS, alone], "a", "b") == summary([OURS, THEIRS], "a", "b")
    with pytest.raises(ValueError, match="both a and b"):
        summary([OURS, replace(THEIRS, fold=1)], "a", "b")


def test_the_interval_is_as_wide_as_places_differ_and_no_narrower_for_more_pictures_of_them() -> None:
    few = interval({"p": [(0.5, 2)], "q": [(-0.1, 2)], "r": [(0.2, 2)]})
    many = interval({"p": [(0.5, 200)], "q": [(-0.1, 200)], "r": [(0.2, 200)]})
    assert few == pytest.approx(many)
    assert few == pytest.approx((-0.1, 0.5))
    assert interval({"p": [(0.25, 3)], "q": [(0.25, 9)]}) == pytest.approx((0.25, 0.25))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(40):
        places = {str(n): [(float(rng.normal(0.1, 0.05)), 30)] for n in range(9)}
        low, high = interval(places)
        held += low <= 0.1 <= high
    assert held >= 32  # a bootstrap of nine places is somewhat too narrow


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(asdict(OURS)))
    assert read_run(tmp_path / "run.json") == OURS
