"""LiteRT on a GPU (WebGPU over Vulkan): one compiled model; a slot has buffers of its own and waits for its turn."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from lineside.errors import ConfigError, DeviceError
from lineside.hal.artefact import first_line, image_input
from lineside.hal.pixels import PixelWriter
from lineside.hal.tflite import read_tflite
from lineside.records import Artefact, Image, InputSpec, Tensor, Window
from lineside.registry import vendor

_TOO_OLD = "the package here knows no GPU: pip install --upgrade ai-edge-litert"  # tflite_runtime, 1.2 and older
_REMEDY = "it needs a GPU with a Vulkan driver (`vulkaninfo` shows it; mesa-vulkan-drivers) and /dev/dri/renderD128"


class GpuModel:
    """What all slots share. Operators that the GPU lacks run on the CPU, and `device` says so."""

    def __init__(self, artefact: Artefact) -> None:
        try:
            compiled = vendor("ai_edge_litert.compiled_model")
            accelerators = vendor("ai_edge_litert.hardware_accelerator").HardwareAccelerator
        except ConfigError as error:
            raise DeviceError(f"litert: asked for gpu, none opened ({_TOO_OLD}): {_REMEDY}") from error
        try:
            self.vendor_model = compiled.CompiledModel.from_file(
                artefact.path, hardware_accel=accelerators.GPU | accelerators.CPU
            )
        except RuntimeError as error:
            raise DeviceError(f"litert: asked for gpu, none opened ({first_line(error)}): {_REMEDY}") from error
        self.device = "gpu" if self.vendor_model.is_fully_accelerated() else "gpu,cpu"
        self.lock = threading.Lock()  # run_by_index of one model is not for two threads


class GpuSlot:
    """One set of input and output buffers."""

    def __init__(self, model: GpuModel, artefact: Artefact, input: InputSpec) -> None:
        file = read_tflite(artefact.path)
        self.inputs, self.outputs = file.inputs, file.outputs
        spec, input = image_input(artefact.path, self.inputs, input)
        if len(self.inputs) != 1:
            raise ConfigError(
                f"{artefact.path}: has {len(self.inputs)} inputs: litert feeds one on a GPU: use device cpu"
            )
        self._model = model
        self._writer = PixelWriter(input, spec)
        self._inputs: list[Any] = model.vendor_model.create_input_buffers(0)
        self._outputs: list[Any] = model.vendor_model.create_output_buffers(0)
        self._canvas = np.empty(self._inputs[0].get_tensor_details()["shape"], spec.dtype)
        tensors = model.vendor_model.get_output_tensor_details(next(iter(model.vendor_model.get_signature_list())))
        order = {detail["name"]: number for number, detail in enumerate(tensors.values())}
        self._order = [order[output.name] for output in self.outputs]
        self._shapes = [tuple(buffer.get_tensor_details()["shape"]) for buffer in self._outputs]

    def infer(self, pixels: Image, window: Window | None) -> tuple[Tensor, ...]:
        self._writer.write(pixels, self._canvas[0], window)
        with self._model.lock:
            self._inputs[0].write(self._canvas)
            self._model.vendor_model.run_by_index(0, self._inputs, self._outputs)
            raw = [
                self._outputs[at].read(int(np.prod(self._shapes[at])), np.dtype(spec.dtype)).reshape(self._shapes[at])
                for at, spec in zip(self._order, self.outputs, strict=True)
            ]
        return tuple(
            Tensor(spec.name, values, spec.scale, spec.zero_point)
            for spec, values in zip(self.outputs, raw, strict=True)
        )
