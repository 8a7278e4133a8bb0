"""Frame -> the model's canvas: the first step of a frame, and the only one that touches every pixel.

One resize, straight into a canvas that is kept per slot; colour order and normalisation are the backend's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lineside.errors import ConfigError
from lineside.records import Image, InputSpec, Placement, Window

MAX_PAD_PIXELS = 1 << 24  # of a model that takes any size: 4096 x 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """How frames of one size come onto the canvas: this window of the frame fills this window of the canvas."""

    placement: Placement
    source: Window  # of the frame
    target: Window  # of the canvas


class Prepare:
    """Puts frames on canvases, one canvas a slot; a canvas is valid until the same slot's next `put`."""

    def __init__(self, spec: InputSpec, slots: int = 1) -> None:
        self.spec = spec
        self._slots: list[tuple[Plan, Image, Image] | None] = [None] * slots

    def put(self, image: Image, slot: int = 0) -> tuple[Image, Placement, Window | None]:
        """uint8 (H, W, 3) BGR -> uint8 canvas (h, w, 3) BGR, where the frame lies on it, and which part it fills.

        A frame that already has the canvas's size is handed on as it is, with no window. Raises ConfigError when a
        model that takes any size would be given too large a frame.
        """
        height, width = image.shape[:2]
        kept = self._slots[slot]
        if kept is None or (kept[0].placement.frame_width_px, kept[0].placement.frame_height_px) != (width, height):
            kept = self._slots[slot] = _lay_out(plan(self.spec, width, height), self.spec.pad_value)
        layout, canvas, window = kept
        if image.shape == canvas.shape and layout.placement.scale_x == layout.placement.scale_y == 1.0:
            return image, layout.placement, None
        source = image[layout.source]
        if source.shape == window.shape:
            np.copyto(window, source)
        else:
            cv2.resize(source, (window.shape[1], window.shape[0]), dst=window, interpolation=cv2.INTER_LINEAR)
        return canvas, layout.placement, layout.target


def plan(spec: InputSpec, width: int, height: int) -> Plan:
    """Where a frame of this size goes. Pure."""
    if spec.width_px is None or spec.height_px is None:
        return _padded(spec, width, height)
    canvas_w, canvas_h = spec.width_px, spec.height_px
    left = top = 0
    source_left, source_top, source_w, source_h = 0, 0, width, height
    target_w, target_h = canvas_w, canvas_h
    match spec.resize:
        case "letterbox" | "letterbox_top_left":
            scale = min(canvas_w / width, canvas_h / height)
            target_w = min(canvas_w, max(1, round(width * scale)))
            target_h = min(canvas_h, max(1, round(height * scale)))
            if spec.resize == "letterbox":
                left, top = (canvas_w - target_w) // 2, (canvas_h - target_h) // 2
        case "center_crop":
            scale = max(canvas_w / width, canvas_h / height) / spec.crop_fraction
            source_w = min(width, max(1, round(canvas_w / scale)))
            source_h = min(height, max(1, round(canvas_h / scale)))
            source_left, source_top = (width - source_w) // 2, (height - source_h) // 2
    # the rounded sizes make the two scales differ a little: boxes are mapped back with exactly these
    scale_x, scale_y = target_w / source_w, target_h / source_h
    placement = Placement(
        scale_x=scale_x,
        scale_y=scale_y,
        left_px=left - source_left * scale_x,
        top_px=top - source_top * scale_y,
        frame_width_px=width,
        frame_height_px=height,
        canvas_width_px=canvas_w,
        canvas_height_px=canvas_h,
    )
    source = (slice(source_top, source_top + source_h), slice(source_left, source_left + source_w))
    return Plan(placement, source, (slice(top, top + target_h), slice(left, left + target_w)))


def _padded(spec: InputSpec, width: int, height: int) -> Plan:
    canvas_w = -(-width // spec.stride_px) * spec.stride_px
    canvas_h = -(-height // spec.stride_px) * spec.stride_px
    if canvas_w * canvas_h > MAX_PAD_PIXELS:
        raise ConfigError(
            f"a frame of {width} x {height} pixels is too large for a model that takes any size: at most "
            f"{MAX_PAD_PIXELS // 1_000_000} million pixels: give width_px and height_px in the bundle's [input], "
            "or the camera a region of interest"
        )
    whole = (slice(0, height), slice(0, width))
    return Plan(Placement(1.0, 1.0, 0.0, 0.0, width, height, canvas_w, canvas_h), whole, whole)


def _lay_out(layout: Plan, pad_value: int) -> tuple[Plan, Image, Image]:
    shape = (layout.placement.canvas_height_px, layout.placement.canvas_width_px, 3)
    canvas = np.full(shape, pad_value, dtype=np.uint8)
    return layout, canvas, canvas[layout.target]
