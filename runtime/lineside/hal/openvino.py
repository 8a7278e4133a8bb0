"""OpenVINO: one compiled model on the CPU, GPU, NPU or AUTO; a slot is an inference request.

A float model gets the canvas as it is, uint8 NHWC BGR: colour order and normalisation are compiled into its graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lineside.errors import ConfigError, DeviceError
from lineside.hal.artefact import Options, check_file, constant_inputs, first_line, image_input, take, unreadable
from lineside.hal.board import allowed_cores
from lineside.hal.openvino_cache import Compiled, kept_at, load, save
from lineside.hal.pixels import PixelWriter, per_channel
from lineside.hal.processor import saturates_int8
from lineside.hal.tflite import read_tflite
from lineside.records import Artefact, Image, InputSpec, Tensor, TensorSpec, Window
from lineside.registry import vendor

FORMATS = ("openvino", "onnx", "tflite")
DEVICES = ("cpu", "gpu", "npu", "auto")
_OPTIONS: dict[str, type] = {
    "precision": str,  # of float layers: auto | f32 | bf16 | f16
    "exact_int8": bool,  # default true; false: on x86-64 without VNNI sums of products saturate at 16 bits
    "cache": bool,  # keep the compiled model in the cache folder
    "turbo": bool,  # NPU
}
_SAFE_WEIGHT = 64
_REMEDY = {
    "gpu": "install intel-opencl-icd, and let the service's user into the group `render`",
    "npu": "install Intel's linux-npu-driver packages on Linux 6.6 or newer (/dev/accel/accel0 must be there), and let "
    "the service's user into the group `render`",
}


class OpenVinoBackend:
    """Options: see `_OPTIONS`. `device`: cpu, gpu, gpu.1, npu, auto, auto:npu,cpu. `threads`: for each slot.

    exact_int8: on an x86-64 processor without VNNI its INT8 kernels add pairs of products in 16 bits, which saturates:
    answers are wrong, and nothing says so. The model is then computed in float (twice the time), unless its weights
    have 7 bits, which never saturate.

    precision = "auto" leaves the runtime's choice: bf16 for the float layers where a CPU has it (twice as fast on
    MobileNetV2, INT8 layers are not touched), f16 on a GPU or NPU. "f32" gives FP32's answers, for parity.
    """

    packages: ClassVar[tuple[str, ...]] = ("openvino",)

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
        take(options, "openvino", _OPTIONS)
        kinds = [name.partition(".")[0] for name in device.replace("auto:", "auto,").split(",")]
        if any(kind not in DEVICES for kind in kinds) or (len(kinds) > 1 and kinds[0] != "auto"):
            raise ConfigError(f"openvino: device {device!r} is unknown; known are {', '.join(DEVICES)}, auto:npu,cpu")
        check_file(artefact, FORMATS, "openvino")
        ov = vendor("openvino")
        core = ov.Core()
        if kinds[0] in _REMEDY:
            _check_present(core, device, kinds[0])
        # Without INT8 kernels OpenVINO (2025.1 to 2026.4) mixes up the weights of several streams, now and then: each
        # slot then has a compiled model of its own, with one stream.
        apart = slots if kinds[0] == "cpu" and _asks_exact(options) else 1
        config = _config(
            kinds, threads or (max(1, allowed_cores() // slots) if apart > 1 else 0), slots // apart, options, cache_dir
        )
        kept = None
        if kinds[0] == "cpu" and cache_dir is not None and options.get("cache", True):
            kept = kept_at(cache_dir, core, ov.__version__, artefact, input, (config, _asks_exact(options)))
        compiled = load(kept, core, config) if kept is not None else None
        if compiled is None:
            compiled = _compile(ov, core, artefact, input, device, config, options)
            if kept is not None:
                save(kept, compiled)
        self.inputs, self.outputs = compiled.inputs, compiled.outputs
        spec, input = image_input(artefact.path, self.inputs, input)
        self.device = _truly(compiled.model) if kinds[0] == "auto" else device
        self._constants = constant_inputs(artefact.path, self.inputs, input)  # the requests read their memory
        at = self.inputs.index(spec)
        models = [compiled.model]
        while len(models) < apart:
            again = load(kept, core, config) if kept is not None else None
            models.append((again or _compile(ov, core, artefact, input, device, config, options)).model)
        self._slots = [
            _Slot(ov, self._request(ov, models[slot % apart]), at, input, spec, self.outputs) for slot in range(slots)
        ]

    def _request(self, ov: Any, model: Any) -> Any:
        request = model.create_infer_request()
        for at, values in self._constants.items():
            request.set_input_tensor(at, ov.Tensor(values, shared_memory=True))
        return request

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        try:
            return self._slots[slot].infer(pixels, window)
        except RuntimeError as error:
            raise DeviceError(f"openvino: {self.device} failed: {first_line(error)}") from error

    @staticmethod
    def formats(device: str) -> tuple[str, ...]:
        """Artefact formats that this device runs, best first."""
        return FORMATS

    def close(self) -> None:
        self._slots = []


class _Slot:
    """One inference request. Where nothing is folded into the graph it owns the input that PixelWriter fills."""

    def __init__(
        self,
        ov: Any,
        request: Any,
        at: int,
        input: InputSpec,
        spec: TensorSpec,
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        folded = _folds(spec)
        self._tensor = ov.Tensor
        self._request, self._at, self._outputs = request, at, outputs
        self._writer = None if folded and input.color != "gray" else _writer(input, spec, folded=folded)
        self._nchw = input.layout == "nchw" and not folded
        self._channels, self._dtype = 1 if input.color == "gray" else 3, "uint8" if folded else spec.dtype
        self._buffer = np.empty((0, 0, 0, 0), self._dtype)
        self._canvas: Image | None = None  # the request reads its memory
        self._keeps = all(None not in output.shape for output in outputs)
        self._made: tuple[Tensor, ...] = ()

    def infer(self, pixels: Image, window: Window | None) -> tuple[Tensor, ...]:
        if self._writer is None:
            if window is None or pixels is not self._canvas:
                canvas = np.ascontiguousarray(pixels)
                self._request.set_input_tensor(self._at, self._tensor(canvas[None], shared_memory=True))
                self._canvas = pixels if window is not None and canvas is pixels else None
        else:
            self._write(pixels, window)
        self._request.start_async()  # infer() would make a dictionary of the results
        self._request.wait()
        if not self._made or not self._keeps:
            self._made = tuple(
                Tensor(spec.name, self._request.get_output_tensor(number).data, spec.scale, spec.zero_point)
                for number, spec in enumerate(self._outputs)
            )
        return self._made

    def _write(self, pixels: Image, window: Window | None) -> None:
        height, width = pixels.shape[:2]
        shape = (1, self._channels, height, width) if self._nchw else (1, height, width, self._channels)
        if self._buffer.shape != shape:
            self._buffer = np.empty(shape, self._dtype)
            self._request.set_input_tensor(self._at, self._tensor(self._buffer, shared_memory=True))
        assert self._writer is not None
        self._writer.write(pixels, self._buffer[0], window)


def _writer(input: InputSpec, spec: TensorSpec, *, folded: bool) -> PixelWriter:
    if not folded:
        return PixelWriter(input, spec)
    plain = InputSpec(input.width_px, input.height_px, input.color, "nhwc")  # grey only; the graph normalises
    return PixelWriter(plain, TensorSpec(spec.name, spec.shape, "uint8"))


def _folds(spec: TensorSpec) -> bool:
    """Whether the graph itself takes the uint8 canvas; a raw quantised input is filled through exact tables instead."""
    return spec.dtype not in ("uint8", "int8")


def _compile(
    ov: Any,
    core: Any,
    artefact: Artefact,
    input: InputSpec,
    device: str,
    config: dict[str, str | int | bool],
    options: Options,
) -> Compiled:
    model = _read(core, artefact)
    if "cpu" in device or device == "auto":
        config = {**config, **exact(model, options)}
    inputs, _ = _specs(model, artefact)
    spec, input = image_input(artefact.path, inputs, input)
    prepared = _prepare(ov, model, inputs, input, spec)
    outputs = _specs(prepared, artefact)[1]  # a free batch is 1 now
    try:
        return Compiled(core.compile_model(prepared, device.upper(), config), inputs, outputs)
    except RuntimeError as error:
        kind = device.partition(".")[0]
        if kind in _REMEDY:
            raise DeviceError(f"openvino: {device} did not open: {first_line(error)}: {_REMEDY[kind]}") from error
        raise unreadable(artefact, "OpenVINO", error) from error


def exact(model: Any, options: Mapping[str, object]) -> dict[str, str]:
    """What the CPU is told so that INT8 answers are exact on this processor: see the class."""
    if not _asks_exact(options) or _has_7_bit_weights(model):
        return {}
    return {"LP_TRANSFORMS_MODE": "NO"}  # Intel's name for turning fake quantisation into INT8 kernels


def _asks_exact(options: Mapping[str, object]) -> bool:
    return bool(options.get("exact_int8", True)) and saturates_int8()


def _has_7_bit_weights(model: Any) -> bool:
    """Whether no weight is beyond 64: 255 x 64 x 2 fits into 16 bits (NNCF's overflow_fix, ONNX's reduce_range)."""
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in ("i8", "u8"):
            values = node.data
            if _is_depthwise(node):
                continue
            if values.ndim > 1 and values.size and max(int(values.max()), -int(values.min())) > _SAFE_WEIGHT:
                return False
    return True


def _is_depthwise(weights: Any) -> bool:
    """Whether they are of a depthwise convolution, which adds no products in pairs: NNCF's overflow_fix leaves them."""
    node = weights
    while len(users := list(node.output(0).get_target_inputs())) == 1:
        node = users[0].get_node()
        if node.get_type_name() not in ("Convert", "Subtract", "Multiply"):
            break
    shape = weights.get_output_shape(0)
    return bool(node.get_type_name() == "GroupConvolution" and len(shape) == 5 and shape[2] == 1)


