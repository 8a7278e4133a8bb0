"""A backend without a runtime: says how bright the canvas is, and fails on demand. For tests and demos."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from lineside.errors import ConfigError, DeviceError
from lineside.hal.artefact import Options, take
from lineside.records import Artefact, Image, InputSpec, Tensor, TensorSpec, Window

FORMATS = ("onnx", "openvino", "tflite", "edgetpu")
DEVICES = ("cpu",)
_OPTIONS: dict[str, type] = {
    "classes": int,  # length of its one output; the brightness band of the canvas gets 0.9
    "infer_ms": float,  # how long an infer takes
    "fail_open": bool,
    "fail_after": int,  # the infer after this many raises DeviceError, and so does every later one
    "unplugged_while": str,  # a path: while it exists the device is gone, at open and at infer
}


class FakeBackend:
    """Options: see `_OPTIONS`. Any `device` is taken. Its model file is not read."""

    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        artefact: Artefact,
        input: InputSpec,
        *,
        device: str = "cpu",
        threads: int = 0,
        slots: int = 1,
        options: Options | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        options = options or {}
        take(options, "fake", _OPTIONS)
        self._classes = int(options.get("classes", 10))
        if self._classes < 2:
            raise ConfigError(f"fake: option classes = {self._classes}: at least 2")
        self._unplugged = Path(str(options["unplugged_while"])) if "unplugged_while" in options else None
        if options.get("fail_open"):
            raise DeviceError(f"fake: {device} did not open: option fail_open is set")
        self.device = device
        self._check_plugged()
        self._left = int(options["fail_after"]) if "fail_after" in options else None
        self._infer_s = float(options.get("infer_ms", 0.0)) / 1000
        self._lock = threading.Lock()
        shape = (1, input.height_px, input.width_px, 3)
        self.inputs = (TensorSpec("canvas", shape, "uint8"),)
        self.outputs = (TensorSpec("brightness", (1, self._classes), "float32"),)
        self._buffers = [np.empty((1, self._classes), np.float32) for _ in range(slots)]

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        self._check_plugged()
        with self._lock:
            if self._left == 0:
                raise DeviceError(f"fake: {self.device} failed: option fail_after is reached")
            if self._left is not None:
                self._left -= 1
        if self._infer_s:
            time.sleep(self._infer_s)
        band = min(self._classes - 1, int(pixels.mean() * self._classes / 256))
        scores = self._buffers[slot]
        scores[:] = 0.1 / (self._classes - 1)
        scores[0, band] = 0.9
        return (Tensor("brightness", scores),)

    @staticmethod
    def formats(device: str) -> tuple[str, ...]:
        """Artefact formats that this device runs, best first."""
        return FORMATS

    def close(self) -> None:
        pass

    def _check_plugged(self) -> None:
        if self._unplugged is not None and self._unplugged.exists():
            raise DeviceError(f"fake: {self.device} is unplugged ({self._unplugged} exists)")
