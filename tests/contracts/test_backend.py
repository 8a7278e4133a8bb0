"""What every backend promises, on real models: the runtime's own answers, slots that don't mix, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lineside import registry
from lineside.contracts import Backend
from lineside.errors import ConfigError, DeviceError
from lineside.hal.pixels import quantised_table
from lineside.hal.processor import saturates_int8
from lineside.records import Artefact, Image, InputSpec, TensorSpec

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Model:
    file: str
    input: InputSpec
    canvas: tuple[int, int] | None = None  # height, width where the model takes any

    def artefact(self, data: Path) -> Artefact:
        kind = "tflite" if self.file.endswith("tflite") else "onnx"
        return Artefact(str(data / "models" / self.file), kind, "mixed", "")  # type: ignore[arg-type]

    def size(self) -> tuple[int, int]:
        return self.canvas or (self.input.height_px or 0, self.input.width_px or 0)


MODELS = {
    "mobilenet_fp32": Model("classify/mobilenet_v2_224_fp32.onnx", InputSpec(224, 224, "rgb", "nchw", *IMAGENET)),
    "mobilenet_quant": Model(
        "classify/mobilenet_v2_1.0_224_quant.tflite", InputSpec(224, 224, "rgb", "nhwc", (128,) * 3, (128,) * 3)
    ),
    "vww_int8": Model("classify/vww_96_int8.tflite", InputSpec(96, 96, "rgb", "nhwc", std=(255,) * 3)),
    "yolov8n_int8": Model("detect/yolov8n_640_full_int8.tflite", InputSpec(640, 640, "rgb", "nhwc", std=(255,) * 3)),
    "blazeface": Model(
        "face/face_detection_short_range.tflite", InputSpec(128, 128, "rgb", "nhwc", (127.5,) * 3, (127.5,) * 3)
    ),
    "yolox_tflite": Model("detect/yolox_nano_416_dynamic_range.tflite", InputSpec(416, 416, "bgr", "nchw")),
    "yunet_dynamic": Model("face/yunet_n_dynamic.onnx", InputSpec(None, None, "bgr", "nchw"), (192, 320)),
    "nanodet": Model(
        "detect/nanodet_m_320.onnx",
        InputSpec(320, 320, "bgr", "nchw", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
    ),
}
RUNS = [
    *(("onnxruntime", name) for name in ("mobilenet_fp32", "yunet_dynamic", "nanodet")),
    *(("openvino", name) for name in MODELS),
    *(("litert", name) for name in ("mobilenet_quant", "vww_int8", "yolov8n_int8", "blazeface", "yolox_tflite")),
]
EXACT: dict[str, dict[str, Any]] = {"openvino": {"precision": "f32"}}  # else bf16 where the CPU has it


def canvas(height: int, width: int, seed: int = 0) -> Image:
    """Smooth colours with edges in them: a picture, not noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(
        np.kron(small, np.ones((-(-height // 8), -(-width // 8), 1), np.uint8))[:height, :width]
    )


def prepared(pixels: Image, input: InputSpec, spec: TensorSpec) -> NDArray[Any]:
    """The model's input as InputSpec defines it, written plainly."""
    image = pixels[:, :, ::-1] if input.color == "rgb" else pixels
    if spec.dtype == "float32":
        filled = ((image.astype(np.float64) - input.mean) / input.std).astype(np.float32)
    else:
        table = quantised_table(input, spec)
        filled = np.stack([table[channel][image[:, :, channel]] for channel in range(3)], axis=2)
    return filled[None] if input.layout == "nhwc" else np.ascontiguousarray(filled.transpose(2, 0, 1)[None])


def by_onnxruntime(path: str, feed: Callable[[TensorSpec], NDArray[Any]]) -> list[NDArray[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: feed(TensorSpec("", (), "float32"))})


def by_openvino(path: str, feed: Callable[[TensorSpec], NDArray[Any]]) -> list[NDArray[Any]]:
    import openvino

    model = openvino.Core().read_model(path)
    # the scales of raw inputs are known to LiteRT only
    spec = _litert_input(_litert(path)) if path.endswith(".tflite") else TensorSpec("", (), "float32")
    exact = {"LP_TRANSFORMS_MODE": "NO"} if saturates_int8() else {}
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **exact})
    return [np.array(value) for value in compiled(feed(spec)).values()]


def by_litert(path: str, feed: Callable[[TensorSpec], NDArray[Any]]) -> list[NDArray[Any]]:
    interpreter = _litert(path)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed(_litert_input(interpreter)))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _litert(path: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    return interpreter


def _litert_input(interpreter: Any) -> TensorSpec:
    detail = interpreter.get_input_details()[0]
    scale, zero_point = detail["quantization"]
    return TensorSpec("", (), np.dtype(detail["dtype"]).name, scale or 1.0, zero_point)


REFERENCE = {"onnxruntime": by_onnxruntime, "openvino": by_openvino, "litert": by_litert}


def opened(name: str, model: Model, data: Path, **settings: Any) -> Backend:
    settings = {"options": EXACT.get(name, {}), "threads": 1, **settings}
    return registry.driver("backend", name)(model.artefact(data), model.input, **settings)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "key"), RUNS)
