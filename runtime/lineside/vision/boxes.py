"""Boxes: x1 y1 x2 y2, float32, exclusive right and lower edges. Overlap, suppression, canvas -> frame. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from lineside.records import Detections, Placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

Boxes: TypeAlias = "NDArray[np.float32]"  # (N, 4)
Scores: TypeAlias = "NDArray[np.float32]"  # (N,)
ClassIds: TypeAlias = "NDArray[np.int32]"  # (N,)

MAX_CANDIDATES = 1000  # the best so many enter suppression (4 ms): its cost grows with the square

NOTHING = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


def iou(boxes: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Intersection over union, (N, 4) and (M, 4) -> (N, M); 0 where both are empty."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    far = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(far - corner, 0, None).prod(axis=2)
    union = _area(boxes)[:, None] + _area(others)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float32)


def nms(boxes: Boxes, scores: Scores, class_ids: ClassIds, max_iou: float, max_findings: int) -> NDArray[np.intp]:
    """Indices of the boxes that stay, best score first.

    A box goes when one of its own class with a higher score overlaps it by more than `max_iou`.
    """
    if len(boxes) == 0:
        return np.empty(0, np.intp)
    if len(boxes) == 1:
        return np.zeros(1, np.intp)
    # OpenCV wants x y w h; a threshold of its own would drop scores of exactly 0
    corners = boxes.astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    kept = np.asarray(
        cv2.dnn.NMSBoxesBatched(corners.tolist(), scores.tolist(), class_ids.tolist(), -1.0, max_iou), dtype=np.intp
    )
    return kept[np.argsort(-scores[kept], kind="stable")][:max_findings]


def strongest(scores: Scores, limit: int = MAX_CANDIDATES) -> NDArray[np.intp] | slice:
    """Which candidates enter suppression: all, or the best `limit`."""
    return slice(None) if len(scores) <= limit else np.argpartition(scores, -limit)[-limit:]


def to_frame(boxes: Boxes, placement: Placement) -> Boxes:
    """Canvas pixels -> pixels of the frame, cut at its edges."""
    scale = np.array([placement.scale_x, placement.scale_y] * 2, np.float64)
    offset = np.array([placement.left_px, placement.top_px] * 2, np.float64)
    frame = (boxes - offset) / scale
    width, height = placement.frame_width_px, placement.frame_height_px
    return np.clip(frame, 0.0, (width, height, width, height)).astype(np.float32)


def settle(
    boxes: Boxes, scores: Scores, class_ids: ClassIds, placement: Placement, max_iou: float, max_findings: int
) -> Detections:
    """The end of every detector: suppression on the canvas, then the frame's pixels, best score first."""
    if len(boxes) == 0:
        return NOTHING
    best = strongest(scores)
    boxes, scores, class_ids = boxes[best], scores[best], class_ids[best]
    kept = nms(boxes, scores, class_ids, max_iou, max_findings)
    return Detections(to_frame(boxes[kept], placement), scores[kept], class_ids[kept])


def corners_of_centres(boxes: Boxes) -> Boxes:
    """cx cy w h -> x1 y1 x2 y2, (N, 4)."""
    half = boxes[:, 2:] * np.float32(0.5)
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _area(boxes: Boxes) -> NDArray[np.float32]:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1), np.float32)
