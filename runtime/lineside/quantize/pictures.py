"""The user's pictures as the device would see them: on the model's canvas, split into calibration and validation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.errors import ConfigError
from lineside.images import read_image
from lineside.images.folder import Found, find
from lineside.images.remarks import Remarks, shown
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
    notes: tuple[str, ...] = ()  # what else is in the folder, and what is odd about the pictures


def find_pictures(folder: Path) -> Found:
    """Every picture file in the folder and below. Raises ConfigError for a folder without."""
    if not folder.is_dir():
        raise ConfigError(f"--images {shown(folder)}: is no folder: give one with pictures of the line, 100 or more")
    try:
        found = find(folder)
    except OSError as error:
        raise ConfigError(f"--images {shown(folder)}: cannot be read: {error.strerror}: check permissions") from error
    if not found.pictures:
        message = f"--images {shown(folder)}: no picture in this folder: put 100 or more pictures of the line there"
        raise ConfigError(message, *found.told())
    return found


def load(found: Found, spec: InputSpec, calibration: int, validation: int) -> Pictures:
    """Shuffle (always in the same way), read, prepare as the runtime does, and split.

    `calibration` and `validation` are the most of each; few pictures are halved. A picture that cannot be read is
    skipped and named. Raises ConfigError when fewer than LEAST can be read.
    """
    order = list(found.pictures)
    random.Random(_SEED).shuffle(order)
    unreadable, remarks = list(found.faults), Remarks()
    shots = _shots(order, Prepare(spec), unreadable, remarks)
    first = min(calibration, len(order) // 2)
    ours = [shot for _, shot in zip(range(first), shots, strict=False)]
    theirs = [shot for _, shot in zip(range(validation), shots, strict=False)]
    if len(ours) + len(theirs) < LEAST or not theirs:
        raise ConfigError(
            f"--images: {len(ours) + len(theirs)} of {len(order)} pictures could be read: at least {LEAST} are needed, "
            "100 or more to be sure of anything",
            *unreadable,
        )
    notes = (*found.passed(), *remarks.lines())
    return Pictures(tuple(ours), tuple(theirs), tuple(unreadable), notes)


def _shots(paths: Sequence[Path], prepare: Prepare, unreadable: list[str], remarks: Remarks) -> Iterator[Shot]:
    for path in paths:
        try:
            image = read_image(path, remarks)
        except ConfigError as error:
            unreadable.append(str(error))
            continue
        canvas, placement, _ = prepare.put(image)
        yield Shot(path, canvas.copy(), placement)  # the next picture takes the same canvas
