"""Which backends and devices are here; for each absent one why, and what to do. Opens none: it may be busy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.hal.board import Board
from lineside.registry import VENDORS, vendor

CORAL_USB = ("1a6e:089a", "18d1:9302")
CORAL_PCI = "1ac1:089a"
_NVIDIA = "10de:"
_PLUG_IN = "plug one in (`lsusb` shows 1a6e:089a or 18d1:9302), and then: install Coral's libedgetpu1-std"


@dataclass(frozen=True, slots=True)
class Device:
    """One device of one backend."""

    backend: str
    device: str
    present: bool
    detail: str  # what it is, or why it is absent
    remedy: str = ""  # what to do, where it is absent


def devices(board: Board) -> tuple[Device, ...]:
    """Every device that lineside knows, on this box."""
    return (*_onnxruntime(board), *_openvino(board), *_litert(board))


def _onnxruntime(board: Board) -> Iterator[Device]:
    ort = _import("onnxruntime")
    if isinstance(ort, str):
        yield from (
            Device("onnxruntime", name, False, ort, VENDORS["onnxruntime"]) for name in ("cpu", "cuda", "tensorrt")
        )
        return
    providers = ort.get_available_providers()
    yield Device("onnxruntime", "cpu", True, f"onnxruntime {ort.__version__}")
    gpu = any(name.startswith(_NVIDIA) for name in board.pci) or any(name.startswith("nv") for name in board.dev)
    gpu_package = "pip uninstall onnxruntime, then pip install 'lineside[onnxruntime-gpu]'"
    for name, provider in (("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")):
        if not gpu:
            remedy = f"needs an NVIDIA GPU or a Jetson, and then: {gpu_package}"
            yield Device("onnxruntime", name, False, "no NVIDIA GPU is seen on PCI or as /dev/nv*", remedy)
        elif provider not in providers:
            yield Device("onnxruntime", name, False, "this onnxruntime is built without it", gpu_package)
        else:
            yield Device("onnxruntime", name, True, f"onnxruntime {ort.__version__} has it, and an NVIDIA GPU is here")


def _openvino(board: Board) -> Iterator[Device]:
    openvino = _import("openvino")
    if isinstance(openvino, str):
        yield from (Device("openvino", name, False, openvino, VENDORS["openvino"]) for name in ("cpu", "gpu", "npu"))
        return
    core = openvino.Core()
    found = {name.partition(".")[0].lower(): name for name in core.available_devices}
    for device in ("cpu", "gpu", "npu"):
        if device in found:
            with suppress(RuntimeError):
                yield Device("openvino", device, True, str(core.get_property(found[device], "FULL_DEVICE_NAME")))
                continue
            yield Device("openvino", device, True, found[device])
        else:
            yield Device("openvino", device, False, *_why_no_intel(device, board))


def _why_no_intel(device: str, board: Board) -> tuple[str, str]:
    intel = any(name.startswith("8086:") for name in board.pci)
    if device == "gpu":
        if not intel or not any(name.startswith("dri/render") for name in board.dev):
            return (
                "no Intel GPU node is seen (/dev/dri/renderD*)",
                "needs an Intel GPU, and then: apt install intel-opencl-icd",
            )
        return (
            "OpenVINO finds no GPU driver",
            "apt install intel-opencl-icd; put the service's user into the group render",
        )
    if not any(name.startswith("accel/accel") for name in board.dev):
        return "/dev/accel/accel0 is not there", (
            "needs an Intel NPU and Linux 6.6 or newer with intel_vpu, and then: Intel's linux-npu-driver packages"
        )
    return (
        "/dev/accel/accel0 is there, but OpenVINO finds no NPU driver",
        "install Intel's linux-npu-driver packages; put the service's user into the group render",
    )


def _litert(board: Board) -> Iterator[Device]:
    package = "ai_edge_litert" if find_spec("ai_edge_litert") or not find_spec("tflite_runtime") else "tflite_runtime"
    interpreter = _import(f"{package}.interpreter")
    if isinstance(interpreter, str):
        yield from (Device("litert", name, False, interpreter, VENDORS[package]) for name in ("cpu", "gpu", "edgetpu"))
        return
    told = f"{package} {_version(package)}"
    yield Device("litert", "cpu", True, f"{told}, XNNPACK")
    render = any(name.startswith(("dri/render", "nvidia0")) for name in board.dev)
    if package == "tflite_runtime":
        yield Device("litert", "gpu", False, "tflite_runtime has no GPU", VENDORS["ai_edge_litert"])
    elif not render:
        yield Device(
            "litert",
            "gpu",
            False,
            "no GPU node is seen (/dev/dri/renderD*)",
            "needs a GPU, and then: apt install mesa-vulkan-drivers",
        )
    elif not _loads("libvulkan.so.1"):
        yield Device(
            "litert", "gpu", False, "libvulkan.so.1 cannot be loaded", "apt install libvulkan1 mesa-vulkan-drivers"
        )
    else:
        yield Device("litert", "gpu", True, f"{told}, WebGPU over Vulkan")
    yield _edgetpu(board)


def _edgetpu(board: Board) -> Device:
    usb, pci = not board.usb.isdisjoint(CORAL_USB), CORAL_PCI in board.pci
    node = any(name.startswith("apex_") for name in board.dev)
    if pci and not node:
        return Device("litert", "edgetpu", False, "on PCI, but /dev/apex_0 is not there", "install Coral's gasket-dkms")
    if not (usb or node):
        return Device("litert", "edgetpu", False, "no Coral on USB or PCI", _PLUG_IN)
    where = "PCI" if node else "USB"
    if not _loads("libedgetpu.so.1"):
        why = f"Coral on {where}, but libedgetpu.so.1 cannot be loaded"
        return Device("litert", "edgetpu", False, why, "install Coral's libedgetpu1-std")
    return Device("litert", "edgetpu", True, f"Coral on {where}")


def _import(name: str) -> Any:
    """The module, or why there is none."""
    top = name.partition(".")[0]
    if find_spec(top) is None:
        return f"Python package {top} is not installed"
    try:
        return vendor(name)
    except ConfigError as error:
        return f"Python package {top} is installed but broken: {first_line(error.__cause__ or error)}"


def _version(package: str) -> str:
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return ""


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
