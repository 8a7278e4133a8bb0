"""Which backend is opened, what is declared, and what is said about those passed over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lineside.errors import ConfigError, DeviceError
from lineside.hal import profile
from lineside.hal.choose import Choice, open_backend
from lineside.records import Artefact, InputSpec

INPUT = InputSpec(224, 224, "rgb", "nchw", (127.5,) * 3, (127.5,) * 3)
X86 = profile.find("x86-cpu")


def artefacts(data: Path, *kinds: str) -> list[Artefact]:
    files = {
        "onnx": "classify/mobilenet_v2_224_fp32.onnx",
        "tflite": "classify/mobilenet_v2_1.0_224_quant.tflite",
        "edgetpu": "edgetpu/mobilenet_v1_0.25_128_quant_edgetpu.tflite",
    }
    return [Artefact(str(data / "models" / files[kind]), kind, "int8", "") for kind in kinds]  # type: ignore[arg-type]


def choose(found: list[Artefact], **asked: Any) -> Choice:
    return open_backend(found, INPUT, **{"profile": X86, "threads": 1, **asked})


def test_auto_takes_the_profiles_first_backend_that_has_an_artefact(data: Path) -> None:
    assert choose(artefacts(data, "onnx", "tflite")).name == "litert:cpu"
    choice = choose(artefacts(data, "onnx"))
    assert choice.name == "openvino:cpu"
    assert [(one.name, "no artefact of format tflite" in one.why) for one in choice.passed_over] == [
        ("litert:cpu", True)
    ]
    assert not choice.fallback


def test_of_two_artefacts_the_more_precise_one_loses_to_int8(data: Path) -> None:
    onnx, tflite = artefacts(data, "onnx", "tflite")
    fp32 = Artefact(onnx.path, "onnx", "fp32", "")
    assert choose([fp32, tflite], backend="openvino").artefact == tflite


def test_a_named_backend_is_that_one_or_an_error_never_another(data: Path) -> None:
    assert choose(artefacts(data, "onnx", "tflite"), backend="onnxruntime").name == "onnxruntime:cpu"
    with pytest.raises(ConfigError, match="no artefact of format onnx"):
        choose(artefacts(data, "tflite"), backend="onnxruntime")
    with pytest.raises(DeviceError, match="npu"):
        choose(artefacts(data, "onnx"), backend="openvino", device="npu")
    with pytest.raises(ConfigError, match="known are onnxruntime"):
        choose(artefacts(data, "onnx"), backend="onxruntime")


def test_a_declared_fallback_is_taken_and_reported(data: Path) -> None:
    choice = choose(
        artefacts(data, "onnx"), backend="openvino", device="npu", fallback=["openvino:gpu", "onnxruntime:cpu"]
    )
    assert (choice.name, choice.fallback) == ("onnxruntime:cpu", True)
    assert [one.name for one in choice.passed_over] == ["openvino:npu", "openvino:gpu"]
    assert str(choice).startswith("onnxruntime:cpu (fallback); not openvino:npu: openvino: asked for npu, found cpu")


def test_when_nothing_opens_every_reason_is_in_the_error(data: Path) -> None:
    with pytest.raises(DeviceError, match=r"openvino:npu: .*fake:cpu: ") as raised:
        choose(
            artefacts(data, "onnx"),
            backend="openvino",
            device="npu",
            fallback=["fake:cpu"],
            options={"fake": {"fail_open": True}},
        )
    assert "fail_open" in str(raised.value)
    with pytest.raises(ConfigError, match="backend:device"):
        choose(artefacts(data, "onnx"), backend="openvino", device="npu", fallback=["onnxruntime"])


def test_a_device_that_the_profile_has_for_no_backend_is_a_config_error(data: Path) -> None:
    with pytest.raises(ConfigError, match="name a backend too"):
        choose(artefacts(data, "onnx"), device="npu")


def test_options_reach_only_the_backend_they_are_named_for(data: Path) -> None:
    choice = choose(
        artefacts(data, "onnx"),
        backend="openvino",
        device="npu",
        fallback=["fake:cpu"],
        options={"openvino": {"precision": "f32"}, "fake": {"classes": 3}},
    )
    assert choice.backend.outputs[0].shape == (1, 3)


def test_with_no_runtime_installed_the_error_is_the_install_lines(data: Path) -> None:
    code = """
import importlib.util, sys
names = ("onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime")
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in names else real(name, package)
from lineside.errors import ConfigError
from lineside.hal import profile
from lineside.hal.choose import open_backend
from lineside.records import Artefact, InputSpec
try:
    artefact = Artefact(sys.argv[1], "onnx", "fp32", "")
    open_backend([artefact], InputSpec(224, 224, "rgb", "nchw"), profile=profile.GENERIC)
except ConfigError as error:
    print("\\n".join(error.lines))
"""
    path = artefacts(data, "onnx")[0].path
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "litert is not installed: pip install 'lineside[litert]'" in done.stdout
    assert "onnxruntime is not installed: pip install 'lineside[onnxruntime]'" in done.stdout
