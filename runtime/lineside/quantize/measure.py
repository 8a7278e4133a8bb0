"""How far a model's answers are from the float model's, and from the truth where there is one. Pure but for Runner.

A decision flips when the picture's outcome differs: the first class, anything found or nothing, anomalous or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lineside.errors import ConfigError
from lineside.hal.artefact import Options
from lineside.quantize.pictures import Shot
from lineside.quantize.truth import Truth
from lineside.records import AnomalyMap, Artefact, Classification, DecodeSettings, Detections, InputSpec, Seen
from lineside.registry import driver
from lineside.tuning.compare import MATCH_IOU, matched, rate
from lineside.vision.boxes import iou
from lineside.vision.decode import open_decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineside.contracts import Backend

SURE = 0.1  # how far a score must be from where the decision turns
_LEAST_SCORE = 0.05  # average precision and drift look at weaker findings, too


@dataclass(frozen=True, slots=True)
class Reading:
    """How a bundle reads its model."""

    input: InputSpec
    decode: str
    settings: DecodeSettings
    labels: tuple[str, ...]

    @property
    def threshold(self) -> float:
        return 0.5 if self.settings.threshold is None else self.settings.threshold


@dataclass(frozen=True, slots=True)
class Score:
    """One model against the float model on the validation pictures."""

    pictures: int
    flips: int  # decisions that differ from the float model's
    loss: float  # of accuracy, 0 to 1: see Judge
    accuracy: float | None  # top-1, or average precision at IoU 0.5; None without labels
    drift: float  # how far scores moved, 0 to 1
    unsure: int = 0  # of the flips, those where the float model itself was near the other decision

    def __str__(self) -> str:
        return f"{self.flips} of {self.pictures} decisions flip, loss {self.loss:.1%}, drift {self.drift:.1%}"

    @property
    def flip_share(self) -> float:
        return self.flips / self.pictures

    @property
    def interval(self) -> tuple[float, float]:
        """The flips' share with 95 % confidence."""
        estimate = rate(self.flips, self.pictures)
        return estimate.low or 0.0, estimate.high or 0.0


class Runner:
    """One artefact on one backend: shots -> what the model saw, weak findings included."""

    def __init__(self, artefact: Artefact, reading: Reading, backend: str, options: Options | None = None) -> None:
        """Raises ConfigError when the backend cannot run the file or its outputs don't fit the decoder."""
        spec = reading.input.of(artefact)
        self._backend: Backend = driver("backend", backend)(artefact, spec, options=options)
        settings = replace(reading.settings, min_score=min(_LEAST_SCORE, reading.settings.min_score))
        try:
            self._decoder = open_decoder(reading.decode, self._backend.outputs, reading.labels, spec, settings)
        except ConfigError:
            self.close()
            raise

    def see(self, shots: Sequence[Shot]) -> list[Seen]:
        return [self._decoder.decode(self._backend.infer(shot.canvas), shot.placement) for shot in shots]

    def once_ms(self, shot: Shot) -> tuple[float, float]:
        """How long the model alone takes for one picture, and how much of the processor's time in all threads."""
        began, began_cpu = time.perf_counter(), time.process_time()
        self._backend.infer(shot.canvas)
        return (time.perf_counter() - began) * 1e3, (time.process_time() - began_cpu) * 1e3

    def close(self) -> None:
        self._backend.close()


class Judge:
    """Scores a model's answers. Loss, with labels: accuracy of the float model minus that of this one.

    Without: classifiers, the share of pictures that flip although the float model was sure; detectors, the share of
    sure findings that only one of the two models has (same class, IoU 0.5 or more); anomaly models, the drift.
    """

    def __init__(self, reading: Reading, reference: Sequence[Seen], truths: Sequence[Truth] | None) -> None:
        self._reading, self.reference, self._truths = reading, reference, truths
        self.accuracy = None if truths is None else self._accuracy(reference, truths)

    def first(self, count: int) -> Judge:
        """The same of the first so many pictures."""
        return Judge(self._reading, self.reference[:count], None if self._truths is None else self._truths[:count])

    @property
    def finds(self) -> int:
        """Pictures in which the float model decides something: another class than the commonest, or a finding."""
        outcomes = [outcome_of(seen, self._reading) for seen in self.reference]
        return len(outcomes) - max(outcomes.count(outcome) for outcome in set(outcomes))

    def score(self, seen: Sequence[Seen]) -> Score:
        pairs = list(zip(self.reference, seen, strict=True))
        flipped = [one for one, other in pairs if outcome_of(one, self._reading) != outcome_of(other, self._reading)]
        flips, unsure = len(flipped), sum(not _is_sure(one, self._reading) for one in flipped)
        drift = drift_of(self.reference, seen)
        accuracy = None if self._truths is None else self._accuracy(seen, self._truths)
        if accuracy is not None and self.accuracy is not None:
            loss = max(0.0, self.accuracy - accuracy)
        elif isinstance(seen[0], Detections):
            loss = _unshared(pairs, self._reading.settings.min_score)
        else:
            loss = (flips - unsure) / len(pairs) if isinstance(seen[0], Classification) else drift
        return Score(len(pairs), flips, loss, accuracy, drift, unsure)

    def _accuracy(self, seen: Sequence[Seen], truths: Sequence[Truth]) -> float:
        if isinstance(seen[0], Classification):
            right = [outcome_of(one, self._reading) == truth for one, truth in zip(seen, truths, strict=True)]
            return sum(right) / len(right)
        found = [one for one in seen if isinstance(one, Detections)]
        return average_precision(found, [truth for truth in truths if isinstance(truth, np.ndarray)])


