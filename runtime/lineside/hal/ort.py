"""ONNX Runtime: one shared session on the CPU, CUDA or TensorRT; a slot is an input buffer of its own.

ONNX Runtime falls back to the CPU in silence when a provider does not start, so the opened session is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
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
from lineside.hal.pixels import PixelWriter
from lineside.hal.processor import saturates_int8
from lineside.records import Artefact, Image, InputSpec, Tensor, TensorSpec, Window
from lineside.registry import vendor

FORMATS = ("onnx",)
DEVICES = ("cpu", "cuda", "tensorrt")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_OPTIONS: dict[str, type] = {
    "spinning": bool,  # waiting threads burn CPU: at 15 fps 68 % instead of 22 %, and 46 fps, not 82, under contention
    "graph_optimization": str,  # disabled | basic | extended | all
    "exact_int8": bool,  # default true; false: on x86-64 without VNNI sums of products saturate at 16 bits
    "fp16": bool,  # TensorRT
    "int8": bool,  # TensorRT; the model must hold QuantizeLinear nodes, or int8_calibration_table names a file
    "int8_calibration_table": str,
    "engine_cache": bool,  # TensorRT: keep built engines in the cache folder (a first build takes minutes)
    "timing_cache": bool,
    "dla_core": int,  # TensorRT on a Jetson: run on this deep-learning accelerator instead of the GPU
    "workspace_mb": int,
    "gpu_memory_mb": int,
    "cudnn_search": str,  # exhaustive | heuristic | default
}
# ONNX Runtime (1.21 and later) rounds the weights of a layer that a quantised model leaves in float to INT8, with one
# scale for all channels, where tensors beside it are quantised: it undoes what mixed precision is for.
_UNASKED = ["WeightBiasQuantization"]
_REMEDY = {
    "cuda": "install 'lineside[onnxruntime-gpu]' in place of 'lineside[onnxruntime]', and CUDA with cuDNN",
    "tensorrt": "install 'lineside[onnxruntime-gpu]' in place of 'lineside[onnxruntime]', and TensorRT",
}


class OrtBackend:
    """Options: see `_OPTIONS`. `device`: cpu, cuda, cuda:1, tensorrt, tensorrt:1.

    `threads`: for each slot, 0 a fair share of the cores.
    """

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
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
        take(options, "onnxruntime", _OPTIONS)
        kind, _, number = device.partition(":")
        if kind not in _PROVIDERS or not (number or "0").isdigit():
            raise ConfigError(
                f"onnxruntime: device {device!r} is unknown; known are {', '.join(DEVICES)} (cuda:1, ...)"
            )
        check_file(artefact, FORMATS, "onnxruntime")
        ort = vendor("onnxruntime")
        providers = _providers(artefact, kind, int(number or 0), options, cache_dir, ort)
        session_options = _session_options(ort, threads or max(1, allowed_cores() // slots), options, artefact.path)
        try:
            self._session = ort.InferenceSession(
                artefact.path, session_options, providers=providers, disabled_optimizers=_UNASKED
            )
        except Exception as error:  # its error classes share no base
            if kind != "cpu" and "InvalidProtobuf" not in type(error).__name__:
                raise DeviceError(
                    f"onnxruntime: {device} did not open: {first_line(error)}: {_REMEDY[kind]}"
                ) from error
            raise unreadable(artefact, "ONNX Runtime", error) from error
        self._session.disable_fallback()  # else a provider that fails later is replaced by the CPU
        self.device = _truly(self._session.get_providers(), kind, number)
        self.inputs, self.outputs = session_specs(self._session)
        spec, input = image_input(artefact.path, self.inputs, input)
        told = constant_inputs(artefact.path, self.inputs, input)
        constants = {self.inputs[at].name: values for at, values in told.items()}
        self._slots = [_Slot(self._session, input, spec, self.outputs, constants) for _ in range(slots)]

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        try:
            return self._slots[slot].infer(pixels, window)
        except Exception as error:  # its error classes share no base
            raise DeviceError(f"onnxruntime: {self.device} failed: {first_line(error)}") from error

    @staticmethod
    def formats(device: str) -> tuple[str, ...]:
        """Artefact formats that this device runs, best first."""
        return FORMATS

    def close(self) -> None:
        self._session = None
        self._slots = []


class _Slot:
    """One input buffer, made again when the canvas changes its size, and the outputs where their sizes are known.

    The first run of a size has ONNX Runtime make the outputs; later ones write into the same memory, which saves the
    page faults of fresh memory in every frame (0.1 to 0.3 ms). Outputs of free size are made anew each time.
    """

    def __init__(
        self,
        session: Any,
        input: InputSpec,
        spec: TensorSpec,
        outputs: tuple[TensorSpec, ...],
        constants: dict[str, np.ndarray],
    ) -> None:
        self._session, self._constants = session, constants
        self._writer = PixelWriter(input, spec)
        self._nchw, self._channels = input.layout == "nchw", 1 if input.color == "gray" else 3
        self._name, self._dtype = spec.name, spec.dtype
        self._buffer = np.empty((0, 0, 0, 0), spec.dtype)
        self._names = [output.name for output in outputs]
        self._keeps = all(None not in output.shape for output in outputs)
        self._binding: Any = None
        self._outputs: tuple[Tensor, ...] = ()

    def infer(self, pixels: Image, window: Window | None) -> tuple[Tensor, ...]:
        height, width = pixels.shape[:2]
        shape = (1, self._channels, height, width) if self._nchw else (1, height, width, self._channels)
        if self._buffer.shape != shape:
            self._buffer, self._binding = np.empty(shape, self._dtype), None
        self._writer.write(pixels, self._buffer[0], window)
        if self._binding is not None:
            self._session.run_with_iobinding(self._binding)
            return self._outputs
        made = self._session.run(self._names, {self._name: self._buffer, **self._constants})
        self._outputs = tuple(map(Tensor, self._names, made))
        if self._keeps and all(array.flags.c_contiguous and array.flags.writeable for array in made):
            self._bind(made)
        return self._outputs

    def _bind(self, outputs: list[np.ndarray]) -> None:
        binding, buffer = self._session.io_binding(), self._buffer
        binding.bind_input(self._name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        for name, array in self._constants.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(self._names, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._binding = binding


def _session_options(ort: Any, threads: int, options: Options, path: str) -> Any:
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3  # errors; what matters is in our own messages
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.get("spinning") else "0")
    # On x86-64 without VNNI its U8S8 kernels add pairs of products in 16 bits (vpmaddubsw), which saturates: answers
    # are wrong, and nothing says so. With this it takes U8U8 kernels (1.2 to 1.5 x the time); not where VNNI makes it
    # needless. Source: onnxruntime.ai, "Quantize ONNX models", "When and why do I need to try U8U8?"
    chosen.add_session_config_entry("session.x64quantprecision", exact(options))
    level = str(options.get("graph_optimization", "all"))
    levels = {
        name: f"ORT_{'ENABLE_' if name != 'disabled' else 'DISABLE_'}{name.upper()}"
        for name in ("basic", "extended", "all")
    }
    levels["disabled"] = "ORT_DISABLE_ALL"
    if level not in levels:
        raise ConfigError(f"onnxruntime: option graph_optimization = {level!r}: one of {', '.join(levels)}")
    if level in ("disabled", "basic") and exact(options) == "1" and _has_integer_operators(path):
        level = "extended"  # at which the weights of such operators become uint8; below, exactness is not asked for
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, levels[level])
    return chosen


def _has_integer_operators(path: str) -> bool:
    """Whether the file asks for integer kernels by name, and not by QuantizeLinear pairs around float operators."""
    content = Path(path).read_bytes()
    return any(name in content for name in (b"QLinear", b"MatMulInteger", b"ConvInteger", b"QGemm"))


def exact(options: Mapping[str, object]) -> str:
    """ "1" where the CPU's INT8 answers need it to be exact, else "0"."""
    return "1" if options.get("exact_int8", True) and saturates_int8() else "0"


