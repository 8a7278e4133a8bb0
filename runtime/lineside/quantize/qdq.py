"""INT8 ONNX: QuantizeLinear and DequantizeLinear around the layers, activations uint8, weights int8 per channel.

U8S8, not S8S8: on x86-64 the latter takes ONNX Runtime two to three times as long.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.quantize.graph import Network
from lineside.quantize.ranges import Limits
from lineside.registry import vendor


def quantise(
    network: Network, limits: Limits, in_float: Collection[str], path: Path, *, weight_bits: Literal[7, 8] = 8
) -> None:
    """Write the INT8 model. `in_float` names the nodes that stay as they are. Weights of 7 bits (-64 to 64) cannot
    saturate the 16 bits in which x86-64 without VNNI adds two products.

    Raises ConfigError for a model that the quantizer cannot take.
    """
    onnx = vendor("onnx")
    quantization = vendor("onnxruntime.quantization")
    calibrate = vendor("onnxruntime.quantization.calibrate")
    registry = vendor("onnxruntime.quantization.registry")
    ranges = {
        name: calibrate.TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in limits.items()
    }
    kinds = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
    logging.disable(logging.WARNING)  # of each bias and axis; what they cost is measured
    try:
        quantizer = quantization.QDQQuantizer(
            onnx.load(str(network.path)),
            True,  # per channel
            weight_bits == 7,
            quantization.QuantType.QInt8,
            quantization.QuantType.QUInt8,
            calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, ranges),
            [],
            sorted(in_float),
            kinds,
            {},
        )
        quantizer.quantize_model()
    except Exception as error:  # what it raises shares no base
        why = first_line(error)
        raise ConfigError(f"{network.path.name}: ONNX Runtime's quantizer cannot take it ({why})") from error
    finally:
        logging.disable(logging.NOTSET)
    quantizer.model.save_model_to_file(str(path))
