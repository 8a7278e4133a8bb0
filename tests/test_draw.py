"""Annotated pictures, contact sheets and blurred faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.records import Box, Finding, Image
from lineside.vision.blur import blur_boxes
from lineside.vision.draw import annotate, color_of, contact_sheet
from lineside.vision.letters import drawable, undrawable


def grey(width: int, height: int) -> Image:
    return np.full((height, width, 3), 128, np.uint8)


def changed(before: Image, after: Image) -> np.ndarray:
    return (before != after).any(axis=2)


def test_the_picture_itself_is_left_alone() -> None:
    image = grey(320, 240)
    out = annotate(image, [Finding("scratch", 0, 0.83, (50, 60, 150, 160))], zones={"z": [(1, 1), (90, 1), (9, 90)]})
    assert (image == 128).all()
    assert out.shape == image.shape
    assert out.dtype == np.uint8


@pytest.mark.parametrize(("width", "height"), [(320, 240), (640, 480), (1920, 1080), (3840, 2160)])
def test_strokes_and_letters_grow_with_the_picture(width: int, height: int) -> None:
    image = grey(width, height)
    box = (0.3 * width, 0.4 * height, 0.6 * width, 0.8 * height)
    out = annotate(image, [Finding("scratch", 0, 0.83, box)])
    plate = changed(image, out)[: round(box[1]) - 2]
    rows = np.flatnonzero(plate.any(axis=1))
    assert height / 45 < len(rows) < height / 12  # the label stands above its box, readable and not in the way
    left_edge = changed(image, out)[round(0.6 * height), round(box[0]) - 20 : round(box[0]) + 20]
    assert 1 <= left_edge.sum() <= max(3, height / 200)


def test_the_colour_of_a_label_is_the_same_everywhere_and_on_the_picture() -> None:
    assert color_of("scratch") == color_of("scratch")
    assert len({color_of(name) for name in ("scratch", "dent", "part", "face")}) == 4
    out = annotate(grey(640, 480), [Finding("scratch", 0, 0.83, (100, 100, 300, 300))])
    assert tuple(out[299, 200].tolist()) == color_of("scratch")  # x2 and y2 are exclusive: the edge is at 299


@pytest.mark.parametrize(
    "box", [(-50, -50, 20, 20), (300, 220, 400, 400), (0, 0, 320, 240), (-9, -9, -5, -5), (100, 100, 100, 100)]
)
def test_boxes_at_and_beyond_the_edge_are_no_error_and_keep_their_label_inside(box: Box) -> None:
    image = grey(320, 240)
    out = annotate(image, [Finding("a label of some length", 0, 0.5, box)])
    assert changed(image, out).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (20, 20)])
def test_tiny_pictures_are_no_error(size: tuple[int, int]) -> None:
    image = grey(*size)
    out = annotate(image, [Finding("x", 0, 0.5, (0, 0, 1, 1)), Finding("y", 0, 0.5)], caption="caption")
    assert out.shape == image.shape


def test_labels_of_boxes_on_top_of_each_other_do_not_hide_each_other() -> None:
    boxes = [(100.0, 100.0, 300.0, 300.0), (102.0, 101.0, 301.0, 299.0)]
    one = annotate(grey(640, 480), [Finding("scratch", 0, 0.83, boxes[0])])
    both = annotate(grey(640, 480), [Finding("scratch", 0, 0.83, boxes[0]), Finding("dent", 0, 0.5, boxes[1])])
    plate = slice(80, 99), slice(100, 170)
    assert (one[plate] == both[plate]).all()


def test_findings_without_boxes_zones_and_lines_are_drawn() -> None:
    image = grey(640, 480)
    for kwargs in (
        {"findings": [Finding("ok", 0, 0.9)]},
        {"zones": {"door": [(400, 300), (600, 300), (500, 400)]}},
        {"lines": {"line": [(320, 0), (320, 480)]}},
        {"caption": "größe ✓ 100 µm"},
    ):
        assert changed(image, annotate(image, **kwargs)).any()  # type: ignore[arg-type]
    zone = changed(image, annotate(image, zones={"door": [(400, 300), (600, 300), (500, 400)]}))
    assert zone[320, 500]
    assert not zone[390, 410]


def test_a_sheet_shows_every_tile_in_its_place() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    tiles = [(np.full((90, 160, 3), color, np.uint8), f"part {i} reject: scratch") for i, color in enumerate(colors)]
    sheet = contact_sheet(tiles, columns=3, tile_px=160)
    assert sheet.shape[1] == 3 * 166 + 6
    for place, color in enumerate(colors):
        at = (sheet == np.array(color, np.uint8)).all(axis=2)
        rows, columns = np.nonzero(at)
        assert at.sum() == 90 * 160
        assert columns.mean() == pytest.approx(6 + place % 3 * 166 + 79.5)
        assert (rows.mean() < sheet.shape[0] / 2) == (place < 3)


def test_an_empty_sheet_long_captions_and_odd_shapes_are_no_error() -> None:
    assert contact_sheet([]).size > 0
    tiles = [(grey(1, 500), "word " * 60), (grey(500, 1), "x" * 300), (grey(4000, 3000), "")]
    assert contact_sheet(tiles, columns=2, tile_px=200).shape[1] == 2 * 206 + 6


def test_a_blurred_face_is_found_no_more_and_the_rest_is_untouched(data: Path) -> None:
    import cv2

    image = cv2.imread(str(data / "samples" / "grace_hopper.jpg"))
    height, width = image.shape[:2]
    finder = cv2.FaceDetectorYN.create(
        str(data / "models" / "face" / "yunet_n_320_320.onnx"), "", (width, height), score_threshold=0.3
    )
    faces = finder.detect(image)[1]
    assert faces is not None
    x, y, w, h = faces[0][:4].tolist()
    blurred = blur_boxes(image, [(x, y, x + w, y + h)])
    assert finder.detect(blurred)[1] is None
    touched = changed(image, blurred)
    rows, columns = np.nonzero(touched)
    assert rows.min() >= y - 0.25 * h - 1
    assert columns.max() <= x + 1.25 * w + 1


def test_what_is_finer_than_a_sixth_of_the_face_is_gone_for_good() -> None:
    """Two faces that differ in detail alone become the same picture, so no one can tell them apart afterwards."""
    rng = np.random.default_rng(0)
    smooth = np.full((240, 240, 3), 128, np.uint8)
    detail = np.kron(rng.choice([-60, 60], (60, 60)), np.array([[1, -1], [-1, 1]]))[..., None]
    faced = smooth.copy()
    faced[60:180, 60:180] = (128 + detail).astype(np.uint8)
    box = (60.0, 60.0, 180.0, 180.0)
    assert np.abs(blur_boxes(faced, [box], 0).astype(int) - blur_boxes(smooth, [box], 0)).max() <= 2


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.floats(-200, 400)] * 4), st.floats(0, 2))
def test_any_box_is_blurred_without_error(sides: tuple[float, float, float, float], margin: float) -> None:
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    x1, x2 = sorted(sides[:2])
    y1, y2 = sorted(sides[2:])
    before = image.copy()
    out = blur_boxes(image, [(x1, y1, x2, y2)], margin)
    assert out.shape == image.shape
    assert (image == before).all()
    if x1 < 100 and x2 > 130 and y1 < 50 and y2 > 80:
        assert changed(image, out)[50:80, 100:130].mean() > 0.9


# --- names of every script


def letters(name: str) -> np.ndarray:
    """Which pixels of its plate a name's letters cover."""
    out = annotate(grey(640, 120), [Finding(name, 0, 0.5, (10, 60, 200, 110))]).astype(int)
    plate = np.abs(out[:60] - color_of(name)).max(axis=2)
    return (plate > 60) & changed(grey(640, 60), out[:60])


