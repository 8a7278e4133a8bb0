"""Trains a YOLO of yolo.py; may be stopped and goes on from its last checkpoint."""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from average import follow
from boxes import Picture, Sample
from score import Found, average_precision
from torch import Tensor, nn
from yolo import STRIDES, Exported, cells
from yolo_loss import corners, loss_of

Net = TypeVar("Net", bound=nn.Module)
Epoch = Callable[[int], Iterator[Sequence[Sample]]]  # number -> its batches


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast. `plain`: the last epochs, whose pictures `last` gives; `stop`: ends sooner."""

    epochs: int
    rate: float
    plain: int = 0
    stop: int = 1_000_000
    decay: float = 0.02
    every: int = 5  # epochs between looks at the pictures to choose by


def fit(
    folder: Path,
    net: Net,
    course: Course,
    batches: Epoch,
    last: Epoch,
    chosen: Sequence[Sample],
    labels: Sequence[str],
) -> Net:
    """Train, or load what has been trained. Returns the averaged weights, in eval mode. `net`: as it starts."""
    net = net.to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": course.decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, course.rate)
    done, step, curve = 0, 0, []
    saved = folder / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        done, step, curve = state["epoch"], state["step"], json.loads(state["curve"])
    begun, first = time.monotonic(), done
    end = min(course.stop, course.epochs)
    for number in range(done, end):
        net.train()
        losses = []
        source = last(number) if number >= course.epochs - course.plain else batches(number)
        for samples in source:
            for group in optimiser.param_groups:
                group["lr"] = course.rate * rate(number, course.epochs, step)
            pixels = pixels_of([image for image, _ in samples])
            with torch.autocast("cpu", torch.bfloat16):  # twice as fast where the processor has it
                levels = net(pixels)
            loss, terms = loss_of(levels, [torch.from_numpy(truth) for _, truth in samples])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimiser.step()
            step += 1
            follow(average, net, min(0.999, (1 + step) / (10 + step)))
            losses.append(list(terms.values()))
        left_min = (time.monotonic() - begun) / (number + 1 - first) * (end - number - 1) / 60
        mean = dict(zip(terms, np.mean(losses, 0).round(3).tolist(), strict=True))
        print(f"epoch {number + 1}/{course.epochs}  {mean}  {left_min:.0f} min left", flush=True)
        if (number + 1) % course.every == 0 or number + 1 == end:
            points = average_precision(find(average, chosen), [asked(truth) for _, truth in chosen], len(labels))
            curve.append({"epoch": number + 1, "loss": mean, "ap50": dict(zip(labels, points, strict=True))})
            shown = "  ".join(f"{k} {v:.3f}" for k, v in zip(labels, points, strict=True))
            print(f"  AP50 {np.nanmean(points):.4f}  {shown}", flush=True)
        kept = {"net": net.state_dict(), "average": average.state_dict(), "epoch": number + 1, "step": step}
        kept |= {"optimiser": optimiser.state_dict(), "curve": json.dumps(curve)}
        torch.save(kept, saved.with_suffix(".new"))
        saved.with_suffix(".new").replace(saved)
        (folder / "curve.json").write_text(json.dumps(curve, indent=1))
    return average.eval()


def rate(number: int, epochs: int, step: int) -> float:
    """Share of the greatest learning rate: 100 steps' rise, then half a cosine down to a hundredth."""
    return min(1.0, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * number / epochs)) / 2)


def pixels_of(images: Sequence[Picture]) -> Tensor:
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return stacked.contiguous(memory_format=torch.channels_last)


def asked(truth: np.ndarray) -> np.ndarray:
    return truth[truth[:, 0] >= 0]


@torch.no_grad()
def find(net: nn.Module, samples: Sequence[Sample], min_score: float = 0.05, nms_iou: float = 0.5) -> list[Found]:
    """Findings of the float model: per picture (K, 6) class, score, x1 y1 x2 y2. Pictures' sides: multiples of 32."""
    exported = Exported(net).eval()
    found = []
    for image, _ in samples:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = exported(pixels_of([image]))
        scores = torch.cat(outputs[:3], 1)[0].float()
        at, steps = [], []
        for stride in STRIDES:
            here = cells(image.shape[0] // stride, image.shape[1] // stride, stride)
            at.append(here)
            steps.append(torch.full((len(here), 1), float(stride)))
        boxes = corners(torch.cat(outputs[3:], 1)[0].float().unflatten(1, (4, -1)), torch.cat(at), torch.cat(steps))
        best, classes = scores.max(1)
        keep = (best >= min_score).nonzero()[:, 0]
        flat = torch.cat((boxes[keep, :2], boxes[keep, 2:] - boxes[keep, :2]), 1)
        picked = cv2.dnn.NMSBoxesBatched(flat.tolist(), best[keep].tolist(), classes[keep].tolist(), min_score, nms_iou)
        stay = keep[np.asarray(picked, int).reshape(-1)]
        found.append(torch.cat((classes[stay, None], best[stay, None], boxes[stay]), 1).numpy().astype(np.float32))
    return found
