"""The pixel conversions against the plain formula, and the flatbuffer reader against damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.errors import ConfigError
from lineside.hal.pixels import PixelWriter, per_channel
from lineside.hal.tflite import read_tflite
from lineside.records import InputSpec, TensorSpec

VALUES = st.floats(-300, 300, allow_nan=False).map(lambda value: round(value, 3))
CHANNELS = st.one_of(st.just((0.0,) * 3), VALUES.map(lambda value: (value,) * 3), st.tuples(VALUES, VALUES, VALUES))
STDS = CHANNELS.map(lambda values: tuple(abs(value) + 0.5 if value else 1.0 for value in values))


@settings(max_examples=150, deadline=None)
@given(
    color=st.sampled_from(["rgb", "bgr", "gray"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    mean=CHANNELS,
    std=STDS,
    dtype=st.sampled_from(["float32", "float16", "uint8", "int8"]),
    scale=st.sampled_from([1.0, 1 / 255, 0.0078125, 0.018658448, 0.5]),
    zero_point=st.sampled_from([0, 128, -128, -14, 7]),
    seed=st.integers(0, 1000),
)
def test_every_conversion_is_the_formula(
    color: str,
    layout: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: str,
    scale: float,
    zero_point: int,
    seed: int,
) -> None:
    input = InputSpec(9, 7, color, layout, mean, std)  # type: ignore[arg-type]
    spec = TensorSpec("x", (), dtype, scale, zero_point)
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    channels = 1 if color == "gray" else 3
    out = np.empty((channels, 7, 9) if layout == "nchw" else (7, 9, channels), dtype)
    PixelWriter(input, spec).write(pixels, out)

    if color == "gray":
        import cv2

        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[:, :, None]
    else:
        image = pixels[:, :, ::-1] if color == "rgb" else pixels
    means, stds = per_channel(input)
    real = (image.astype(np.float64) - means) / stds
    got = out.transpose(1, 2, 0) if layout == "nchw" else out
    if dtype.startswith("float"):
        tolerance = 1e-5 if dtype == "float32" else 2e-3
        np.testing.assert_allclose(
            got, real, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(means / stds).max()))
        )
    else:
        limits = np.iinfo(np.dtype(dtype))
        wanted = np.clip(np.rint(real / scale + zero_point), limits.min, limits.max)
        np.testing.assert_array_equal(got, wanted)


def test_a_writer_takes_one_canvas_size_after_another() -> None:
    writer = PixelWriter(InputSpec(None, None, "rgb", "nchw"), TensorSpec("x", (), "float32"))
    for side in (4, 8, 4):
        pixels = np.full((side, side, 3), (1, 2, 3), np.uint8)
        out = np.empty((3, side, side), np.float32)
        writer.write(pixels, out)
        assert out[:, 0, 0].tolist() == [3.0, 2.0, 1.0]


def test_a_mean_for_the_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match="need 3 values"):
        PixelWriter(InputSpec(4, 4, "rgb", "nhwc", mean=(1.0,)), TensorSpec("x", (), "float32"))
    with pytest.raises(ConfigError, match="no std may be 0"):
        PixelWriter(InputSpec(4, 4, "rgb", "nhwc", std=(1.0, 0.0, 1.0)), TensorSpec("x", (), "float32"))


def test_the_flatbuffer_reader_says_what_the_runtime_says(data: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    for path in sorted((data / "models").glob("*/*.tflite")):
        file = read_tflite(str(path))
        assert file.for_edgetpu == (path.parent.name == "edgetpu")
        interpreter = Interpreter(str(path))
        for specs, details in (
            (file.inputs, interpreter.get_input_details()),
            (file.outputs, interpreter.get_output_details()),
        ):
            for spec, detail in zip(specs, details, strict=True):
                scale, zero_point = detail["quantization"]
                assert (spec.name, spec.dtype) == (detail["name"], np.dtype(detail["dtype"]).name)
                assert (spec.scale, spec.zero_point) == (pytest.approx(scale or 1.0), zero_point)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 0.95), damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_a_damaged_tflite_file_is_a_config_error_or_read_never_a_crash(
    share: float, damage: list[tuple[float, int]], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray((data / "models/classify/vww_96_int8.tflite").read_bytes())
    for place, value in damage:
        whole[int(place * (len(whole) - 1))] = value
    path = tmp_path_factory.mktemp("cut") / "model.tflite"
    path.write_bytes(whole[: int(share * len(whole)) or 1] if not damage else whole)
    if damage:
        try:
            read_tflite(str(path))
        except ConfigError as error:
            assert str(path) in str(error)  # noqa: PT017
    else:
        with pytest.raises(ConfigError, match="truncated or damaged"):
            read_tflite(str(path))
