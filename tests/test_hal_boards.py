"""Each device profile on a tree of its board: `probe` finds it, and its options reach the vendor's call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetpu_stand_in.build import build_libedgetpu
from lineside.hal import profile

TESTS = Path(__file__).parent
BOARDS = TESTS / "recorded_boards"
ONNX = "classify/mobilenet_v2_224_fp32.onnx"
TFLITE = "classify/mobilenet_v2_1.0_224_quant.tflite"
PLAIN_128 = "classify/mobilenet_v1_0.25_128_quant.tflite"
EDGETPU = "edgetpu/mobilenet_v1_0.25_128_quant_edgetpu.tflite"


def on_board(board: str, models: dict[str, str], data: Path, tmp_path: Path, **env: str) -> dict[str, Any]:
    files = [f"{kind}={data / 'models' / file}" for kind, file in models.items()]
    done = subprocess.run(
        [
            sys.executable,
            str(TESTS / "vendor_seam/open_on_board.py"),
            str(BOARDS / board),
            str(tmp_path / "cache"),
            *files,
        ],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["probe"]["profile"]["name"] == board
    return told


@pytest.mark.parametrize(("board", "workspace_mb"), [("jetson-orin", 1024), ("jetson-xavier", 512)])
def test_a_jetson_builds_tensorrt_engines_once_and_keeps_them(
    board: str, workspace_mb: int, data: Path, tmp_path: Path
) -> None:
    told = on_board(board, {"onnx": ONNX}, data, tmp_path)
    assert told["name"] == "onnxruntime:tensorrt:0"
    (call,) = told["calls"]
    names = [name for name, _ in call["providers"]]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert call["providers"][0][1] == {
        "device_id": "0",
        "trt_fp16_enable": "True",
        "trt_int8_enable": "True",
        "trt_max_workspace_size": str(workspace_mb << 20),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(tmp_path / "cache"),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(tmp_path / "cache"),
    }
    assert call["spinning"] == "0"


def test_a_provider_that_falls_back_in_silence_is_told_and_the_next_candidate_taken(data: Path, tmp_path: Path) -> None:
    told = on_board("jetson-orin", {"onnx": ONNX}, data, tmp_path, PROVIDERS_FAIL="1")
    assert told["name"] == "onnxruntime:cpu"
    assert "asked for tensorrt, got CPUExecutionProvider" in told["said"]
    assert "asked for cuda, got CPUExecutionProvider" in told["said"]
    assert told["calls"][1]["providers"][0] == [
        "CUDAExecutionProvider",
        {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    ]
    assert told["calls"][-1]["threads"] == 4


def test_a_provider_asked_for_by_name_that_falls_back_in_silence_is_an_error(data: Path, tmp_path: Path) -> None:
    ask = json.dumps({"backend": "onnxruntime", "device": "cuda"})
    told = on_board("jetson-orin", {"onnx": ONNX}, data, tmp_path, PROVIDERS_FAIL="1", ASK=ask)
    assert told["error"].startswith("DeviceError: onnxruntime: asked for cuda, got CPUExecutionProvider")
    assert "lineside[onnxruntime-gpu]" in told["error"]
    ask = json.dumps({"backend": "onnxruntime", "device": "cuda", "fallback": ["openvino:cpu"]})
    told = on_board("jetson-orin", {"onnx": ONNX}, data, tmp_path, PROVIDERS_FAIL="1", ASK=ask)
    assert (told["name"], told["fallback"]) == ("openvino:cpu", True)


@pytest.mark.parametrize(
    ("board", "bus", "threads"), [("raspberry-pi-5-coral-usb", "usb", 2), ("coral-dev-board", "pci", 2)]
)
def test_a_coral_runs_compiled_models_on_its_own_bus(
    board: str, bus: str, threads: int, data: Path, tmp_path: Path
) -> None:
    build_libedgetpu(tmp_path)
    log = tmp_path / "log"
    env = {
        "LD_LIBRARY_PATH": str(tmp_path),
        "EDGETPU_STAND_IN_DEVICES": bus,
        "EDGETPU_STAND_IN_LOG": str(log),
    }
    told = on_board(board, {"tflite": PLAIN_128, "edgetpu": EDGETPU}, data, tmp_path, **env)
    assert told["name"] == f"litert:edgetpu:{bus}"
    assert log.read_text() == f"device={bus} \n"
    assert told["calls"] == [{"call": "Interpreter", "threads": threads, "delegates": 1}]
    (device,) = [one for one in told["probe"]["devices"] if one["device"] == "edgetpu"]
    assert device["present"]


def test_a_coral_without_its_library_falls_to_the_cpu_and_says_so(data: Path, tmp_path: Path) -> None:
    told = on_board("raspberry-pi-5-coral-usb", {"tflite": PLAIN_128, "edgetpu": EDGETPU}, data, tmp_path)
    assert told["name"] == "litert:cpu"
    assert "libedgetpu.so.1 cannot be loaded" in told["said"]
    assert told["calls"][-1] == {"call": "Interpreter", "threads": 4, "delegates": 0}
    (device,) = [one for one in told["probe"]["devices"] if one["device"] == "edgetpu"]
    assert not device["present"]
    assert "libedgetpu1-std" in device["remedy"]


def test_a_core_ultra_compiles_for_its_npu(data: Path, tmp_path: Path) -> None:
    told = on_board("intel-core-ultra-npu", {"onnx": ONNX, "tflite": TFLITE}, data, tmp_path)
    assert told["name"] == "openvino:npu"
    (call,) = told["calls"]
    assert call["device"] == "NPU"
    assert call["config"] == {"PERFORMANCE_HINT": "LATENCY", "NPU_TURBO": True, "CACHE_DIR": str(tmp_path / "cache")}


@pytest.mark.parametrize(("board", "threads"), [("raspberry-pi-5", 4), ("arm-cpu", None), ("x86-cpu", None)])
def test_a_board_without_accelerator_runs_litert_on_its_cores(
    board: str, threads: int | None, data: Path, tmp_path: Path
) -> None:
    told = on_board(board, {"onnx": ONNX, "tflite": TFLITE}, data, tmp_path, ASK=json.dumps({"threads": threads or 0}))
    assert told["name"] == "litert:cpu"
    wanted = threads or len(os.sched_getaffinity(0))  # 0 in the profile: every core that this process may use
    assert told["calls"][0]["threads"] <= wanted
    if threads:
        assert told["calls"][0]["threads"] == threads


def test_every_shipped_profile_has_a_board_here() -> None:
    assert {one.name for one in profile.known()} == {path.name for path in BOARDS.iterdir() if path.is_dir()}
