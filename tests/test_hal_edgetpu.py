"""The Edge TPU through its delegate library: a stand-in library in C, loaded by the real TFLite packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetpu_stand_in.build import build_libedgetpu

TESTS = Path(__file__).parent
LEGACY = Path(os.environ.get("LINESIDE_LEGACY_PYTHON", TESTS.parent / ".venv-legacy" / "bin" / "python"))


def python_with(package: str) -> str:
    if package == "ai_edge_litert":
        return sys.executable
    if not LEGACY.exists():
        pytest.skip(
            f"no {LEGACY}: python3.11 -m venv .venv-legacy && .venv-legacy/bin/pip install 'tflite-runtime>=2.14' "
            "'numpy<2' 'opencv-python-headless<5' pydantic; or set LINESIDE_LEGACY_PYTHON"
        )
    return str(LEGACY)


@pytest.fixture(scope="module", params=["ai_edge_litert", "tflite_runtime"])
def told(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process with this package saw, step by step."""
    python = python_with(request.param)
    folder = tmp_path_factory.mktemp("edgetpu")
    library = build_libedgetpu(folder)
    gone = folder / "gone"
    done = subprocess.run(
        [python, str(TESTS / "edgetpu_stand_in/session.py"), request.param, str(data / "models"), library, gone],
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS.parent / "runtime"),
            "EDGETPU_STAND_IN_UNPLUGGED": str(gone),
            "EDGETPU_STAND_IN_LOG": str(folder / "log"),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "log": (folder / "log").read_text().splitlines()}


def test_a_compiled_model_runs_on_the_edge_tpu_in_every_slot(told: dict[str, Any]) -> None:
    assert told["device"] == "edgetpu:usb"
    assert told["right"] == [True, True]
    assert told["scale"] == pytest.approx(1 / 256)
    assert told["log"][:2] == ["device=usb ", "device=usb "]


def test_a_partly_compiled_model_runs_its_other_operators_on_the_cpu(told: dict[str, Any]) -> None:
    assert told["mixed"] == [[1, 84, 8400]]


def test_a_device_unplugged_while_running_is_a_device_error_until_it_is_back(told: dict[str, Any]) -> None:
    assert told["unplugged"].startswith("DeviceError: litert: edgetpu:usb failed")
    assert told["still unplugged"].startswith("DeviceError: litert: asked for edgetpu:usb, none opened")
    assert told["plugged in again"] == "ran: 1"


def test_a_device_on_another_bus_is_taken_only_when_none_was_named(told: dict[str, Any]) -> None:
    assert told["other bus"].startswith("DeviceError: litert: asked for edgetpu:usb, none opened")
    assert "1a6e:089a" in told["other bus"]
    assert told["any bus"] == "ran: edgetpu"


def test_a_missing_library_is_a_device_error_with_the_package_to_install(told: dict[str, Any]) -> None:
    assert told["no library"].startswith("DeviceError: litert: Edge TPU library libnothere.so.1 cannot be loaded")
    assert "libedgetpu1-std" in told["no library"]


def test_a_model_on_the_wrong_side_of_the_compiler_is_a_config_error(told: dict[str, Any]) -> None:
    assert told["not compiled"].startswith("ConfigError")
    assert "edgetpu_compiler" in told["not compiled"]
    assert told["compiled on cpu"].startswith("ConfigError")
    assert 'device = "edgetpu"' in told["compiled on cpu"]


def test_a_model_cut_short_is_refused_before_the_runtime_can_crash_on_it(told: dict[str, Any]) -> None:
    assert told["cut short"].startswith("ConfigError")
    assert "truncated" in told["cut short"]
