"""Trains a classifier on pictures with masks; may be stopped and goes on from its last checkpoint."""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator,no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from average import follow
from nets import STRIDE_PX, Classifier
from numpy.typing import NDArray
from photos import Changes, Image, Sample, Shelf, canvas_of, changed
from score import auroc
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lineside.records import InputSpec

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and std of its pixels, 0 to 255, RGB
LEAST_OF_CELL = 0.02  # of a map's cell that is defect: then the cell shows one


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is trained."""

    spec: InputSpec
    labels: tuple[str, ...]
    changes: Changes
    epochs: int
    rate: float = 5e-4  # of the pretrained layers; what is new learns three times as fast
    batch: int = 8
    seed: int = 1
    dense: float = 2.0  # weight of what each spot shows
    balance: float = 0.5  # a class of n pictures is drawn n ** (1 - balance) times as often as one of one


def fit(
    net: Classifier, samples: Sequence[Sample], plan: Plan, folder: Path, held_out: Sequence[Sample] = ()
) -> Classifier:
    """Train, or load what has been trained. Returns the averaged weights, in eval mode.

    `held_out` are scored after every few epochs; nothing is chosen by that here.
    """
    cv2.setNumThreads(1)
    torch.manual_seed(plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    net = net.to(memory_format=torch.channels_last)
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(_groups(net, plan.rate), weight_decay=0.02)
    epoch, curve, saved = 0, [], folder / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        epoch, curve = state["epoch"], json.loads(state["curve"])
    shelf, steps = Shelf(samples), max(1, len(samples) // plan.batch)
    drawn = _chances(samples, plan)
    while epoch < plan.epochs:
        began, total = time.monotonic(), 0.0
        net.train()
        order = np.random.default_rng([plan.seed, epoch]).choice(len(samples), (steps, plan.batch), p=drawn)
        for step, numbers in enumerate(order):
            at = (epoch * steps + step) / (plan.epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * min(1.0, 0.1 + 20 * at) * (0.5 + 0.5 * float(np.cos(np.pi * at)))
            shown = [changed(shelf, int(n), plan.spec, plan.changes, (plan.seed, epoch, step)) for n in numbers]
            loss = loss_of(net, shown, plan)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            follow(average, net, min(0.99, (1 + epoch * steps + step) / (10 + epoch * steps + step)))
            total += float(loss.detach())
        epoch += 1
        point: dict[str, float] = {"epoch": epoch, "loss": total / steps}
        if held_out and (epoch % 2 == 0 or epoch == plan.epochs):
            point |= measured(classify(average, held_out, plan), [s.label for s in held_out])
        curve.append(point)
        print(" ".join(f"{k} {v:.3f}" for k, v in point.items()), f"{time.monotonic() - began:.0f} s", flush=True)
        kept = {"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save(kept | {"epoch": epoch, "curve": json.dumps(curve)}, saved.with_suffix(".new"))
        saved.with_suffix(".new").replace(saved)
        (folder / "curve.json").write_text(json.dumps(curve, indent=1))
    return average.eval()


def _groups(net: Classifier, rate: float) -> list[dict[str, object]]:
    """Parameters by whether they were trained before, and whether they decay."""
    new: set[int] = set()
    for layer in net.modules():
        if hasattr(layer, "is_new"):
            new |= {id(p) for p in layer.parameters()}
    old = {id(p) for p in net.near.parameters()} - new
    groups: list[dict[str, object]] = []
    for is_old, times in ((True, 1.0), (False, 3.0)):
        for decays in (True, False):
            mine = [p for p in net.parameters() if (id(p) in old) == is_old and (p.ndim > 1) == decays]
            groups.append({"params": mine, "peak": rate * times, "weight_decay": 0.02 if decays else 0.0})
    return [group for group in groups if group["params"]]


def _chances(samples: Sequence[Sample], plan: Plan) -> NDArray[np.float64]:
    labels = np.array([sample.label for sample in samples])
    weights = np.bincount(labels, minlength=len(plan.labels)).clip(1)[labels] ** -plan.balance
    return np.asarray(weights / weights.sum())


def loss_of(net: Classifier, shown: Sequence[tuple[Image, NDArray[np.uint8], int]], plan: Plan) -> Tensor:
    """Cross entropy of the picture's class, and focal loss (Lin et al. 2017) of what each spot of the map shows."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, dense = net.looks(pixels([canvas for canvas, _, _ in shown], plan.spec))
    labels = torch.tensor([label for *_, label in shown])
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in shown]))[:, None].float()
    covered = F.avg_pool2d(masks, STRIDE_PX)[:, 0]
    truth = torch.zeros_like(dense, dtype=torch.float32)
    truth[torch.arange(len(shown)), labels] = (covered >= LEAST_OF_CELL).float()
    dense = dense.float()[:, 1:]
    truth = truth[:, 1:]
    sure = torch.where(truth > 0, torch.sigmoid(dense), torch.sigmoid(-dense))
    focal = (1 - sure) ** 2 * F.binary_cross_entropy_with_logits(dense, truth, reduction="none")
    focal = focal * ((covered == 0) | (covered >= LEAST_OF_CELL))[:, None]  # a defect's edge teaches nothing
    spots = truth.sum((1, 2, 3))
    return loss + plan.dense * (focal.sum((1, 2, 3)) / (spots + 1)).mean()


def pixels(canvases: Sequence[Image], spec: InputSpec) -> Tensor:
    """BGR canvases -> (B, 3, H, W) RGB, normalised."""
    stacked = torch.from_numpy(np.stack(canvases)[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return ((stacked - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def classify(net: Classifier, samples: Sequence[Sample], plan: Plan) -> NDArray[np.float64]:
    """Probabilities (N, K) of the float model, pictures prepared as the runtime does."""
    shelf, found = Shelf(samples), []
    net.eval()
    for first in range(0, len(samples), 8):
        canvases = [canvas_of(shelf.get(n)[0], plan.spec) for n in range(first, min(first + 8, len(samples)))]
        found.append(torch.softmax(net(pixels(canvases, plan.spec)), 1).double().numpy())
    return np.concatenate(found)


def measured(chances: NDArray[np.float64], labels: Sequence[int]) -> dict[str, float]:
    """AUROC of defect or none by 1 - P(none), and top-1 accuracy."""
    truth = np.array(labels)
    right = float((chances.argmax(1) == truth).mean())
    return {"auroc": auroc(1 - chances[:, 0], truth > 0), "accuracy": right}
