"""What decoders share: whether a model's outputs fit, and which of its thousands of candidates survive.

Scores are compared as the model gave them, quantised or not; only survivors are turned into real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec, Tensor, TensorSpec
from lineside.vision.boxes import Boxes, ClassIds, Scores, corners_of_centres

if TYPE_CHECKING:
    from numpy.typing import NDArray

COARSEST_SCORE = 0.1  # a quantisation step above this leaves no score to compare
Indices: TypeAlias = "NDArray[np.intp]"
Raw: TypeAlias = "NDArray[Any]"


def misfit(outputs: Iterable[TensorSpec], expected: str) -> ConfigError:
    """The model's outputs are not this family's."""
    came = ", ".join(describe(output) for output in outputs)
    return ConfigError(f"the model's outputs are {came or 'none'}; expected {expected}")


def wrong_labels(labels: Sequence[str], classes: int | str) -> ConfigError:
    """The number of labels is not the number of classes."""
    return ConfigError(f"{len(labels)} labels were given, but the model has {classes} classes: correct the label file")


def describe(output: TensorSpec) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in output.shape)
    return f"{output.name} {output.dtype} [{sizes}]"


def trimmed(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """The shape without its leading batch of 1 (or of a free size)."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] in (1, None) else tuple(shape)


def batched(output: TensorSpec) -> tuple[int | None, ...]:
    """The two sizes behind a batch of 1; empty for an output without a batch, or of other sizes."""
    return tuple(output.shape[1:]) if len(output.shape) == 3 and output.shape[0] in (1, None) else ()


def is_quantised(tensor: Tensor | TensorSpec) -> bool:
    dtype = np.dtype(tensor.dtype) if isinstance(tensor, TensorSpec) else tensor.raw.dtype
    return dtype.kind in "iu"


def largest(output: TensorSpec) -> float:
    """The largest real value that this output can hold; infinite unless it is quantised."""
    if not is_quantised(output):
        return math.inf
    return (float(np.iinfo(np.dtype(output.dtype)).max) - output.zero_point) * output.scale


def check_step(output: TensorSpec, remedy: str) -> None:
    """Raises ConfigError where an output that holds scores is too coarsely quantised to tell them apart."""
    if is_quantised(output) and output.scale > COARSEST_SCORE:
        raise ConfigError(
            f"output {output.name} holds boxes and scores with one quantisation step of {output.scale:.3g}, "
            f"which rounds every score to 0: {remedy}"
        )


def level(tensor: Tensor, value: float) -> float | int:
    """`Tensor.level`, rounded up for integers: numpy then compares without leaving the integer type."""
    found = tensor.level(value)
    return math.ceil(found - 1e-6) if is_quantised(tensor) else found


def surviving_columns(scores: Raw, at_least: float | int) -> Indices:
    """(C, N) -> the columns whose largest score is high enough: the maximum over channels first is the cheap way."""
    return np.flatnonzero(scores.max(axis=0) >= at_least)


def surviving_rows(scores: Raw, at_least: float | int) -> Indices:
    """(N, C) -> the rows with a score that is high enough; a maximum over short rows costs three times as much."""
    return np.unique(np.flatnonzero(scores >= at_least) // scores.shape[1])


def best_class(scores: NDArray[np.float32]) -> tuple[Scores, ClassIds]:
    """(n, C) real scores of the survivors -> their best score and its class."""
    class_ids = scores.argmax(axis=1)
    return scores[np.arange(len(scores)), class_ids], class_ids.astype(np.int32)


def grid(canvas: tuple[int, int], strides: Sequence[int]) -> NDArray[np.float32]:
    """(N, 3): column, row and stride of each cell, stride after stride, row after row. `canvas` is width, height."""
    width, height = canvas
    cells = []
    for stride in strides:
        rows, columns = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)]
        cells.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(cells).astype(np.float32)


def canvas_size(input: InputSpec) -> tuple[int, int]:
    """Width and height of the model's input. Raises ConfigError if the model takes any size."""
    if input.width_px is None or input.height_px is None:
        raise ConfigError("this decoder needs a model of fixed size: give width_px and height_px in [input]")
    return input.width_px, input.height_px


def in_pixels(boxes: Boxes, unit: bool | None, width: int, height: int) -> Boxes:
    """Boxes of 0 to 1 become canvas pixels. `unit` None: look; no real box in pixels lies within 2 x 2 pixels."""
    if unit is None:
        unit = boxes.size > 0 and float(boxes.max()) <= 2.0
    return boxes * np.array([width, height, width, height], np.float32) if unit else boxes


def corners(boxes: Boxes, box_format: str) -> Boxes:
    """(N, 4) boxes as an exporter writes them -> x1 y1 x2 y2."""
    match box_format:
        case "xyxy":
            return np.ascontiguousarray(boxes)
        case "yxyx":
            return np.ascontiguousarray(boxes[:, [1, 0, 3, 2]])
        case "xywh":
            return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return corners_of_centres(boxes)


def sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-values.clip(-80, 80))), np.float32)


def logit(score: float) -> float:
    """The value whose sigmoid is `score`."""
    low = min(max(score, 1e-6), 1 - 1e-6)
    return math.log(low / (1 - low))


def numbers(class_ids: NDArray[Any], settings: DecodeSettings) -> ClassIds:
    """The model's class numbers -> indices into the labels. Raises ValueError where they are not whole."""
    if class_ids.dtype.kind == "f" and not np.array_equal(class_ids, np.rint(class_ids)):
        odd = class_ids[class_ids != np.rint(class_ids)][0]
        raise ValueError(f"class number {odd:g} is not whole")
    return np.asarray(np.rint(class_ids), np.int32) - np.int32(settings.first_class or 0)


def chosen(outputs: Sequence[TensorSpec], settings: DecodeSettings) -> tuple[int, ...]:
    """Which outputs are to be read, in the model's order. Raises ConfigError if it has none of those named."""
    if not settings.outputs:
        return tuple(range(len(outputs)))
    found = tuple(at for at, output in enumerate(outputs) if output.name in settings.outputs)
    if not found:
        has = ", ".join(output.name for output in outputs)
        raise ConfigError(
            f"outputs = {list(settings.outputs)}: the model has {has}: correct [decode] outputs (--outputs)"
        )
    return found


def without_masks(outputs: Sequence[TensorSpec], extra_channels: int) -> tuple[tuple[int, ...], int]:
    """Which outputs are heads, and the channels behind the classes: as many as a segmenter's mask prototypes have.

    Prototypes are one output of four sizes, [1, masks, h, w] or [1, h, w, masks].
    """
    masks = [at for at, output in enumerate(outputs) if len(output.shape) == 4]
    heads = tuple(at for at in range(len(outputs)) if at not in masks)
    if len(masks) != 1 or not heads:
        return tuple(range(len(outputs))), extra_channels
    _, first, high, last = outputs[masks[0]].shape
    return heads, extra_channels or (first if high == last or last is None else last) or 0


def unit_boxes(setting: str, output: TensorSpec) -> bool | None:
    """Whether this output holds boxes of 0 to 1; None where only the values will tell."""
    if setting != "auto":
        return setting == "unit"
    return largest(output) < 4.0 if is_quantised(output) else None
