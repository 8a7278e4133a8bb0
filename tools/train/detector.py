"""A small anchor-free detector for parts and their defects, its targets and its loss.

Two heads, told apart by what they look for and not by size: parts on the stride-16 map, defects on the stride-8 map. So
a defect in the middle of a part never competes with it for one cell. Depthwise-separable blocks (Howard et al. 2017),
centre sampling (Tian et al., FCOS, 2019), quality focal loss (Li et al. 2020), GIoU (Rezatofighi et al. 2019).
"""

# mypy: disable-error-code="misc"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy

import torch
from rendered import HEIGHT_PX, LABELS, WIDTH_PX
from torch import Tensor, nn
from torch.nn import functional

PART_STRIDE, DEFECT_STRIDE = 16, 8


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03, eps=1e-3),
        nn.ReLU(inplace=True),
    )


def separable(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Depthwise, then pointwise, normalised once: half the passes over memory of MobileNet's."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, size, stride, size // 2, groups=inputs, bias=False), *conv(inputs, outputs, 1)
    )


class Block(nn.Module):
    """Two depthwise-separable convolutions around which the input passes."""

    def __init__(self, channels: int, size: int = 3) -> None:
        super().__init__()
        self.path = nn.Sequential(separable(channels, channels, size), separable(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


class Head(nn.Module):
    """Scores and boxes of one map, each with its own path."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            separable(inputs, channels), separable(channels, channels), nn.Conv2d(channels, classes, 1)
        )
        self.box = nn.Sequential(separable(inputs, channels), nn.Conv2d(channels, 4, 1))
        nn.init.constant_(self.score[-1].bias, -4.6)  # a score of 0.01: almost every cell is empty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), self.box(x)


class Detector(nn.Module):
    """BGR pixels 0 to 255, (B, 3, H, W) -> raw maps (part scores, part boxes, defect scores, defect boxes)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        self.to_4 = nn.Sequential(conv(16, 32, 3, 2), Block(32))
        self.to_8 = nn.Sequential(separable(32, 64, 3, 2), Block(64), Block(64))
        self.to_16 = nn.Sequential(separable(64, 96, 3, 2), Block(96), Block(96))
        self.to_32 = nn.Sequential(separable(96, 128, 3, 2), Block(128, 5), Block(128, 5))
        self.down_32, self.side_16 = conv(128, 96, 1), conv(96, 96, 1)
        self.mix_16 = Block(96)
        self.down_16, self.side_8 = conv(96, 64, 1), conv(64, 64, 1)
        self.mix_8 = Block(64)
        self.part = Head(96, 64, 1)
        self.defect = Head(64, 64, len(LABELS) - 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.look(pixels / 255)

    def look(self, scaled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x4 = self.to_4(self.stem(scaled))
        x8 = self.to_8(x4)
        x16 = self.to_16(x8)
        x32 = self.to_32(x16)
        y16 = self.mix_16(self.side_16(x16) + functional.interpolate(self.down_32(x32), scale_factor=2.0))
        y8 = self.mix_8(self.side_8(x8) + functional.interpolate(self.down_16(y16), scale_factor=2.0))
        return (*self.part(y16), *self.defect(y8))


def cells(height: int, width: int, stride: int) -> Tensor:
    """Centre of every cell in pixels: (H * W, 2)."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack((xs, ys), -1).reshape(-1, 2).float() + 0.5) * stride


def boxes_of(raw: Tensor, at: Tensor, stride: int) -> Tensor:
    """Raw box map (B, 4, H, W) and its `cells` -> centre and size in pixels (B, 4, H * W)."""
    flat = raw.flatten(2)
    centre = at.T + flat[:, :2] * stride
    size = torch.exp(flat[:, 2:].clamp(-3, 4)) * stride
    return torch.cat((centre, size), 1)


class Decode(nn.Module):
    """Maps of both heads -> boxes [1, 4, N] (cx cy w h, pixels) and scores [1, 5, N], parts first."""

    part_at: Tensor
    defect_at: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, stride in (("part_at", PART_STRIDE), ("defect_at", DEFECT_STRIDE)):
            self.register_buffer(name, cells(HEIGHT_PX // stride, WIDTH_PX // stride, stride))

    def forward(self, part: Tensor, part_box: Tensor, defect: Tensor, defect_box: Tensor) -> tuple[Tensor, Tensor]:
        part_boxes = boxes_of(part_box, self.part_at, PART_STRIDE)
        boxes = torch.cat((part_boxes, boxes_of(defect_box, self.defect_at, DEFECT_STRIDE)), 2)
        part_scores = functional.pad(part.flatten(2).sigmoid(), (0, 0, 0, len(LABELS) - 1))
        defect_scores = functional.pad(defect.flatten(2).sigmoid(), (0, 0, 1, 0))
        return boxes, torch.cat((part_scores, defect_scores), 2)


class Exported(nn.Module):
    """A copy that ships: pixels 0 to 255 in, boxes and scores out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector)
        with torch.no_grad():
            self.detector.stem[0].weight /= 255  # the first convolution takes pixels as they are
        self.decode = Decode()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.decode(*self.detector.look(pixels))
        return boxes, scores


def loss_of(outputs: tuple[Tensor, Tensor, Tensor, Tensor], truths: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """`truths`: per picture (K, 5) class, x1 y1 x2 y2. Returns the loss and its terms for the log."""
    total = outputs[0].new_zeros(())
    terms = {}
    for name, score, box, stride, first in (
        ("part", outputs[0], outputs[1], PART_STRIDE, 0),
        ("defect", outputs[2], outputs[3], DEFECT_STRIDE, 1),
    ):
        wanted = torch.zeros_like(score).flatten(2)
        aims = torch.zeros(score.shape[0], wanted.shape[2], 4)
        weight = torch.zeros(score.shape[0], wanted.shape[2])
        at = cells(score.shape[2], score.shape[3], stride)
        for picture, truth in enumerate(truths):
            mine = truth[truth[:, 0] == 0] if first == 0 else truth[truth[:, 0] > 0]
            for row in mine[
                (mine[:, 3:] - mine[:, 1:3]).prod(1).argsort(descending=True)
            ]:  # the smallest has the last word
                centre = (row[1:3] + row[3:]) / 2
                away = ((at - centre) / stride).square().sum(1)
                near = torch.exp(-away / (2 * 0.6**2))
                picked = (away <= 1.0).nonzero()[:, 0]
                if len(picked) == 0:
                    picked = away.argmin()[None]
                soft = near[picked].clamp(max=1)
                soft = soft / soft.max()
                slot = wanted[picture, int(row[0]) - first]
                slot[picked] = torch.maximum(slot[picked], soft)
                aims[picture, picked] = row[1:]
                weight[picture, picked] = soft
        count = max(1, sum(int((t[:, 0] == 0).sum() if first == 0 else (t[:, 0] > 0).sum()) for t in truths))
        logits = score.flatten(2)
        gap = (wanted - logits.sigmoid()).abs().square()
        cls = (gap * functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum() / count
        chosen = weight > 0
        predicted = boxes_of(box, at, stride).transpose(1, 2)[chosen]
        reg = (giou_loss(predicted, aims[chosen]) * weight[chosen]).sum() / count
        total = total + cls + 0.7 * reg
        terms[name], terms[f"{name}_box"] = float(cls.detach()), float(reg.detach())
    return total, terms


def giou_loss(centred: Tensor, corners: Tensor) -> Tensor:
    """1 - GIoU between (N, 4) cx cy w h and (N, 4) x1 y1 x2 y2."""
    a1, a2 = centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2
    b1, b2 = corners[:, :2], corners[:, 2:]
    both = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(1)
    union = (a2 - a1).prod(1) + (b2 - b1).prod(1) - both
    hull = (torch.maximum(a2, b2) - torch.minimum(a1, b1)).prod(1)
    return 1 - both / union.clamp(min=1e-6) + (hull - union) / hull.clamp(min=1e-6)