@pytest.mark.parametrize(
    "name", ["明亮", "红色", "Царапина", "ひっかき傷", "스크래치", "ρωγμή", "שריטה", "خدش", "pęknięcie"]
)
def test_names_are_drawn_in_their_own_letters_and_not_as_question_marks(name: str) -> None:
    assert undrawable([name]) == []
    assert "?" not in drawable(name)
    assert letters(name).sum() > 20
    assert not np.array_equal(letters(name), letters("?" * len(name)))


def test_two_chinese_names_differ_on_the_picture_and_one_is_the_same_each_time() -> None:
    assert not np.array_equal(letters("明亮"), letters("红色"))
    assert np.array_equal(letters("明亮"), letters("明亮"))


def test_hebrew_and_arabic_stand_in_the_order_that_is_read() -> None:
    assert drawable("שריטה") == "הטירש"
    assert drawable("part 5 שריטה x") == "part 5 הטירש x"
    assert drawable("خدش 0.50") == "شدخ 0.50"
    assert drawable("שתי מילים") == "םילימ יתש"


def test_letters_that_no_font_has_are_told() -> None:
    assert undrawable(["ขีดข่วน", "明亮", "what?", "é"]) == ["ขีดข่วน"]
    assert drawable("ข") == "?"


def test_a_long_name_is_cut_to_the_picture_whatever_its_script() -> None:
    out = annotate(grey(160, 120), [Finding("明亮红色划痕" * 9, 0, 0.5, (10, 60, 90, 110))])
    assert changed(grey(160, 120), out)[:, :150].any()
