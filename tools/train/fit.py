"""Trains the detector on rendered pictures; may be stopped and goes on from its last checkpoint."""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from detector import Detector, Exported, loss_of
from rendered import CHOOSE_SEED, FRAMES_A_SCENE, LABELS, Sample, still, stream
from score import Found, average_precision
from torch.utils.data import DataLoader, IterableDataset

BATCH = 4
PEAK_RATE = 1.5e-3
EVERY = 500  # steps between checkpoints


class _Stream(IterableDataset):
    def __init__(self, step: int) -> None:
        self.first_scene = step * BATCH // 2 // FRAMES_A_SCENE

    def __iter__(self) -> Iterator[Sample]:
        return stream(self.first_scene)


def fit(folder: Path, steps: int) -> Detector:
    """Train for `steps` batches, or load what has been trained. Returns the averaged weights, in eval mode."""
    cv2.setNumThreads(1)
    torch.manual_seed(1)
    detector = Detector().to(memory_format=torch.channels_last)
    average = copy.deepcopy(detector)
    decayed = [p for p in detector.parameters() if p.ndim > 1]
    others = [p for p in detector.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], PEAK_RATE
    )
    step, curve = 0, []
    saved = folder / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        detector.load_state_dict(state["detector"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, curve = state["step"], json.loads(state["curve"])
    if step >= steps:
        return average.eval()
    chosen = still(CHOOSE_SEED, 30, 5)
    batches = iter(
        DataLoader(
            _Stream(step), BATCH, num_workers=1, collate_fn=list, multiprocessing_context="spawn", prefetch_factor=4
        )
    )
    begun, first = time.monotonic(), step
    detector.train()
    while step < steps:
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps)
        samples = next(batches)
        pixels = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2).float()
        with torch.autocast("cpu", torch.bfloat16):  # 1.7 times faster where the processor has it
            outputs = detector(pixels.contiguous(memory_format=torch.channels_last))
        loss, terms = loss_of(
            tuple(output.float() for output in outputs), [torch.from_numpy(truth) for _, truth in samples]
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimiser.step()
        step += 1
        follow(average, detector, min(0.998, (1 + step) / (10 + step)))
        if step % 50 == 0:
            left_min = (time.monotonic() - begun) / (step - first) * (steps - step) / 60
            shown = " ".join(f"{name} {value:.3f}" for name, value in terms.items())
            print(f"step {step}/{steps}  {shown}  {left_min:.0f} min left", flush=True)
        if step % EVERY == 0 or step == steps:
            points = average_precision(find(average.eval(), chosen), [truth for _, truth in chosen], len(LABELS))
            curve.append({"step": step, "loss": float(loss.detach()), "ap50": dict(zip(LABELS, points, strict=True))})
            print("  AP50 " + "  ".join(f"{k} {v:.3f}" for k, v in zip(LABELS, points, strict=True)), flush=True)
            kept = {"detector": detector.state_dict(), "average": average.state_dict(), "step": step}
            kept |= {"optimiser": optimiser.state_dict(), "curve": json.dumps(curve)}
            torch.save(kept, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
            (folder / "curve.json").write_text(json.dumps(curve, indent=1))
    return average.eval()


def rate(step: int, steps: int) -> float:
    """Learning rate: a short rise, a plateau, and a fall over the last third.

    So a run that is given more steps before its fall goes on as if it had been asked for them at the start.
    """
    return PEAK_RATE * min(1.0, (step + 1) / 200, 0.01 + 3 * (steps - step) / steps)


@torch.no_grad()
def follow(average: Detector, detector: Detector, keep: float) -> None:
    for mine, theirs in zip(average.state_dict().values(), detector.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.mul_(keep).add_(theirs, alpha=1 - keep)
        else:
            mine.copy_(theirs)


@torch.no_grad()
def find(detector: Detector, samples: list[Sample]) -> list[Found]:
    """Findings of the float model from a score of 0.05, non-maximum suppression at 0.45."""
    exported = Exported(detector).eval()
    found = []
    for image, _ in samples:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        boxes, scores = exported(pixels.contiguous(memory_format=torch.channels_last))
        found.append(findings(boxes[0].numpy(), scores[0].numpy()))
    return found


def findings(boxes: np.ndarray, scores: np.ndarray, min_score: float = 0.05) -> Found:
    """Boxes (4, N) cx cy w h and scores (C, N) -> (K, 6) class, score, x1 y1 x2 y2."""
    classes, best = scores.argmax(0), scores.max(0)
    keep = np.flatnonzero(best >= min_score)
    centred, classes, best = boxes[:, keep].T, classes[keep], best[keep]
    corner = centred[:, :2] - centred[:, 2:] / 2
    flat = np.concatenate((corner, centred[:, 2:]), 1)
    picked = cv2.dnn.NMSBoxesBatched(flat.tolist(), best.tolist(), classes.tolist(), min_score, 0.45)
    stay = np.asarray(picked, int).reshape(-1)
    corners = np.concatenate((corner, corner + centred[:, 2:]), 1)
    return np.concatenate((classes[stay, None], best[stay, None], corners[stay]), 1).astype(np.float32)
