"""The user's pictures as the device would see them: on the model's canvas, split into calibration and validation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.errors import ConfigError
from lineside.images import SUFFIXES, read_image
from lineside.records import Image, InputSpec, Placement
from lineside.vision.prepare import Prepare

LEAST = 4  # pictures; fewer leave nothing to measure on
_SEED = 0


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture on the model's canvas, uint8 (h, w, 3) BGR, and where it lies there."""

    path: Path
    canvas: Image
    placement: Placement


@dataclass(frozen=True, slots=True)
class Pictures:
    """Ranges are taken from `calibration`, accuracy is measured on `validation`; no picture is in both."""

    calibration: tuple[Shot, ...]
    validation: tuple[Shot, ...]
    unreadable: tuple[str, ...]  # a message each


def find_pictures(folder: Path) -> list[Path]:
    """Every picture file in the folder and below, sorted. Raises ConfigError for a folder without."""
    if not folder.is_dir():
        raise ConfigError(f"--images {folder}: is no folder: give one with pictures of the line, 100 or more")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ConfigError(f"--images {folder}: no picture in this folder: put 100 or more pictures of the line there")
    return found


def load(paths: Sequence[Path], spec: InputSpec, calibration: int, validation: int) -> Pictures:
    """Shuffle (always in the same way), read, prepare as the runtime does, and split.

    `calibration` and `validation` are the most of each; few pictures are halved. A picture that cannot be read is
    skipped and named. Raises ConfigError when fewer than LEAST can be read.
    """
    order = list(paths)
    random.Random(_SEED).shuffle(order)
    unreadable: list[str] = []
    shots = _shots(order, Prepare(spec), unreadable)
    first = min(calibration, len(order) // 2)
    ours = [shot for _, shot in zip(range(first), shots, strict=False)]
    theirs = [shot for _, shot in zip(range(validation), shots, strict=False)]
    if len(ours) + len(theirs) < LEAST or not theirs:
        raise ConfigError(
            f"--images: {len(ours) + len(theirs)} of {len(order)} pictures could be read: at least {LEAST} are needed, "
            "100 or more to be sure of anything",
            *unreadable,
        )
    return Pictures(tuple(ours), tuple(theirs), tuple(unreadable))


def _shots(paths: Sequence[Path], prepare: Prepare, unreadable: list[str]) -> Iterator[Shot]:
    for path in paths:
        try:
            image = read_image(path)
        except ConfigError as error:
            unreadable.append(str(error))
            continue
        canvas, placement, _ = prepare.put(image)
        yield Shot(path, canvas.copy(), placement)  # the next picture takes the same canvas
