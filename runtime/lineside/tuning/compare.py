"""What one way to run a model saw against what the reference saw: flips, drift, overlap, with intervals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lineside.records import AnomalyMap, Classification, Detections, Seen
from lineside.store.passport import Drift, Estimate
from lineside.vision.boxes import iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

MATCH_IOU = 0.5  # two boxes of one class that overlap so much are one finding
_Z = 1.959964  # 95 % of a normal distribution
_RESAMPLES = 2000


@dataclass(slots=True)
class Tally:
    """Differences over pictures, one list entry a picture. `threshold` is that of an anomaly model."""

    threshold: float | None = None
    flips: list[bool] = field(default_factory=list)
    any_flips: list[bool] = field(default_factory=list)
    drifts: list[list[float]] = field(default_factory=list)
    overlaps: list[list[float]] = field(default_factory=list)
    both: int = 0  # findings that both have
    either: int = 0  # findings that one of them or both have
    pictures: int = 0

    def add(self, wanted: Seen, seen: Seen) -> None:
        """What the reference saw, and the other, in the same picture. Raises ValueError where a score is no number."""
        self.pictures += 1
        match wanted, seen:
            case Classification(), Classification():
                _check(seen.scores)
                top = int(wanted.scores.argmax())
                self.flips.append(int(seen.scores.argmax()) != top)
                self.drifts.append([abs(float(seen.scores[top]) - float(wanted.scores[top]))])
            case AnomalyMap(), AnomalyMap():
                _check(np.array([seen.score]))
                if self.threshold is not None:
                    self.flips.append((seen.score >= self.threshold) != (wanted.score >= self.threshold))
                self.drifts.append([abs(seen.score - wanted.score)])
            case Detections(), Detections():
                _check(seen.scores)
                _check(seen.boxes)
                self._detections(wanted, seen)
            case _:
                raise ValueError(f"{type(seen).__name__} where the reference gives {type(wanted).__name__}")

    def _detections(self, wanted: Detections, seen: Detections) -> None:
        self.flips.append(set(wanted.class_ids.tolist()) != set(seen.class_ids.tolist()))
        self.any_flips.append(bool(len(wanted.scores)) != bool(len(seen.scores)))
        pairs = matched(wanted, seen)
        self.drifts.append([abs(float(wanted.scores[one]) - float(seen.scores[two])) for one, two, _ in pairs])
        self.overlaps.append([overlap for _, _, overlap in pairs])
        self.both += len(pairs)
        self.either += len(wanted.scores) + len(seen.scores) - len(pairs)

    @property
    def flip_rate(self) -> Estimate | None:
        return rate(sum(self.flips), len(self.flips)) if self.flips else None

    def drift(self) -> Drift | None:
        every = [value for picture in self.drifts for value in picture]
        if not every:
            return None
        return Drift(mean=mean(self.drifts), p95=_rounded(np.percentile(every, 95)), max=_rounded(max(every)))


def matched(wanted: Detections, seen: Detections) -> list[tuple[int, int, float]]:
    """Pairs (wanted, seen, overlap) of findings of one class, the greatest overlap first, none below MATCH_IOU."""
    overlaps = iou(wanted.boxes, seen.boxes)
    overlaps[wanted.class_ids[:, None] != seen.class_ids[None, :]] = 0
    pairs = []
    while overlaps.size and (best := float(overlaps.max())) >= MATCH_IOU:
        one, two = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        pairs.append((int(one), int(two), best))
        overlaps[one, :] = 0
        overlaps[:, two] = 0
    return pairs


def rate(count: int, of: int) -> Estimate:
    """A share of 0 to 1 with Wilson's score interval (Wilson 1927)."""
    middle, spread = count + _Z * _Z / 2, _Z * math.sqrt(count * (of - count) / of + _Z * _Z / 4)
    low, high = (middle - spread) / (of + _Z * _Z), (middle + spread) / (of + _Z * _Z)
    return Estimate(value=_rounded(count / of), low=_rounded(max(0.0, low)), high=_rounded(min(1.0, high)))


def enough(most: float) -> int:
    """How many pictures without a flip show a rate of `most` or less: where Wilson's upper end falls below it."""
    return math.ceil(_Z * _Z * (1 - most) / most) if most > 0 else 0


def mean(pictures: list[list[float]]) -> Estimate:
    """The mean of all values, and a bootstrap over pictures, since values of one picture go together."""
    sums, counts = np.array([sum(values) for values in pictures]), np.array([len(values) for values in pictures])
    value = _rounded(sums.sum() / counts.sum())
    if len(pictures) < 2:
        return Estimate(value=value)
    random, count = np.random.default_rng(0), len(pictures)
    drawn = (random.integers(0, count, count) for _ in range(_RESAMPLES))
    means = [sums[of].sum() / total for of in drawn if (total := counts[of].sum())]
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(value=value, low=_rounded(low), high=_rounded(high))


def _check(values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise ValueError("an answer that is no number")


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 6)
