"""A small anchor-free YOLO: CSP backbone, path aggregation, decoupled heads at strides 8, 16 and 32.

The layers are those of YOLOX-nano (Ge et al. 2021, arXiv:2107.08430), so that its COCO weights can be a start, with
three changes for INT8: ReLU instead of SiLU, one 6 x 6 convolution for the slices of its first layer (the same sum),
and each side of a box as a distribution over bins (Li et al. 2020, arXiv:2006.04388), so that scores and sides leave
each head as plain maps of their own, each with its own scale, with no arithmetic on pixels in the model. Decoder:
`nanodet`.
"""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDES = (8, 16, 32)
BINS = 8  # a side reaches 7 cells from its cell's centre


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the network is. `depthwise`: 3 x 3 convolutions as depthwise and pointwise, as YOLOX-nano has them."""

    classes: int
    depthwise: bool
    width: int = 16  # channels after the first layer; doubles four times
    depth: int = 3  # blocks at strides 8 and 16
    head_layers: int = 2


class Conv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        pad = (size - 1) // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride, pad, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.ReLU(inplace=True),
        )


class Yolo(nn.Module):
    """BGR pixels 0 to 255, (B, 3, H, W) -> per stride (score logits (B, C, h, w), side logits (B, 4 * BINS, h, w))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        w, deep = shape.width, shape.depth
        self.stem = Conv(3, w, 6, 2)
        self.dark2 = nn.Sequential(self.three(w, 2 * w, 2), Stage(self, 2 * w, 2 * w, max(1, deep // 3)))
        self.dark3 = nn.Sequential(self.three(2 * w, 4 * w, 2), Stage(self, 4 * w, 4 * w, deep))
        self.dark4 = nn.Sequential(self.three(4 * w, 8 * w, 2), Stage(self, 8 * w, 8 * w, deep))
        last = Stage(self, 16 * w, 16 * w, max(1, deep // 3), around=False)
        self.dark5 = nn.Sequential(self.three(8 * w, 16 * w, 2), Pools(16 * w), last)
        self.lateral = Conv(16 * w, 8 * w)
        self.up4 = Stage(self, 16 * w, 8 * w, 1, around=False)
        self.reduce = Conv(8 * w, 4 * w)
        self.up3 = Stage(self, 8 * w, 4 * w, 1, around=False)
        self.down3 = self.three(4 * w, 4 * w, 2)
        self.out4 = Stage(self, 8 * w, 8 * w, 1, around=False)
        self.down4 = self.three(8 * w, 8 * w, 2)
        self.out5 = Stage(self, 16 * w, 16 * w, 1, around=False)
        self.heads = nn.ModuleList(Head(self, wide * w) for wide in (4, 8, 16))

    def three(self, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        """A 3 x 3 convolution, of the kind that this network has."""
        if not self.shape.depthwise:
            return Conv(inputs, outputs, 3, stride)
        return nn.Sequential(Conv(inputs, inputs, 3, stride, groups=inputs), Conv(inputs, outputs))

    def forward(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        # The 6 x 6 window with stride 2 lies 2 pixels out at the left and top, and 2 at the right and bottom.
        at3 = self.dark3(self.dark2(self.stem(pixels)))
        at4 = self.dark4(at3)
        top = self.lateral(self.dark5(at4))
        mid = self.reduce(self.up4(torch.cat((doubled(top), at4), 1)))
        low = self.up3(torch.cat((doubled(mid), at3), 1))
        mid_out = self.out4(torch.cat((self.down3(low), mid), 1))
        top_out = self.out5(torch.cat((self.down4(mid_out), top), 1))
        return [head(level) for head, level in zip(self.heads, (low, mid_out, top_out), strict=True)]


def doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Stage(nn.Module):
    """Cross-stage partial block: half of the channels goes through the bottlenecks, half past them."""

    def __init__(self, net: Yolo, inputs: int, outputs: int, count: int, around: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.into, self.past = Conv(inputs, half), Conv(inputs, half)
        self.blocks = nn.ModuleList(nn.Sequential(Conv(half, half), net.three(half, half)) for _ in range(count))
        self.around, self.out = around, Conv(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner, past = self.into(x), self.past(x)
        for block in self.blocks:
            inner = inner + block(inner) if self.around else block(inner)
        return self.out(torch.cat((inner, past), 1))


class Pools(nn.Module):
    """Spatial pyramid pooling; windows of 9 and 13 as chains of 5, which give the same maxima."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.into, self.out = Conv(channels, channels // 2), Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        once = self.into(x)
        five = self.pool(once)
        nine = self.pool(five)
        return self.out(torch.cat((once, five, nine, self.pool(nine)), 1))


class Head(nn.Module):
    def __init__(self, net: Yolo, inputs: int) -> None:
        super().__init__()
        wide = 4 * net.shape.width
        self.into = Conv(inputs, wide)
        self.of_score = nn.Sequential(*(net.three(wide, wide) for _ in range(net.shape.head_layers)))
        self.score = nn.Conv2d(wide, net.shape.classes, 1)
        self.of_side = nn.Sequential(*(net.three(wide, wide) for _ in range(net.shape.head_layers)))
        self.side = nn.Conv2d(wide, 4 * BINS, 1)
        for last, level in ((self.score, -4.6), (self.side, 0.0)):  # a score of 0.01: almost every cell is empty
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(last.bias, level)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.into(x)
        return self.score(self.of_score(x)), self.side(self.of_side(x))


class Exported(nn.Module):
    """A copy that ships, of a network with such maps: per stride scores (1, n, C) after the sigmoid, then side logits
    (1, n, 4 * BINS)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).to(memory_format=torch.contiguous_format).eval()
        for module in [m for m in self.net.modules() if isinstance(m, Conv)]:
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        levels = self.net(pixels)
        scores = [rows(score).sigmoid() for score, _ in levels]
        return (*scores, *(rows(side) for _, side in levels))


def rows(level: Tensor) -> Tensor:
    """(B, K, h, w) -> (B, h * w, K)."""
    return level.permute(0, 2, 3, 1).flatten(1, 2)


def cells(height: int, width: int, stride: int) -> Tensor:
    """Centre of every cell in pixels: (H * W, 2)."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack((xs, ys), -1).reshape(-1, 2).float() + 0.5) * stride


OUTPUTS = tuple(f"{what}_{stride}" for what in ("scores", "reg") for stride in STRIDES)


@torch.no_grad()
def start_from_yolox_nano(net: Yolo, path: Path, pixels: Tensor) -> int:
    """Take over the body of YOLOX-nano (ONNX, batch normalisation folded in). Returns how many layers.

    `pixels` (B, 3, H, W): pictures that fix the statistics of batch normalisation such that each layer does at first
    just what its folded convolution did. The last layer of each head, which is of other classes, is left as it is.
    """
    graph = onnx.load(str(path)).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = [[held[name] for name in node.input[1:]] for node in graph.node if node.op_type == "Conv"]
    layers = [layer for layer in layers if layer[0].shape != (1, 4 * net.shape.width, 1, 1)]  # not: "is an object"
    layers[0][0] = unfocused(layers[0][0])
    mine = [module for module in net.modules() if isinstance(module, (Conv, nn.Conv2d))]
    mine = [module for module in mine if isinstance(module, Conv) or module.bias is not None]  # heads' last layers
    if not net.shape.depthwise:
        layers = joined(layers)
    biases: dict[nn.Module, Tensor] = {}
    for module, (weight, bias) in zip(mine, layers, strict=True):
        if isinstance(module, Conv):
            module[0].weight.copy_(torch.from_numpy(np.array(weight)))
            biases[module[1]] = torch.from_numpy(np.array(bias))

    def settle(norm: nn.Module, into: tuple[Tensor]) -> None:
        mean, variance = into[0].mean((0, 2, 3)), into[0].var((0, 2, 3))
        norm.running_mean.copy_(mean), norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt()), norm.bias.copy_(mean + biases[norm])

    hooks = [norm.register_forward_pre_hook(settle) for norm in biases]
    net.eval()(pixels)
    for hook in hooks:
        hook.remove()
    return len(biases)


def joined(layers: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Each depthwise layer and the pointwise one behind it as one whole convolution: what they would be together
    without the activation between them, which is near enough to start from."""
    merged: list[list[np.ndarray]] = []
    before: list[np.ndarray] | None = None
    for weight, bias in layers:
        if weight.shape[1] == 1:
            before = [weight, bias]
        elif before is not None:
            point = weight[:, :, 0, 0]
            merged.append([np.einsum("oi,iyx->oiyx", point, before[0][:, 0]), bias + point @ before[1]])
            before = None
        else:
            merged.append([weight, bias])
    return merged


def unfocused(weight: np.ndarray) -> np.ndarray:
    """(K, 12, 3, 3) over pixels taken apart by row and column parity -> (K, 3, 6, 6) over the pixels themselves."""
    whole = np.zeros((weight.shape[0], 3, 6, 6), np.float32)
    for part, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        whole[:, :, row::2, column::2] = weight[:, 3 * part : 3 * part + 3]
    return whole
