"""Labelled pictures with masks of their defects, and what training makes of one: turned, relit, defects moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from score import auroc

from lineside.images import read_image
from lineside.records import InputSpec
from lineside.vision.prepare import Prepare, plan

Image = NDArray[np.uint8]  # (H, W, 3) BGR
Mask = NDArray[np.uint8]  # (H, W) 1 where the defect is


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture, its class, where its defect is (empty: nowhere, or nobody drew it) and the group it must stay with."""

    path: Path
    label: int  # 0: no defect
    group: str
    mask: Path | None = None  # a picture, above 127
    polygons: tuple[tuple[tuple[float, float], ...], ...] = ()  # or these, in pixels


@dataclass(frozen=True, slots=True)
class Changes:
    """How far training goes from the picture as it is."""

    scale: float = 0.2  # 1 - scale to 1 + scale
    aspect: float = 0.1
    turn_deg: float = 4.0
    shift: float = 0.08  # of the canvas
    gain: float = 0.3
    rough: float = 0.4  # share of pictures that are made less sharp or noisy, as another camera or file size would
    paste: tuple[int, ...] = ()  # classes whose defects are also put into pictures without one
    paste_share: float = 0.35  # of those pictures
    paste_within: float = 1.0  # of the picture's sides: how far from where the defect was
    flips: str = "xy"
    border: int = cv2.BORDER_CONSTANT


class Shelf:
    """Pictures and masks, read once."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._held: dict[int, tuple[Image, Mask]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def with_labels(self, labels: Sequence[int]) -> list[int]:
        return [number for number, sample in enumerate(self.samples) if sample.label in labels]

    def get(self, number: int) -> tuple[Image, Mask]:
        if number not in self._held:
            sample = self.samples[number]
            image = read_image(sample.path)
            self._held[number] = (image, read_mask(sample, image.shape[:2]))
        return self._held[number]


def read_mask(sample: Sample, size: Sequence[int]) -> Mask:
    mask = np.zeros(size, np.uint8)
    if sample.mask is not None:
        found = cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE)
        assert found is not None, sample.mask
        mask[:] = found > 127
    for polygon in sample.polygons:
        cv2.fillPoly(mask, [np.round(np.array(polygon)).astype(np.int32)], (1,))
    return mask


def by_size_alone(train: Sequence[Sample], test: Sequence[Sample], neighbours: int = 7) -> float:
    """AUROC of what knows only the size of the file: the share of defects among its nearest in width and height."""
    known, asked = (np.log([read_image(s.path).shape[:2] for s in samples]) for samples in (train, test))
    labels = np.array([sample.label > 0 for sample in train], float)
    apart = np.abs(asked[:, None] - known[None]).sum(2)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :neighbours]
    return auroc(labels[nearest].mean(1), np.array([sample.label > 0 for sample in test]))


def canvas_of(image: Image, spec: InputSpec) -> Image:
    """The picture as the runtime prepares it."""
    return Prepare(spec).put(image)[0].copy()


def changed(
    shelf: Shelf, number: int, spec: InputSpec, changes: Changes, seed: Sequence[int]
) -> tuple[Image, Mask, int]:
    """One picture as training shows it: canvas, mask on the canvas, class."""
    rng = np.random.default_rng([*seed, number])
    image, mask = shelf.get(number)
    label = shelf.samples[number].label
    donors = shelf.with_labels(changes.paste)
    if label == 0 and donors and rng.random() < changes.paste_share:
        donor = int(rng.choice(donors))
        pasted = paste(image, *shelf.get(donor), changes.paste_within, rng)
        if pasted is not None:
            (image, mask), label = pasted, shelf.samples[donor].label
    drawn = int(mask.sum())
    for _ in range(6):
        move = _move(image, spec, changes, rng)
        moved = _warp(mask, move, spec, cv2.BORDER_CONSTANT, 0)
        if not drawn or moved.sum() > 0.4 * drawn * abs(np.linalg.det(move[:, :2])):
            break
    else:
        move = _move(image, spec, Changes(0, 0, 0, 0, flips=""), rng)
        moved = _warp(mask, move, spec, cv2.BORDER_CONSTANT, 0)
    canvas = _warp(image, move, spec, changes.border, spec.pad_value)
    return _roughened(_relit(canvas, changes.gain, rng), changes.rough, rng), moved, label


def size_of(spec: InputSpec) -> tuple[int, int]:
    """Width and height of the canvas. Raises ValueError for a model that takes any size."""
    if spec.width_px is None or spec.height_px is None:
        raise ValueError("training needs a fixed size of the input")
    return spec.width_px, spec.height_px


def _warp(picture: Image, move: NDArray[np.float64], spec: InputSpec, border: int, pad: int) -> Image:
    return np.asarray(
        cv2.warpAffine(
            picture,
            move,
            size_of(spec),
            flags=cv2.INTER_LINEAR if picture.ndim == 3 else cv2.INTER_NEAREST,
            borderMode=border,
            borderValue=(pad, pad, pad),
        ),
        np.uint8,
    )


def _move(image: Image, spec: InputSpec, changes: Changes, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where a pixel of the picture comes to lie on the canvas: (2, 3)."""
    canvas = np.array(size_of(spec), float)
    height, width = image.shape[:2]
    lies = plan(spec, width, height).placement
    onto = np.array(
        [
            [lies.scale_x, 0, lies.left_px + lies.scale_x / 2 - 0.5],
            [0, lies.scale_y, lies.top_px + lies.scale_y / 2 - 0.5],
            [0, 0, 1],
        ]
    )
    scale = 1 + rng.uniform(-changes.scale, changes.scale)
    stretch = 1 + rng.uniform(-changes.aspect, changes.aspect)
    flip_x, flip_y = (rng.choice((-1, 1)) if axis in changes.flips else 1 for axis in "xy")
    angle = np.deg2rad(rng.uniform(-changes.turn_deg, changes.turn_deg))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag((flip_x * scale * stretch, flip_y * scale / stretch))
    middle = (canvas - 1) / 2
    shift = rng.uniform(-changes.shift, changes.shift, 2) * canvas
    about = np.eye(3)
    about[:2, :2], about[:2, 2] = linear, middle - linear @ middle + shift
    return np.asarray((about @ onto)[:2])


