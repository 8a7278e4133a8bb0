"""Labelled pictures of two datasets, split for choosing, and varied for training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lineside.images import read_image

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
Truth = NDArray[np.float32]  # (K, 5) class, x1 y1 x2 y2 in pixels; class -1: not asked for
Sample = tuple[Picture, Truth]

DATA = Path(os.environ.get("LINESIDE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
PCB_LABELS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
LEAST_FACE_PX = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """One picture of a dataset. `group`: pictures that show the same are on one side of a split."""

    path: Path
    truth: Truth
    group: str


def deeppcb(which: str, data: Path = DATA) -> list[Labelled]:
    """Tested images of DeepPCB's `train` or `test` list; a group is ten neighbours, as boards repeat among them."""
    folder = data / "deeppcb"
    found = []
    for name in (folder / f"{which}.txt").read_text().split():
        rows = [line.split() for line in (folder / "labels" / f"{name}.txt").read_text().splitlines()]
        truth = np.array([[int(row[4]) - 1, *map(float, row[:4])] for row in rows], np.float32).reshape(-1, 5)
        found.append(Labelled(folder / "images" / f"{name}_test.png", truth, name[:7]))
    return found


def template(one: Labelled) -> Path:
    """The same board of DeepPCB without a defect."""
    return one.path.with_name(one.path.name.replace("_test", "_temp"))


def faces_mask(which: str, data: Path = DATA) -> list[Labelled]:
    """Pictures of faces_mask's `train` or `test` list; a group is what looks alike by perceptual hash."""
    folder = data / "faces_mask"
    found = []
    hashes: list[tuple[str, NDArray[np.bool_]]] = []
    for line in (folder / f"{which}.jsonl").read_text().splitlines():
        row = json.loads(line)
        truth = np.array([[0, *face["box"]] for face in row["faces"]], np.float32).reshape(-1, 5)
        path = folder / "images" / row["file"]
        mine = perceptual(path)
        group = next((name for name, theirs in hashes if np.count_nonzero(mine != theirs) <= 12), path.name)
        hashes.append((group, mine))
        found.append(Labelled(path, truth, group))
    return found


def perceptual(path: Path) -> NDArray[np.bool_]:
    """64 bits: which of a picture's lowest frequencies are above their median."""
    grey = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    return np.asarray(low > np.median(low), bool)


def split(all_of: Sequence[Labelled], share: float = 0.15, seed: int = 1) -> tuple[list[Labelled], list[Labelled]]:
    """(to train on, to choose by), whole groups on either side."""
    groups = sorted({one.group for one in all_of})
    order = np.random.default_rng(seed).permutation(len(groups))
    size: dict[str, int] = {group: sum(one.group == group for one in all_of) for group in groups}
    chosen: set[str] = set()
    for at in order:
        if sum(size[group] for group in chosen) + size[groups[at]] <= share * len(all_of):
            chosen.add(groups[at])
    return [one for one in all_of if one.group not in chosen], [one for one in all_of if one.group in chosen]


def read(one: Labelled) -> Picture:
    return read_image(one.path)


def turned(image: Picture, truth: Truth, quarter: int, mirror: bool) -> Sample:
    """Turned by `quarter` right angles against the clock, then mirrored."""
    truth = truth.copy()
    for _ in range(quarter):
        width = image.shape[1]
        image = np.rot90(image)
        truth[:, 1:] = np.stack((truth[:, 2], width - truth[:, 3], truth[:, 4], width - truth[:, 1]), 1)
    if mirror:
        image = image[:, ::-1]
        truth[:, [1, 3]] = image.shape[1] - truth[:, [3, 1]]
    return np.ascontiguousarray(image), truth


def mended(image: Picture, truth: Truth, template: Picture, share: float, rng: np.random.Generator) -> Sample:
    """`share` of the boxes as the template has them, and asked for no more. A box around which template and picture
    differ, as where the template lies askew, stays."""
    image, kept = image.copy(), np.ones(len(truth), bool)
    for number in np.flatnonzero(rng.random(len(truth)) < share):
        x1, y1, x2, y2 = truth[number, 1:].astype(int)
        inner, outer = (
            (slice(max(0, y1 - margin), y2 + margin), slice(max(0, x1 - margin), x2 + margin)) for margin in (3, 10)
        )
        differs = (image[..., 0] > 127) != (template[..., 0] > 127)
        if differs[outer].sum() - differs[inner].sum() <= 0.03 * (differs[outer].size - differs[inner].size):
            image[inner] = template[inner]
            kept[number] = False
    return image, truth[kept]


