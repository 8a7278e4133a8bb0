"""What a YOLO of yolo.py is trained by: task-aligned assignment (Feng et al. 2021, arXiv:2108.07755), scores against
how well the box fits, GIoU (Rezatofighi et al. 2019) and distribution focal loss (Li et al. 2020)."""

# mypy: disable-error-code="misc,no-any-return"
# (torch is not installed where types are checked)

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from yolo import BINS, STRIDES, cells, rows

CANDIDATES = 10  # cells a box, at most
BOX_WEIGHT, SIDE_WEIGHT, SCORE_WEIGHT = 2.0, 0.5, 1.0


def loss_of(levels: list[tuple[Tensor, Tensor]], truths: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """`levels`: raw maps of a batch; `truths`: per picture (K, 5) class, x1 y1 x2 y2, pixels; class -1: anything may be
    said of what lies in there. Returns the loss and its terms for the log."""
    scores = torch.cat([rows(score) for score, _ in levels], 1).float()
    sides = torch.cat([rows(side) for _, side in levels], 1).float().unflatten(2, (4, BINS))
    at = torch.cat(
        [cells(score.shape[2], score.shape[3], stride) for (score, _), stride in zip(levels, STRIDES, strict=True)]
    )
    stride = torch.cat(
        [torch.full((score[0, 0].numel(), 1), float(step)) for (score, _), step in zip(levels, STRIDES, strict=True)]
    )
    boxes = corners(sides, at, stride)
    wanted, counted = torch.zeros_like(scores), torch.ones_like(scores[:, :, :1])
    fits, bins, weights = [], [], []
    with torch.no_grad():
        probable, there = scores.sigmoid(), boxes.detach()
        chosen = []
        for picture, truth in enumerate(truths):
            real, vague = truth[truth[:, 0] >= 0], truth[truth[:, 0] < 0]
            if len(vague):
                counted[picture, inside(at, vague[:, 1:]).any(1)] = 0
            picked, owner, aim = assign(probable[picture], there[picture], real, at, stride)
            wanted[picture, picked, real[owner, 0].long()] = aim
            counted[picture, picked] = 1
            chosen.append((picked, real[owner, 1:], aim))
    for picture, (picked, aims, aim) in enumerate(chosen):
        fits.append(1 - giou(boxes[picture, picked], aims))
        far = torch.cat((at[picked] - aims[:, :2], aims[:, 2:] - at[picked]), 1) / stride[picked]
        bins.append(distribution_loss(sides[picture, picked], far.clamp(0, BINS - 1.01)))
        weights.append(aim)
    weight = torch.cat(weights)
    total = wanted.sum().clamp(min=1)
    gap = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
    score_loss = (gap * counted).sum() / total
    box_loss = (torch.cat(fits) * weight).sum() / total
    side_loss = (torch.cat(bins) * weight).sum() / total
    loss = SCORE_WEIGHT * score_loss + BOX_WEIGHT * box_loss + SIDE_WEIGHT * side_loss
    return loss, {"score": score_loss.item(), "box": box_loss.item(), "side": side_loss.item()}


def corners(sides: Tensor, at: Tensor, stride: Tensor) -> Tensor:
    """Side logits (..., N, 4, BINS) -> x1 y1 x2 y2 (..., N, 4) in pixels."""
    far = (sides.softmax(-1) @ torch.arange(BINS, dtype=torch.float32)) * stride
    return torch.cat((at - far[..., :2], at + far[..., 2:]), -1)


def inside(at: Tensor, boxes: Tensor) -> Tensor:
    """Whether cell n's centre lies in box k: (N, K)."""
    return ((at[:, None] > boxes[:, :2]) & (at[:, None] < boxes[:, 2:])).all(2)


def assign(scores: Tensor, boxes: Tensor, real: Tensor, at: Tensor, stride: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one picture: the cells that are to answer, the box that each answers for, and the score that each should give.

    A box's cells are those within it (and within reach of their sides) whose score and fit are best together; a cell
    that two boxes want goes to the one that it fits better. A box between all centres gets the nearest of stride 8.
    """
    if not len(real):
        none = torch.zeros(0, dtype=torch.long)
        return none, none, torch.zeros(0)
    aims = real[:, 1:]
    far = torch.cat((at[:, None] - aims[:, :2], aims[:, 2:] - at[:, None]), 2) / stride[:, None]  # (N, K, 4)
    may = (far.amin(2) > 0) & (far.amax(2) < BINS - 1)
    fit = overlap(boxes, aims).clamp(min=0)
    for lost in (~may.any(0)).nonzero()[:, 0]:
        away = (at - (aims[lost, :2] + aims[lost, 2:]) / 2).square().sum(1) + 1e9 * (far[:, lost].amax(1) >= BINS - 1)
        may[away.argmin(), lost] = True
    rank = scores[:, real[:, 0].long()].sqrt() * fit.pow(4) * may + 1e-9 * may * (1 / stride)
    best = rank.topk(min(CANDIDATES, len(at)), dim=0).indices
    keep = torch.zeros_like(may).scatter_(0, best, True) & may
    fit_if = torch.where(keep, fit + 1e-6, fit.new_zeros(()))
    picked = keep.any(1).nonzero()[:, 0]
    owner = fit_if[picked].argmax(1)
    most = torch.where(keep, rank, rank.new_zeros(())).amax(0).clamp(min=1e-12)
    best_fit = torch.where(keep, fit, fit.new_zeros(())).amax(0)
    aim = rank[picked, owner] / most[owner] * best_fit[owner].clamp(min=0.1)
    return picked, owner, aim


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """IoU of (N, 4) with (K, 4): (N, K)."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(2)
    sizes = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)
    return both / (sizes - both).clamp(min=1e-6)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of (N, 4) with (N, 4), row by row."""
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    return both / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def distribution_loss(sides: Tensor, far: Tensor) -> Tensor:
    """Logits (N, 4, BINS) against distances (N, 4) in cells: cross entropy with the two bins beside each, (N,)."""
    low = far.floor()
    logs = sides.log_softmax(2)
    left = logs.gather(2, low.long()[..., None])[..., 0]
    right = logs.gather(2, low.long()[..., None] + 1)[..., 0]
    return -(left * (low + 1 - far) + right * (far - low)).mean(1)