def _check_present(core: Any, device: str, kind: str) -> None:
    present = [name.lower() for name in core.available_devices]
    if device not in present and not any(name.partition(".")[0] == device for name in present):
        raise DeviceError(f"openvino: asked for {device}, found {', '.join(present) or 'nothing'}: {_REMEDY[kind]}")


def _read(core: Any, artefact: Artefact) -> Any:
    if artefact.format == "tflite" and read_tflite(artefact.path).for_edgetpu:
        raise ConfigError(f"{artefact.path}: is compiled for the Edge TPU: OpenVINO cannot run it: use backend litert")
    try:
        return core.read_model(artefact.path)
    except RuntimeError as error:
        raise unreadable(artefact, "OpenVINO", error) from error


def _specs(model: Any, artefact: Artefact) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    quantised: dict[str, TensorSpec] = {}  # OpenVINO forgets the scales of a TFLite model's raw inputs and outputs
    if artefact.format == "tflite":
        file = read_tflite(artefact.path)
        quantised = {spec.name: spec for spec in (*file.inputs, *file.outputs)}
    return (
        tuple(_with_batch(_spec(port, quantised)) for port in model.inputs),
        tuple(_spec(port, quantised) for port in model.outputs),
    )


def _spec(port: Any, quantised: dict[str, TensorSpec]) -> TensorSpec:
    names = sorted(port.get_names()) or [port.get_node().get_friendly_name()]
    known = next((quantised[name] for name in names if name in quantised), None)
    shape = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    raw = known is not None and dtype == known.dtype
    scale, zero_point = (known.scale, known.zero_point) if known is not None and raw else (1.0, 0)
    return TensorSpec(known.name if known else names[0], tuple(shape), dtype, scale, zero_point)


