"""The renderer: the same pictures from the same seed, and a truth that the pixels bear out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cameras.render import DEFECTS, Scene
from lineside.records import Box, Image

ROOT = Path(__file__).resolve().parents[1]


def inside(box: Box, image: Image) -> Image:
    x1, y1, x2, y2 = (round(side) for side in box)
    return image[y1:y2, x1:x2]


def strayed(image: Image, twin: Image) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(image.astype(np.int16) - twin.astype(np.int16)).mean())


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others() -> None:
    first, again, other = Scene(5), Scene(5), Scene(6)
    for number in (0, 3, 40):
        frame = first.frame(number)
        assert np.array_equal(frame.image, again.frame(number).image)
        assert strayed(frame.image, other.frame(number).image) > 3


def test_skipping_frames_gives_the_same_picture_as_rendering_each() -> None:
    straight, skipping = Scene(8), Scene(8)
    last = [straight.frame(number) for number in range(60)][-1]
    assert np.array_equal(last.image, skipping.frame(59).image)
    assert last.parts == skipping.frame(59).parts


def test_the_belt_does_not_run_back() -> None:
    scene = Scene(1)
    scene.frame(9)
    with pytest.raises(ValueError, match="does not run back"):
        scene.frame(8)


def test_every_defect_shows_inside_its_box_and_nowhere_else() -> None:
    """Against the clean twin: the same parts, light and noise without anything wrong."""
    kinds: set[str] = set()
    for seed in range(20, 28):
        scene, twin = Scene(seed, defective_share=0.6), Scene(seed, defective_share=0.6, with_defects=False)
        for number in (0, 45, 90):
            frame, clean = scene.frame(number), twin.frame(number)
            assert [(p.id, p.shape, p.centre) for p in frame.parts] == [(p.id, p.shape, p.centre) for p in clean.parts]
            assert not any(p.kinds for p in clean.parts)
            # what is not explained by a box, beyond what blur, shadow and JPEG carry over its edge, is as in the twin
            elsewhere = np.ones(frame.image.shape[:2], bool)
            for defect in (d for p in frame.parts for d in p.defects):
                x1, y1, x2, y2 = (round(side) for side in defect.box)
                elsewhere[max(0, y1 - 18) : y2 + 18, max(0, x1 - 18) : x2 + 18] = False
                if defect.visible > 0.9:
                    kinds.add(defect.kind)
                    assert strayed(inside(defect.box, frame.image), inside(defect.box, clean.image)) > 1.5, defect
            assert strayed(frame.image[elsewhere], clean.image[elsewhere]) < 0.4
    assert kinds == set(DEFECTS)


def test_part_boxes_follow_the_belt_and_end_at_the_edge_of_the_view() -> None:
    scene = Scene(3)
    before: dict[int, float] = {}
    for frame in scene.frames(60):
        for part in frame.parts:
            x1, y1, x2, y2 = part.box
            assert 0 <= x1 < x2 <= 640
            assert 0 <= y1 < y2 <= 360
            assert 0 < part.visible <= 1
            if part.id in before:
                assert part.centre[0] - before[part.id] == pytest.approx(scene.look.speed_px_s / scene.fps, rel=0.05)
            before[part.id] = part.centre[0]


def test_parts_touch_and_overlap_slightly_but_never_hide_each_other() -> None:
    overlapping, shares = 0, []
    for seed in range(40, 46):
        scene = Scene(seed)
        for frame in map(scene.frame, (0, 50, 100, 150)):
            shares += [p.visible for p in frame.parts if p.box[0] > 0 and p.box[2] < scene.width_px]
            boxes = np.array([p.box for p in frame.parts])
            for k, box in enumerate(boxes):
                others = boxes[k + 1 :]
                meet = (np.minimum(others[:, 2:], box[2:]) > np.maximum(others[:, :2], box[:2])).all(1)
                overlapping += int(meet.sum())
    assert overlapping > 10  # boxes that a tracker must tell apart
    assert min(shares) > 0.85
    assert min(shares) < 0.99


def test_a_quarter_of_the_parts_are_defective() -> None:
    kinds = {}
    for seed in range(60, 64):
        scene = Scene(seed)
        for number in range(0, 400, 40):
            kinds |= {(seed, p.id): p.kinds for p in scene.frame(number).parts}
    wrong = sum(bool(found) for found in kinds.values())
    assert len(kinds) > 100
    assert 0.15 < wrong / len(kinds) < 0.35


@pytest.mark.parametrize("size", [(320, 180), (1280, 720), (500, 400)])
def test_the_scene_scales_with_the_picture(size: tuple[int, int]) -> None:
    frame = Scene(2, *size).frame(10)
    assert frame.image.shape == (size[1], size[0], 3)
    whole = [p for p in frame.parts if p.box[0] > 0 and p.box[2] < size[0]]
    assert whole
    assert all(0.15 < (p.box[3] - p.box[1]) / size[1] < 0.5 for p in whole)


def test_parts_that_have_left_are_forgotten() -> None:
    scene = Scene(4)
    for number in range(0, 2000, 20):
        scene.frame(number)
    assert len(scene._line) < 30


def test_the_tool_writes_a_clip_and_its_truth(tmp_path: Path) -> None:
    clip, truth = tmp_path / "clip.mp4", tmp_path / "truth.json"
    command = [sys.executable, str(ROOT / "tools/render.py"), "--seed", "7", "--seconds", "4", "-o", str(clip)]
    subprocess.run([*command, "--truth", str(truth)], check=True, capture_output=True, timeout=60)
    said = json.loads(truth.read_text())
    video = cv2.VideoCapture(str(clip))
    images = [image for _ in range(100) if (image := video.read()[1]) is not None]
    assert len(images) == said["frame_count"] == 60
    assert images[0].shape == (360, 640, 3)
    assert strayed(images[59], list(Scene(7).frames(60))[59].image) < 8  # but for the codec's losses
    crossing = [part for part in said["parts"] if part["crosses_at"] is not None]
    assert len(crossing) >= 3
    for part in said["parts"]:
        assert part["verdict"] == ("defective" if part["defects"] else "ok")
    for part in crossing:
        x1, _, x2, _ = part["frames"][str(part["crosses_at"])]["box"]
        assert (x1 + x2) / 2 == pytest.approx(320, abs=25)


def test_the_tool_says_what_is_wrong_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/render.py"), "-o"]
    for output, expected in (
        (tmp_path / "none" / "clip.mp4", "does the folder exist"),
        (tmp_path / "c.xyz", "allowed"),
    ):
        done = subprocess.run([*command, str(output)], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
