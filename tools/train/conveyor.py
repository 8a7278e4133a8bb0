"""Makes the model of the demo, models/conveyor-parts, from nothing but the renderer:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/conveyor.py --work build/conveyor -o models/conveyor-parts

It may be stopped and started again: training goes on from its last checkpoint in --work. Settings are chosen on one set
of scenes; the scores in card.md are of another, which is looked at once.
"""

# mypy: disable-error-code="misc"
# (torch is not installed where types are checked)

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import parts
from boxes import DATA, Labelled
from detector import Detector
from fit_yolo import Course, fit
from rendered import (
    CHOOSE_SEED,
    FRAMES_A_SCENE,
    HEIGHT_PX,
    LABELS,
    TEST_SEED,
    TRAIN_SEED,
    WIDTH_PX,
    Sample,
    still,
    stream,
    truth_of,
)
from score import wilson
from ship import Told, begin, ship
from torch.utils.data import DataLoader, IterableDataset

from lineside.cameras.render import Scene
from lineside.records import Artefact
from lineside.store.bundle import open_bundle, sha256_of

BATCH, STEPS = 4, 1000  # an epoch
COURSE = Course(epochs=17, rate=1.5e-3, every=1)
SHOWN_SCENES, SHOWN_FRAMES = 65, 4  # INT8 is calibrated and measured on
CHOOSE_CLIPS, TEST_CLIPS, CLIP_S = 6, 10, 40.0
GOLDEN = ((90_002, 75), (90_003, 120))  # scene and frame
NAME = "conveyor-parts"


class _Epoch(IterableDataset):
    def __init__(self, number: int) -> None:
        self.first_scene = number * STEPS * BATCH // 2 // FRAMES_A_SCENE

    def __iter__(self) -> Iterator[Sample]:
        return stream(self.first_scene)


def main() -> None:
    asked = begin(__doc__, "build/conveyor", f"models/{NAME}")
    asked.work.mkdir(parents=True, exist_ok=True)
    chosen = still(CHOOSE_SEED, 30, 5)
    net = fit(asked.work, Detector(len(LABELS)), COURSE, batches, batches, chosen, LABELS)
    told = Told(
        name=NAME,
        version=asked.version,
        licence="Apache-2.0",
        source="tools/train/conveyor.py, trained on pictures of lineside's own renderer; card.md",
        size_px=(WIDTH_PX, HEIGHT_PX),
        labels=LABELS,
        golden={f"scene{seed}": Scene(seed, fps=15).frame(number).image for seed, number in GOLDEN},
        words=("--resize", "letterbox", "--max-loss", "0.01", "--validation", "160", "--search-s", "120"),
        head=HEAD.format(count=sum(p.numel() for p in net.parameters())),
        tail=TAIL,
    )
    shown = pictures(asked.work / "frames")
    ship(net, told, shown, {"float": asked.work / "curve.json"}, DATA, asked.work, asked.output, judged)


def batches(number: int) -> Iterator[list[Sample]]:
    """One epoch, rendered by a process of its own."""
    loader = DataLoader(
        _Epoch(number), BATCH, num_workers=1, collate_fn=list, multiprocessing_context="spawn", prefetch_factor=4
    )
    return itertools.islice(iter(loader), STEPS)


def pictures(folder: Path) -> list[Labelled]:
    """Frames of training scenes that no step of training saw, as files."""
    folder.mkdir(exist_ok=True)
    found = []
    for number in range(SHOWN_SCENES):
        scene = Scene(TRAIN_SEED + 500_000 + number, fps=15)
        for at in (k * 23 for k in range(SHOWN_FRAMES)):
            frame, path = scene.frame(at), folder / f"{number:03}-{at:03}.png"
            cv2.imwrite(str(path), frame.image)
            truth = truth_of(frame, WIDTH_PX, HEIGHT_PX)  # unscaled
            found.append(Labelled(path, truth, str(number)))
    return found


