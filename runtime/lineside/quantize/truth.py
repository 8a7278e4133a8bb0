"""What is truly on a picture, where the user has labels: a folder for each class, COCO's JSON, or YOLO's text files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lineside.errors import ConfigError
from lineside.quantize.pictures import Shot

if TYPE_CHECKING:
    from numpy.typing import NDArray

# a class; or (K, 5) class x1 y1 x2 y2 in pixels of the picture; None: this picture has no label
Truth: TypeAlias = "int | NDArray[np.float32] | None"
FOLDERS = "folders"


def read_truths(said: str, task: str, labels: Sequence[str]) -> Callable[[Shot], Truth]:
    """`said`: "folders" (a picture's folder is its class), a COCO .json, or a folder of YOLO .txt files.

    Raises ConfigError when the labels don't fit the task or the classes.
    """
    path = Path(said)
    if said == FOLDERS:
        if task != "classify":
            raise ConfigError(f"--labels-from {FOLDERS}: is for classifiers: a detector needs boxes")
        return lambda shot: _class_of(shot.path.parent.name, labels)
    if task != "detect":
        raise ConfigError(f"--labels-from {said}: holds boxes, but the task is {task}: say --labels-from {FOLDERS}")
    if path.suffix.lower() == ".json":
        boxes = _coco(path, labels)
        return lambda shot: boxes.get(shot.path.name)
    if path.is_dir():
        return lambda shot: _yolo(path / f"{shot.path.stem}.txt", shot, len(labels))
    raise ConfigError(f'--labels-from {said}: give "{FOLDERS}", a COCO .json file, or a folder of YOLO .txt files')


def _class_of(name: str, labels: Sequence[str]) -> int | None:
    return labels.index(name) if name in labels else None


def _coco(path: Path, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """By file name; boxes are x y w h in the file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        classes = {each["id"]: labels.index(each["name"]) for each in content["categories"] if each["name"] in labels}
        names = {each["id"]: Path(each["file_name"]).name for each in content["images"]}
        rows: dict[str, list[list[float]]] = {name: [] for name in names.values()}
        for each in content["annotations"]:
            if each["category_id"] in classes and each["image_id"] in names:
                x, y, width, height = map(float, each["bbox"])
                rows[names[each["image_id"]]].append([classes[each["category_id"]], x, y, x + width, y + height])
    except OSError as error:
        raise ConfigError(f"--labels-from {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--labels-from {path}: is no COCO file ({type(error).__name__}: {error}): it needs images, annotations "
            "with bbox, and categories"
        ) from error
    if not classes:
        raise ConfigError(f"--labels-from {path}: none of its categories is among the labels: {', '.join(labels[:5])}")
    return {name: np.array(found, np.float32).reshape(-1, 5) for name, found in rows.items()}


def _yolo(path: Path, shot: Shot, classes: int) -> NDArray[np.float32] | None:
    """Lines "class cx cy w h", 0 to 1 of the picture; an empty file is a picture with nothing on it."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"--labels-from {path}: cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            class_id, cx, cy, width, height = int(words[0]), *map(float, words[1:])
        except (ValueError, TypeError):
            raise ConfigError(f'{path}: line {number}: {line!r}: expected "class cx cy w h", 0 to 1') from None
        if not 0 <= class_id < classes:
            raise ConfigError(f"{path}: line {number}: class {class_id}: the model has {classes} classes")
        rows.append([class_id, cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    size = (shot.placement.frame_width_px, shot.placement.frame_height_px)
    return np.array(rows, np.float32).reshape(-1, 5) * np.array([1, *size, *size], np.float32)
