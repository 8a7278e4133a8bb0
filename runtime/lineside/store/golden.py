"""Golden answers: what a bundle's model says of pictures that came with it, and how far a device may differ from that.

golden.json of a bundle holds, for each picture, what each artefact found in it when it was packed. Pure but for reading
the file; running the model is the wiring's business.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated

from lineside.checked import Is, Table, table
from lineside.errors import ConfigError
from lineside.records import Box, Finding, Task
from lineside.store.packed import read_packed

FILE = "golden.json"
FOLDER = "golden"  # of the pictures


@table
class Tolerance(Table):
    """How far an answer may be from the golden one. A broken backend is far off; a sound one rounds differently:
    the scores of an INT8 detector's weak findings differ by up to 0.1 between ONNX Runtime and OpenVINO on one file."""

    score: Annotated[float, Is("Difference of two scores; of an anomaly model in its own scale", gt=0)] = 0.15
    iou: Annotated[float, Is("Overlap of two boxes", gt=0, le=1)] = 0.8


@table
class Said(Table):
    """One finding of a golden answer."""

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None


@table
class Case(Table):
    """One picture; `answers` by the name of the artefact's file."""

    image: str
    sha256: Annotated[str, Is(pattern="^[0-9a-f]{64}$")]
    answers: dict[str, tuple[Said, ...]]


@table
class Golden(Table):
    """The whole golden.json."""

    format: Annotated[int, Is(ge=1, le=1)] = 1
    min_score: float
    tolerance: Tolerance = field(default_factory=Tolerance)
    cases: Annotated[tuple[Case, ...], Is(min_length=1)]


def read(folder: Path, sha256: str) -> Golden:
    """The golden answers of the bundle in `folder`; `sha256` is what its model.toml says. Raises ConfigError."""
    return read_packed(Golden, folder, FILE, sha256, "lineside bundle golden")


def picture(folder: Path, case: Case) -> Path:
    """The picture of a case, as it was packed. Raises ConfigError."""
    path = folder / case.image
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"bundle {folder}: {case.image}: cannot be read ({error.strerror}): copy the whole folder"
        ) from error
    if found != case.sha256:
        raise ConfigError(f"bundle {folder}: {case.image}: is not the picture that was packed: copy the bundle again")
    return path


def differences(
    case: Case, file: str, found: Sequence[Finding], task: Task, golden: Golden, min_score: float
) -> list[str]:
    """In what the findings of a device are not the golden ones of that artefact, a line each; empty when they agree.

    `min_score` is below what the device's findings were dropped.
    """
    answers = case.answers.get(file)
    if answers is None:
        return [f"{case.image}: no golden answer for {file}"]
    wanted = [Finding(said.label, -1, said.score, said.box) for said in answers]
    if task == "detect":
        lines = _detections(wanted, found, golden.tolerance, max(min_score, golden.min_score))
    else:
        lines = _scores(wanted, found, golden.tolerance)
    return [f"{case.image}: {line}" for line in lines]


def _scores(wanted: Sequence[Finding], found: Sequence[Finding], tolerance: Tolerance) -> list[str]:
    """Classifiers and anomaly models: each score of the golden answer is there, near enough. Of a thousand classes only
    the best are told: one that another took the place of scores no more than the least of them."""
    scores = {finding.label: finding.score for finding in found}
    least = min(scores.values()) if scores and len(found) == len(wanted) else math.nan
    lines = []
    for finding in wanted:
        score = scores.get(finding.label)
        if not abs((least if score is None else score) - finding.score) <= tolerance.score:
            shown = "missing" if score is None else f"{score:.3f}"
            lines.append(f"{finding.label} {shown}, golden {finding.score:.3f} +- {tolerance.score:g}")
    return lines


def _detections(
    wanted: Sequence[Finding], found: Sequence[Finding], tolerance: Tolerance, min_score: float
) -> list[str]:
    """Each golden box is found and each found box is golden; near `min_score` either may be missing."""
    sure = min_score + tolerance.score
    left = list(found)
    lines = []
    for finding in wanted:
        near = [other for other in left if _agree(finding, other, tolerance)]
        if near:
            left.remove(max(near, key=lambda other: _iou(finding.box, other.box)))
        elif finding.score >= sure:
            lines.append(f"no {_shown(finding)} (box within IoU {tolerance.iou:g})")
    lines += [f"{_shown(finding)} is not in the golden answer" for finding in left if finding.score >= sure]
    return lines


def _agree(one: Finding, other: Finding, tolerance: Tolerance) -> bool:
    near = abs(one.score - other.score) <= tolerance.score
    return near and one.label == other.label and _iou(one.box, other.box) >= tolerance.iou


def _shown(finding: Finding) -> str:
    box = "" if finding.box is None else " at " + ", ".join(f"{edge:.0f}" for edge in finding.box)
    return f"{finding.label} {finding.score:.3f}{box}"


def _iou(one: Box | None, other: Box | None) -> float:
    if one is None or other is None:
        return float(one is other)
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0
