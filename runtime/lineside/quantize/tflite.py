"""INT8 TFLite from a float TFLite file by ai-edge-quantizer: whole, or only convolutions and fully connected layers.

Whole (int8 in and out) is what the Edge TPU's compiler wants. One scale over a detector's concatenated output rounds
every score to 0, and a transformer is slow and wrong when it is whole: then the second way is what holds.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.hal.tflite import read_tflite
from lineside.registry import vendor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scope = Literal["everything", "weighted layers only"]
SCOPES: dict[Scope, Literal["int8", "mixed"]] = {"everything": "int8", "weighted layers only": "mixed"}
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")


def quantise(source: Path, inputs: Sequence[NDArray[np.float32]], scope: Scope, path: Path) -> None:
    """Write the INT8 model; its ranges are the extremes of `inputs`, the calibration pictures as the model takes them.

    Raises ConfigError where ai-edge-quantizer is missing or cannot quantise this file.
    """
    quantizer = vendor("ai_edge_quantizer.quantizer")
    signature, name = _signature(source)
    try:
        worker = quantizer.Quantizer(str(source), _recipe(scope))
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):  # of its memory use
            seen = [worker.calibrate({signature: [{name: each}]}, num_threads=1) for each in inputs]
            worker.quantize(_extremes(seen)).export_model(str(path), overwrite=True)
        read_tflite(str(path))
    except ConfigError:
        raise
    except Exception as error:  # what it raises shares no base
        raise ConfigError(f"{source}: ai-edge-quantizer cannot quantise it: {first_line(error)}") from error


def _extremes(seen: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of all pictures: ai-edge-quantizer's own calibration is a moving average, which cuts off what few pictures have,
    such as a defect."""
    merged = {tensor: dict(found) for tensor, found in seen[0].items()}
    for found in seen[1:]:
        for tensor, limits in found.items():
            if "min" in limits:
                merged[tensor]["min"] = np.minimum(merged[tensor]["min"], limits["min"])
                merged[tensor]["max"] = np.maximum(merged[tensor]["max"], limits["max"])
    return merged


def _signature(source: Path) -> tuple[str, str]:
    """The names of the model's one signature and of its input."""
    interpreter = vendor("ai_edge_litert.interpreter").Interpreter(str(source))
    found = interpreter.get_signature_list()
    if len(found) != 1:
        raise ConfigError(
            f"{source}: has {len(found)} signatures, ai-edge-quantizer needs one: convert the model again with a "
            "converter of today (litert-torch, or TensorFlow's from a saved model)"
        )
    ((name, signature),) = found.items()
    return name, signature["inputs"][0]


def _recipe(scope: Scope) -> Any:
    manager = vendor("ai_edge_quantizer.recipe_manager").RecipeManager()
    names = vendor("ai_edge_quantizer.qtyping").TFLOperationName
    for kind in ("ALL_SUPPORTED",) if scope == "everything" else _WEIGHTED:
        manager.add_static_config(".*", names[kind], activation_num_bits=8, weight_num_bits=8)
    return manager.get_quantization_recipe()