def test_outputs_are_those_of_the_bare_runtime(name: str, key: str, data: Path) -> None:
    model = MODELS[key]
    pixels = canvas(*model.size())
    backend = opened(name, model, data)
    wanted = REFERENCE[name](model.artefact(data).path, lambda spec: prepared(pixels, model.input, spec))
    got = backend.infer(pixels)
    assert backend.device == "cpu"
    assert [tensor.name for tensor in got] == [spec.name for spec in backend.outputs]
    assert len(got) == len(wanted)
    for tensor, spec, reference in zip(got, backend.outputs, wanted, strict=True):
        assert tensor.raw.dtype == reference.dtype == np.dtype(spec.dtype)
        assert (tensor.scale, tensor.zero_point) == (spec.scale, spec.zero_point)
        if reference.dtype == np.float32:
            np.testing.assert_allclose(tensor.raw, reference, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(reference).max()))
        else:
            np.testing.assert_array_equal(tensor.raw, reference)
    backend.close()


@pytest.mark.parametrize(("name", "key"), RUNS)
def test_a_window_of_a_canvas_gives_what_the_whole_canvas_gives(name: str, key: str, data: Path) -> None:
    model = MODELS[key]
    height, width = model.size()
    rows, columns = window = (slice(height // 4, height - height // 4), slice(3, width))
    kept, whole = opened(name, model, data), opened(name, model, data)
    for first in (canvas(height, width), canvas(height, width, seed=1)):  # a second canvas: all of it is new
        own = first.copy()
        for seed in range(2, 5):
            own[rows, columns] = canvas(height, width, seed=seed)[rows, columns]
            for got, wanted in zip(kept.infer(own, 0, window), whole.infer(own.copy()), strict=True):
                np.testing.assert_allclose(got.raw, wanted.raw, rtol=1e-5, atol=1e-5)
    own[:] = first[::-1]
    for got, wanted in zip(kept.infer(own), whole.infer(own.copy()), strict=True):
        np.testing.assert_allclose(got.raw, wanted.raw, rtol=1e-5, atol=1e-5)
    kept.close()
    whole.close()


@pytest.mark.parametrize(("name", "key"), [run for run in RUNS if run[1].endswith(("quant", "int8"))])
def test_a_quantised_output_carries_the_scale_that_the_model_file_states(name: str, key: str, data: Path) -> None:
    model = MODELS[key]
    backend = opened(name, model, data)
    details = _litert(model.artefact(data).path).get_output_details()
    for tensor, detail in zip(backend.infer(canvas(*model.size())), details, strict=True):
        assert (tensor.scale, tensor.zero_point) == detail["quantization"]
        assert tensor.scale != 1.0


@pytest.mark.parametrize(
    ("name", "key"),
    [("onnxruntime", "nanodet"), ("openvino", "nanodet"), ("openvino", "vww_int8"), ("litert", "vww_int8")],
)
def test_slots_in_threads_of_their_own_do_not_mix_their_answers(name: str, key: str, data: Path) -> None:
    model = MODELS[key]
    backend = opened(name, model, data, slots=3)
    pictures = [canvas(*model.size(), seed=seed) for seed in range(3)]
    alone = [[tensor.raw.copy() for tensor in backend.infer(picture, 0)] for picture in pictures]
    assert not np.array_equal(alone[0][0], alone[1][0])

    def rounds(slot: int) -> bool:
        same = True
        for turn in range(12):
            number = (slot + turn) % 3
            got = backend.infer(pictures[number], slot)
            for tensor, wanted in zip(got, alone[number], strict=True):
                same &= bool(np.allclose(tensor.raw, wanted, rtol=1e-4, atol=1e-4))
        return same

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(rounds, range(3)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_model_of_free_size_takes_one_canvas_size_after_another(name: str, data: Path) -> None:
    model = MODELS["yunet_dynamic"]
    backend = opened(name, model, data)
    assert backend.inputs[0].shape == (1, 3, None, None)
    for height, width in ((192, 320), (320, 320), (192, 320), (64, 96)):
        pixels = canvas(height, width)
        wanted = REFERENCE[name](model.artefact(data).path, lambda spec, it=pixels: prepared(it, model.input, spec))
        for tensor, reference in zip(backend.infer(pixels), wanted, strict=True):
            np.testing.assert_allclose(tensor.raw, reference, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert"])
@pytest.mark.parametrize("fault", ["absent", "empty", "cut short", "foreign", "text"])
def test_a_bad_model_file_is_a_config_error_that_names_the_file(
    name: str, fault: str, data: Path, tmp_path: Path
) -> None:
    model = MODELS["vww_int8" if name == "litert" else "nanodet"]
    whole = Path(model.artefact(data).path)
    bad = tmp_path / f"model{whole.suffix}"
    content = {
        "empty": b"",
        "cut short": whole.read_bytes()[: whole.stat().st_size // 2],
        "foreign": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }
    if fault in content:
        bad.write_bytes(content[fault])
    with pytest.raises(ConfigError) as raised:
        registry.driver("backend", name)(replace(model.artefact(data), path=str(bad)), model.input)
    assert str(bad) in str(raised.value)
    assert "again" in str(raised.value)


@pytest.mark.parametrize(("name", "key"), [("onnxruntime", "nanodet"), ("openvino", "nanodet"), ("litert", "vww_int8")])
def test_an_input_that_the_bundle_describes_wrongly_is_refused(name: str, key: str, data: Path) -> None:
    model = MODELS[key]
    with pytest.raises(ConfigError, match="width_px"):
        opened(name, replace(model, input=replace(model.input, width_px=64)), data)
    with pytest.raises(ConfigError, match="color"):
        opened(name, replace(model, input=replace(model.input, color="gray")), data)


@pytest.mark.parametrize(("name", "key"), [("onnxruntime", "nanodet"), ("openvino", "nanodet"), ("litert", "vww_int8")])
def test_the_layout_is_the_artefacts_own_since_one_bundle_may_hold_both(name: str, key: str, data: Path) -> None:
    model = MODELS[key]
    other = "nhwc" if model.input.layout == "nchw" else "nchw"
    pixels = canvas(*model.size())
    wanted = opened(name, model, data).infer(pixels)
    got = opened(name, replace(model, input=replace(model.input, layout=other)), data).infer(pixels)
    for tensor, reference in zip(got, wanted, strict=True):
        np.testing.assert_allclose(tensor.raw, reference.raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert", "fake"])
def test_an_option_that_is_unknown_or_of_the_wrong_type_is_refused(name: str, data: Path) -> None:
    model = MODELS["vww_int8" if name == "litert" else "nanodet"]
    with pytest.raises(ConfigError, match="no_such_option"):
        opened(name, model, data, options={"no_such_option": 1})
    wrong = {"onnxruntime": "fp16", "openvino": "precision", "litert": "package", "fake": "classes"}[name]
    with pytest.raises(ConfigError, match=wrong):
        opened(name, model, data, options={wrong: 1.5})


@pytest.mark.parametrize(
    ("name", "device"),
    [("onnxruntime", "cuda"), ("onnxruntime", "tensorrt"), ("openvino", "gpu"), ("openvino", "npu")],
)
def test_a_device_that_is_absent_is_a_device_error_and_not_the_cpu(name: str, device: str, data: Path) -> None:
    with pytest.raises(DeviceError, match=device) as raised:
        opened(name, MODELS["nanodet"], data, device=device)
    assert "install" in str(raised.value)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert"])
def test_a_device_that_nobody_knows_is_a_config_error(name: str, data: Path) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        opened(name, MODELS["vww_int8" if name == "litert" else "nanodet"], data, device="abacus")


def test_the_fake_says_how_bright_the_canvas_is_and_fails_when_told(data: Path, tmp_path: Path) -> None:
    model = MODELS["nanodet"]
    backend = opened("fake", model, data, options={"classes": 4, "fail_after": 2}, slots=2)
    for level, band in ((10, 0), (200, 3)):
        (tensor,) = backend.infer(np.full((320, 320, 3), level, np.uint8), 1)
        assert int(tensor.real()[0].argmax()) == band
    with pytest.raises(DeviceError, match="fail_after"):
        backend.infer(canvas(320, 320))
    with pytest.raises(DeviceError, match="fail_open"):
        opened("fake", model, data, options={"fail_open": True})
    gone = tmp_path / "gone"
    backend = opened("fake", model, data, options={"unplugged_while": str(gone)})
    gone.touch()
    with pytest.raises(DeviceError, match="unplugged"):
        backend.infer(canvas(320, 320))
    gone.unlink()
    assert backend.infer(canvas(320, 320))
