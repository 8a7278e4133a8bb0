"""Anomaly heat maps for people: from the model's canvas onto the frame, as a colour overlay. Off the frame path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from lineside.records import Image, Placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTH = 0.6  # the most that the heat may hide of the picture


def to_frame(heat: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """(h, w) over the canvas -> (H, W) over the frame; what a centre crop left out is as cold as the coldest place."""
    rows, columns = heat.shape
    # each frame pixel's centre: frame -> canvas -> cells of the map
    x = _cells(placement.frame_width_px, placement.scale_x, placement.left_px, columns / placement.canvas_width_px)
    y = _cells(placement.frame_height_px, placement.scale_y, placement.top_px, rows / placement.canvas_height_px)
    inside = ((x > -1) & (x < columns))[None, :] & ((y > -1) & (y < rows))[:, None]
    across, down = np.meshgrid(x.clip(0, columns - 1), y.clip(0, rows - 1))
    spread = cv2.remap(heat, across, down, cv2.INTER_LINEAR)
    return np.where(inside, spread, heat.min()).astype(np.float32)


def overlay(image: Image, heat: NDArray[np.float32], placement: Placement, threshold: float | None = None) -> Image:
    """A copy of the frame with the heat on it: clear where it is lowest, red where it is highest.

    With a threshold on the heat's own scale, red starts there, so that a good part does not glow.
    """
    spread = to_frame(heat, placement)
    low = float(np.median(spread))
    high = max(float(spread.max()), threshold or 0.0, low + 1e-6)
    share = ((spread - low) / (high - low)).clip(0, 1)
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_JET)
    weight = (share * STRENGTH)[:, :, None]
    return np.asarray(image * (1 - weight) + colours * weight, np.uint8)


def _cells(pixels: int, scale: float, offset_px: float, cells_a_canvas_px: float) -> NDArray[np.float32]:
    centres = (np.arange(pixels) + 0.5) * scale + offset_px
    return (centres * cells_a_canvas_px - 0.5).astype(np.float32)