def _relit(canvas: Image, gain: float, rng: np.random.Generator) -> Image:
    """Other exposure, contrast and colour."""
    levels = 255 * (np.arange(256) / 255) ** np.exp(rng.uniform(-gain, gain))
    mean = levels[int(canvas.mean())]
    levels = mean + (levels - mean) * (1 + rng.uniform(-gain, gain))
    tints = levels[:, None] * (1 + rng.uniform(-gain, gain)) * (1 + rng.uniform(-gain / 6, gain / 6, 3))
    return np.asarray(cv2.LUT(canvas, np.clip(np.round(tints), 0, 255).astype(np.uint8)[None]), np.uint8)


def _roughened(canvas: Image, share: float, rng: np.random.Generator) -> Image:
    chance = rng.random()
    if chance < share / 2:
        return np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.8)), np.uint8)
    if chance < share:
        noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 5))
        return np.asarray(np.clip(canvas + noise, 0, 255), np.uint8)
    return canvas


def paste(onto: Image, donor: Image, where: Mask, within: float, rng: np.random.Generator) -> tuple[Image, Mask] | None:
    """One defect of the donor put into another picture, its light that of the place; None: it does not fit."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats(where)
    if count < 2:
        return None
    left, top, width, height, _ = (int(n) for n in boxes[rng.integers(1, count)])
    edge = 3 + max(width, height) // 4
    rows = slice(max(0, top - edge), top + height + edge)
    columns = slice(max(0, left - edge), left + width + edge)
    resize = onto.shape[1] / donor.shape[1] * rng.uniform(0.6, 1.4)
    patch = cv2.resize(donor[rows, columns], None, fx=resize, fy=resize, interpolation=cv2.INTER_AREA)
    shape = cv2.resize(where[rows, columns], (patch.shape[1], patch.shape[0]), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        patch, shape = patch[:, ::-1], shape[:, ::-1]
    rows_free, columns_free = onto.shape[0] - shape.shape[0], onto.shape[1] - shape.shape[1]
    if min(rows_free, columns_free) < 8 or shape.sum() < 4:
        return None
    y = _near(rows.start / donor.shape[0] * onto.shape[0], rows_free, within * onto.shape[0], rng)
    x = _near(columns.start / donor.shape[1] * onto.shape[1], columns_free, within * onto.shape[1], rng)
    place = onto[y : y + shape.shape[0], x : x + shape.shape[1]].astype(np.float32)
    near = shape == 0
    gains = (place[near].mean(0) + 4) / (patch[near].mean(0) + 4) if near.any() else np.ones(3)
    lit = patch.astype(np.float32) * np.clip(gains, 0.5, 2.0)
    soft = cv2.GaussianBlur(cv2.dilate(shape, np.ones((3, 3))).astype(np.float32), (0, 0), 1.0)[..., None]
    image, mask = onto.copy(), np.zeros(onto.shape[:2], np.uint8)
    image[y : y + shape.shape[0], x : x + shape.shape[1]] = np.clip(place + soft * (lit - place), 0, 255)
    mask[y : y + shape.shape[0], x : x + shape.shape[1]] = shape
    return image, mask


def _near(place_px: float, free_px: int, within_px: float, rng: np.random.Generator) -> int:
    """A place along one side, as near as that; never at the very edge."""
    least, most = 0.05 * free_px, 0.95 * free_px
    low, high = np.clip((place_px - within_px, place_px + within_px), least, most)
    return int(rng.uniform(low, high))
