"""Frame -> the model's canvas: the first step of a frame, and the only one that touches every pixel.

One resize, straight into a canvas that is kept per slot; colour order and normalisation are the backend's business.
How it scales is the bundle's `filter`: OpenCV's linear or area, or antialiased as in `vision.resample`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from lineside.errors import ConfigError
from lineside.records import Image, InputSpec, Placement, Window
from lineside.vision.resample import Resampler

MAX_PAD_PIXELS = 1 << 24  # of a model that takes any size: 4096 x 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """How frames of one size come onto the canvas: this window of the frame fills this window of the canvas."""

    placement: Placement
    source: Window  # of the frame
    target: Window  # of the canvas
    area: tuple[float, float, float, float]  # left, top, width, height of the source where it ends between pixels


class Prepare:
    """Puts frames on canvases, one canvas a slot; a canvas is valid until the same slot's next `put`."""

    def __init__(self, spec: InputSpec, slots: int = 1) -> None:
        self.spec = spec
        self._slots: list[_Slot | None] = [None] * slots

    def put(self, image: Image, slot: int = 0) -> tuple[Image, Placement, Window | None]:
        """uint8 (H, W, 3) BGR -> uint8 canvas (h, w, 3) BGR, where the frame lies on it, and which part it fills.

        A frame that already has the canvas's size is handed on as it is, with no window. Raises ConfigError when a
        model that takes any size would be given too large a frame.
        """
        height, width = image.shape[:2]
        kept = self._slots[slot]
        if kept is None or kept.frame_px != (width, height):
            kept = self._slots[slot] = _Slot(plan(self.spec, width, height), self.spec)
        placement = kept.plan.placement
        if image.shape == kept.canvas.shape and placement.scale_x == placement.scale_y == 1.0:
            return image, placement, None
        kept.fill(image)
        return kept.canvas, placement, kept.plan.target


class _Slot:
    """A canvas for frames of one size."""

    def __init__(self, plan: Plan, spec: InputSpec) -> None:
        self.plan = plan
        placement = plan.placement
        self.frame_px = placement.frame_width_px, placement.frame_height_px
        self.canvas: Image = np.full(
            (placement.canvas_height_px, placement.canvas_width_px, 3), spec.pad_value, dtype=np.uint8
        )
        self._window: Image = self.canvas[plan.target]
        shrinks = placement.scale_x < 1.0 and placement.scale_y < 1.0
        self._interpolation = cv2.INTER_AREA if spec.filter == "area" and shrinks else cv2.INTER_LINEAR
        self._resampler: Resampler | None = None
        if spec.filter in ("antialias", "bicubic") and not placement.scale_x == placement.scale_y == 1.0:
            high, wide = self._window.shape[:2]
            self._resampler = Resampler(self.frame_px, plan.area, (wide, high), spec.filter)

    def fill(self, image: Image) -> None:
        if self._resampler is not None:
            self._resampler.put(image, self._window)
            return
        source, window = image[self.plan.source], self._window
        if source.shape == window.shape:
            np.copyto(window, source)
        else:
            cv2.resize(source, (window.shape[1], window.shape[0]), dst=window, interpolation=self._interpolation)


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
        case "center_crop" if spec.filter in ("antialias", "bicubic"):
            return _scaled_and_cropped(spec.crop_fraction, canvas_w, canvas_h, width, height)
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
    target = (slice(top, top + target_h), slice(left, left + target_w))
    return Plan(placement, source, target, (source_left, source_top, source_w, source_h))


def _scaled_and_cropped(fraction: float, canvas_w: int, canvas_h: int, width: int, height: int) -> Plan:
    """torchvision's and timm's Resize and CenterCrop to the pixel: the whole frame is scaled to whole pixels, and of
    that the middle is cut out, so in the frame the crop begins and ends between pixels."""
    if canvas_w / width >= canvas_h / height:
        scaled_w = math.floor(canvas_w / fraction)
        scaled_h = max(canvas_h, int(scaled_w * height / width))
    else:
        scaled_h = math.floor(canvas_h / fraction)
        scaled_w = max(canvas_w, int(scaled_h * width / height))
    left, top = round((scaled_w - canvas_w) / 2), round((scaled_h - canvas_h) / 2)
    scale_x, scale_y = scaled_w / width, scaled_h / height
    placement = Placement(scale_x, scale_y, -left, -top, width, height, canvas_w, canvas_h)
    area = (left / scale_x, top / scale_y, canvas_w / scale_x, canvas_h / scale_y)
    source = (
        slice(math.floor(area[1]), min(height, math.ceil(area[1] + area[3]))),
        slice(math.floor(area[0]), min(width, math.ceil(area[0] + area[2]))),
    )
    return Plan(placement, source, (slice(0, canvas_h), slice(0, canvas_w)), area)


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
    return Plan(Placement(1.0, 1.0, 0.0, 0.0, width, height, canvas_w, canvas_h), whole, whole, (0, 0, width, height))
