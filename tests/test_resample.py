"""The filters by which a frame is scaled: beside Pillow's own results, and ONNX Runtime's antialiased resize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.images import read_image
from lineside.records import InputSpec
from lineside.vision.boxes import to_frame
from lineside.vision.prepare import Prepare, plan

PILLOW = Path(__file__).parent / "pictures" / "pillow"  # what Pillow 13.0.0 made of source.png
SOURCE = read_image(PILLOW / "source.png")
SIDES = st.integers(1, 500)


def put(image: np.ndarray, width: int, height: int, mode: str = "stretch", **more: Any) -> np.ndarray:
    spec = InputSpec(width, height, "rgb", "nhwc", resize=mode, **more)  # type: ignore[arg-type]
    return Prepare(spec).put(image)[0].copy()


def farthest(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("kernel", ["antialias", "bicubic"])
def test_a_stretched_picture_is_pillows_within_two_grey_levels(kernel: str) -> None:
    theirs = read_image(PILLOW / f"{kernel}_stretch_40x31.png")
    assert farthest(put(SOURCE, 40, 31, filter=kernel), theirs) <= 2
    assert farthest(put(SOURCE, 40, 31), theirs) > 40  # so the picture tells the filters apart


@pytest.mark.parametrize("kernel", ["antialias", "bicubic"])
def test_a_cropped_picture_is_that_of_resize_and_center_crop(kernel: str) -> None:
    theirs = read_image(PILLOW / f"{kernel}_crop_32.png")  # the shorter side to 36, then the middle 32 x 32
    assert farthest(put(SOURCE, 32, 32, "center_crop", crop_fraction=32 / 36, filter=kernel), theirs) <= 2


def test_linear_and_area_are_opencvs_to_the_last_bit() -> None:
    for name, flag in (("linear", cv2.INTER_LINEAR), ("area", cv2.INTER_AREA)):
        assert np.array_equal(put(SOURCE, 40, 31, filter=name), cv2.resize(SOURCE, (40, 31), interpolation=flag))
    assert np.array_equal(put(SOURCE, 40, 31), put(SOURCE, 40, 31, filter="linear"))
    larger = put(SOURCE, 300, 200, filter="area")  # INTER_AREA repeats pixels there
    assert np.array_equal(larger, cv2.resize(SOURCE, (300, 200), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize("size", [(640, 360), (96, 300), (2000, 100), (31, 7), (1, 1), (701, 523)])
@pytest.mark.parametrize(("kernel", "mode"), [("antialias", "linear"), ("bicubic", "cubic")])
def test_any_size_is_the_antialiased_resize_of_onnx(size: tuple[int, int], kernel: str, mode: str) -> None:
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (523, 701, 3), np.uint8), (0, 0), 2.0)
    image = cv2.convertScaleAbs(image, alpha=4, beta=-380)
    theirs = onnx_resize(image, size, mode)
    assert farthest(put(image, *size, filter=kernel), theirs) <= 2  # ours is rounded between the axes
    assert np.abs(put(image, *size, filter=kernel).astype(float) - theirs).mean() < 0.45


def onnx_resize(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    import onnxruntime
    from onnx import TensorProto, helper

    width, height = size
    node = helper.make_node(
        "Resize", ["x", "", "", "size"], ["y"], mode=mode, antialias=1, cubic_coeff_a=-0.5, exclude_outside=1
    )
    shape = [1, 3, *image.shape[:2]]
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor("size", TensorProto.INT64, [4], [1, 3, height, width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    found = np.asarray(session.run(None, {"x": planes})[0])[0]
    return np.clip(np.rint(found.transpose(1, 2, 0)), 0, 255).astype(np.uint8)


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["antialias", "bicubic"]), st.floats(0.3, 1.0))
@settings(max_examples=40, deadline=None)
def test_every_size_and_crop_is_filled_and_an_even_picture_stays_even(
    width: int, height: int, canvas_w: int, canvas_h: int, kernel: str, fraction: float
) -> None:
    even = np.full((height, width, 3), (10, 130, 250), np.uint8)
    for mode in ("stretch", "center_crop"):
        assert (
            put(even, canvas_w, canvas_h, mode, filter=kernel, crop_fraction=fraction, pad_value=0) == even[0, 0]
        ).all()


@pytest.mark.parametrize("fraction", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (301, 225)])
def test_what_a_crop_shows_is_where_its_placement_says(size: tuple[int, int], fraction: float) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 - 10 : height // 2 + 10, width // 2 - 30 : width // 2 - 10] = 255
    spec = InputSpec(224, 224, "rgb", "nhwc", resize="center_crop", crop_fraction=fraction, filter="antialias")
    canvas, placement, _ = Prepare(spec).put(image)
    rows, columns = np.nonzero(canvas[:, :, 0] > 127)
    seen = np.float32([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    assert (
        np.abs(to_frame(seen, placement) - [width // 2 - 30, height // 2 - 10, width // 2 - 10, height // 2 + 10]).max()
        < 2
    )
    assert plan(spec, width, height).placement == placement


def test_frames_that_are_views_and_slots_are_filled_alike() -> None:
    turned = SOURCE[::-1, ::-1]
    for kernel in ("antialias", "bicubic"):
        spec = InputSpec(64, 48, "rgb", "nhwc", filter=kernel)  # type: ignore[arg-type]
        prepare = Prepare(spec, slots=2)
        first = prepare.put(turned)[0]
        assert np.array_equal(first, prepare.put(np.ascontiguousarray(turned), 1)[0])
        assert (first[0] == spec.pad_value).all()  # the bars of the letterbox stay
