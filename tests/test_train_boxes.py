"""Training pictures of detectors: wherever a picture goes, its boxes go with it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))

from boxes import (
    Labelled,
    Sample,
    batches,
    clipped,
    cropped,
    deeppcb,
    faces_mask,
    mended,
    mosaic,
    placed,
    split,
    turned,
)

BOX = (60, 30, 90, 50)


def marked(width: int = 200, height: int = 120, box: tuple[int, int, int, int] = BOX) -> Sample:
    """A black picture with a white box, and its truth."""
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image, np.array([[2, *box]], np.float32)


def white(image: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(image[:, :, 0] > 200)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_turned_picture_keeps_its_box_around_what_it_shows(quarter: int, mirror: bool) -> None:
    image, truth = turned(*marked(), quarter, mirror)
    assert image.shape[:2] == ((120, 200) if quarter % 2 == 0 else (200, 120))
    assert tuple(truth[0, 1:]) == white(image)
    assert truth[0, 0] == 2


def test_a_window_keeps_what_it_shows_and_does_not_ask_for_a_sliver() -> None:
    for seed in range(40):
        image, truth = cropped(*marked(), 100, np.random.default_rng(seed))
        assert image.shape == (100, 100, 3)
        if not image.any():
            assert len(truth) == 0
            continue
        assert tuple(truth[0, 1:]) == white(image)
        shown = np.prod(truth[0, 3:] - truth[0, 1:3]) / (30 * 20)
        assert truth[0, 0] == (2 if shown >= 0.6 else -1)


def test_a_mended_defect_looks_as_its_template_and_is_not_asked_for() -> None:
    image, truth = marked(box=(60, 30, 80, 45))
    image[80:90, 140:160] = 255
    truth = np.concatenate((truth, np.array([[1, 140, 80, 160, 90]], np.float32)))
    template = np.zeros_like(image)
    whole, left = mended(image, truth, template, 1.0, np.random.default_rng(0))
    assert not whole.any()
    assert len(left) == 0
    same, kept = mended(image, truth, template, 0.0, np.random.default_rng(0))
    assert (same == image).all()
    assert (kept == truth).all()
    template[:, 40:62] = 255  # askew there: what lies beside the first box differs, too
    one, rest = mended(image, truth, template, 1.0, np.random.default_rng(0))
    assert rest.tolist() == truth[:1].tolist()
    assert white(one) == (60, 30, 80, 45)
    assert image[85, 150, 0] == 255, "the picture itself was changed"


def test_what_lies_outside_is_dropped() -> None:
    truth = np.array([[0, -50, -50, -10, -10], [1, 10, 10, 20, 20]], np.float32)
    assert clipped(truth, 100, 100).tolist() == [[1, 10, 10, 20, 20]]


def test_a_placed_picture_is_scaled_with_its_box() -> None:
    image, truth = placed(*marked(), 416, 2.0, 8, 16)
    np.testing.assert_allclose(truth[0, 1:], [128, 76, 188, 116])
    np.testing.assert_allclose(white(image), truth[0, 1:], atol=2)
    assert tuple(image[410, 410]) == (114, 114, 114)


def test_a_mosaics_boxes_are_where_its_pieces_are() -> None:
    seen = 0
    for seed in range(20):
        image, truth = mosaic([marked()] * 4, 416, np.random.default_rng(seed), (0.4, 1.5))
        inside = np.zeros(image.shape[:2], bool)
        for _, x1, y1, x2, y2 in truth:
            inside[int(y1) : int(np.ceil(y2)) + 1, int(x1) : int(np.ceil(x2)) + 1] = True
            seen += 1
        assert not (image[:, :, 0] > 200)[~inside].any(), "nothing white outside the boxes"
        assert (image[:, :, 0] > 128)[inside].mean() > 0.8, "and little else within"
    assert seen > 40


def test_a_split_keeps_groups_together_and_is_the_same_each_time() -> None:
    everything = [Labelled(Path(f"{n}.png"), np.zeros((0, 5), np.float32), f"g{n // 7}") for n in range(200)]
    train, choose = split(everything)
    assert len(train) + len(choose) == 200
    assert not {one.group for one in train} & {one.group for one in choose}
    assert 15 <= len(choose) <= 30
    assert split(everything)[1] == choose


def test_an_epoch_shows_each_picture_once_and_can_be_shown_again() -> None:
    def vary(index: int, rng: np.random.Generator) -> Sample:
        return np.full((1, 1, 3), index, np.uint8), rng.random((1, 5)).astype(np.float32)

    one, again = (list(batches(20, 4, 3, vary)) for _ in range(2))
    assert sorted(int(image[0, 0, 0]) for batch in one for image, _ in batch) == list(range(20))
    assert all((a[1] == b[1]).all() for x, y in zip(one, again, strict=True) for a, b in zip(x, y, strict=True))
    assert [image[0, 0, 0] for batch in batches(20, 4, 4, vary) for image, _ in batch] != [
        image[0, 0, 0] for batch in one for image, _ in batch
    ]


def test_the_lists_are_read_whole(data: Path) -> None:
    boards = deeppcb("train", data)
    assert len(boards) == 1000
    assert sum(len(one.truth) for one in boards + deeppcb("test", data)) == 9214
    faces = faces_mask("train", data)
    assert (len(faces), sum(len(one.truth) for one in faces)) == (593, 2717)
