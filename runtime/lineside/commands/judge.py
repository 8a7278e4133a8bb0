"""Which reading of a model's outputs its answers to pictures hold up, and what of the rest the values tell. Pure.

A reading is refuted by scores outside 0 to 1, boxes without area or with x2 < x1, class numbers without a label, every
candidate above the score on every picture, or the same answer to every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineside.errors import ConfigError
from lineside.records import (
    AnomalyMap,
    Classification,
    DecodeSettings,
    Detections,
    InputSpec,
    Placement,
    Seen,
    Tensor,
    TensorSpec,
)
from lineside.vision.boxes import iou
from lineside.vision.decode import open_decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_CANDIDATES = 20  # with fewer all of them may well be above the score
MAX_CANDIDATES = 1000  # that a decoder hands on before suppression
DENSE = ("yolov5", "yolov8", "yolox", "efficientdet")  # a candidate for every place
LISTED = ("yolo_e2e", "yolov7_e2e", "nas_flat", "detection_output")  # rows of findings, with a whole class number each
_BEST = 50
_SLACK = 2e-3  # a quantised score of 1 may be 1.001
SURE = 0.5
_SAME = 0.5  # IoU of two boxes of one thing


class Shot(NamedTuple):
    """What the model gave for one picture."""

    outputs: tuple[Tensor, ...]
    placement: Placement


class Verdict(NamedTuple):
    """What the pictures say of a reading: `signs` refute it; `seen` is what it finds, a picture each."""

    signs: tuple[str, ...]
    seen: tuple[Seen, ...]

    @property
    def found(self) -> int:
        """How many boxes it found in all pictures."""
        return sum(len(each.scores) for each in self.seen if isinstance(each, Detections))


def judge(
    decode: str,
    specs: tuple[TensorSpec, ...],
    labels: tuple[str, ...],
    input: InputSpec,
    settings: DecodeSettings,
    shots: Sequence[Shot],
) -> Verdict:
    """Decode every shot as the bundle would, and look for what no right reading gives."""
    wide = replace(settings, min_score=0.0, nms_iou=1.0, max_findings=10 * MAX_CANDIDATES)
    try:
        seen = _decoded(decode, specs, labels, input, settings, shots)
        if not isinstance(seen[0], Detections):
            return Verdict(tuple(_of_whole(seen, settings)), seen)
        every = [each for each in _decoded(decode, specs, labels, input, wide, shots) if isinstance(each, Detections)]
        loud = replace(wide, min_score=settings.min_score)
        above = [each for each in _decoded(decode, specs, labels, input, loud, shots) if isinstance(each, Detections)]
    except ConfigError as error:
        return Verdict((str(error),), ())
    # a dense head's weak candidates may be any box; a list of findings was sorted out by the model itself
    boxes = [_best(each) for each in every] if decode in DENSE else every
    signs = [*_of_scores(every), *_of_boxes(boxes), *_of_classes(above, labels)]
    if decode in DENSE and not signs:
        signs += [*_of_counts(every, above), *_of_dense(every)]
    if not signs and _alike(every, seen):
        signs.append(f"it finds the same in each of {len(shots)} pictures that differ")
    return Verdict(tuple(signs), seen)


def agree(first: Verdict, second: Verdict) -> bool:
    """Whether what one is sure of the other finds, too, in every picture; and there is something."""
    any_sure = False
    for one, other in zip(first.seen, second.seen, strict=True):
        if not isinstance(one, Detections) or not isinstance(other, Detections):
            return False
        if _unmatched(one, other) or _unmatched(other, one):
            return False
        any_sure = any_sure or bool((one.scores >= SURE).any())
    return any_sure


def _unmatched(one: Detections, other: Detections) -> int:
    """How many sure findings the other does not have."""
    sure = one.scores >= SURE
    if not sure.any():
        return 0
    same = iou(one.boxes[sure], other.boxes) >= _SAME
    same &= one.class_ids[sure][:, None] == other.class_ids[None, :]
    return int((~same.any(axis=1)).sum())


def sureness(verdict: Verdict) -> float:
    """The sum of the scores of what it found: of two heads that find the same the greater is the surer one."""
    return float(sum(each.scores.sum() for each in verdict.seen if isinstance(each, Detections)))


def _decoded(
    decode: str,
    specs: tuple[TensorSpec, ...],
    labels: tuple[str, ...],
    input: InputSpec,
    settings: DecodeSettings,
    shots: Sequence[Shot],
) -> tuple[Seen, ...]:
    decoder = open_decoder(decode, specs, labels, input, settings)
    with np.errstate(all="ignore"):  # a wrong reading overflows
        return tuple(decoder.decode(shot.outputs, shot.placement) for shot in shots)


def _of_scores(every: Sequence[Detections]) -> list[str]:
    scores = np.concatenate([each.scores for each in every])
    if scores.size == 0:
        return []
    if not np.isfinite(scores).all():
        return ["scores are not numbers"]
    low, high = float(scores.min()), float(scores.max())
    return (
        [] if low >= -_SLACK and high <= 1 + _SLACK else [f"scores lie between {low:.3g} and {high:.3g}, not 0 and 1"]
    )


def _of_dense(every: Sequence[Detections]) -> list[str]:
    """A head with a candidate for every place has no empty rows, and hardly a score of exactly 0."""
    rows = sum(len(each.scores) for each in every)
    empty = sum(int(((each.boxes == 0).all(axis=1) & (each.scores == 0)).sum()) for each in every)
    if empty * 10 > rows:
        return [f"{empty} of {rows} candidates are empty rows, as in a list of findings"]
    if rows and all((each.scores == 0).all() for each in every):
        return ["every score of every candidate is 0"]
    return []


def _best(seen: Detections) -> Detections:
    """The surest candidates, of which a right reading has sound boxes even where none is a finding."""
    best = np.argsort(-seen.scores, kind="stable")[:_BEST]
    return Detections(seen.boxes[best], seen.scores[best], seen.class_ids[best])


def _of_boxes(every: Sequence[Detections]) -> list[str]:
    """Of all candidates but the empty rows that pad a list."""
    boxes = np.concatenate([each.boxes for each in every])
    boxes = boxes[(boxes != 0).any(axis=1)]
    if not len(boxes):
        return []
    if not np.isfinite(boxes).all():
        return ["boxes are not numbers"]
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    signs = []
    if (inverted := int(((wide < 0) | (high < 0)).sum())) * 50 > len(boxes):
        signs.append(f"{inverted} of {len(boxes)} boxes end before they begin (x2 < x1 or y2 < y1)")
    elif (flat := int(((wide <= 0) | (high <= 0)).sum())) * 2 > len(boxes):
        signs.append(f"{flat} of {len(boxes)} boxes have no area")
    elif (tiny := int((np.maximum(wide, high) < 2).sum())) * 2 > len(boxes):
        signs.append(f"{tiny} of {len(boxes)} boxes are smaller than 2 x 2 pixels")
    return signs


def _of_classes(above: Sequence[Detections], labels: tuple[str, ...]) -> list[str]:
    numbers = np.unique(np.concatenate([each.class_ids for each in above]))
    beyond = numbers[(numbers < 0) | (numbers >= len(labels))]
    if not beyond.size:
        return []
    return [f"class number {int(beyond[0])} was found, where {len(labels)} labels have 0 to {len(labels) - 1}"]


def _of_counts(every: Sequence[Detections], above: Sequence[Detections]) -> list[str]:
    counts = [(len(loud.scores), len(each.scores)) for each, loud in zip(every, above, strict=True)]
    if all(loud >= of >= FEWEST_CANDIDATES for loud, of in counts):
        return [f"every candidate ({counts[0][1]} and more) is above the score in each of {len(counts)} pictures"]
    return []


def _alike(every: Sequence[Detections], seen: Sequence[Seen]) -> bool:
    found = [each for each in seen if isinstance(each, Detections)]
    if len(found) < 2 or not all(len(each.scores) for each in found):
        return False  # a picture in which it finds nothing differs from one in which it does
    answers = {(each.boxes.round(2).tobytes(), each.scores.round(5).tobytes()) for each in found}
    return len(answers) == 1 and len({each.scores.round(5).tobytes() for each in every}) == 1


def _of_whole(seen: Sequence[Seen], settings: DecodeSettings) -> list[str]:
    """Of classifiers and anomaly scores."""
    values = [each.scores if isinstance(each, Classification) else np.array([_score(each)]) for each in seen]
    if not all(np.isfinite(each).all() for each in values):
        return ["scores are not numbers"]
    signs = []
    if isinstance(seen[0], Classification):
        low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
        if low < -_SLACK or high > 1 + _SLACK:
            signs.append(f"scores lie between {low:.3g} and {high:.3g}, not 0 and 1")
    if len(values) > 1 and all(np.allclose(each, values[0], rtol=1e-5, atol=1e-6) for each in values):
        signs.append(f"it gives the same answer to each of {len(values)} pictures that differ")
    return signs


def _score(seen: Seen) -> float:
    return seen.score if isinstance(seen, AnomalyMap) else 0.0


# --- what the values tell


def all_rows(shots: Sequence[Shot], at: int, columns_last: bool, box: slice) -> NDArray[np.float32]:
    """(N, 4) the raw boxes of one output in all shots, without empty rows."""
    rows = []
    for shot in shots:
        values = shot.outputs[at].real()
        values = values.reshape(values.shape[-2:]) if values.ndim > 2 else values
        rows.append(values[:, box] if columns_last else values[box].T)
    boxes = np.concatenate(rows)
    return np.asarray(boxes[(boxes != 0).any(axis=1)], np.float32)


def box_format(boxes: NDArray[np.float32], width: float, height: float) -> str | None:
    """xyxy or cxcywh, by all candidates of a model; None where they leave it open.

    Corners: every box ends behind where it begins, which no list of centres and sizes does. Centres: the boxes lie in
    the picture, give or take a quarter.
    """
    if len(boxes) < FEWEST_CANDIDATES:
        return None
    first, second, third, fourth = boxes.T
    corners = float(((third > first) & (fourth > second)).mean())
    inside = (first - third / 2 > -width / 4) & (first + third / 2 < width * 1.25)
    inside &= (second - fourth / 2 > -height / 4) & (second + fourth / 2 < height * 1.25)
    centres = float(((third > 0) & (fourth > 0) & inside).mean())
    if corners > 0.99 and centres < 0.99:
        return "xyxy"
    return "cxcywh" if corners < 0.9 and centres > 0.8 else None
