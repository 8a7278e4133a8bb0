"""Frames on the model's canvas: every mode, every odd size, and the way back, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.errors import ConfigError
from lineside.records import InputSpec
from lineside.vision.boxes import to_frame
from lineside.vision.prepare import Prepare, plan

SIDES = st.integers(1, 700) | st.sampled_from([1, 2, 640, 1080, 1920, 20_000])
MODES = st.sampled_from(["letterbox", "letterbox_top_left", "stretch", "center_crop"])


def spec(mode: str, width: int | None, height: int | None, **more: object) -> InputSpec:
    return InputSpec(width, height, "rgb", "nhwc", resize=mode, **more)  # type: ignore[arg-type]


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose blue is the column and whose green is the row, over its size, 0 to 255."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = ((np.arange(width) + 0.5) / width * 255)[None, :]
    image[:, :, 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    return image


@settings(deadline=None)
@given(
    mode=MODES, width=SIDES, height=SIDES, canvas=st.tuples(st.integers(1, 700), st.integers(1, 700)), data=st.data()
)
def test_boxes_on_the_canvas_map_back_to_the_frames_own_pixels(
    mode: str, width: int, height: int, canvas: tuple[int, int], data: st.DataObject
) -> None:
    placement = plan(spec(mode, *canvas), width, height).placement
    x = sorted(data.draw(st.floats(0, width, width=32)) for _ in range(2))
    y = sorted(data.draw(st.floats(0, height, width=32)) for _ in range(2))
    box = np.array([x[0], y[0], x[1], y[1]], np.float64)
    scale = np.array([placement.scale_x, placement.scale_y] * 2)
    offset = np.array([placement.left_px, placement.top_px] * 2)
    back = to_frame((box * scale + offset)[None], placement)[0]  # type: ignore[arg-type]
    assert np.abs(back - box).max() <= 1e-6 * max(width, height) + 1e-5


@settings(deadline=None)
@given(mode=MODES, width=SIDES, height=SIDES, canvas=st.tuples(st.integers(1, 700), st.integers(1, 700)))
def test_the_windows_edges_are_the_frames_edges(mode: str, width: int, height: int, canvas: tuple[int, int]) -> None:
    layout = plan(spec(mode, *canvas), width, height)
    rows, columns = layout.target
    source_rows, source_columns = layout.source
    assert 0 <= rows.start < rows.stop <= canvas[1]
    assert 0 <= columns.start < columns.stop <= canvas[0]
    assert 0 <= source_rows.start < source_rows.stop <= height
    assert 0 <= source_columns.start < source_columns.stop <= width
    corners = np.array([[columns.start, rows.start, columns.stop, rows.stop]], np.float32)
    back = to_frame(corners, layout.placement)[0]
    expected = [source_columns.start, source_rows.start, source_columns.stop, source_rows.stop]
    assert np.allclose(back, expected, atol=1e-6 * max(width, height) + 1e-4)


@pytest.mark.parametrize("mode", ["letterbox", "letterbox_top_left", "stretch", "center_crop"])
@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (333, 77), (1, 1), (20_000, 3)])
def test_the_picture_lies_where_the_placement_says(mode: str, size: tuple[int, int]) -> None:
    height, width = size
    canvas, placement, _ = Prepare(spec(mode, 320, 240, pad_value=9)).put(ramp(height, width))
    assert canvas.shape == (240, 320, 3)
    for row in range(0, 240, 7):
        for column in range(0, 320, 7):
            x = (column + 0.5 - placement.left_px) / placement.scale_x / width * 255
            y = (row + 0.5 - placement.top_px) / placement.scale_y / height * 255
            if not (0 <= x <= 255 and 0 <= y <= 255):
                assert canvas[row, column].tolist() == [9, 9, 9]
                continue
            tolerance = 255 * 0.5 / width + 3, 255 * 0.5 / height + 3  # half a source pixel, at the borders
            assert abs(float(canvas[row, column, 0]) - x) <= tolerance[0]
            assert abs(float(canvas[row, column, 1]) - y) <= tolerance[1]


def test_a_canvas_is_reused_and_its_bars_are_filled_again_when_the_frame_size_changes() -> None:
    prepare = Prepare(spec("letterbox", 64, 64, pad_value=114))
    wide = np.full((20, 40, 3), 255, np.uint8)
    first, _, _ = prepare.put(wide)
    second, _, _ = prepare.put(wide)
    assert first is second
    tall, _, _ = prepare.put(np.full((40, 20, 3), 255, np.uint8))
    assert (tall[:, :16] == 114).all()
    assert (tall[:, 16:48] == 255).all()
    assert (tall[:, 48:] == 114).all()


def test_slots_do_not_share_a_canvas() -> None:
    prepare = Prepare(spec("letterbox", 32, 32), slots=2)
    white, _, _ = prepare.put(np.full((8, 16, 3), 255, np.uint8), slot=0)
    black, _, _ = prepare.put(np.zeros((8, 16, 3), np.uint8), slot=1)
    assert (white[8:24] == 255).all()
    assert (black[8:24] == 0).all()


def test_a_frame_of_the_canvas_size_is_not_copied() -> None:
    image = ramp(32, 32)
    canvas, placement, _ = Prepare(spec("letterbox", 32, 32)).put(image)
    assert canvas is image
    assert (placement.scale_x, placement.left_px) == (1.0, 0.0)


def test_a_model_of_any_size_gets_the_frame_padded_to_its_stride() -> None:
    image = ramp(33, 64)
    canvas, placement, _ = Prepare(spec("pad", None, None, pad_value=7)).put(image)
    assert canvas.shape == (64, 64, 3)
    assert np.array_equal(canvas[:33], image)
    assert (canvas[33:] == 7).all()
    assert (placement.scale_x, placement.scale_y, placement.canvas_height_px) == (1.0, 1.0, 64)


def test_a_model_of_any_size_refuses_a_frame_that_would_eat_the_memory() -> None:
    with pytest.raises(ConfigError, match="20000 x 20000 pixels is too large"):
        Prepare(spec("pad", None, None)).put(np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)))  # type: ignore[arg-type]


def test_frames_that_are_views_are_resized_as_their_copies() -> None:
    image = ramp(100, 200)[10:90:1, 20:180]
    turned = image[::-1, ::-1]
    prepare, again = (Prepare(spec("letterbox", 64, 64)) for _ in range(2))
    assert np.array_equal(prepare.put(turned)[0], again.put(np.ascontiguousarray(turned))[0])
