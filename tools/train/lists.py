"""Labelled pictures to score models on: the held-out lists of the data folders, and rendered scenes.

Every list gives the same record, so that who scores needs to know none of them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rendered import HEIGHT_PX, LABELS, TEST_SEED, WIDTH_PX, truth_of

from lineside.cameras.render import Scene
from lineside.images import read_image
from lineside.records import Image

PCB_TYPES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # types 1 to 6
OK = "ok"
TILE_SPAN = 150  # photos of one tile under several exposures have numbers so close together
SCENES, FRAMES_A_SCENE = 60, 5


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture and what is true of it: `label` of the whole, or boxes with the `names` of what is in them."""

    image: Image
    label: str = ""
    names: tuple[str, ...] = ()
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 4), np.float32))  # x1 y1 x2 y2
    skipped: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))  # boxes that nobody asks for
    group: str = ""  # pictures of one group go together


@dataclass(frozen=True, slots=True)
class Listed:
    """A list by its name, and how it is scored. `read` takes the data folder."""

    read: Callable[[Path], Iterator[Shown]]
    folder: str  # that must be there; empty: none
    what: str  # for people
    min_score: float = 0.05  # findings from there on make the curve
    least_ious: tuple[float, ...] = (0.5,)
    least_side_px: float = 0.0  # smaller findings that match nothing are not wrong


def faces(data: Path, folder: str = "faces_mask", least_side_px: float = 20.0) -> Iterator[Shown]:
    """test.jsonl of faces_mask or faces_dlib. Faces with a shorter side, and those marked `ignore`, are skipped."""
    for line in (data / folder / "test.jsonl").read_text().splitlines():
        entry = json.loads(line)
        boxes = np.array([face["box"] for face in entry["faces"]], np.float32).reshape(-1, 4)
        skipped = np.array([bool(face.get("ignore")) for face in entry["faces"]], bool)
        skipped |= (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < least_side_px
        image = read_image(data / folder / "images" / entry["file"])
        yield Shown(image, names=("face",) * len(boxes), boxes=boxes, skipped=skipped)


def boards(data: Path) -> Iterator[Shown]:
    """test.txt of deeppcb."""
    folder = data / "deeppcb"
    for name in (folder / "test.txt").read_text().split():
        rows = np.loadtxt(folder / "labels" / f"{name}.txt", np.float32, ndmin=2).reshape(-1, 5)
        names = tuple(PCB_TYPES[int(kind) - 1] for kind in rows[:, 4])
        image = read_image(folder / "images" / f"{name}_test.png")
        yield Shown(image, names=names, boxes=rows[:, :4], skipped=np.zeros(len(rows), bool))


def screws(data: Path, name: str = "test") -> Iterator[Shown]:
    """A list of bsdata, pitting or ok; a group is a place on the spindle."""
    folder = data / "bsdata"
    for line in (folder / f"{name}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        yield Shown(read_image(folder / "images" / entry["file"]), entry["label"], group=entry["position"])


def tiles(data: Path, name: str = "test") -> Iterator[Shown]:
    """A list of magnetic_tile, ok or one of five defects; a group is a tile."""
    folder = data / "magnetic_tile"
    with (folder / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups = tile_groups([row["file"] for row in rows])
    for row, group in zip(rows, groups, strict=True):
        label = OK if row["label"] == "free" else row["label"]
        yield Shown(read_image(folder / "images" / row["file"]), label, group=str(group))


def tile_groups(files: Sequence[str]) -> list[int]:
    """The tile of each photo of magnetic_tile, numbered from 0, by the number in its name."""
    numbers = [int(found[1]) if (found := re.search(r"num_(\d+)", file)) else 0 for file in files]
    order = np.argsort(numbers, kind="stable")
    tile = np.concatenate(([0], np.cumsum(np.diff(np.array(numbers)[order]) > TILE_SPAN)))
    groups = np.empty(len(files), np.intp)
    groups[order] = tile
    return [int(group) for group in groups]


def scenes(data: Path) -> Iterator[Shown]:
    """Frames of rendered scenes that no training saw; a group is a scene."""
    for number in range(SCENES):
        scene = Scene(TEST_SEED + number)
        for frame in (scene.frame(k * 23) for k in range(FRAMES_A_SCENE)):
            truth = truth_of(frame, WIDTH_PX, HEIGHT_PX)  # unscaled
            names = tuple(LABELS[int(kind)] for kind in truth[:, 0])
            yield Shown(frame.image, "", names, truth[:, 1:], np.zeros(len(truth), bool), str(number))


LISTS = {
    "rendered": Listed(scenes, "", f"{SCENES * FRAMES_A_SCENE} frames of {SCENES} rendered scenes"),
    "deeppcb": Listed(boards, "deeppcb", "deeppcb/test.txt", min_score=0.01, least_ious=(0.5, 0.33)),
    "faces_mask": Listed(faces, "faces_mask", "faces_mask/test.jsonl, faces of 20 px and more", least_side_px=20.0),
    "bsdata": Listed(screws, "bsdata", "bsdata/test.jsonl"),
    "magnetic_tile": Listed(tiles, "magnetic_tile", "magnetic_tile/test.csv"),
}
