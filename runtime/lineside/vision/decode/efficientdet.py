"""EfficientDet, raw heads: class logits and box regressions over levels 3 to 7, nine anchors a cell.

Either five maps of each, [1, 9 x C, h, w] and [1, 9 x 4, h, w] (or channels last), or joined, [1, N, C] and [1, N, 4].
A regression is ty tx th tw around its anchor; anchors have scale 4, three octaves and the ratios 1, 2 and 1/2
(Tan et al. 2020, arXiv:1911.09070; github.com/google/automl, efficientdet/keras/anchors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, settle
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = (3, 4, 5, 6, 7)
ANCHORS = 9  # a cell
_SCALE = 4.0
_RATIOS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
EXPECTED = "class logits and box regressions of five levels with nine anchors a cell"


class EfficientDetDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        grids = _grids(out.canvas_size(input))
        total = sum(rows * columns for rows, columns in grids) * ANCHORS
        joined = {each[1]: at for at, each in enumerate(out.trimmed(o.shape) for o in outputs) if each[:1] == (total,)}
        self._anchors = _anchors(out.canvas_size(input), grids)
        if joined:
            # beside them there may be the anchors themselves, [1, N, 4]: then names tell
            boxes = [
                at for at, o in enumerate(outputs) if out.trimmed(o.shape) == (total, 4) and "anchor" not in o.name
            ]
            scores = [
                at
                for at, o in enumerate(outputs)
                if out.trimmed(o.shape)[:1] == (total,) and at not in boxes and "anchor" not in o.name
            ]
            if len(boxes) == 2 and not scores:  # four classes
                scores = [at for at in boxes if not any(word in outputs[at].name for word in ("box", "reg"))]
                boxes = [at for at in boxes if at not in scores]
            if len(boxes) != 1 or len(scores) != 1:
                raise out.misfit(outputs, f"{EXPECTED}: [1, {total}, classes] and [1, {total}, 4]")
            classes = out.trimmed(outputs[scores[0]].shape)[1]
            self._boxes_at, self._scores_at = [(boxes[0], False)], [(scores[0], False)]
        else:
            self._boxes_at, self._scores_at, classes = _by_level(outputs, grids)
        if classes != len(labels):
            raise ConfigError(f"{out.misfit(outputs, EXPECTED)}; {out.wrong_labels(labels, classes or '?')}")
        self._classes = len(labels)
        self._logits = settings.scores != "probability"
        self._least = out.logit(settings.min_score) if self._logits else settings.min_score
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        scores = np.concatenate([_rows(outputs[at], self._classes, turn) for at, turn in self._scores_at])
        found = out.surviving_rows(scores, self._least)
        if found.size == 0:
            return NOTHING
        best, class_ids = out.best_class(scores[found])
        if self._logits:
            best = out.sigmoid(best)
        ty, tx, th, tw = np.concatenate([_rows(outputs[at], 4, turn) for at, turn in self._boxes_at])[found].T
        cx, cy, wide, high = self._anchors[found].T
        cx, cy = cx + tx * wide, cy + ty * high
        half_w, half_h = np.exp(tw.clip(-20, 20)) * wide / 2, np.exp(th.clip(-20, 20)) * high / 2
        corners = np.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], axis=1, dtype=np.float32)
        return settle(corners, best, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)


def _rows(output: Tensor, channels: int, turn: bool) -> NDArray[np.float32]:
    """A map or a joined head -> (N, channels), anchor after anchor of a cell, cell after cell."""
    values = output.real(0)
    if turn:  # (9 x channels, h, w)
        values = values.transpose(1, 2, 0)
    return values.reshape(-1, channels)


def _grids(canvas: tuple[int, int]) -> list[tuple[int, int]]:
    width, height = canvas
    grids, rows, columns = [], height, width
    for level in range(1, LEVELS[-1] + 1):
        rows, columns = -(-rows // 2), -(-columns // 2)
        if level in LEVELS:
            grids.append((rows, columns))
    return grids


def _by_level(
    outputs: tuple[TensorSpec, ...], grids: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, bool]], list[tuple[int, bool]], int | None]:
    """(output, channels first) of boxes and of scores, level after level, and the number of classes."""
    boxes: list[tuple[int, bool]] = []
    scores: list[tuple[int, bool]] = []
    counts: set[int] = set()
    if len(outputs) != 2 * len(LEVELS):
        raise out.misfit(outputs, EXPECTED)
    for grid in grids:
        level = [(at, shape) for at, o in enumerate(outputs) if (shape := _map(o.shape, grid)) is not None]
        heads = [(at, first) for at, (channels, first) in level if channels == 4 * ANCHORS]
        others = [(at, first, channels) for at, (channels, first) in level if channels != 4 * ANCHORS]
        if len(heads) == 2 and not others:  # four classes: the regressions come second, or are named so
            named = [each for each in heads if any(word in outputs[each[0]].name for word in ("box", "reg"))]
            last = named[0] if len(named) == 1 else heads[-1]
            others = [(at, first, 4 * ANCHORS) for at, first in heads if at != last[0]]
            heads = [last]
        if len(heads) != 1 or len(others) != 1 or others[0][2] % ANCHORS:
            raise out.misfit(outputs, EXPECTED)
        boxes.append(heads[0])
        scores.append(others[0][:2])
        counts.add(others[0][2] // ANCHORS)
    if len(counts) != 1:
        raise out.misfit(outputs, EXPECTED)
    return boxes, scores, counts.pop()


def _map(shape: Sequence[int | None], grid: tuple[int, int]) -> tuple[int, bool] | None:
    """(channels, whether they come first) of a map of this grid, or None."""
    if len(shape) != 4:
        return None
    _, first, middle, last = shape
    if first is not None and (middle, last) == grid:
        return first, True
    return (last, False) if last is not None and (first, middle) == grid else None


def _anchors(canvas: tuple[int, int], grids: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """(N, 4) cx cy w h in pixels of the canvas."""
    width, height = canvas
    levels = []
    for rows, columns in grids:
        stride_x, stride_y = width / columns, height / rows
        sides = [
            (_SCALE * 2 ** (octave / 3) * wide * stride_x, _SCALE * 2 ** (octave / 3) * high * stride_y)
            for octave in range(3)
            for wide, high in _RATIOS
        ]
        row, column = np.mgrid[0:rows, 0:columns]
        centres = np.stack([(column + 0.5) * stride_x, (row + 0.5) * stride_y], axis=2).reshape(-1, 1, 2)
        shape = (rows * columns, ANCHORS, 2)
        cells = [np.broadcast_to(centres, shape), np.broadcast_to(np.array(sides)[None], shape)]
        levels.append(np.concatenate(cells, axis=2).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)
