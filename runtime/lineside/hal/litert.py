"""LiteRT (TFLite): XNNPACK on the CPU, or the Coral Edge TPU through its delegate; a slot is an interpreter of its own.

Works with `ai_edge_litert` and with the legacy `tflite_runtime`. The GPU is in litert_gpu.py: another API.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from lineside.errors import ConfigError, DeviceError
from lineside.hal.artefact import (
    Options,
    check_file,
    constant_inputs,
    first_line,
    image_input,
    take,
    unreadable,
    with_one,
)
from lineside.hal.board import allowed_cores
from lineside.hal.litert_gpu import GpuModel, GpuSlot
from lineside.hal.pixels import PixelWriter
from lineside.hal.tflite import EDGETPU_OPERATOR, read_tflite
from lineside.records import Artefact, Image, InputSpec, Tensor, TensorSpec, Window
from lineside.registry import vendor

FORMATS = ("tflite", "edgetpu")
DEVICES = ("cpu", "gpu", "edgetpu")
_OPTIONS: dict[str, type] = {
    "delegate_library": str,  # Edge TPU: instead of libedgetpu.so.1
    "package": str,  # ai_edge_litert | tflite_runtime; without it the first one that is installed
}
_PACKAGES = ("ai_edge_litert", "tflite_runtime")


class LiteRtBackend:
    """Options: see `_OPTIONS`. `device`: cpu, edgetpu, edgetpu:usb, edgetpu:pci, edgetpu:usb:0, gpu.

    `threads`: for each slot, 0 a fair share of the cores.
    """

    packages: ClassVar[tuple[str, ...]] = _PACKAGES
    computes_in_caller: ClassVar[bool] = True  # beside its workers

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
        take(options, "litert", _OPTIONS)
        kind, _, which = device.partition(":")
        if kind not in DEVICES or (which and kind != "edgetpu"):
            raise ConfigError(
                f"litert: device {device!r} is unknown; known are {', '.join(DEVICES)} (edgetpu:usb, ...)"
            )
        check_file(artefact, FORMATS, "litert")
        _check_compiled_for(artefact, kind)
        self._slots: list[_Slot | GpuSlot] = []
        if kind == "gpu":
            model = GpuModel(artefact)
            self.device = model.device
            self._slots += [GpuSlot(model, artefact, input) for _ in range(slots)]
        else:
            package = _package(options)
            each = 1 if _loses_classes(artefact) else threads or max(1, allowed_cores() // slots)
            self.device = device
            for _ in range(slots):
                delegates = [_edgetpu(package, which, options)] if kind == "edgetpu" else []
                self._slots.append(_Slot(_open(package, artefact, each, delegates), artefact, input))
        self.inputs, self.outputs = self._slots[0].inputs, self._slots[0].outputs

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        try:
            return self._slots[slot].infer(pixels, window)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"litert: {self.device} failed: {first_line(error)}") from error

    @staticmethod
    def formats(device: str) -> tuple[str, ...]:
        """Artefact formats that this device runs, best first."""
        return ("edgetpu",) if device.startswith("edgetpu") else ("tflite",)

    def close(self) -> None:
        self._slots = []


class _Slot:
    """One interpreter. Its views must be gone before it runs, so inputs are written and outputs copied in passing."""

    def __init__(self, interpreter: Any, artefact: Artefact, input: InputSpec) -> None:
        self._interpreter = interpreter
        found, given = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(_spec(detail) for detail in found)
        self.outputs = tuple(_spec(detail) for detail in given)
        spec, input = image_input(artefact.path, self.inputs, input)
        self._writer = PixelWriter(input, spec)
        picture = found[self.inputs.index(spec)]
        self._index = picture["index"]
        values = constant_inputs(artefact.path, self.inputs, input)
        self._constants = {found[at]["index"]: array for at, array in values.items()}
        self._set_constants()
        self._nchw = input.layout == "nchw"
        self._size = self._sides(picture["shape"])
        self._input = interpreter.tensor(self._index)
        self._reads = [interpreter.tensor(detail["index"]) for detail in given]
        self._buffers = [np.empty(0, spec.dtype) for spec in self.outputs]

    def infer(self, pixels: Image, window: Window | None) -> tuple[Tensor, ...]:
        if pixels.shape[:2] != self._size:
            self._resize(pixels.shape[0], pixels.shape[1])
        self._writer.write(pixels, self._input()[0], window)
        self._interpreter.invoke()
        return tuple(self._read(number, spec) for number, spec in enumerate(self.outputs))

    def _read(self, number: int, spec: TensorSpec) -> Tensor:
        view = self._reads[number]()
        if self._buffers[number].shape != view.shape:
            self._buffers[number] = np.empty_like(view)
        np.copyto(self._buffers[number], view)
        return Tensor(spec.name, self._buffers[number], spec.scale, spec.zero_point)

    def _resize(self, height: int, width: int) -> None:
        shape = list(self._input().shape)
        shape[2 if self._nchw else 1], shape[3 if self._nchw else 2] = height, width
        self._interpreter.resize_tensor_input(self._index, shape)
        self._interpreter.allocate_tensors()
        self._set_constants()
        self._size = (height, width)

    def _set_constants(self) -> None:
        for index, array in self._constants.items():
            self._interpreter.set_tensor(index, array)

    def _sides(self, shape: Any) -> tuple[int, int]:
        return (int(shape[2]), int(shape[3])) if self._nchw else (int(shape[1]), int(shape[2]))


def package_name() -> str | None:
    """The TFLite package that would be used, or None."""
    return next((name for name in _PACKAGES if find_spec(name) is not None), None)


def _package(options: Options) -> ModuleType:
    name = str(options.get("package", package_name() or _PACKAGES[0]))
    if name not in _PACKAGES:
        raise ConfigError(f"litert: option package = {name!r}: one of {', '.join(_PACKAGES)}")
    if name == "tflite_runtime" and int(np.__version__.split(".")[0]) > 1:
        raise ConfigError(
            f"litert: tflite_runtime crashes beside numpy {np.__version__}: pip install 'lineside[coral-legacy]' "
            "(numpy < 2), or 'lineside[litert]' in its place"
        )
    return vendor(f"{name}.interpreter")


def _check_compiled_for(artefact: Artefact, kind: str) -> None:
    compiled = read_tflite(artefact.path).for_edgetpu
    if compiled and kind != "edgetpu":
        raise ConfigError(
            f'{artefact.path}: is compiled for the Edge TPU and cannot run on {kind}: use device = "edgetpu", '
            "or the .tflite from before edgetpu_compiler"
        )
    if kind == "edgetpu" and not compiled:
        raise ConfigError(
            f"{artefact.path}: is not compiled for the Edge TPU (no {EDGETPU_OPERATOR}), all of it would run on the "
            f'CPU: compile it with edgetpu_compiler, or use device = "cpu"'
        )


def _edgetpu(package: ModuleType, which: str, options: Options) -> Any:
    library = str(options.get("delegate_library", "libedgetpu.so.1"))
    try:
        return package.load_delegate(library, {"device": which} if which else {})
    except OSError as error:
        raise DeviceError(
            f"litert: Edge TPU library {library} cannot be loaded ({first_line(error)}): "
            "install Coral's libedgetpu1-std"
        ) from error
    except ValueError as error:
        why = str(error).partition("\n")[2].strip() or "no device answered"
        raise DeviceError(
            f"litert: asked for edgetpu{':' if which else ''}{which}, none opened ({why}): plug it in (`lsusb` shows "
            "1a6e:089a or 18d1:9302; a PCIe one is /dev/apex_0) and let the user of the service open it (udev rule)"
        ) from error


def _loses_classes(artefact: Artefact) -> bool:
    """With several threads, the operator's suppression per class leaves whole classes out (measured: LiteRT 2.3,
    TensorFlow 2.20; tests/test_exporters.py shows it): such a model gets one."""
    return "TFLite_Detection_PostProcess" in read_tflite(artefact.path).custom_operators


def _open(package: ModuleType, artefact: Artefact, threads: int, delegates: list[Any]) -> Any:
    try:
        interpreter = package.Interpreter(artefact.path, num_threads=threads, experimental_delegates=delegates or None)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        if delegates:
            raise DeviceError(f"litert: the Edge TPU refused {artefact.path}: {first_line(error)}") from error
        raise unreadable(artefact, "LiteRT", error) from error
    return interpreter


def _spec(detail: Any) -> TensorSpec:
    signature = detail.get("shape_signature")
    free = signature if signature is not None and len(signature) else detail["shape"]
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"]).name
    shape = with_one([int(size) for size in free])
    return TensorSpec(detail["name"], shape, dtype, float(scale) or 1.0, int(zero_point))
