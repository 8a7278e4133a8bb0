"""LiteRT's GPU route, on a software Vulkan driver where VK_ICD_FILENAMES names one (SwiftShader, lavapipe)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SESSION = """
import json, sys
import numpy as np
from lineside.errors import LinesideError
from lineside.hal.litert import LiteRtBackend
from lineside.records import Artefact, InputSpec

input = InputSpec(128, 128, "rgb", "nhwc", (127.5,) * 3, (127.5,) * 3)
artefact = Artefact(sys.argv[1], "tflite", "fp32", "")
pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
try:
    gpu = LiteRtBackend(artefact, input, device="gpu", slots=2)
except LinesideError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
else:
    cpu = LiteRtBackend(artefact, input, threads=1).infer(pixels)
    pairs = [list(zip(gpu.infer(pixels, slot), cpu, strict=True)) for slot in (0, 1)]
    far = [float(np.abs(one.raw - other.raw).max()) for slot in pairs for one, other in slot]
    names = [one.name == other.name for one, other in pairs[0]]
    print(json.dumps({"device": gpu.device, "far": far, "names": names, "size": float(np.abs(cpu[0].raw).max())}))
"""


def on_gpu(data: Path, **env: str) -> dict[str, Any]:
    model = data / "models/face/face_detection_short_range.tflite"
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(model)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.skipif("VK_ICD_FILENAMES" not in os.environ, reason="no Vulkan driver named: set VK_ICD_FILENAMES")
def test_a_model_on_the_gpu_answers_as_on_the_cpu(data: Path) -> None:
    told = on_gpu(data)
    assert told["device"] == "gpu"
    assert max(told["far"]) < 0.01 * told["size"]
    assert all(told["names"])


def test_without_a_gpu_the_error_says_what_it_needs(data: Path) -> None:
    told = on_gpu(data, VK_ICD_FILENAMES="/nonexistent.json", VK_DRIVER_FILES="/nonexistent.json")
    assert told["error"].startswith("DeviceError: litert: asked for gpu, none opened")
    assert "mesa-vulkan-drivers" in told["error"]
