"""Small float models for the tests of `lineside quantize`, made on the spot, and pictures that they can tell apart.

Four TFLite files lie beside: `python tests/quantizing.py tests` makes them anew, with torch and litert-torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

COLOURS = ("blue", "green", "red")
SIDE = 32
NATIVE = ("--emulate-s", "0")  # emulation takes half a minute a file: test_quantize_processors.py has it


def colour_pictures(folder: Path, count: int, seed: int = 0, by_class: bool = False) -> Path:
    """Noisy grey pictures with a slight cast of one colour, which is in the file's name (or its folder)."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        colour = number % 3
        image = rng.normal(rng.uniform(90, 150), 25, (48, 64, 3))
        image[:, :, colour] += rng.uniform(4, 30)
        place = folder / COLOURS[colour] if by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{number:03d}_{COLOURS[colour]}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


def labels(path: Path) -> Path:
    path.write_text("".join(f"{colour}\n" for colour in COLOURS))
    return path


def colour_model(
    path: Path, outlier: float = 1.0, side: int | str = SIDE, more: Sequence[onnx.NodeProto] = (), opset: int = 17
) -> Path:
    """BGR 0 to 255 -> logits of the strongest colour, by three convolutions, all of them named.

    `outlier`: the first layer's fourth channel is so many times as large as the others, and the second layer takes the
    factor away again. In float nothing changes; in INT8 one step of that tensor is as coarse as the outlier is large.
    """
    rng = np.random.default_rng(1)
    first = np.zeros((4, 3, 1, 1), np.float32)
    first[:3, :, 0, 0] = (1.5 * np.eye(3) - 0.5) / 64
    first[3] = outlier / 3 / 64
    second = rng.normal(0, 0.02, (3, 4, 3, 3)).astype(np.float32)
    second[:, :3, 1, 1] += np.eye(3, dtype=np.float32)
    second[:, 3] = 0.05 / outlier / 9
    third = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["x1"], name="stem", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["x1"], ["x2"], name="stem_relu"),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], name="middle", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["x3"], ["x4"], name="middle_relu"),
        helper.make_node("Conv", ["x4", "w3"], ["x5"], name="head", kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["x5"], ["x6"], name="pool"),
        *(more or [helper.make_node("Flatten", ["x6"], ["logits"], name="flat")]),
    ]
    weights = {"w1": first, "b1": np.zeros(4, np.float32), "w2": second, "w3": third}
    return save(path, nodes, weights, [1, 3, side, side], {"logits": [1, 3]}, opset)


def brightness_pictures(folder: Path, count: int) -> Path:
    """Noisy grey pictures, every other one dark (60 to 140), the others bright (185 to 240)."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        level = rng.uniform(185, 240) if number % 2 else rng.uniform(60, 140)
        image = rng.normal(level, 8, (SIDE, SIDE, 3))
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


def depthwise_model(path: Path) -> Path:
    """As brightness_model, with a depthwise convolution in the middle, all of whose weights are the same, too."""
    channels = 16
    held = {
        "ws": np.full((channels, 3, 1, 1), 1 / 3, np.float32),
        "wd": np.full((channels, 1, 3, 3), 1 / 9, np.float32),
        "wp": np.full((2, channels, 1, 1), 1 / channels / 8, np.float32) * np.float32([-1, 1]).reshape(2, 1, 1, 1),
        "b": np.array([160 / 8, -160 / 8], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "ws"], ["s1"], name="stem", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["s1"], ["s2"], name="stem_relu"),
        helper.make_node("Conv", ["s2", "wd"], ["d1"], name="depthwise", kernel_shape=[3, 3], group=channels),
        helper.make_node("Relu", ["d1"], ["d2"], name="depthwise_relu"),
        helper.make_node("Conv", ["d2", "wp", "b"], ["p"], name="pointwise", kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["p"], ["y"], name="pool"),
        helper.make_node("Flatten", ["y"], ["logits"], name="flat"),
    ]
    return save(path, nodes, held, [1, 3, SIDE, SIDE], {"logits": [1, 2]})


def brightness_model(path: Path) -> Path:
    """BGR 0 to 255 -> logits of dark and bright: brighter than 160 on average or not.

    All weights of a layer are the largest of their channel, so in 8 bits each is 127: two products of pixels above 129
    do not fit into 16 bits. Where a kernel adds them there, no picture is bright.
    """
    size, between = 4, 16
    stem = np.full((between, 3, 1, 1), 1 / 3, np.float32)
    weights = np.full((2, between, size, size), 1 / (between * size * size) / 8, np.float32)
    weights[0] *= -1
    nodes = [
        helper.make_node("Conv", ["image", "ws"], ["s1"], name="stem", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["s1"], ["s2"], name="relu"),
        helper.make_node("Conv", ["s2", "w", "b"], ["x"], name="mean", kernel_shape=[size] * 2, strides=[size] * 2),
        helper.make_node("GlobalAveragePool", ["x"], ["y"], name="pool"),
        helper.make_node("Flatten", ["y"], ["logits"], name="flat"),
    ]
    held = {"ws": stem, "w": weights, "b": np.array([160 / 8, -160 / 8], np.float32)}
    return save(path, nodes, held, [1, 3, SIDE, SIDE], {"logits": [1, 2]})


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, NDArray[np.generic]],
    shape: Sequence[int | str],
    outputs: dict[str, list[int]],
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def unsavable(path: Path) -> Path:
    """One layer, whose weights differ by a hundredth of a step: INT8 cannot tell any two colours apart."""
    weights = np.full((3, 3, 1, 1), 100, np.float32) + 0.01 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], name="only", kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["x"], ["y"], name="pool"),
        helper.make_node("Flatten", ["y"], ["logits"], name="flat"),
    ]
    return save(path, nodes, {"w": weights}, [1, 3, SIDE, SIDE], {"logits": [1, 3]})


def spot_pictures(folder: Path, count: int) -> Path:
    """Grey pictures; on two of three lies a spot of one colour, in one of 8 x 8 places."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = rng.normal(110, 3, (64, 64, 3))
        if number % 3:
            x, y = 8 * rng.integers(0, 8, 2)
            image[y : y + 8, x : x + 8, rng.integers(0, 3)] += rng.uniform(28, 31)
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


