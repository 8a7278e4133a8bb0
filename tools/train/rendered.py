"""Rendered pictures with their truth for training and scoring. Seeds are split so that no scene serves two purposes.

Demo and tests of lineside use seeds below 1,000,000; training, choosing and the final score have a million each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from lineside.cameras.render import Rendered, Scene

LABELS = ("part", "scratch", "stain", "chip", "missing_hole")
WIDTH_PX, HEIGHT_PX = 512, 288  # of the model's canvas
TRAIN_SEED, CHOOSE_SEED, TEST_SEED = 1_000_000, 2_000_000, 6_000_000  # 3 to 5 million scored 1.0.0 to 1.2.2
OPEN_SCENES = 16  # a batch mixes frames of so many
FRAMES_A_SCENE = 20
RECENT_FRAMES = 64
PART_SEEN, DEFECT_SEEN = 0.2, 0.4  # what shows less is not asked for

Sample = tuple[NDArray[np.uint8], NDArray[np.float32]]  # (H, W, 3) BGR canvas; (K, 5) class x1 y1 x2 y2 on it


def truth_of(frame: Rendered, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Class and box on the model's canvas of all that can be seen well enough."""
    rows = []
    for part in frame.parts:
        if part.visible >= PART_SEEN:
            rows.append((0.0, *part.box))
        rows += [(float(LABELS.index(d.kind)), *d.box) for d in part.defects if d.visible >= DEFECT_SEEN]
    found = np.array(rows, np.float32).reshape(-1, 5)
    found[:, 1::2] *= WIDTH_PX / width_px
    found[:, 2::2] *= HEIGHT_PX / height_px
    return found


def canvas_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture on the model's canvas; both are 16:9, so nothing is padded."""
    return np.asarray(cv2.resize(image, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_LINEAR), np.uint8)


def stream(first_scene: int = 0, seed: int = TRAIN_SEED, defective_share: float = 0.7) -> Iterator[Sample]:
    """Endless varied training samples; the same from the same first scene on. Each frame comes about twice."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng((seed, first_scene))
    reel = _frames(first_scene, seed, defective_share, rng)
    recent = [next(reel) for _ in range(RECENT_FRAMES)]
    while True:
        recent[int(rng.integers(RECENT_FRAMES))] = next(reel)
        for _ in range(2):
            yield vary(recent[int(rng.integers(RECENT_FRAMES))], rng)


def _frames(first_scene: int, seed: int, defective_share: float, rng: np.random.Generator) -> Iterator[Rendered]:
    """Frames of several scenes in turn, so that a batch is mixed."""
    counter = itertools.count(first_scene)
    open_scenes: list[Iterator[Rendered]] = []
    while True:
        while len(open_scenes) < OPEN_SCENES:
            scene = Scene(seed + next(counter), fps=15, defective_share=defective_share)
            numbers = np.cumsum(rng.integers(3, 14, FRAMES_A_SCENE)).tolist()
            open_scenes.append(map(scene.frame, numbers))
        at = int(rng.integers(OPEN_SCENES))
        frame = next(open_scenes[at], None)
        if frame is None:
            open_scenes.pop(at)
        else:
            yield frame


def vary(frame: Rendered, rng: np.random.Generator) -> Sample:
    """Turn, light and compress a frame as other lines and recordings might."""
    image = frame.image
    truth = truth_of(frame, image.shape[1], image.shape[0])
    if rng.random() < 0.6:  # recorded clips are compressed once more
        quality = int(rng.integers(30, 90))
        packed = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    gain = rng.uniform(0.82, 1.2) * rng.uniform(0.96, 1.04, 3)
    table = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)[None]
    canvas = np.asarray(cv2.LUT(canvas_of(image), table), np.uint8)
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1]
        truth[:, [1, 3]] = WIDTH_PX - truth[:, [3, 1]]
    if rng.random() < 0.5:
        canvas = canvas[::-1]
        truth[:, [2, 4]] = HEIGHT_PX - truth[:, [4, 2]]
    return np.ascontiguousarray(canvas), truth


def still(seed: int, scenes: int, frames_a_scene: int = 6) -> list[Sample]:
    """A fixed set of unvaried frames, with the share of defective parts that a line would have."""
    samples = []
    for number in range(scenes):
        scene = Scene(seed + number, fps=15)
        for frame in (scene.frame(k * 23) for k in range(frames_a_scene)):
            samples.append((canvas_of(frame.image), truth_of(frame, 640, 360)))
    return samples
