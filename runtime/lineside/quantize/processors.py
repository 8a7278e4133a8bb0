"""The kinds of processors that a file is made for, and on which of them its INT8 sums are exact whatever the picture.

Without VNNI, x86-64 multiplies unsigned activations by signed weights with `pmaddubsw`, which adds two products in 16
bits and saturates. Weights of 7 bits (-64 to 64) cannot reach that: 2 x 255 x 64 = 32,640.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lineside.errors import ConfigError
from lineside.hal import processor
from lineside.registry import vendor

SEVEN_BITS = 64  # the largest weight whose products add in pairs within 16 bits
_WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
_PASSES = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose")  # between an IR's weights and their layer
_ARM_NO_INT8 = "OpenVINO compiles no INT8 file on ARM: stations there take ONNX Runtime or LiteRT"


@dataclass(frozen=True, slots=True)
class Processor:
    """A kind of processor, as `--for` names it."""

    name: str
    words: str
    emulator: str = ""  # of qemu's programs; "": none of them knows this kind
    cpu: str = ""  # its -cpu
    needs: tuple[str, ...] = ()  # what model.toml says of a file for this kind alone

    @property
    def is_arm(self) -> bool:
        return self.name.startswith("arm64")

    @property
    def saturates(self) -> bool:
        """Whether runtimes add U8S8 products there in 16 bits."""
        return self.name in ("x86-64-v2", "x86-64-v3")


PROCESSORS = (
    Processor("x86-64-v2", "x86-64 with SSE4.2", "qemu-x86_64", "Nehalem"),
    Processor("x86-64-v3", "x86-64 with AVX2 or AVX-512, without VNNI", "qemu-x86_64", "Haswell"),
    Processor("vnni", "x86-64 with VNNI", needs=("vnni",)),
    Processor("arm64", "ARM64 without dot product"),
    Processor("arm64-dotprod", "ARM64 with dot product", needs=("dotprod",)),
)
ANY = "any"
NAMES = (*(each.name for each in PROCESSORS), ANY)


def wanted(name: str) -> tuple[Processor, ...]:
    """The processors that `--for` means. Raises ConfigError for an unknown one."""
    if name not in NAMES:
        raise ConfigError(f"--for {name}: is unknown; known are {', '.join(NAMES)}")
    return tuple(each for each in PROCESSORS if name in (each.name, ANY))


def here() -> str:
    """The name of the kind that this process runs on, or "" of a machine that none of them is."""
    return kind_of(processor.features(), platform.machine())


def kind_of(features: Sequence[str], machine: str) -> str:
    """`features` as lineside.hal.processor names them."""
    if machine in ("aarch64", "arm64"):
        return "arm64-dotprod" if "dotprod" in features else "arm64"
    if machine not in ("x86_64", "AMD64"):
        return ""
    return next((name for name, mark in (("vnni", "vnni"), ("x86-64-v3", "avx2")) if mark in features), "x86-64-v2")


# --- what a file holds --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the INT8 layers of a file."""

    most: int  # the largest magnitude, 0 without any; of an IR without its depthwise convolutions
    products: bool = False  # INT8 products of two activations, as in attention: neither side is bounded

    @property
    def seven_bits(self) -> bool:
        return self.most <= SEVEN_BITS and not self.products


def weights_of(path: Path) -> Weights | None:
    """Read from an INT8 .onnx (QDQ) or OpenVINO .xml; None of other formats."""
    return {".onnx": _onnx_weights, ".xml": _ir_weights}.get(path.suffix, lambda _: None)(path)


def _onnx_weights(path: Path) -> Weights:
    onnx = vendor("onnx")
    graph = onnx.load(str(path)).graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    scaled = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    most, products = 0, False
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        sides = [scaled[name] for name in node.input[:2] if name in scaled]
        if len(sides) < 2:
            continue  # a float layer
        constant = [held[name] for name in sides if name in held]
        products = products or not constant
        for tensor in constant:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.int8:  # unsigned weights run on kernels that sum in 32 bits
                most = max(most, int(np.abs(values.astype(np.int16)).max(initial=0)))
    return Weights(most, products)


def _ir_weights(path: Path) -> Weights:
    model = vendor("openvino").Core().read_model(str(path))
    most, products = 0, False
    for node in model.get_ops():
        if node.get_type_name() not in _WEIGHTED or not _is_stepped(node.input_value(0).get_node()):
            continue
        source = node.input_value(1).get_node()
        if _is_stepped(source):
            products = True
            continue
        if node.get_type_name() == "GroupConvolution" and node.input_value(1).get_partial_shape()[2].get_length() == 1:
            continue  # depthwise: the products of one channel are not added in pairs
        while source.get_type_name() in _PASSES:
            source = source.input_value(0).get_node()
        if source.get_type_name() == "FakeQuantize" or source.get_element_type().get_type_name() == "u8":
            most = max(most, 255)  # how it will be stored is for OpenVINO to choose
        elif source.get_element_type().get_type_name() == "i8":
            most = max(most, int(np.abs(source.get_data().astype(np.int16)).max(initial=0)))
    return Weights(most, products)


def _is_stepped(node: Any) -> bool:
    """Whether it is an activation in INT8, moved about or not."""
    while node.get_type_name() in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "StridedSlice", "Slice", "Split"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() != "Constant")


# --- what follows from that ---------------------------------------------------------------------------------------


def exact_by(backend: str, kind: Processor, weights: Weights | None) -> str:
    """Why INT8 sums are exact there whatever the picture, as lineside opens the file, or "" where nothing says so.

    Sources: ONNX Runtime's MLAS kernels (QgemmU8S8, QgemmU8X8, ConvSym) and its session option
    session.x64quantprecision; oneDNN, "Nuances of int8 computations"; XNNPACK's qs8 and qu8 kernels.
    """
    if backend == "litert":
        return "LiteRT's kernels add INT8 products in 32 bits"
    if weights is None or not_run_by(backend, kind):
        return ""
    if kind.name == "vnni":
        return "VNNI adds products in 32 bits"
    if kind.saturates and weights.seven_bits:
        return "weights of 7 bits: two products fit into 16 bits"
    if backend == "openvino":
        # it looks at the weights alone: products of two activations stay in INT8 beside weights of 7 bits
        narrow = weights.most <= SEVEN_BITS
        return "" if narrow else "lineside has OpenVINO compute it in float there (exact_int8)"
    match kind.name:
        case "x86-64-v2":
            return "ONNX Runtime's SSE kernels widen to 16 bits before they multiply"
        case "x86-64-v3":
            return "lineside has ONNX Runtime take kernels that add in 32 bits there (exact_int8)"
        case "arm64":  # its ConvSym kernels flip activations to int8 and add two products in 16 bits
            return "no weight of -128: two products fit into 16 bits" if weights.most < 128 else ""
        case _:
            return "the dot product adds in 32 bits"


def not_run_by(backend: str, kind: Processor) -> str:
    """Why no station has this backend run an INT8 file there, or ""."""
    return _ARM_NO_INT8 if backend == "openvino" and kind.is_arm else ""


def used_by(backends: Sequence[str], kinds: Sequence[Processor]) -> list[str]:
    """Those that run INT8 on one of the processors at least. Raises ConfigError where none does."""
    used = [name for name in backends if not all(not_run_by(name, each) for each in kinds)]
    if not used:
        raise ConfigError(f"--for {kinds[0].name} with --backend {', '.join(backends)}: {_ARM_NO_INT8}")
    return used
