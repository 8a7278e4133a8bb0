"""The small detector of models/conveyor-parts: depthwise-separable blocks (Howard et al. 2017) for a single thread of a
small processor, and heads like those of yolo.py, so that it is trained, exported and decoded as that is."""

# mypy: disable-error-code="misc,no-any-return"
# (torch is not installed where types are checked)

from __future__ import annotations

from torch import Tensor, nn
from yolo import BINS, Conv, doubled

HEAD = 64  # channels


def separable(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Depthwise, then pointwise, normalised once: half the passes over memory of MobileNet's."""
    deep = nn.Conv2d(inputs, inputs, size, stride, size // 2, groups=inputs, bias=False)
    return nn.Sequential(deep, *Conv(inputs, outputs))


class Block(nn.Module):
    """Two depthwise-separable convolutions around which the input passes."""

    def __init__(self, channels: int, size: int = 3) -> None:
        super().__init__()
        self.path = nn.Sequential(separable(channels, channels, size), separable(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


class Head(nn.Module):
    """Scores and sides of one map, each with its own path."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Sequential(separable(inputs, HEAD), separable(HEAD, HEAD), nn.Conv2d(HEAD, classes, 1))
        self.side = nn.Sequential(separable(inputs, HEAD), nn.Conv2d(HEAD, 4 * BINS, 1))
        nn.init.constant_(self.score[-1].bias, -4.6)  # a score of 0.01: almost every cell is empty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), self.side(x)


class Detector(nn.Module):
    """BGR pixels 0 to 255, (B, 3, H, W) -> per stride 8, 16, 32 (score logits (B, C, h, w), side logits
    (B, 4 * BINS, h, w))."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = Conv(3, 16, 3, 2)
        self.to_4 = nn.Sequential(Conv(16, 32, 3, 2), Block(32))
        self.to_8 = nn.Sequential(separable(32, 64, 3, 2), Block(64), Block(64))
        self.to_16 = nn.Sequential(separable(64, 96, 3, 2), Block(96), Block(96))
        self.to_32 = nn.Sequential(separable(96, 128, 3, 2), Block(128, 5), Block(128, 5))
        self.down_32, self.side_16 = Conv(128, 96), Conv(96, 96)
        self.mix_16 = Block(96)
        self.down_16, self.side_8 = Conv(96, 64), Conv(64, 64)
        self.mix_8 = Block(64)
        self.heads = nn.ModuleList(Head(inputs, classes) for inputs in (64, 96, 96))

    def forward(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        x8 = self.to_8(self.to_4(self.stem(pixels)))
        x16 = self.to_16(x8)
        y32 = self.down_32(self.to_32(x16))
        y16 = self.mix_16(self.side_16(x16) + doubled(y32))
        y8 = self.mix_8(self.side_8(x8) + doubled(self.down_16(y16)))
        return [head(level) for head, level in zip(self.heads, (y8, y16, y32), strict=True)]