def clipped(truth: Truth, width_px: int, height_px: int, least: float = 0.6) -> Truth:
    """Cut to the picture; what shows less than `least` of itself becomes class -1."""
    truth = truth.copy()
    area = (truth[:, 3:] - truth[:, 1:3]).prod(1)
    truth[:, 1::2] = truth[:, 1::2].clip(0, width_px)
    truth[:, 2::2] = truth[:, 2::2].clip(0, height_px)
    left = (truth[:, 3:] - truth[:, 1:3]).clip(0).prod(1)
    truth[left < least * area, 0] = -1
    return np.asarray(truth[left > 0], np.float32)


def cropped(image: Picture, truth: Truth, side_px: int, rng: np.random.Generator) -> Sample:
    """A random square window."""
    top, left = (int(rng.integers(0, size - side_px + 1)) for size in image.shape[:2])
    moved = truth.copy()
    moved[:, 1::2] -= left
    moved[:, 2::2] -= top
    return np.ascontiguousarray(image[top : top + side_px, left : left + side_px]), clipped(moved, side_px, side_px)


def epoch(count: int, seed: int, number: int) -> list[int]:
    """The order in which an epoch goes through its pictures."""
    return [int(at) for at in np.random.default_rng((seed, number)).permutation(count)]


def batches(
    count: int, size: int, number: int, vary: Callable[[int, np.random.Generator], Sample], seed: int = 1
) -> Iterator[list[Sample]]:
    """One epoch's batches of varied samples; the same each time for the same epoch."""
    rng = np.random.default_rng((seed, number, 1))
    order = epoch(count, seed, number)
    for at in range(0, count - size + 1, size):
        yield [vary(index, rng) for index in order[at : at + size]]


def placed(image: Picture, truth: Truth, size_px: int, scale: float, left: float, top: float) -> Sample:
    """Scaled, its left top corner at (left, top) of a grey square canvas; what falls outside is cut."""
    matrix = np.array([[scale, 0, left], [0, scale, top]], np.float32)
    how = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR
    canvas = cv2.warpAffine(image, matrix, (size_px, size_px), flags=how, borderValue=(114, 114, 114))
    moved = truth.copy()
    moved[:, 1:] = truth[:, 1:] * scale + np.array((left, top, left, top), np.float32)
    return np.asarray(canvas, np.uint8), clipped(moved, size_px, size_px)


def mosaic(parts: Sequence[Sample], size_px: int, rng: np.random.Generator, scales: tuple[float, float]) -> Sample:
    """Four pictures around a random point, each scaled at random to between `scales` of the canvas."""
    x, y = rng.uniform(0.3, 0.7, 2) * size_px
    canvas = np.full((size_px, size_px, 3), 114, np.uint8)
    truths = []
    windows = (
        *((0, 0, int(x), int(y)), (int(x), 0, size_px, int(y))),
        *((0, int(y), int(x), size_px), (int(x), int(y), size_px, size_px)),
    )
    for (image, truth), (left, top, right, bottom) in zip(parts, windows, strict=True):
        scale = rng.uniform(*scales) * size_px / max(image.shape[:2])
        slack_x, slack_y = (right - left) - scale * image.shape[1], (bottom - top) - scale * image.shape[0]
        at_x, at_y = (rng.uniform(min(0, slack), max(0, slack)) for slack in (slack_x, slack_y))
        wide = max(right - left, bottom - top)
        piece, rows = placed(image, truth, wide, scale, at_x, at_y)
        rows = clipped(rows, right - left, bottom - top)
        canvas[top:bottom, left:right] = piece[: bottom - top, : right - left]
        rows[:, 1:] += np.array((left, top, left, top), np.float32)
        truths.append(rows)
    return canvas, np.concatenate(truths)


def relit(image: Picture, rng: np.random.Generator) -> Picture:
    """Gain, contrast, saturation and colour cast, as other cameras and lamps give them; sometimes grey or blurred."""
    out = image.astype(np.float32)
    grey = out.mean(2, keepdims=True)
    out = grey + (out - grey) * rng.choice((0.0, rng.uniform(0.5, 1.5)), p=(0.1, 0.9))
    out = (out - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-30, 30)
    out *= rng.uniform(0.93, 1.07, 3)
    if rng.random() < 0.1:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.0))
    return np.asarray(out.clip(0, 255), np.uint8)
