"""ONNX Runtime on an NVIDIA GPU, where one is and `onnxruntime-gpu` is installed: it opens, and answers as the CPU.

pip uninstall onnxruntime && pip install onnxruntime-gpu && pytest -m cuda
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside.cli import main
from lineside.hal.ort import OrtBackend
from lineside.records import Artefact, InputSpec
from lineside.resources import shipped
from lineside.store.bundle import open_bundle

pytestmark = pytest.mark.cuda

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
BUNDLES = sorted(folder.name for folder in shipped("models").iterdir() if (folder / "model.toml").is_file())
FLOAT = {  # file: input
    "classify/mobilenet_v2_224_fp32.onnx": InputSpec(
        224, 224, "rgb", "nchw", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    ),
    "detect/yolox_nano_416.onnx": InputSpec(416, 416, "bgr", "nchw"),
    "face/yunet_n_320_320.onnx": InputSpec(320, 320, "bgr", "nchw"),
}
NEAR = {
    "fp32": 0.01,
    "int8": 0.05,
    "mixed": 0.05,
}  # of the range: GPUs multiply in TF32, and round between INT8 layers in float


@pytest.fixture(params=list(PROVIDERS))
def device(request: pytest.FixtureRequest) -> str:
    ort = pytest.importorskip("onnxruntime")
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/nvhost-gpu").exists():
        pytest.skip("no NVIDIA GPU: neither /dev/nvidia0 nor /dev/nvhost-gpu is there")
    name = str(request.param)
    if PROVIDERS[name] not in ort.get_available_providers():
        pytest.skip(f"this onnxruntime has no {PROVIDERS[name]}: pip install onnxruntime-gpu in place of onnxruntime")
    return name


def compared(file: Path, spec: InputSpec, device: str, precision: str, cache: Path) -> None:
    """Twice on the GPU, the second time into bound outputs, and once on the CPU."""
    artefact = Artefact(str(file), "onnx", precision, "")  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (spec.height_px or 320, spec.width_px or 320, 3), dtype=np.uint8)
    expected = [output.raw.copy() for output in OrtBackend(artefact, spec).infer(pixels)]
    gpu = OrtBackend(artefact, spec, device=device, cache_dir=cache)
    assert gpu.device == f"{device}:0"
    for _ in range(2):
        for wanted, found in zip(expected, gpu.infer(pixels), strict=True):
            assert found.raw.shape == wanted.shape
            assert np.abs(found.raw.astype(float) - wanted).max() <= NEAR[precision] * np.ptp(wanted.astype(float))
    gpu.close()


@pytest.mark.timeout(600)  # TensorRT builds an engine for each model
@pytest.mark.parametrize("file", list(FLOAT))
def test_a_float_model_answers_as_on_the_cpu(device: str, file: str, data: Path, tmp_path: Path) -> None:
    compared(data / "models" / file, FLOAT[file], device, "fp32", tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUNDLES)
def test_a_shipped_int8_model_answers_as_on_the_cpu(device: str, name: str, tmp_path: Path) -> None:
    bundle = open_bundle(name)
    for one in bundle.artefacts:
        if one.format == "onnx":
            compared(Path(one.path), bundle.input_for(one), device, one.precision, tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUNDLES)
def test_a_shipped_model_gives_its_golden_answers(device: str, name: str) -> None:
    bundle = open_bundle(name)
    if bundle.golden is None or all(one.format != "onnx" for one in bundle.artefacts):
        pytest.skip(f"{name} has no golden answers of an ONNX file")
    assert main(["bundle", "verify", name, "--backend", f"onnxruntime:{device}"]) == 0


def test_a_gpu_that_is_not_there_is_refused_and_not_replaced_by_the_cpu(device: str) -> None:
    from lineside.errors import DeviceError

    bundle = open_bundle("conveyor-parts")
    (one,) = [one for one in bundle.artefacts if one.format == "onnx"]
    with pytest.raises(DeviceError, match=f"{device}"):
        OrtBackend(one, bundle.input_for(one), device=f"{device}:99")


def test_tensorrt_keeps_its_engine_in_the_cache_folder(device: str, tmp_path: Path) -> None:
    if device != "tensorrt":
        pytest.skip("CUDA builds no engine")
    bundle = open_bundle("conveyor-parts")
    (one,) = [one for one in bundle.artefacts if one.format == "onnx"]
    spec = bundle.input_for(one)
    for _ in range(2):
        OrtBackend(one, spec, device=device, cache_dir=tmp_path).close()
    assert list(tmp_path.glob("*.engine"))
