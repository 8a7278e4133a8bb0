"""One rule in the output formats of many projects, as ONNX models made on the spot: tests read each and know the
answer.

The rule: a picture is cells of 32 x 32 pixels; a cell is class 0 "bright" if it is white, 1 "red" if red, 2 "blue" if
blue; any
number of further classes is never seen. Scores are sigmoids, and 1.00 on a square of the picture that fills a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CELL = 32
NAMES = ("bright", "red", "blue", "never", "ever", "seen")
COLOURS = ((255, 255, 255), (0, 0, 255), (255, 0, 0))  # BGR
WEIGHTS = np.float32([[1 / 3, 1 / 3, 1 / 3], [1, -1, 0], [-1, 0, 1]])  # of red, green, blue in 0 to 1
BIAS = np.float32([-0.8, -0.5, -0.5])


@dataclass
class Rule:
    """A graph that grows: `sigmoids` and `logits` are [1, classes, cells]."""

    classes: int = 2
    width: int = 320
    height: int = 320
    gain: float = 40.0
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    picture: str = "images"

    def __post_init__(self) -> None:
        self.columns, self.rows = self.width // CELL, self.height // CELL
        self.cells = self.columns * self.rows

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def rule(self, unit: str) -> Rule:
        """From a picture of 0 to 1 to `logits`, `sigmoids` and, [1, classes, rows, columns], `map`."""
        weights = np.zeros((self.classes, 3, 1, 1), np.float32)
        bias = np.full(self.classes, -9.0, np.float32)
        seen = min(self.classes, len(WEIGHTS))
        weights[:seen, :, 0, 0], bias[:seen] = WEIGHTS[:seen], BIAS[:seen]
        self.add("AveragePool", [unit], "pooled", kernel_shape=[CELL, CELL], strides=[CELL, CELL])
        self.add("Conv", ["pooled", self.constant("w", weights), self.constant("b", bias)], "raw", kernel_shape=[1, 1])
        self.add("Mul", ["raw", self.constant("gain", np.float32(self.gain))], "map")
        self.add("Reshape", ["map", self.constant("flat", np.int64([1, self.classes, self.cells]))], "logits")
        self.add("Sigmoid", ["logits"], "sigmoids")
        return self

    def scaled(self) -> Rule:
        """`rule` on a picture that goes in as 0 to 1."""
        return self.rule(self.picture)

    def boxes(self, box_format: str, unit: bool = False) -> NDArray[np.float32]:
        """(cells, 4) the cells themselves."""
        row, column = np.mgrid[0 : self.rows, 0 : self.columns].reshape(2, -1)
        left, top = column * CELL, row * CELL
        right, bottom = left + CELL, top + CELL
        forms = {
            "xyxy": (left, top, right, bottom),
            "yxyx": (top, left, bottom, right),
            "xywh": (left, top, np.full_like(left, CELL), np.full_like(left, CELL)),
            "cxcywh": (left + CELL / 2, top + CELL / 2, np.full_like(left, CELL), np.full_like(left, CELL)),
        }
        boxes = np.stack(forms[box_format], axis=1).astype(np.float32)
        order = "hwhw" if box_format == "yxyx" else "whwh"
        sides = [self.width if side == "w" else self.height for side in order]
        return boxes / np.float32(sides) if unit else boxes

    def save(
        self,
        path: Path,
        outputs: dict[str, tuple[int, Sequence[int | str | None]]],
        metadata: dict[str, str] | None = None,
        layout: str = "nchw",
        dtype: int = TensorProto.FLOAT,
        more_inputs: Sequence[Any] = (),
    ) -> Path:
        shape = [1, 3, self.height, self.width] if layout == "nchw" else [1, self.height, self.width, 3]
        graph = helper.make_graph(
            self.nodes,
            "rule",
            [helper.make_tensor_value_info(self.picture, dtype, shape), *more_inputs],
            [helper.make_tensor_value_info(name, kind, list(sizes)) for name, (kind, sizes) in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        for key, value in (metadata or {}).items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path

    # --- pieces of heads

    def joined(self, box_format: str, *, unit: bool = False, extra: int = 0, objectness: bool = False) -> str:
        """[1, 4 (+ 1) + classes (+ extra), cells]"""
        parts = [self.constant("boxes", self.boxes(box_format, unit).T[None])]
        if objectness:
            parts.append(self.constant("ones", np.full((1, 1, self.cells), 0.9995, np.float32)))
        parts.append("sigmoids")
        if extra:
            random = np.random.default_rng(3).normal(0, 9, (1, extra, self.cells)).astype(np.float32)
            parts.append(self.constant("extra", random))
        return self.add("Concat", parts, "joined", axis=1)

    def turned(self, name: str, output: str) -> str:
        """[1, channels, cells] -> [1, cells, channels]"""
        return self.add("Transpose", [name], output, perm=[0, 2, 1])

    def best(self) -> tuple[str, str]:
        """`best` [1, 1, cells] and `number` [1, 1, cells], as a float."""
        self.add("ReduceMax", ["sigmoids"], "best", axes=[1], keepdims=1)
        self.add("ArgMax", ["sigmoids"], "number_i", axis=1, keepdims=1)
        return "best", self.add("Cast", ["number_i"], "number", to=TensorProto.FLOAT)


Found = set[tuple[str, float, float, float, float]]


def scene(seed: int, classes: int = 2, width: int = 320, height: int = 320) -> tuple[NDArray[np.uint8], Found]:
    """A grey picture with a few squares that fill cells and do not touch, and what is in it."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), int(random.integers(30, 110)), np.uint8)
    found: Found = set()
    places = [(row, column) for row in range(0, height // CELL, 2) for column in range(0, width // CELL, 2)]
    for at in random.choice(len(places), int(random.integers(2, 6)), replace=False).tolist():
        row, column = places[at]
        number = int(random.integers(min(classes, len(COLOURS))))
        top, left = row * CELL, column * CELL
        picture[top : top + CELL, left : left + CELL] = COLOURS[number]
        found.add((NAMES[number], left, top, left + CELL, top + CELL))
    return picture, found
