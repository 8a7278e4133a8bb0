"""Follows boxes from frame to frame: constant-velocity prediction, overlap association, two stages by score.

A pure state machine over captured_ns: same boxes and times in, same track ids out. It stands before the free trigger.

Sources: two-stage association by score, ByteTrack (Zhang et al. 2022, arXiv:2110.06864); the cost, DIoU (Zheng et al.
2020, arXiv:1911.08287); gains of the filter, the growing-memory alpha-beta filter (Brookner, Tracking and Kalman
Filtering Made Easy, 1998, ch. 4); assignment, shortest augmenting paths (Jonker and Volgenant 1987).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lineside.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Ids: TypeAlias = "NDArray[np.int64]"

_REACH_DIOU = -0.5  # a track of one hit: its next box may be about two and a half box lengths away
_KEEP_DIOU = (
    0.0  # a track whose velocity is known: three quarters of a box length from the prediction, less than to a neighbour
)
_LOW_IOU = 0.2  # a low-score box only continues a track that it clearly overlaps
_TWIN_IOU = 0.7  # a box on top of a box that is already followed starts no track: two labels for one object
_MEMORY_HITS = 6  # the filter forgets after about so many frames, so that it follows a belt that stops


@dataclass(frozen=True, slots=True)
class Ended:
    """A track that was given up, `confirmed` if it had `min_hits`."""

    track_id: int
    confirmed: bool


class Tracker:
    """Gives each object one id from its first box to `max_age_s` after its last.

    `high_score` starts and continues tracks, `low_score` only continues confirmed ones. Neighbours that move by more
    than half their spacing between two frames cannot be told apart from positions alone until the flow is known:
    `flow` is the velocity that the recent tracks shared (a belt moves all parts at once), and a new track is looked for
    where it would have carried it.
    """

    def __init__(
        self,
        *,
        high_score: float = 0.4,
        low_score: float = 0.1,
        min_hits: int = 3,
        max_age_s: float = 0.5,
    ) -> None:
        if not 0.0 <= low_score <= high_score <= 1.0:
            raise ConfigError(f"track scores low {low_score} and high {high_score}: want 0 <= low <= high <= 1")
        if min_hits < 1 or not max_age_s > 0:
            raise ConfigError(f"track min_hits {min_hits}, max_age_s {max_age_s}: want 1 or more, and above 0")
        self.high_score, self.low_score, self.min_hits = high_score, low_score, min_hits
        self._max_age_ns = round(max_age_s * 1e9)
        self._next_id = 0
        self._flow: tuple[float, float] | None = None
        self._ids: Ids = np.empty(0, np.int64)
        self._hits: Ids = np.empty(0, np.int64)
        self._seen_ns: Ids = np.empty(0, np.int64)
        self._center: Floats = np.empty((0, 2))
        self._size: Floats = np.empty((0, 2))
        self._speed: Floats = np.empty((0, 2))  # pixels per second

    def step(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], captured_ns: int) -> Ids:
        """Track id of each of the (N, 4) boxes, -1 where it belongs to none. Ids count up from 0, never used twice."""
        ids, _ = self.advance(boxes, scores, captured_ns)
        return ids

    def advance(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], captured_ns: int
    ) -> tuple[Ids, tuple[Ended, ...]]:
        """`step`, and the tracks that it gave up."""
        out: Ids = np.full(len(boxes), -1, np.int64)
        found = np.asarray(boxes, np.float64).reshape(-1, 4)
        centers, sizes = (found[:, :2] + found[:, 2:]) * 0.5, np.maximum(found[:, 2:] - found[:, :2], 1.0)
        if len(self._ids) and len(found):
            self._associate(found, centers, sizes, scores, captured_ns, out)
        ended = self._give_up(captured_ns)
        fresh = np.flatnonzero((out < 0) & (scores >= self.high_score))
        if len(fresh):
            self._start(fresh, found, centers, sizes, captured_ns, out)
        return out, ended

    def confirmed(self, track_id: int) -> bool:
        """Whether the track was seen in `min_hits` frames."""
        row = np.flatnonzero(self._ids == track_id)
        return len(row) == 1 and bool(self._hits[row[0]] >= self.min_hits)

    def state(self) -> Mapping[str, object]:
        """All that the next `advance` depends on; later ones leave it as it is."""
        return {
            "next_id": self._next_id,
            "flow": self._flow,
            "ids": self._ids,  # replaced, never written into; the others are
            "hits": self._hits.copy(),
            "seen_ns": self._seen_ns.copy(),
            "center": self._center.copy(),
            "size": self._size.copy(),
            "speed": self._speed.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of a tracker with the same options."""
        self._next_id, flow = state["next_id"], state["flow"]
        self._flow = None if flow is None else (flow[0], flow[1])
        self._ids, self._hits, self._seen_ns = state["ids"], state["hits"].copy(), state["seen_ns"].copy()
        self._center, self._size, self._speed = (state[name].copy() for name in ("center", "size", "speed"))

    def _associate(
        self, found: Floats, centers: Floats, sizes: Floats, scores: NDArray[np.float32], now_ns: int, out: Ids
    ) -> None:
        ahead_s = ((now_ns - self._seen_ns) * 1e-9)[:, None]
        known = self._hits >= 2
        speed = self._speed
        if self._flow is not None and not known.all():
            speed = np.where(known[:, None], speed, self._flow)
        at = self._center + speed * ahead_s
        predicted = np.concatenate((at - self._size * 0.5, at + self._size * 0.5), axis=1)
        iou, diou = overlap(predicted, found)
        certain = known if self._flow is None else np.ones_like(known)
        gate = np.where(certain, _KEEP_DIOU, _REACH_DIOU)[:, None]
        gain = diou - gate
        high = scores >= self.high_score
        gain[:, ~high] = -1.0
        pairs = assign(gain)
        if not high.all():
            taken_rows, taken_columns = {row for row, _ in pairs}, {column for _, column in pairs}
            low = iou - _LOW_IOU
            low[:, high | (scores < self.low_score)] = -1.0
            low[self._hits < self.min_hits] = -1.0
            low[list(taken_rows)] = -1.0
            pairs += [pair for pair in assign(low) if pair[1] not in taken_columns]
        if not pairs:
            return
        rows, columns = (np.array(side, np.intp) for side in zip(*pairs, strict=True))
        out[columns] = self._ids[rows]
        self._update(rows, at[rows], centers[columns], sizes[columns], now_ns)

    def _update(self, rows: NDArray[np.intp], at: Floats, centers: Floats, sizes: Floats, now_ns: int) -> None:
        self._hits[rows] += 1
        n = np.minimum(self._hits[rows], _MEMORY_HITS)[:, None].astype(np.float64)
        alpha, beta = 2 * (2 * n - 1) / (n * (n + 1)), 6 / (n * (n + 1))
        dt_s = np.maximum((now_ns - self._seen_ns[rows])[:, None] * 1e-9, 1e-6)
        second = n[:, 0] == 2
        residual = centers - at
        speed = self._speed[rows] + beta * residual / dt_s
        speed[second] = ((centers - self._center[rows]) / dt_s)[second]
        self._speed[rows] = speed
        self._center[rows] = at + alpha * residual
        self._size[rows] += (sizes - self._size[rows]) * 0.5
        self._seen_ns[rows] = now_ns
        steady = self._hits >= max(3, self.min_hits)
        if steady.any():
            median = np.median(self._speed[steady], axis=0)
            spread = np.abs(self._speed[steady] - median).max()
            shared = spread <= 0.5 * float(np.hypot(*median)) + 0.1 * float(self._size[steady].mean())
            self._flow = (float(median[0]), float(median[1])) if shared else None

    def _give_up(self, now_ns: int) -> tuple[Ended, ...]:
        limit = np.where(self._hits >= self.min_hits, self._max_age_ns, self._max_age_ns // 2)
        old = (now_ns - self._seen_ns) > limit
        if not old.any():
            return ()
        ended = tuple(
            Ended(int(track_id), bool(hits >= self.min_hits))
            for track_id, hits in zip(self._ids[old], self._hits[old], strict=True)
        )
        keep = ~old
        self._ids, self._hits, self._seen_ns = self._ids[keep], self._hits[keep], self._seen_ns[keep]
        self._center, self._size, self._speed = self._center[keep], self._size[keep], self._speed[keep]
        return ended

    def _start(
        self, fresh: NDArray[np.intp], found: Floats, centers: Floats, sizes: Floats, now_ns: int, out: Ids
    ) -> None:
        followed = np.flatnonzero(out >= 0)
        if len(followed):
            fresh = fresh[(overlap(found[fresh], found[followed])[0] < _TWIN_IOU).all(axis=1)]
        if len(fresh) > 1:
            iou = overlap(found[fresh], found[fresh])[0]
            fresh = fresh[(np.triu(iou, 1) < _TWIN_IOU).all(axis=0)]
        if not len(fresh):
            return
        ids = np.arange(self._next_id, self._next_id + len(fresh))
        self._next_id += len(fresh)
        out[fresh] = ids
        self._ids = np.concatenate((self._ids, ids))
        self._hits = np.concatenate((self._hits, np.ones(len(fresh), np.int64)))
        self._seen_ns = np.concatenate((self._seen_ns, np.full(len(fresh), now_ns, np.int64)))
        self._center = np.concatenate((self._center, centers[fresh]))
        self._size = np.concatenate((self._size, sizes[fresh]))
        self._speed = np.concatenate((self._speed, np.zeros((len(fresh), 2))))


def overlap(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """IoU and DIoU of every pair: (len(a), len(b)) each. Boxes are x1 y1 x2 y2 with positive sides."""
    first, second = a[:, None, :], b[None, :, :]
    common = np.maximum(np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]), 0.0)
    inter = common[..., 0] * common[..., 1]
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    iou = inter / (area_a[:, None] + area_b[None, :] - inter)
    hull = np.maximum(first[..., 2:], second[..., 2:]) - np.minimum(first[..., :2], second[..., :2])
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) * 0.5
    return iou, iou - (apart * apart).sum(axis=-1) / (hull * hull).sum(axis=-1)


