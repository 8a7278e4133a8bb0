"""Writes a model's card out of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detector import Detector
from rendered import LABELS
from score import wilson


def write_card(path: Path, results: dict[str, Any], detector: Detector) -> None:
    """card.md: what the model is for, what it was trained on, how good it is and where it ends."""
    ways = list(results["ap50"])
    count = sum(p.numel() for p in detector.parameters())
    precise = ["| class | " + " | ".join(ways) + " |", "| --- |" + " --- |" * len(ways)]
    for label in LABELS:
        precise.append(f"| {label} | " + " | ".join(f"{results['ap50'][way][label]:.3f}" for way in ways) + " |")
    judged = ["| model | parts | right | 95 % interval | escapes | overkill | missed |", "| --- " * 7 + "|"]
    for way in ways:
        t = results["parts"][way]
        low, high = wilson(t["right"], t["parts"])
        judged.append(
            f"| {way} | {t['parts']} | {t['right'] / t['parts']:.2%} | {low:.2%} to {high:.2%} | {t['escapes']} "
            f"| {t['overkill']} | {t['missed']} |"
        )
    curve = ["| step | loss | " + " | ".join(LABELS) + " |", "| --- " * (2 + len(LABELS)) + "|"]
    for point in results["curve"]:
        values = " | ".join(f"{point['ap50'][label]:.3f}" for label in LABELS)
        curve.append(f"| {point['step']} | {point['loss']:.2f} | {values} |")
    path.write_text(
        TEXT.format(
            count=f"{count:,}",
            steps=f"{results['steps']:,}",
            pictures=f"{results['steps'] * 4:,}",
            precise="\n".join(precise),
            judged="\n".join(judged),
            curve="\n".join(curve),
            min_score=results["min_score"],
            min_frames=results["min_frames"],
            chosen=results["chosen_on_parts"],
        )
    )


TEXT = """\
# conveyor-parts

Finds machined parts (rings, flanges, plates) on a conveyor seen from above, and on them scratches, stains, chipped
edges and holes that were never drilled. It exists for lineside's demo and tests: **every picture it has ever seen was
rendered** by lineside's own `cameras/render.py`. It knows nothing of real metal; train your own for that.

- Licence: Apache-2.0, weights and data (the renderer's).
- Input: 512 x 288 BGR, letterboxed; made for 640 x 360 frames, where the smallest defects are 6 pixels.
- A single-stage, anchor-free detector with {count} parameters: depthwise-separable convolutions, parts on a stride-16
  map, defects on a stride-8 map. Outputs `boxes` [1, 4, 2880] (cx cy w h, pixels) and `scores` [1, 5, 2880], decoder
  `yolov8`.
- INT8: weights per channel, activations per tensor, ranges from 120 rendered pictures (ONNX: least and greatest value;
  TFLite: the running mean of each picture's); the last layer of each head and the box arithmetic are float. The
  ONNX file takes uint8 pixels, the TFLite file int8 pixels (value - 128). On a Coral box what follows the heads (from
  DEQUANTIZE on, EXP among it) runs on the CPU.

## Data
Rendered on the fly, four pictures a step, {steps} steps: {pictures} pictures, each frame about twice, turned, relit and
compressed anew. Scenes are split by seed: below 1,000,000 demo and tests; from 1,000,000 training; from 2,000,000
choosing; from 5,000,000 the scores below, looked at once. A quarter of the parts is defective (in training 70 %).

## Scores on the test scenes
Average precision at IoU 0.5 (area under the whole curve, scores from 0.05, 300 frames of 60 scenes):

{precise}

Parts: 10 clips of 40 s at 15 fps; each part that crosses the middle line, through lineside's own path (letterbox,
backend, decoder, tracker, rule `defect` with min_score = {min_score}, steady.min_frames = {min_frames}; both chosen on
{chosen} parts of other scenes). Escape: a defective part accepted. Overkill: a good part rejected. Missed: no decision.

{judged}

## Training curve
AP50 on 150 frames of the choosing scenes, averaged weights:

{curve}

## Limits
Thin faint scratches along the machining marks are what escapes most. Boxes of thin diagonal scratches are loose. Parts
far smaller or larger than 75 to 130 pixels in a 640-pixel picture were never seen, nor were other shapes.

## Made by
`python tools/train/conveyor.py --work build/conveyor -o models/conveyor-parts`
(Python 3.11, torch 2.13.0 CPU with bfloat16 autocast; one thread and one rendering process). Another
processor rounds differently, so the weights will differ in the last digits and the scores a little. The first 13,500
steps of these weights saw a renderer that also drew fainter defects (from 21 grey levels instead of 30).
"""
