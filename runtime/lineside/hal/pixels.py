"""From a BGR canvas to a model's input tensor: colour order, normalisation and quantisation in as few passes as exact.

Used by the backends whose runtime cannot fold this into its graph. Times are for 640 x 640 on one x86-64 core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

from lineside.errors import ConfigError
from lineside.records import Image, InputSpec, TensorSpec, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"
_FLOATS = ("float32", "float16")


def quantised_table(input: InputSpec, spec: TensorSpec) -> Array:
    """(C, 256) raw input values for each pixel value, channels in the model's order, in the input's dtype.

    raw = round((pixel - mean) / std / scale + zero_point), saturated, ties to even (as TFLite quantises).
    """
    mean, std = per_channel(input)
    real = (np.arange(256, dtype=np.float64)[None, :] - mean[:, None]) / std[:, None]
    limits = np.iinfo(np.dtype(spec.dtype))
    return np.clip(np.rint(real / spec.scale + spec.zero_point), limits.min, limits.max).astype(spec.dtype)


def per_channel(input: InputSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, one value per channel of the model."""
    channels = 1 if input.color == "gray" else 3
    mean, std = (np.asarray(values, np.float64)[:channels] for values in (input.mean, input.std))
    if len(mean) != channels or len(std) != channels or not np.all(std):
        raise ConfigError(f"input: mean {input.mean} and std {input.std} need {channels} values, and no std may be 0")
    return mean, std


class PixelWriter:
    """Writes canvases into one slot's input buffer. Not for two threads at once: it owns scratch planes.

    Of a canvas that it has written before, into the same memory, it writes only the window that the frame fills.
    """

    def __init__(self, input: InputSpec, spec: TensorSpec) -> None:
        self._color = input.color
        self._planar = input.layout == "nchw"
        self._scratch: Array = np.empty((0, 0, 3), np.uint8)
        self._planes: list[Array] = []
        self._written: tuple[Image, int] | None = None  # the canvas that is all in the buffer, and where that is
        if spec.dtype in _FLOATS:
            self._convert = _float_step(input, planar=self._planar)
        elif spec.dtype in ("uint8", "int8"):
            self._convert = _quantised_step(input, spec, planar=self._planar)
        else:
            raise ConfigError(
                f"input {spec.name!r}: type {spec.dtype}; lineside feeds float32, float16, uint8 and int8"
            )

    def write(self, pixels: Image, out: Array, window: Window | None = None) -> None:
        """Fill `out`, (C, H, W) or (H, W, C), C-contiguous, from `pixels` (H, W, 3) BGR. `window`: see Backend."""
        place = out.__array_interface__["data"][0]
        if window is not None:
            known = self._written is not None and self._written[0] is pixels and self._written[1] == place
            self._written = pixels, place
            if known:
                pixels, out = pixels[window], out[:, *window] if self._planar else out[window]
        else:
            self._written = None
        if pixels.shape[:2] != self._scratch.shape[:2]:
            self._scratch = np.empty(pixels.shape, np.uint8)
            self._planes = [np.empty(pixels.shape[:2], np.uint8) for _ in range(3)]
        if self._planar:
            self._write_planes(pixels, out)
        else:
            self._write_interleaved(pixels, out)

    def _write_planes(self, pixels: Image, out: Array) -> None:
        planes = self._planes
        if self._color == "gray":
            cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY, dst=planes[0])
            self._convert(planes[0], out[0], 0)
            return
        cv2.split(pixels, planes)
        for channel in range(3):
            self._convert(planes[channel if self._color == "bgr" else 2 - channel], out[channel], channel)

    def _write_interleaved(self, pixels: Image, out: Array) -> None:
        if self._color == "gray":
            cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY, dst=self._planes[0])
            self._convert(self._planes[0], out[:, :, 0], -1)
        elif self._color == "bgr":
            self._convert(pixels, out, -1)
        elif self._convert is _copy and out.itemsize == 1:  # 0.04 ms: the swap is the whole conversion
            cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=out.view(np.uint8))
        else:
            cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=self._scratch)
            self._convert(self._scratch, out, -1)


Step = Callable[[Array, Array, int], None]  # source uint8, destination, channel (-1: all of them)


def _copy(source: Array, out: Array, channel: int) -> None:
    np.copyto(out.view(np.uint8) if out.dtype == np.int8 else out, source)


def _flip_sign(source: Array, out: Array, channel: int) -> None:
    np.bitwise_xor(source, np.uint8(0x80), out=out.view(np.uint8))  # pixel - 128 as int8


def _float_step(input: InputSpec, *, planar: bool) -> Step:
    mean, std = per_channel(input)
    gain, offset = (1.0 / std).astype(np.float32), (-mean / std).astype(np.float32)
    uniform = bool(np.all(gain == gain[0]) and np.all(offset == offset[0]))
    if uniform and gain[0] == 1.0 and offset[0] == 0.0:
        return _copy
    if not planar and not uniform:
        table = (np.arange(256, dtype=np.float32)[None, :, None] * gain + offset).astype(np.float32)

        def look_up(source: Array, out: Array, channel: int) -> None:  # 0.7 ms; a broadcast multiply takes longer
            np.copyto(out, cv2.LUT(source, table))

        return look_up

    def scale(source: Array, out: Array, channel: int) -> None:  # 0.28 ms, with an offset 0.36
        np.multiply(source, gain[channel], out=out)
        if offset[channel]:
            np.add(out, offset[channel], out=out)

    return scale


def _quantised_step(input: InputSpec, spec: TensorSpec, *, planar: bool) -> Step:
    table = quantised_table(input, spec)
    raw = table.view(np.uint8)
    pixel = np.arange(256, dtype=np.uint8)
    if np.all(raw == pixel):
        return _copy
    if np.all(raw == pixel ^ 0x80):
        return _flip_sign
    linear = None if np.any(table != table[0]) else _linear_step(input, spec, table[0])
    if linear is not None:
        return linear
    interleaved = np.ascontiguousarray(raw.T).reshape(1, 256, len(raw))

    def look_up(source: Array, out: Array, channel: int) -> None:  # 0.35 ms, three tables 0.73
        chosen = interleaved if channel < 0 else raw[channel].reshape(1, 256)
        np.copyto(out.view(np.uint8), cv2.LUT(source, chosen))

    return look_up


def _linear_step(input: InputSpec, spec: TensorSpec, table: Array) -> Step | None:
    """gain * pixel + offset by SIMD where that gives exactly `table`, else None."""
    mean, std = per_channel(input)
    signed = spec.dtype == "int8"
    lift = 128 if signed else 0  # convertScaleAbs saturates to 0 to 255; the sign bit is flipped back afterwards
    gain = float(1.0 / std[0] / spec.scale)
    offset = float(-mean[0] * gain + spec.zero_point + lift)
    pixel = np.arange(256, dtype=np.uint8).reshape(1, 256)
    if not np.array_equal(cv2.convertScaleAbs(pixel, alpha=gain, beta=offset).ravel(), table.astype(np.int32) + lift):
        return None

    def scale(source: Array, out: Array, channel: int) -> None:
        raw = out.view(np.uint8)
        cv2.convertScaleAbs(source, raw, gain, offset)
        if signed:
            np.bitwise_xor(raw, np.uint8(0x80), out=raw)

    return scale