def _providers(
    artefact: Artefact, kind: str, number: int, options: Options, cache_dir: Path | None, ort: Any
) -> list[Any]:
    """The provider asked for first, then those that take the operators it lacks."""
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    available = ort.get_available_providers()
    if _PROVIDERS[kind] not in available:
        raise DeviceError(
            f"onnxruntime: asked for {kind}, but this build has {', '.join(available)} only: {_REMEDY[kind]}"
        )
    if hasattr(ort, "preload_dlls"):  # finds CUDA and cuDNN that pip installed
        ort.preload_dlls()
    cuda: dict[str, str] = {"device_id": str(number)}
    if "gpu_memory_mb" in options:
        cuda["gpu_mem_limit"] = str(int(options["gpu_memory_mb"]) << 20)
    if "cudnn_search" in options:
        cuda["cudnn_conv_algo_search"] = str(options["cudnn_search"]).upper()
    fallbacks: list[Any] = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    if kind == "cuda":
        return fallbacks
    return [("TensorrtExecutionProvider", _tensorrt(artefact, number, options, cache_dir)), *fallbacks]


def _tensorrt(artefact: Artefact, number: int, options: Options, cache_dir: Path | None) -> dict[str, str]:
    """Source: onnxruntime.ai, TensorRT execution provider, "Configurations"."""
    chosen = {"device_id": str(number)}
    chosen["trt_fp16_enable"] = str(bool(options.get("fp16", False)))
    chosen["trt_int8_enable"] = str(bool(options.get("int8", artefact.precision == "int8")))
    if "int8_calibration_table" in options:
        chosen["trt_int8_calibration_table_name"] = str(options["int8_calibration_table"])
    if "workspace_mb" in options:
        chosen["trt_max_workspace_size"] = str(int(options["workspace_mb"]) << 20)
    if "dla_core" in options:
        chosen |= {"trt_dla_enable": "True", "trt_dla_core": str(options["dla_core"])}
    if cache_dir is not None:
        with suppress(OSError):  # TensorRT then warns, and builds its engine again at the next start
            cache_dir.mkdir(parents=True, exist_ok=True)
        for ours, theirs in (("engine_cache", "trt_engine_cache"), ("timing_cache", "trt_timing_cache")):
            if options.get(ours, True):
                chosen |= {f"{theirs}_enable": "True", f"{theirs}_path": str(cache_dir)}
    return chosen


