"""The bare runtime loop that `lineside bench` compares with: a preallocated input and infer, in vendor calls only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lineside.errors import ConfigError
from lineside.hal.openvino import exact
from lineside.hal.ort import exact as exact_in_onnxruntime
from lineside.records import Artefact, TensorSpec
from lineside.registry import vendor


def open_bare(
    name: str,
    artefact: Artefact,
    device: str,
    threads: int,
    spec: TensorSpec,
    size: tuple[int, int],
    options: Mapping[str, object],
) -> Callable[[], object]:
    """A function that runs the model once on a fixed input; `size` is (width, height) for models that take any.

    Of `options`, the backend's, those count that decide whether INT8 answers are exact.
    """
    height_width = iter((size[1], size[0]))
    shape = [
        1 if place == 0 else (side if side is not None else next(height_width)) for place, side in enumerate(spec.shape)
    ]
    tensor = np.zeros(shape, np.dtype(spec.dtype))
    opener = {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}.get(name)
    if opener is None:
        raise ConfigError(f"bench --backend {name}: there is no bare loop for it; use onnxruntime, openvino or litert")
    return opener(artefact, device, threads, tensor, spec.name, options)


def _onnxruntime(
    artefact: Artefact, device: str, threads: int, tensor: np.ndarray, name: str, told: Mapping[str, object]
) -> Callable[[], object]:
    ort = vendor("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", exact_in_onnxruntime(told))
    providers = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}
    provider = providers[device.partition(":")[0]] + "ExecutionProvider"
    session = ort.InferenceSession(artefact.path, options, providers=[provider])
    feed = {name: tensor}
    return lambda: session.run(None, feed)


def _openvino(
    artefact: Artefact, device: str, threads: int, tensor: np.ndarray, name: str, told: Mapping[str, object]
) -> Callable[[], object]:
    ov = vendor("openvino")
    core = ov.Core()
    model = core.read_model(artefact.path)
    if model.inputs[0].partial_shape.is_dynamic:
        model.reshape(list(tensor.shape))
    options = {"PERFORMANCE_HINT": "LATENCY"}
    if device.upper().startswith("CPU"):
        options |= {"INFERENCE_NUM_THREADS": str(threads), **exact(model, told)}
    request = core.compile_model(model, device.upper(), options).create_infer_request()
    request.set_input_tensor(ov.Tensor(tensor))

    def once() -> None:
        request.start_async()
        request.wait()

    return once


def _litert(
    artefact: Artefact, device: str, threads: int, tensor: np.ndarray, name: str, told: Mapping[str, object]
) -> Callable[[], object]:
    if device != "cpu":
        raise ConfigError(f"bench: the bare LiteRT loop runs on the cpu, not on {device!r}")
    try:
        module = vendor("ai_edge_litert.interpreter")
    except ConfigError:
        module = vendor("tflite_runtime.interpreter")
    interpreter = module.Interpreter(artefact.path, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
    return interpreter.invoke  # type: ignore[no-any-return]
