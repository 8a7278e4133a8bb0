"""From a trained detector to what ships: ONNX in float and INT8, TFLite in INT8.

Boxes and scores leave as two outputs, scores after the sigmoid; what follows the heads stays float, because one step of
one scale for boxes of 5 and of 120 pixels would be too coarse for the small ones.
"""

# mypy: disable-error-code="no-any-return,import-not-found"
# (torch is not installed where types are checked)

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from detector import Detector, Exported
from numpy.typing import NDArray
from rendered import HEIGHT_PX, WIDTH_PX

Canvas = NDArray[np.uint8]  # (HEIGHT_PX, WIDTH_PX, 3) BGR
INPUT = "images"
FLOAT_TAIL = r"^(?!.*(Decode|_(score|box)/torch\.nn\.modules\.conv)).*$"  # all but the heads' last layers and Decode


def exported(detector: Detector) -> Exported:
    """The detector with its outputs as they ship; contiguous, as exporters want it."""
    return Exported(detector).to(memory_format=torch.contiguous_format).eval()


def to_onnx(detector: Detector, path: Path) -> None:
    """Float ONNX: `images` float32 [1, 3, H, W], BGR, 0 to 255."""
    torch.onnx.export(
        exported(detector),
        (torch.zeros(1, 3, HEIGHT_PX, WIDTH_PX),),
        str(path),
        opset_version=17,
        dynamo=False,
        input_names=[INPUT],
        output_names=["boxes", "scores"],
    )


def to_int8_onnx(float_model: Path, path: Path, canvases: Sequence[Canvas]) -> None:
    """INT8 (QDQ, activations uint8, weights int8 per channel) with uint8 pixels as input."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(canvases)

        def get_next(self) -> dict[str, Any] | None:
            canvas = next(self.left, None)
            return None if canvas is None else {INPUT: canvas.transpose(2, 0, 1)[None].astype(np.float32)}

    ready = path.with_suffix(".ready.onnx")
    quant_pre_process(str(float_model), str(ready), auto_merge=True)
    pixels = {"quant_type": QuantType.QUInt8, "scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}
    quantize_static(
        str(ready),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=tail(onnx.load(str(ready)).graph),
        extra_options={"TensorQuantOverrides": {INPUT: [pixels]}},
    )
    ready.unlink()
    model = onnx.load(str(path))
    take_pixels(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def tail(graph: onnx.GraphProto) -> list[str]:
    """The last convolution of each head, and every node after which no convolution comes."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    leads: dict[str, bool] = {}  # node -> whether a convolution comes later; nodes are in topological order
    for node in reversed(graph.node):
        after = [user for name in node.output for user in users.get(name, [])]
        leads[node.name] = any(user.op_type == "Conv" or leads[user.name] for user in after)
    return [name for name, leading in leads.items() if not leading]


def take_pixels(graph: onnx.GraphProto) -> None:
    """Drop the first QuantizeLinear, of scale 1 and zero point 0, and take uint8 instead: the same values, no float."""
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == INPUT)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if float(held[first.input[1]]) != 1.0 or int(held[first.input[2]]) != 0:
        raise ValueError(f"{INPUT}: quantised with scale {held[first.input[1]]}, expected 1")
    for node in graph.node:
        node.input[:] = [INPUT if name == first.output[0] else name for name in node.input]
    graph.node.remove(first)
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


def to_int8_tflite(detector: Detector, path: Path, canvases: Sequence[Canvas]) -> None:
    """INT8 TFLite: int8 NHWC pixels (value - 128) in; what follows the heads, and so the outputs, in float."""
    import litert_torch
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager

    float_path = path.with_suffix(".float.tflite")
    channels_last = litert_torch.to_channel_last_io(exported(detector), args=[0]).eval()
    litert_torch.convert(channels_last, (torch.zeros(1, HEIGHT_PX, WIDTH_PX, 3),)).export(str(float_path))
    recipe = RecipeManager()
    for name in ("INPUT", "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD", "RESIZE_NEAREST_NEIGHBOR"):
        operation = qtyping.TFLOperationName(name)
        recipe.add_static_config(FLOAT_TAIL, operation, activation_num_bits=8, weight_num_bits=8)
    work = quantizer.Quantizer(str(float_path), recipe.get_quantization_recipe())
    pictures = [{"args_0": canvas[None].astype(np.float32)} for canvas in canvases]
    ranges = work.calibrate({"serving_default": pictures}, num_threads=1)
    for name in ("serving_default_args_0", next(name for name in ranges if "_stem/" in name)):  # pixels, and padded
        ranges[name]["min"][...], ranges[name]["max"][...] = 0, 255  # one step is one level: nothing to convert
    work.quantize(ranges).export_model(str(path), overwrite=True)
    path.chmod(0o644)
    float_path.unlink()
