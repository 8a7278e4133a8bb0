"""The check of tests/edgetpu_operators.py on files of which it is known what the Edge TPU's compiler makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetpu_operators import UNTABLED, is_full_integer, left_on_cpu


@pytest.mark.parametrize("name", ["mobilenet_v2_1.0_224_quant", "mobilenet_v1_0.25_128_quant", "vww_96_int8"])
def test_what_coral_and_mlcommons_made_for_it_is_mapped_whole(data: Path, name: str) -> None:
    path = data / "models" / "classify" / f"{name}.tflite"
    assert is_full_integer(path)
    assert left_on_cpu(path) == {}


def test_what_a_transformer_has_is_left_on_the_cpu(data: Path) -> None:
    path = data / "models" / "classify" / "mobilevit_xxs_128_int8_untrained.tflite"
    assert is_full_integer(path)
    left = left_on_cpu(path)
    assert left["BATCH_MATMUL"] == UNTABLED
    assert "SOFTMAX" in left
    assert "DEPTHWISE_CONV_2D" not in left


def test_the_softmax_over_box_bins_is_left_where_the_compiler_left_it(data: Path) -> None:
    # its compiled twin holds one custom operator and the softmax, beside what comes after that
    left = left_on_cpu(data / "models" / "detect" / "yolov8n_640_full_int8.tflite")
    assert list(left) == ["SOFTMAX"]
    compiled = left_on_cpu(data / "models" / "edgetpu" / "yolov8n_640_full_int8_edgetpu.tflite")
    assert list(compiled) == ["edgetpu-custom-op", "SOFTMAX"]


def test_a_float_model_is_no_full_integer_model(data: Path) -> None:
    path = data / "models" / "face" / "face_detection_short_range.tflite"
    assert not is_full_integer(path)
    assert left_on_cpu(path)["CONV_2D"] == "takes or gives FLOAT32"
