"""Signs by which a misread model is known."""

from __future__ import annotations

import numpy as np
import pytest

from lineside.commands.signs import Look, signs
from lineside.records import AnomalyMap, Classification, Detections


def boxes(*rows: tuple[float, float, float, float], score: float = 0.9, class_id: int = 0) -> Detections:
    return Detections(
        np.array(rows, np.float32).reshape(-1, 4),
        np.full(len(rows), score, np.float32),
        np.full(len(rows), class_id, np.int32),
    )


GOOD = (boxes((10, 10, 50, 60)), boxes((12, 80, 90, 99), (3, 4, 50, 60), score=0.5))


def said(*seen: Detections | Classification | AnomalyMap, labels: int = 2) -> str:
    return " | ".join(map(str, signs([Look(f"{at}.png", each) for at, each in enumerate(seen)], labels)))


def test_a_sound_model_gives_no_sign() -> None:
    assert said(*GOOD) == ""
    assert said(Classification(np.float32([0.9, 0.1])), Classification(np.float32([0.2, 0.8]))) == ""
    assert said(AnomalyMap(31.5), AnomalyMap(62.25)) == ""
    assert said(boxes((0, 0, 0, 5)), *GOOD, boxes((5, 5, 60, 70))) == ""  # one box was cut away by the picture's edge


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (boxes((10, 10, 50, 60), score=8.5), "between 0.5 and 8.5, not 0 and 1"),
        (boxes((10, 10, 50, 60), score=-3.0), "between -3 and 0.5, not 0 and 1"),
        (boxes((10, 10, 50, 60), score=float("nan")), "scores are not numbers"),
        (boxes((50, 10, 20, 60)), "1 of 3 boxes end before they begin"),
        (boxes(*[(7.0, 7.0, 7.0, 9.0)] * 5), "5 of 7 boxes have no area"),
        (boxes(*[(0.3, 0.3, 0.9, 0.8)] * 5), "5 of 7 boxes are smaller than 2 x 2 pixels"),
        (boxes((10, 10, 50, 60), class_id=7), "class 7 was found, but there are 2 labels"),
    ],
)
def test_boxes_and_scores_that_cannot_be_refute_the_reading(wrong: Detections, words: str) -> None:
    found = signs([Look("a", wrong), Look("b", GOOD[1])], 2)
    assert words in " | ".join(map(str, found))
    assert found[0].refutes


def test_one_answer_for_all_pictures_refutes_and_one_picture_alone_tells_nothing() -> None:
    for answer in (GOOD[0], Classification(np.float32([0.9, 0.1])), AnomalyMap(0.5)):
        assert "is the same, to the last digit, for each of 3 pictures" in said(answer, answer, answer)
        assert said(answer) == ""


def test_every_candidate_above_the_score_refutes_and_the_few_of_a_small_model_do_not() -> None:
    def with_counts(above: int, candidates: int) -> list[Look]:
        return [Look(str(at), seen, above, candidates) for at, seen in enumerate(GOOD)]

    assert "every candidate (8400 on 0) is above" in str(signs(with_counts(8400, 8400), 2)[0])
    assert signs(with_counts(8399, 8400), 2) == []
    assert signs(with_counts(2, 2), 2) == []


def test_nothing_at_all_is_told_and_not_refused() -> None:
    empty = boxes()
    (sign,) = signs([Look("a", empty), Look("b", empty)], 2)
    assert "nothing was found on any of 2 pictures" in str(sign)
    assert not sign.refutes


def test_a_classifier_that_says_little_is_told() -> None:
    twice = np.exp(np.float32([1, 0, 0, 0]))
    rows = [Classification(np.roll(twice / twice.sum(), at)) for at in range(3)]  # softmax of a softmax
    (sign,) = signs([Look(str(at), row) for at, row in enumerate(rows)], 4)
    assert "--scores probability" in str(sign)
    assert not sign.refutes
    same = [Classification(np.float32([0.9 - at / 100, 0.05, 0.05 + at / 100])) for at in range(8)]
    assert "number 0, is first on each of 8 pictures" in said(*same)