def judged(folder: Path, reference: Path) -> str:
    """Parts judged right, for the card: the rule's settings are chosen on one set of scenes, and scored on another."""
    bundle = open_bundle(folder)
    float_ = Artefact(str(reference.resolve()), "onnx", "fp32", sha256_of(reference))
    ways = {
        "fp32 onnx": (replace(bundle, artefacts=(float_,)), "onnxruntime"),
        "int8 onnx": (bundle, "onnxruntime"),
        "int8 tflite": (bundle, "litert"),
    }
    models = {name: parts.open_for(*way) for name, way in ways.items()}
    known: list[parts.Judged] = []
    for clip in range(CHOOSE_CLIPS):
        known += parts.watch({"int8 onnx": models["int8 onnx"]}, CHOOSE_SEED + 10_000 + clip, CLIP_S)["int8 onnx"]
        print(f"  choosing: {len(known)} parts", flush=True)
    min_score, min_frames = parts.choose(known, LABELS[1:])
    seen: dict[str, list[parts.Judged]] = {name: [] for name in models}
    for clip in range(TEST_CLIPS):
        for name, found in parts.watch(models, TEST_SEED + 10_000 + clip, CLIP_S).items():
            seen[name] += found
        print(f"  testing: {len(seen['int8 onnx'])} parts", flush=True)
    rows = []
    for name, found in seen.items():
        t = parts.tally(found, LABELS[1:], min_score, min_frames)
        low, high = wilson(t.right, t.parts)
        share = f"{t.right / t.parts:.2%} | {low:.2%} to {high:.2%}"
        rows.append(f"| {name} | {t.parts} | {share} | {t.escapes} | {t.overkill} | {t.missed} |")
    return PARTS.format(min_score=min_score, min_frames=min_frames, chosen=len(known), rows="\n".join(rows))


HEAD = """\
# conveyor-parts

Finds machined parts (rings, flanges, plates) on a conveyor seen from above, and on them scratches, stains, chipped
edges and holes that were never drilled. It exists for lineside's demo and tests: **every picture it has ever seen was
rendered** by lineside's own `cameras/render.py`. It knows nothing of real metal; train your own for that.

- Licence: Apache-2.0, weights and data (the renderer's).
- Input: 512 x 288 BGR, 0 to 255, letterboxed; made for 640 x 360 frames, where the smallest defects are 6 pixels.
- A single-stage, anchor-free detector with {count:,} parameters: depthwise-separable convolutions, maps of the strides
  8, 16 and 32. Outputs: for each of them the scores [1, n, 5] and the four sides of a box as distributions over 8 bins
  [1, n, 32]; decoder `nanodet`.
- INT8: ONNX (activations uint8, weights int8 per channel) and full-integer TFLite (int8 in and out), made by `lineside
  quantize`; quantize.md says how and what it changed, parity.json how far each is from FP32.

## Data
Rendered on the fly, four pictures a step, 1,000 steps an epoch, each frame about twice, turned, relit and compressed
anew. Scenes are split by seed: below 1,000,000 demo and tests; from 1,000,000 training; from 2,000,000 choosing; from
6,000,000 the scores below, looked at once. A quarter of the parts is defective (in training 70 %).
"""

PARTS = """\
Parts: 10 clips of 40 s at 15 fps; each part that crosses the middle line, through lineside's own path (letterbox,
backend, decoder, tracker, rule `defect` with min_score = {min_score}, steady.min_frames = {min_frames}; both chosen on
{chosen} parts of other scenes). Escape: a defective part accepted. Overkill: a good part rejected. Missed: no decision.

| model | parts | right | 95 % interval | escapes | overkill | missed |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
"""

TAIL = """\
## Limits
Thin faint scratches along the machining marks are what escapes most. Boxes of thin diagonal scratches are loose. Parts
far smaller or larger than 75 to 130 pixels in a 640-pixel picture were never seen, nor were other shapes.

## Golden pictures
Two rendered frames (scenes 90002 and 90003, frames 75 and 120).

## Made by
`python tools/train/conveyor.py --work build/conveyor -o models/conveyor-parts` (torch 2.13.0 on a CPU with bfloat16
autocast). Another processor rounds differently, so weights and scores will differ a little. The body of these weights
began with version 1.2.2's, which took 17,000 steps of four pictures and had other heads; they stand for the first
ten epochs.
"""


if __name__ == "__main__":
    main()