def _with_batch(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(1, *spec.shape[1:])) if spec.shape and spec.shape[0] is None else spec


def _prepare(ov: Any, model: Any, inputs: tuple[TensorSpec, ...], input: InputSpec, spec: TensorSpec) -> Any:
    """Fix a free batch to 1; where it can, let the graph take the uint8 canvas."""
    if any(port.get_partial_shape().is_dynamic for port in model.inputs):
        shapes = zip(model.inputs, inputs, strict=True)
        model.reshape({port: [-1 if size is None else size for size in each.shape] for port, each in shapes})
    if not _folds(spec):
        return model
    pre = ov.preprocess.PrePostProcessor(model)
    port = pre.input(inputs.index(spec))
    port.model().set_layout(ov.Layout(input.layout.upper()))
    tensor = port.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps = port.preprocess()
    if input.color != "gray":
        tensor.set_color_format(ov.preprocess.ColorFormat.BGR)
        if input.color == "rgb":
            steps.convert_color(ov.preprocess.ColorFormat.RGB)
    steps.convert_element_type(ov.Type.f32)
    mean, std = per_channel(input)
    if mean.any():
        steps.mean(mean.tolist())
    if (std != 1).any():
        steps.scale(std.tolist())
    return pre.build()


def _config(
    kinds: list[str], threads: int, slots: int, options: Options, cache_dir: Path | None
) -> dict[str, str | int | bool]:
    """Source: docs.openvino.ai, "Device and precision", property names as strings."""
    config: dict[str, str | int | bool] = {}
    if kinds[0] == "auto":
        config["PERFORMANCE_HINT"] = "LATENCY" if slots == 1 else "THROUGHPUT"
        config |= {"ENABLE_STARTUP_FALLBACK": False, "ENABLE_RUNTIME_FALLBACK": False}  # no silent change of device
    elif kinds[0] == "cpu":
        config |= {"NUM_STREAMS": slots, "INFERENCE_NUM_THREADS": threads * slots or allowed_cores()}
    else:
        config["PERFORMANCE_HINT"] = "LATENCY" if slots == 1 else "THROUGHPUT"
    precision = str(options.get("precision", "auto"))
    if precision not in ("auto", "f32", "bf16", "f16"):
        raise ConfigError(f"openvino: option precision = {precision!r}: one of auto, f32, bf16, f16")
    if precision != "auto":
        config["INFERENCE_PRECISION_HINT"] = precision
    if "turbo" in options:
        config["NPU_TURBO"] = bool(options["turbo"])
    if cache_dir is not None and options.get("cache", True) and kinds[0] != "cpu":  # the CPU: openvino_cache.py
        config["CACHE_DIR"] = str(cache_dir)
    return config


def _truly(compiled: Any) -> str:
    devices = compiled.get_property("EXECUTION_DEVICES")
    return ",".join(str(name).strip("()").lower() for name in devices)
