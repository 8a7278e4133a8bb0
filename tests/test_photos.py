"""tools/train/photos.py: what training makes of a picture, checked on pictures that are drawn here."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lineside.records import InputSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
from photos import Changes, Sample, Shelf, by_size_alone, canvas_of, changed

STILL = Changes(scale=0, aspect=0, turn_deg=0, shift=0, gain=0, rough=0, flips="")
LETTERBOX = InputSpec(160, 160, "rgb", "nchw", resize="letterbox", pad_value=0)
STRETCH = InputSpec(192, 96, "rgb", "nchw", resize="stretch")


def drawn(folder: Path, name: str, width: int = 300, height: int = 200, spot: bool = False) -> Sample:
    """A smooth grey picture; with a bright spot of 24 x 16 pixels, and its outline, or without."""
    y, x = np.mgrid[:height, :width]
    image = np.repeat((60 + 30 * np.sin(x / 40) * np.cos(y / 30))[..., None], 3, axis=2).astype(np.uint8)
    corners = ((190.0, 50.0), (213.0, 50.0), (213.0, 65.0), (190.0, 65.0))
    if spot:
        image[50:66, 190:214] = 255
    cv2.imwrite(str(folder / f"{name}.png"), image)
    return Sample(folder / f"{name}.png", int(spot), name, polygons=(corners,) if spot else ())


@pytest.mark.parametrize("spec", [LETTERBOX, STRETCH])
def test_a_picture_that_is_not_changed_is_what_the_runtime_shows_the_model(spec: InputSpec, tmp_path: Path) -> None:
    shelf = Shelf([drawn(tmp_path, "bad", spot=True)])
    canvas = changed(shelf, 0, spec, STILL, (1,))[0]
    assert np.abs(canvas.astype(int) - canvas_of(shelf.get(0)[0], spec)).max() <= 8  # at the edges of the spot


@pytest.mark.parametrize("spec", [LETTERBOX, STRETCH])
def test_the_mask_moves_with_the_defect(spec: InputSpec, tmp_path: Path) -> None:
    shelf = Shelf([drawn(tmp_path, "bad", spot=True)])
    for seed in range(20):
        canvas, mask, label = changed(shelf, 0, spec, Changes(gain=0), (seed,))
        inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
        outside = cv2.dilate(mask, np.ones((7, 7), np.uint8)) == 0
        assert label == 1
        assert inside.any()
        assert canvas[inside].mean() > 200
        assert canvas[outside].max() < 140


def test_a_defect_is_put_into_a_good_picture_near_where_it_was(tmp_path: Path) -> None:
    shelf = Shelf([drawn(tmp_path, "good"), drawn(tmp_path, "bad", spot=True)])
    changes = Changes(0, 0, 0, 0, 0, paste=(1,), paste_share=1.0, paste_within=0.05, flips="")
    rows = []
    for seed in range(10):
        canvas, mask, label = changed(shelf, 0, STRETCH, changes, (seed,))
        assert label == 1
        assert canvas[mask > 0].mean() > canvas[mask == 0].mean() + 60
        rows.append(np.nonzero(mask)[0].mean() / 96)
    assert all(abs(row - 58 / 200) < 0.15 for row in rows)
    assert shelf.get(0)[1].sum() == 0  # the good picture itself stays good


def test_without_leave_to_paste_a_good_picture_stays_good(tmp_path: Path) -> None:
    shelf = Shelf([drawn(tmp_path, "good"), drawn(tmp_path, "bad", spot=True)])
    for seed in range(10):
        _, mask, label = changed(shelf, 0, STRETCH, Changes(), (seed,))
        assert (label, mask.sum()) == (0, 0)


def test_the_same_seed_gives_the_same_picture_and_another_another(tmp_path: Path) -> None:
    shelf = Shelf([drawn(tmp_path, "bad", spot=True)])

    def shown(seed: int) -> NDArray[np.uint8]:
        return changed(shelf, 0, LETTERBOX, Changes(), (seed, 1))[0]

    assert np.array_equal(shown(1), shown(1))
    assert not np.array_equal(shown(1), shown(2))


def test_size_alone_tells_all_or_nothing(tmp_path: Path) -> None:
    large = [drawn(tmp_path, f"large{n}", 400 + n, 300, spot=True) for n in range(8)]
    small = [drawn(tmp_path, f"small{n}", 300 + n, 200) for n in range(8)]
    assert by_size_alone(large[:6] + small[:6], large[6:] + small[6:], neighbours=3) == 1.0
    mixed = [drawn(tmp_path, f"mixed{n}", 300, 200, spot=n % 2 == 0) for n in range(12)]
    assert by_size_alone(mixed[:6], mixed[6:], neighbours=6) == 0.5
