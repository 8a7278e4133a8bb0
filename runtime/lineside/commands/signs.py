"""Signs that a model's answers are misread: what no right reading of a model says of real pictures. Pure.

`lineside bundle new` looks at them after its run on pictures (`--try`), or on rendered ones. A sign that refutes the
reading is a reason to refuse it; one that does not is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lineside.records import AnomalyMap, Classification, Detections, Seen

FEWEST_CANDIDATES = 16  # a model that lists fewer may well have all of them above the score
_SLACK = 1e-3  # a quantised score of 1 may be 1.0004
_SHOWN = 3


class Look(NamedTuple):
    """What one picture gave. `above` of `candidates` reach the score before suppression; None: not counted."""

    name: str
    seen: Seen
    above: int | None = None
    candidates: int | None = None


class Sign(NamedTuple):
    """One thing that speaks against the reading; `refutes`: no right reading gives it."""

    what: str
    advice: str
    refutes: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"


def signs(looks: Sequence[Look], labels: int) -> list[Sign]:
    """What speaks against the answers to these pictures, the gravest first; `labels`: how many the bundle has.

    The pictures should differ from each other: the same answer for two or more is a sign.
    """
    detections = [(look, look.seen) for look in looks if isinstance(look.seen, Detections)]
    classes = [(look, look.seen) for look in looks if isinstance(look.seen, Classification)]
    maps = [(look, look.seen) for look in looks if isinstance(look.seen, AnomalyMap)]
    found = [*_of_boxes(detections, labels), *_of_classes(classes), *_of_maps(maps)]
    return sorted(found, key=lambda sign: not sign.refutes)


def _of_boxes(looks: Sequence[tuple[Look, Detections]], labels: int) -> list[Sign]:
    if not looks:
        return []
    found: list[Sign] = []
    scores = np.concatenate([seen.scores for _, seen in looks])
    if scores.size == 0:
        return [_nothing(len(looks))]
    found += _outside(scores, "--decode, or --scores logit where the model gives logits")
    boxes = np.concatenate([seen.boxes for _, seen in looks])
    inverted = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    flat = ((boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])) & ~inverted
    advice = "the box format or its unit is wrong: see --box-format, --boxes pixels or unit, --size, --decode"
    if not np.isfinite(boxes).all():
        found.append(Sign("boxes are not numbers", advice))
    if inverted.any():
        found.append(Sign(f"{_count(inverted)} boxes end before they begin (x2 < x1 or y2 < y1)", advice))
    if 2 * flat.sum() > len(boxes):  # a box beyond the picture's edge is cut to nothing: a few are no sign
        found.append(Sign(f"{_count(flat)} boxes have no area", advice))
    tiny = ((boxes[:, 2:] - boxes[:, :2]).max(axis=1) < 2.0) & ~inverted & ~flat
    if 2 * (tiny.sum() + flat.sum()) > len(boxes) and tiny.any():
        found.append(Sign(f"{_count(tiny)} boxes are smaller than 2 x 2 pixels", advice))
    found += _beyond(np.concatenate([seen.class_ids for _, seen in looks]), labels)
    counted = [(look.above, look.candidates) for look, _ in looks if look.above is not None and look.candidates]
    if len(counted) == len(looks) and all(above == of and of >= FEWEST_CANDIDATES for above, of in counted):
        found.append(
            Sign(
                f"every candidate ({counted[0][1]} on {looks[0][0].name}) is above the score on every picture",
                "the scores are misread: see --decode and --scores, or raise --min-score",
            )
        )
    answers = [(seen.boxes.round(2).tobytes(), seen.scores.round(4).tobytes()) for _, seen in looks]
    return found + _all_alike(answers, [look for look, _ in looks])


def _beyond(class_ids: np.ndarray, labels: int) -> list[Sign]:
    beyond = sorted({int(number) for number in class_ids if not 0 <= number < labels})
    if not beyond:
        return []
    shown = ", ".join(map(str, beyond[:_SHOWN])) + (", ..." if len(beyond) > _SHOWN else "")
    return [
        Sign(
            f"class {shown} was found, but there are {labels} labels (0 to {labels - 1})",
            "give all class names with --labels, in class order",
        )
    ]


def _of_classes(looks: Sequence[tuple[Look, Classification]]) -> list[Sign]:
    if not looks:
        return []
    scores = np.stack([seen.scores for _, seen in looks])
    found = _outside(scores, "--scores logit where the model's output is no probability")
    classes = scores.shape[1]
    flattest = np.e / (np.e + classes - 1)  # a softmax of probabilities gives no class more than this
    if classes > 2 and not found and float(scores.max()) < flattest + _SLACK and len(looks) > 1:
        found.append(
            Sign(
                f"no class has more than {scores.max():.3f} on any picture",
                "if a softmax was done twice, say --scores probability; else look at --mean, --std and --color",
                refutes=False,
            )
        )
    alike = _all_alike([row.round(4).tobytes() for row in scores], [look for look, _ in looks])
    if not alike and len(looks) >= 8 and classes > 1 and len({int(row.argmax()) for row in scores}) == 1:
        alike = [
            Sign(
                f"the same class, number {int(scores[0].argmax())}, is first on each of {len(looks)} pictures",
                "right only if the pictures show the same thing: else look at --mean, --std, --color and --labels",
                refutes=False,
            )
        ]
    return found + alike


def _of_maps(looks: Sequence[tuple[Look, AnomalyMap]]) -> list[Sign]:
    """The scale of an anomaly score is the model's own, so only its sameness tells."""
    if not looks:
        return []
    found = []
    if not all(np.isfinite(seen.score) for _, seen in looks):
        found.append(Sign("scores are not numbers", "look at --mean and --std, or export the model again"))
    return found + _all_alike([f"{seen.score:.5g}".encode() for _, seen in looks], [look for look, _ in looks])


def _outside(scores: np.ndarray, options: str) -> list[Sign]:
    if not np.isfinite(scores).all():
        return [Sign("scores are not numbers", "look at --mean and --std, or export the model again")]
    low, high = float(scores.min()), float(scores.max())
    if low >= -_SLACK and high <= 1 + _SLACK:
        return []
    return [Sign(f"scores lie between {low:.3g} and {high:.3g}, not 0 and 1", f"the output is misread: see {options}")]


def _all_alike(answers: Sequence[object], looks: Sequence[Look]) -> list[Sign]:
    if len(answers) < 2 or len(set(answers)) > 1:
        return []
    return [
        Sign(
            f"the answer is the same, to the last digit, for each of {len(answers)} pictures",
            "the model does not see the pictures: look at --mean and --std, --layout and --decode "
            "(or the pictures are all alike)",
        )
    ]


def _nothing(pictures: int) -> Sign:
    on = "the picture" if pictures == 1 else f"any of {pictures} pictures"
    return Sign(
        f"nothing was found on {on}",
        "right only if nothing is there: else look at --decode, --color, --mean, --std, --boxes, or lower --min-score",
        refutes=False,
    )


def _count(chosen: np.ndarray) -> str:
    return f"{int(chosen.sum())} of {len(chosen)}"
