"""The exporter's own answers to pictures, as a JSON file has them, and how far a bundle's are from them. Pure but for
reading the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineside.errors import ConfigError
from lineside.records import AnomalyMap, Box, Classification, Detections, Seen

MATCH_IOU = 0.5  # two boxes of one class that overlap so much are of one thing


@dataclass(frozen=True, slots=True)
class Said:
    """One finding of the exporter."""

    class_id: int
    score: float
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the exporter says of one picture; `score` is an anomaly model's, else None."""

    file: Path
    said: tuple[Said, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """How far two answers are apart. `least_iou` is of the boxes that both have."""

    score: float  # the greatest difference of two scores of one thing
    least_iou: float
    missing: int  # the exporter has it, the bundle does not
    extra: int
    distance: float  # of the whole answer, to compare gaps with each other

    def within(self, score: float, iou: float) -> bool:
        return self.score <= score and self.least_iou >= iou and not self.missing and not self.extra

    def __str__(self) -> str:
        boxes = "" if self.least_iou == 1.0 else f", boxes overlap by {self.least_iou:.3f} or more"
        counts = f", {self.missing} missing, {self.extra} extra" if self.missing or self.extra else ""
        return f"scores differ by {self.score:.4f} at most{boxes}{counts}"


def read_answers(path: Path, labels: Sequence[str]) -> list[Answer]:
    """A JSON list, or one object a line as `lineside infer --jsonl` prints them. Each object has "file" and "findings"
    (with "box"), "top", or "score"; each finding "score", and "label" or "class_id".

    A file name is relative to the JSON file's folder where it is there, else to the working folder. Raises ConfigError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--against {path}: cannot be read: {error}") from error
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except ValueError as error:
        raise ConfigError(f"--against {path}: is no JSON ({error}): {_FORM}") from error
    answers = []
    for number, row in enumerate(rows, 1):
        try:
            answers.append(_answer(row, path.parent, labels))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"--against {path}: answer {number}: {_why(error)}: {_FORM}") from error
    if not answers:
        raise ConfigError(f"--against {path}: holds no answers: {_FORM}")
    return answers


_FORM = (
    'give a list of {"file": "a.jpg", "findings": [{"label": "x", "score": 0.9, "box": [x1, y1, x2, y2]}]}, '
    'for a classifier "top": [{"label": "x", "score": 0.9}], for an anomaly model "score": 0.7'
)


def _why(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _answer(row: dict[str, Any], folder: Path, labels: Sequence[str]) -> Answer:
    named = Path(row["file"])
    file = folder / named if (folder / named).is_file() else named
    if "findings" not in row and "top" not in row:
        return Answer(file, score=float(row["score"]))
    found = row["findings"] if "findings" in row else row["top"]
    return Answer(file, tuple(_said(each, labels, "findings" in row) for each in found))


def _said(each: dict[str, Any], labels: Sequence[str], boxed: bool) -> Said:
    box: Box | None = None
    if boxed:
        x1, y1, x2, y2 = map(float, each["box"])
        if x2 < x1 or y2 < y1:
            raise ValueError(f"box {each['box']} ends before it begins: boxes are x1 y1 x2 y2 in pixels of the picture")
        box = x1, y1, x2, y2
    if "class_id" in each:
        return Said(int(each["class_id"]), float(each["score"]), box)
    if each["label"] not in labels:
        raise ValueError(f"label {each['label']!r} is none of the bundle's")
    return Said(list(labels).index(each["label"]), float(each["score"]), box)


def least_score(answers: Sequence[Answer]) -> float | None:
    """Of all findings with boxes: below it the exporter listed nothing."""
    scores = [each.score for answer in answers for each in answer.said if each.box is not None]
    return min(scores) if scores else None


def gap(answer: Answer, seen: Seen, least: float) -> Gap:
    """`least` is the score below which either may not list a finding; one within a hundredth above it may be missing.

    Raises ConfigError when the answer is of another kind than what was seen.
    """
    match seen:
        case Detections() if answer.score is None and all(each.box is not None for each in answer.said):
            return _of_boxes(answer, seen, least + 0.01)
        case Classification() if answer.said and all(each.box is None for each in answer.said):
            beyond = [each.class_id for each in answer.said if not 0 <= each.class_id < len(seen.scores)]
            if beyond:
                raise ConfigError(f"{answer.file}: class {beyond[0]}: the model has {len(seen.scores)} classes")
            moved = [abs(float(seen.scores[each.class_id]) - each.score) for each in answer.said]
            return Gap(max(moved), 1.0, 0, 0, sum(moved) / len(moved) + max(moved))
        case AnomalyMap() if answer.score is not None:
            moved_by = abs(seen.score - answer.score) / max(1.0, abs(answer.score))  # its scale is the model's own
            return Gap(moved_by, 1.0, 0, 0, moved_by)
    kind = {"Detections": '"findings" with boxes', "Classification": '"top" with scores'}.get(
        type(seen).__name__, '"score"'
    )
    raise ConfigError(f"{answer.file}: the bundle's answer is {kind}, that in the file is not")


def _of_boxes(answer: Answer, seen: Detections, sure: float) -> Gap:
    theirs = sorted(answer.said, key=lambda each: -each.score)
    left = list(range(len(seen.scores)))
    moved, overlaps, missing, distance = 0.0, [1.0], 0, 0.0
    for each in theirs:
        assert each.box is not None
        own = [(_iou(each.box, seen.boxes[at].tolist()), at) for at in left if seen.class_ids[at] == each.class_id]
        overlap, at = max(own, default=(0.0, -1))
        if overlap < MATCH_IOU:
            missing += each.score >= sure
            distance += 2 * each.score
            continue
        left.remove(at)
        apart = abs(float(seen.scores[at]) - each.score)
        moved, distance = max(moved, apart), distance + apart + 1 - overlap
        overlaps.append(overlap)
    scores = [float(seen.scores[at]) for at in left]
    distance += 2 * sum(scores)
    extra = sum(score >= sure for score in scores)
    return Gap(moved, min(overlaps), missing, extra, distance / max(1, len(theirs)))


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0


def together(gaps: Sequence[Gap]) -> Gap:
    """Of all pictures: the worst, the counts added, the mean distance."""
    return Gap(
        max(each.score for each in gaps),
        min(each.least_iou for each in gaps),
        sum(each.missing for each in gaps),
        sum(each.extra for each in gaps),
        sum(each.distance for each in gaps) / len(gaps),
    )
