"""Average precision at IoU 0.5, as VOC 2010 and later compute it (area under the whole curve)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Found = NDArray[np.float32]  # (N, 6) class, score, x1 y1 x2 y2


def average_precision(found: Sequence[Found], truths: Sequence[NDArray[np.float32]], classes: int) -> list[float]:
    """AP50 per class over pictures; `truths` are (K, 5) class x1 y1 x2 y2. NaN for a class that never occurs."""
    return [_one_class(found, truths, number) for number in range(classes)]


def _one_class(found: Sequence[Found], truths: Sequence[NDArray[np.float32]], number: int) -> float:
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for seen, truth in zip(found, truths, strict=True):
        real = truth[truth[:, 0] == number, 1:]
        total += len(real)
        taken = np.zeros(len(real), bool)
        mine = seen[seen[:, 0] == number]
        for row in mine[np.argsort(-mine[:, 1])]:
            overlap = np.where(taken, 0, iou(row[2:], real)) if len(real) else np.zeros(0)
            best = int(overlap.argmax()) if len(overlap) else -1
            hit = best >= 0 and overlap[best] >= 0.5
            if hit:
                taken[best] = True
            scores.append(float(row[1]))
            hits.append(bool(hit))
    if total == 0:
        return float("nan")
    order = np.argsort(-np.array(scores), kind="stable")
    right = np.cumsum(np.array(hits, float)[order])
    precision = right / np.arange(1, len(right) + 1)
    recall = np.concatenate(((0,), right / total))
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * ceiling))


def iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of one x1 y1 x2 y2 box with (K, 4) others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    sizes = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return np.asarray(both / (sizes - both), np.float32)


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / total
    middle = share + z * z / (2 * total)
    half = z * float(np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)
