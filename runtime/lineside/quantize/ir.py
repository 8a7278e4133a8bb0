"""INT8 OpenVINO IR by NNCF, for models that it makes faster than the INT8 ONNX file is in OpenVINO."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.registry import vendor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def quantise(
    source: Path,
    inputs: Sequence[NDArray[np.float32]],
    in_float: Collection[str],
    attention: bool,
    path: Path,
    *,
    weight_bits: Literal[7, 8] = 8,
) -> None:
    """Write path (.xml) and its .bin. `inputs` are the calibration pictures as the model takes them; `in_float` names
    ONNX nodes that stay in float. With weights of 7 bits, which cannot saturate the 16 bits in which x86-64 without
    VNNI adds two products, products of two activations stay in float: no weight bounds those.

    The float model goes through a saved IR: on one that OpenVINO read from ONNX directly, NNCF puts its steps inside of
    SiLU. Raises ConfigError where NNCF is missing or fails.
    """
    ov, nncf = vendor("openvino"), vendor("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would quieten the whole program's handlers
    plain = path.with_name("plain.xml")
    try:
        ov.save_model(ov.convert_model(str(source)), str(plain), compress_to_fp16=False)
        model = ov.Core().read_model(str(plain))
        ignored = _there(model, in_float) + (_products(model) if weight_bits == 7 else [])
        fix = nncf.OverflowFix.ENABLE if weight_bits == 7 else nncf.OverflowFix.DISABLE
        with contextlib.redirect_stdout(sys.stderr):  # its progress
            quantised = nncf.quantize(
                model,
                nncf.Dataset(list(inputs)),
                preset=nncf.QuantizationPreset.MIXED,  # SiLU and such want asymmetric activations
                model_type=nncf.ModelType.TRANSFORMER if attention else None,
                subset_size=len(inputs),
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
            )
        ov.save_model(quantised, str(path))
    except Exception as error:  # what NNCF and OpenVINO raise shares no base
        raise ConfigError(f"NNCF could not quantise the model: {first_line(error)}") from error


def _there(model: Any, nodes: Collection[str]) -> list[str]:
    """The operations that these ONNX nodes became: one of the same name, or several below it."""
    wanted = set(nodes)
    names = [str(node.get_friendly_name()) for node in model.get_ops() if node.get_type_name() != "Constant"]
    return [name for name in names if name in wanted or name.partition("/WithoutBiases")[0] in wanted]


def _products(model: Any) -> list[str]:
    """Matrix products of two activations."""
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    return [str(node.get_friendly_name()) for node in products if not _is_constant(node.input_value(1).get_node())]


def _is_constant(node: Any) -> bool:
    while node.get_type_name() in ("Convert", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def layers(path: Path) -> int:
    """How many quantisation steps an INT8 IR holds."""
    model = vendor("openvino").Core().read_model(str(path))
    return sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