def _truly(providers: list[str], kind: str, number: str) -> str:
    if providers[0] != _PROVIDERS[kind]:
        raise DeviceError(
            f"onnxruntime: asked for {kind}, got {providers[0]}: the provider is installed but did not start "
            f"(its libraries or the device are missing; the log has the loader's message): {_REMEDY[kind]}"
        )
    return kind if kind == "cpu" else f"{kind}:{number or 0}"


def session_specs(session: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs. A free first size is the batch, so 1; but for an output whose first size has another name
    than the batch of the inputs: the number of what was found."""
    inputs = session.get_inputs()
    batches = {str(node.shape[0]) for node in inputs if node.shape and isinstance(node.shape[0], str)}
    free = any(node.shape and not isinstance(node.shape[0], int) for node in inputs)
    outputs = []
    for node in session.get_outputs():
        first = node.shape[0] if node.shape else 1
        named = isinstance(first, str) and bool(batches)
        is_batch = free and (not named or first in batches)
        known = isinstance(first, int) or is_batch
        outputs.append(_spec(node, with_one(node.shape) if known else _free(node.shape)))
    return tuple(_spec(node, with_one(node.shape)) for node in inputs), tuple(outputs)


def _free(shape: list[object]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def _spec(node: Any, shape: tuple[int | None, ...]) -> TensorSpec:
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    names = {"float": "float32", "double": "float64"}
    return TensorSpec(node.name, shape, names.get(dtype, dtype))
