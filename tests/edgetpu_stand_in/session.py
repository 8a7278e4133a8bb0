"""One process with one TFLite package: opens models on the Edge TPU stand-in and tells what happened, as JSON.

Called as `session.py PACKAGE MODELS_FOLDER LIBRARY GONE`, GONE being a path that unplugs the device while it exists.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lineside.errors import LinesideError
from lineside.hal.litert import LiteRtBackend
from lineside.records import Artefact, InputSpec

PACKAGE, MODELS, LIBRARY, GONE = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
RGB_128 = InputSpec(128, 128, "rgb", "nhwc", (128.0,) * 3, (128.0,) * 3)
COMPILED = Artefact(str(MODELS / "edgetpu/mobilenet_v1_0.25_128_quant_edgetpu.tflite"), "edgetpu", "int8", "")
PLAIN = Artefact(str(MODELS / "classify/mobilenet_v1_0.25_128_quant.tflite"), "tflite", "int8", "")
MIXED = Artefact(str(MODELS / "edgetpu/yolov8n_640_full_int8_edgetpu.tflite"), "edgetpu", "int8", "")


def opened(
    artefact: Artefact, device: str, *, library: str = LIBRARY, slots: int = 1, size: int = 128
) -> LiteRtBackend:
    input = RGB_128 if size == 128 else InputSpec(size, size, "rgb", "nhwc", std=(255.0,) * 3)
    options = {"package": PACKAGE, "delegate_library": library}
    return LiteRtBackend(artefact, input, device=device, threads=1, slots=slots, options=options)


def told(call: Callable[[], object]) -> str:
    """The error that a user would see, or what came back."""
    try:
        return f"ran: {call()}"
    except LinesideError as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    found: dict[str, object] = {}
    backend = opened(COMPILED, "edgetpu:usb", slots=2)
    found["device"] = backend.device
    expected = pixels[:, :, ::-1].ravel()[:1001] ^ 0x55
    found["right"] = [bool(np.array_equal(backend.infer(pixels, slot)[0].raw.ravel(), expected)) for slot in (0, 1)]
    found["scale"] = backend.outputs[0].scale
    found["mixed"] = [
        list(tensor.raw.shape) for tensor in opened(MIXED, "edgetpu", size=640).infer(np.zeros((640, 640, 3), np.uint8))
    ]
    GONE.touch()
    found["unplugged"] = told(lambda: backend.infer(pixels))
    found["still unplugged"] = told(lambda: opened(COMPILED, "edgetpu:usb").device)
    GONE.unlink()
    backend.close()
    found["plugged in again"] = told(lambda: len(opened(COMPILED, "edgetpu:usb").infer(pixels)))
    os.environ["EDGETPU_STAND_IN_DEVICES"] = "pci"
    os.putenv("EDGETPU_STAND_IN_DEVICES", "pci")
    found["other bus"] = told(lambda: opened(COMPILED, "edgetpu:usb").device)
    found["any bus"] = told(lambda: opened(COMPILED, "edgetpu").device)
    found["no library"] = told(lambda: opened(COMPILED, "edgetpu", library="libnothere.so.1").device)
    found["not compiled"] = told(lambda: opened(PLAIN, "edgetpu").device)
    found["compiled on cpu"] = told(lambda: opened(COMPILED, "cpu").device)
    cut = GONE.with_name("cut.tflite")
    cut.write_bytes(Path(PLAIN.path).read_bytes()[:300_000])
    found["cut short"] = told(lambda: opened(Artefact(str(cut), "tflite", "int8", ""), "cpu").device)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