def assign(gain: Floats) -> list[tuple[int, int]]:
    """Pairs (row, column) with the greatest total gain; only pairs of positive gain are allowed."""
    best = gain.argmax(axis=1)
    rows = np.flatnonzero(gain[np.arange(len(gain)), best] > 0.0)
    chosen = best[rows].tolist()
    if len(set(chosen)) == len(chosen):  # every row has its own best column: nothing can be better
        return list(zip(rows.tolist(), chosen, strict=True))
    columns = np.flatnonzero((gain > 0.0).any(axis=0))
    cost = -np.maximum(gain[np.ix_(rows, columns)], 0.0)
    turned = cost.shape[0] > cost.shape[1]
    matched = _hungarian(cost.T.tolist() if turned else cost.tolist())
    pairs = [(column, row) if turned else (row, column) for row, column in matched]
    return [(int(rows[r]), int(columns[c])) for r, c in pairs if cost[r, c] < 0.0]


def _hungarian(cost: list[list[float]]) -> list[tuple[int, int]]:
    """Cheapest (row, column) for every row; no more rows than columns. Shortest augmenting paths, O(rows^2 columns)."""
    width = len(cost[0])
    row_price, column_price = [0.0] * (len(cost) + 1), [0.0] * (width + 1)
    row_of, came_from = [0] * (width + 1), [0] * (width + 1)  # 1-based; 0 is "none"
    for row in range(1, len(cost) + 1):
        row_of[0], column = row, 0
        slack, done = [float("inf")] * (width + 1), [False] * (width + 1)
        while row_of[column]:
            done[column] = True
            at, step, following = row_of[column], float("inf"), 0
            costs, price = cost[at - 1], row_price[at]
            for other in range(1, width + 1):
                if done[other]:
                    continue
                reduced = costs[other - 1] - price - column_price[other]
                if reduced < slack[other]:
                    slack[other], came_from[other] = reduced, column
                if slack[other] < step:
                    step, following = slack[other], other
            for other in range(width + 1):
                if done[other]:
                    row_price[row_of[other]] += step
                    column_price[other] -= step
                else:
                    slack[other] -= step
            column = following
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return [(row_of[column] - 1, column - 1) for column in range(1, width + 1) if row_of[column]]