def outcome_of(seen: Seen, reading: Reading) -> int | bool:
    match seen:
        case Classification():
            return int(seen.scores.argmax())
        case Detections():
            return bool((seen.scores >= reading.settings.min_score).any())
        case AnomalyMap():
            return seen.score >= reading.threshold


def _is_sure(seen: Seen, reading: Reading) -> bool:
    """Whether a score would have to move by SURE or more for another decision."""
    match seen:
        case Classification():
            second, first = np.sort(seen.scores)[-2:] if seen.scores.size > 1 else (0.0, 1.0)
            return bool(first - second >= SURE)
        case Detections():
            return abs(float(seen.scores.max(initial=0.0)) - reading.settings.min_score) >= SURE
        case AnomalyMap():
            return abs(seen.score - reading.threshold) >= SURE * abs(reading.threshold)


def drift_of(reference: Sequence[Seen], seen: Sequence[Seen]) -> float:
    """How far scores moved, 0 to 1: half the sum of the differences over the sum of scores; boxes that only one of the
    two has count whole. Not a number counts as 1."""
    moved = total = 0.0
    for one, other in zip(reference, seen, strict=True):
        match one, other:
            case Classification(), Classification():
                difference = float(np.abs(one.scores - other.scores).sum()) / 2
                moved, total = moved + (difference if math.isfinite(difference) else 1.0), total + 1.0
            case Detections(), Detections():
                shared = [(i, j) for i, j, _ in matched(one, other)]
                scores = float(one.scores.sum() + other.scores.sum())
                both = sum(2 * min(one.scores[i], other.scores[j]) for i, j in shared)
                moved, total = moved + scores - float(both), total + scores
            case AnomalyMap(), AnomalyMap():
                moved, total = moved + abs(one.score - other.score), total + max(abs(one.score), abs(other.score))
    share = moved / total if total else 0.0
    return min(1.0, share) if math.isfinite(share) else 1.0


def _unshared(pairs: Sequence[tuple[Seen, Seen]], min_score: float) -> float:
    sure = lone = 0
    for one, other in pairs:
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        shared = {
            (side, pair[side])
            for pair in matched(one, other)
            if one.scores[pair[0]] >= min_score and other.scores[pair[1]] >= min_score
            for side in (0, 1)
        }
        for side, seen in enumerate((one, other)):
            found = np.flatnonzero(seen.scores >= min_score + SURE).tolist()
            sure += len(found)
            lone += sum((side, number) not in shared for number in found)
    return lone / sure if sure else 0.0


def average_precision(found: Sequence[Detections], truths: Sequence[NDArray[np.float32]]) -> float:
    """Mean over the classes that occur of average precision at IoU 0.5, area under the whole curve (VOC 2010).

    `truths` are (K, 5) class x1 y1 x2 y2, one array a picture.
    """
    classes = sorted({int(number) for truth in truths for number in truth[:, 0]})
    each = [_average_precision(found, truths, number) for number in classes]
    return float(np.mean(each)) if each else 0.0


def _average_precision(found: Sequence[Detections], truths: Sequence[NDArray[np.float32]], number: int) -> float:
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for seen, truth in zip(found, truths, strict=True):
        real = truth[truth[:, 0] == number, 1:]
        mine = seen.class_ids == number
        overlap = iou(seen.boxes[mine], real)
        total += len(real)
        for row, score in zip(overlap, seen.scores[mine].tolist(), strict=True):  # best score first
            best = int(row.argmax()) if row.size else -1
            hit = best >= 0 and bool(row[best] >= MATCH_IOU)
            if hit:
                overlap[:, best] = 0.0
            scores.append(score)
            hits.append(hit)
    right = np.cumsum(np.array(hits, float)[np.argsort(-np.array(scores), kind="stable")]) if hits else np.zeros(0)
    precision = right / np.arange(1, len(right) + 1)
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate(((0.0,), right / total))) * ceiling))
