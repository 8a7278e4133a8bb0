"""How good a model is: average precision of detectors, AUROC of classifiers and anomaly models, and their intervals.

Average precision is the area under the whole curve, its precision made monotone (VOC 2010 and later). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lineside.store.passport import Estimate
from lineside.vision.boxes import iou

Found = NDArray[np.float32]  # (N, 6) class, score, x1 y1 x2 y2
Real = NDArray[np.float64]

RESAMPLES = 2000
_Z = 1.959964  # 95 % of a normal distribution


def average_precision(
    found: Sequence[Found], truths: Sequence[NDArray[np.float32]], classes: int, least_iou: float = 0.5
) -> list[float]:
    """Per class over pictures; `truths` are (K, 5) class x1 y1 x2 y2. NaN for a class that never occurs."""
    return [hits_of(found, truths, number, least_iou).precision() for number in range(classes)]


@dataclass(frozen=True, slots=True)
class Hits:
    """The findings of one class over a list of pictures, best score first, and which of them are right."""

    right: NDArray[np.bool_]  # (N,)
    pictures: NDArray[np.intp]  # (N,) the picture of each
    totals: NDArray[np.intp]  # (P,) how many there are to be found in each picture

    def precision(self, times: NDArray[np.intp] | None = None) -> float:
        """Average precision; `times` (P,): how often each picture counts. NaN where there is nothing to be found."""
        times = np.ones(len(self.totals), np.intp) if times is None else times
        total = int(times @ self.totals)
        if total == 0:
            return float("nan")
        weight = times[self.pictures]
        hits = np.cumsum(weight * self.right)
        precision = hits / np.maximum(np.cumsum(weight), 1)
        ceiling = np.maximum.accumulate(precision[::-1])[::-1]
        return float(np.sum(np.diff(hits / total, prepend=0.0) * ceiling))


def hits_of(found: Sequence[Found], truths: Sequence[NDArray[np.float32]], number: int, least_iou: float) -> Hits:
    """Of one class. Raises ValueError where there are not as many truths as pictures."""
    matched = [
        match(seen[seen[:, 0] == number, 1:], truth[truth[:, 0] == number, 1:], least_iou)
        for seen, truth in zip(found, truths, strict=True)
    ]
    return gather(matched, [int((truth[:, 0] == number).sum()) for truth in truths])


def match(
    seen: NDArray[np.float32],
    truth: NDArray[np.float32],
    least_iou: float,
    skipped: NDArray[np.bool_] | None = None,
    least_side_px: float = 0.0,
) -> list[tuple[float, bool]]:
    """Score of each finding of one class in one picture, and whether it is right; best score first.

    `seen` (N, 5) score x1 y1 x2 y2, `truth` (K, 4). Each takes the truth that is left and overlaps it most, by
    `least_iou` or more. Truths that are `skipped` (K,) are neither right nor wrong, nor are findings that overlap only
    such a one, or nothing and have a side under `least_side_px` (as COCO counts its area ranges).
    """
    seen = seen[np.argsort(-seen[:, 0], kind="stable")]
    overlaps = iou(seen[:, 1:], truth)
    skipped = np.zeros(len(truth), bool) if skipped is None else skipped
    left = ~skipped
    rows = []
    for row, overlap in zip(seen, overlaps, strict=True):
        near = np.where(left & (overlap >= least_iou), overlap, -1.0)
        if near.size and near.max() > 0:
            left[near.argmax()] = False
            rows.append((float(row[0]), True))
        elif not (overlap[skipped] >= least_iou).any() and (row[3:] - row[1:3]).min() >= least_side_px:
            rows.append((float(row[0]), False))
    return rows


def gather(matched: Sequence[Sequence[tuple[float, bool]]], totals: Sequence[int]) -> Hits:
    """What `match` gave, picture by picture, and how many truths count in each."""
    rows = [(score, hit, picture) for picture, found in enumerate(matched) for score, hit in found]
    order = np.argsort([-score for score, _, _ in rows], kind="stable")
    right = np.array([hit for _, hit, _ in rows], bool)[order]
    return Hits(right, np.array([picture for _, _, picture in rows], np.intp)[order], np.array(totals, np.intp))


def mean_precision(classes: Sequence[Hits]) -> Estimate:
    """Mean of the classes' average precision; 95 % by a bootstrap over pictures (percentiles)."""

    def of(times: NDArray[np.intp] | None) -> float:
        return float(np.nanmean([hits.precision(times) for hits in classes]))

    low, high = _bootstrap(of, np.arange(len(classes[0].totals)))
    return Estimate(value=of(None), low=low, high=high)


def auroc(scores: Real, positive: NDArray[np.bool_], times: NDArray[np.intp] | None = None) -> float:
    """How often a positive scores higher than a negative; equal scores count half. NaN where one kind is absent.

    `times` (N,): how often each counts.
    """
    weights = np.ones(len(scores)) if times is None else times.astype(float)
    apart = np.sign(scores[positive][:, None] - scores[~positive][None, :]) / 2 + 0.5
    for_positive, for_negative = weights[positive], weights[~positive]
    pairs = for_positive.sum() * for_negative.sum()
    return float(for_positive @ apart @ for_negative / pairs) if pairs else float("nan")


def auroc_estimate(scores: Real, positive: NDArray[np.bool_]) -> Estimate:
    """With 95 % as if every picture were taken independently: Newcombe 2006, "Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic" part 2, method 5. Like Wilson's it holds at 1, where DeLong's has no
    width. Raises ValueError where one kind is absent."""
    several, others = int(positive.sum()), int((~positive).sum())
    if not several or not others:
        raise ValueError(f"AUROC of {several} positives and {others} negatives: there must be both")
    found, spare = auroc(scores, positive), (several + others) / 2 - 1

    def off(true: float) -> float:
        spread = 1 + spare * ((1 - true) / (2 - true) + true / (1 + true))
        return (found - true) ** 2 - _Z**2 * true * (1 - true) * spread / (several * others)

    return Estimate(value=found, low=_root(off, 0.0, found), high=_root(off, 1.0, found))


def auroc_by_group(scores: Real, positive: NDArray[np.bool_], groups: Sequence[Hashable]) -> Estimate:
    """With 95 % by a bootstrap over groups of pictures that go together: photos of one tile, of one place."""
    numbers: dict[Hashable, int] = {}
    at = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    low, high = _bootstrap(lambda times: auroc(scores, positive, times), at)
    return Estimate(value=auroc(scores, positive), low=low, high=high)


def _bootstrap(of: Callable[[NDArray[np.intp]], float], groups: NDArray[np.intp]) -> tuple[float, float]:
    """2.5 and 97.5 % of what comes when groups are drawn with replacement; draws without a value are left out."""
    random, count = np.random.default_rng(0), int(groups.max()) + 1
    drawn = (np.bincount(random.integers(0, count, count), minlength=count)[groups] for _ in range(RESAMPLES))
    low, high = np.nanpercentile([of(times) for times in drawn], (2.5, 97.5))
    return float(low), float(high)


def _root(off: Callable[[float], float], outer: float, inner: float) -> float:
    """Where `off`, which is at most 0 at `inner`, crosses it on the way to `outer`; bisection."""
    for _ in range(60):
        middle = (outer + inner) / 2
        outer, inner = (middle, inner) if off(middle) > 0 else (outer, middle)
    return inner


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share = right / total
    middle = share + _Z * _Z / (2 * total)
    half = _Z * math.sqrt(share * (1 - share) / total + _Z * _Z / (4 * total * total))
    return (middle - half) / (1 + _Z * _Z / total), (middle + half) / (1 + _Z * _Z / total)
