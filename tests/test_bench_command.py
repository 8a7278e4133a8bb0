"""`lineside bench`: the keys that others script against, on every runtime that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside.cli import main
from lineside.hal.choose import installed
from rig import bundle

QUANTILES = ["p50", "p90", "p99", "p99_9", "max"]
FITS = {
    "onnxruntime": ("faces", "anyface"),
    "openvino": ("classifier", "anyface"),
    "litert": ("classifier",),
}
RUNS = [(backend, name) for backend in sorted(installed()) for name in FITS.get(backend, ())]


@pytest.mark.parametrize(("backend", "name"), RUNS)
def test_bench_json_has_the_keys_of_the_contract(
    capsys: pytest.CaptureFixture[str], data: Path, backend: str, name: str
) -> None:
    made = bundle(name, data / "models")
    capsys.readouterr()
    assert main(["bench", "--bundle", str(made), "--backend", backend, "--frames", "20", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one JSON object, and nothing else on standard output"
    result = json.loads(out)
    assert result["backend"] == f"{backend}:cpu"
    for key in ("frame_path_ms", "bare_loop_ms"):
        assert list(result[key]) == QUANTILES
        times = list(result[key].values())
        assert times[0] > 0
        assert times == sorted(times)
    assert result["ratio_p50"] == pytest.approx(
        result["frame_path_ms"]["p50"] / result["bare_loop_ms"]["p50"], abs=0.01
    )
    assert result["fps"] > 0
    assert result["pss_mb"] > 1
    assert result["cpu_ms_per_frame"] > 0
    assert list(result["model_ms"]) == QUANTILES


def test_bench_tells_a_person_the_same(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    made = bundle("faces", data / "models")
    video = data / "videos" / "bolts_conveyor.mp4"
    capsys.readouterr()
    words = ["bench", "--bundle", str(made), "--backend", "onnxruntime", "--frames", "20", "--video", str(video)]
    assert main([*words, "--threads", "1"]) == 0
    out = capsys.readouterr().out
    for word in (
        "onnxruntime:cpu",
        "1 threads",
        "p99.9",
        "model alone",
        "frame path",
        "bare loop",
        "MB PSS",
        "CPU a frame",
    ):
        assert word in out


def test_a_backend_that_has_no_file_in_the_bundle_says_so(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    made = bundle("faces", data / "models")
    capsys.readouterr()
    assert main(["bench", "--bundle", str(made), "--backend", "litert"]) == 78
    assert "the bundle has no artefact of format" in capsys.readouterr().err