def spot_detector(path: Path) -> Path:
    """Finds the spots, four times as large: boxes in pixels and scores in one output, as YOLOv8 is exported."""
    scores = (np.eye(3) - (1 - np.eye(3)) / 2).astype(np.float32)[:, :, None, None] * np.full(
        (1, 1, 32, 32), 1 / 32**2 / 8
    )
    rows, columns = np.mgrid[0:8, 0:8].astype(np.float32)
    centres = np.stack([columns.ravel() * 32 + 16, rows.ravel() * 32 + 16])[None]
    weights = {
        "ws": scores.astype(np.float32),
        "bs": np.full(3, -4, np.float32),
        "wb": np.full((2, 3, 32, 32), 1e-4, np.float32),  # of the brightness, 110, comes the size, 32
        "bb": np.full(2, -1.8, np.float32),
        "centres": centres.astype(np.float32),
        "as_scores": np.array([1, 3, 64]),
        "as_sizes": np.array([1, 2, 64]),
    }
    cells = {"kernel_shape": [32, 32], "strides": [32, 32]}
    nodes = [
        helper.make_node("Conv", ["image", "ws", "bs"], ["s1"], name="score_head", **cells),
        helper.make_node("Sigmoid", ["s1"], ["s2"], name="sigmoid"),
        helper.make_node("Reshape", ["s2", "as_scores"], ["scores"], name="reshape_scores"),
        helper.make_node("Conv", ["image", "wb", "bb"], ["b1"], name="size_head", **cells),
        helper.make_node("Reshape", ["b1", "as_sizes"], ["sizes"], name="reshape_sizes"),
        helper.make_node("Concat", ["centres", "sizes", "scores"], ["output0"], name="head", axis=1),
    ]
    return save(path, nodes, weights, [1, 3, 256, 256], {"output0": [1, 7, 64]})


def attention_model(path: Path) -> Path:
    """The colour model with one layer of self-attention over its pixels before the pool."""
    more = [
        helper.make_node("Reshape", ["x5", "as_rows"], ["q"], name="rows"),
        helper.make_node("Transpose", ["q"], ["k"], name="columns", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["a1"], name="products"),
        helper.make_node("Softmax", ["a1"], ["a2"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["a2", "q"], ["mixed"], name="mix"),
        helper.make_node("ReduceMean", ["mixed"], ["pooled"], name="mean", axes=[2], keepdims=0),
        helper.make_node("MatMul", ["pooled", "wl"], ["logits"], name="last"),
    ]
    model = onnx.load(str(colour_model(path, more=more)))
    for name, value in (("as_rows", np.array([1, 3, -1])), ("wl", np.eye(3, dtype=np.float32))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, str(path))
    return path


def _write_tflite(folder: Path) -> None:
    """colours_float.tflite: as colour_model; outlier_float.tflite: with an outlier of 200; attention_float.tflite: as
    attention_model; spots_float.tflite: as spot_detector, boxes in 0 to 256 pixels."""
    import litert_torch
    import torch
    from torch import nn

    def weights(path: Path) -> dict[str, torch.Tensor]:
        held = onnx.load(str(path)).graph.initializer
        return {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in held}

    class Colours(nn.Module):
        def __init__(self, w: dict[str, torch.Tensor]) -> None:
            super().__init__()
            self.stem, self.middle = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 3, padding=1, bias=False)
            self.head = nn.Conv2d(3, 3, 1, bias=False)
            for layer, name in ((self.stem, "w1"), (self.middle, "w2"), (self.head, "w3")):
                layer.weight.data = w[name]
            self.stem.bias.data = w["b1"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.middle(torch.relu(self.stem(x))))).mean((2, 3))

    class Attention(Colours):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.head(torch.relu(self.middle(torch.relu(self.stem(x))))).flatten(2)
            return (torch.softmax(q @ q.transpose(1, 2), -1) @ q).mean(2)

    class Spots(nn.Module):
        def __init__(self, w: dict[str, torch.Tensor]) -> None:
            super().__init__()
            self.scores, self.sizes = nn.Conv2d(3, 3, 32, 32), nn.Conv2d(3, 2, 32, 32)
            self.scores.weight.data, self.scores.bias.data = w["ws"], w["bs"]
            self.sizes.weight.data, self.sizes.bias.data = w["wb"], w["bb"]
            self.register_buffer("centres", w["centres"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores, sizes = torch.sigmoid(self.scores(x)).flatten(2), self.sizes(x).flatten(2)
            return torch.cat([self.centres + 0 * sizes, sizes, scores], 1)

    for name, module, side in (
        ("colours", Colours(weights(colour_model(folder / "c.onnx"))), SIDE),
        ("outlier", Colours(weights(colour_model(folder / "c.onnx", outlier=200))), SIDE),
        ("attention", Attention(weights(colour_model(folder / "c.onnx"))), SIDE),
        ("spots", Spots(weights(spot_detector(folder / "c.onnx"))), 256),
    ):
        last = litert_torch.to_channel_last_io(module.eval(), args=[0]).eval()
        litert_torch.convert(last, (torch.zeros(1, side, side, 3),)).export(str(folder / f"{name}_float.tflite"))
    (folder / "c.onnx").unlink()


if __name__ == "__main__":
    _write_tflite(Path(sys.argv[1]))
