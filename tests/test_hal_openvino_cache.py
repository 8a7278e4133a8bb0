"""The kept compiled model: same answers, never a stale or damaged one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from lineside.hal.openvino import OpenVinoBackend
from lineside.records import Artefact, InputSpec

YUNET = InputSpec(None, None, "bgr", "nchw")
VWW = InputSpec(96, 96, "rgb", "nhwc", std=(255.0,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def opened(path: Path, input: InputSpec, cache_dir: Path, **options: str | bool) -> OpenVinoBackend:
    kind = "onnx" if path.suffix == ".onnx" else "tflite"
    artefact = Artefact(str(path), kind, "int8", "")  # type: ignore[arg-type]
    return OpenVinoBackend(artefact, input, threads=1, options=options, cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("file", "input"), [("face/yunet_n_dynamic.onnx", YUNET), ("classify/vww_96_int8.tflite", VWW)]
)
def test_a_kept_model_answers_as_the_one_just_compiled(
    file: str, input: InputSpec, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = data / "models" / file
    first = opened(path, input, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    written_ns = kept.stat().st_mtime_ns
    second = opened(path, input, tmp_path / "cache")
    assert kept.stat().st_mtime_ns == written_ns
    assert (second.inputs, second.outputs, second.device) == (first.inputs, first.outputs, first.device)
    for one, other in zip(first.infer(PIXELS), second.infer(PIXELS), strict=True):
        assert (one.name, one.scale, one.zero_point) == (other.name, other.scale, other.zero_point)
        np.testing.assert_array_equal(one.raw, other.raw)
    assert not caplog.records


def test_another_file_input_or_option_is_compiled_anew(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes((data / "models/classify/vww_96_int8.tflite").read_bytes())
    cache = tmp_path / "cache"
    opened(model, VWW, cache)
    opened(model, InputSpec(96, 96, "bgr", "nhwc", std=(255.0,) * 3), cache)
    opened(model, VWW, cache, precision="f32")
    model.write_bytes(model.read_bytes() + b"\0")
    opened(model, VWW, cache)
    assert len(list(cache.iterdir())) == 4
    opened(model, VWW, tmp_path / "none", cache=False)
    assert not (tmp_path / "none").exists()


def test_a_damaged_kept_model_is_told_and_compiled_again(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = data / "models/classify/vww_96_int8.tflite"
    wanted = opened(path, VWW, tmp_path).infer(PIXELS)[0].raw.copy()
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"{}\n", whole[:-1] + b"?"):
        kept.write_bytes(damaged)
        caplog.clear()
        np.testing.assert_array_equal(opened(path, VWW, tmp_path).infer(PIXELS)[0].raw, wanted)
        assert "compiling again" in caplog.text
        assert kept.read_bytes() != damaged


def test_a_cache_folder_that_cannot_be_written_costs_only_the_next_start(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING):
        backend = opened(data / "models/classify/vww_96_int8.tflite", VWW, blocked)
    assert backend.infer(PIXELS)
    assert "the next start compiles again" in caplog.text
