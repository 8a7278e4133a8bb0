"""From a fitted anomaly model to its bundle, by lineside's own commands: quantised, with golden answers and a passport,
scored once on its test list, and described in its card."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lineside.records import InputSpec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
NAME = "tile-anomaly"
EVERY = 3  # of the train list's pictures, INT8 is compared with FP32
LICENCE = "Apache-2.0 AND BSD-3-Clause"


def release(
    files: Sequence[Path],
    spec: InputSpec,
    chosen: dict[str, Any],
    data: Path,
    work: Path,
    output: Path,
    version: str,
) -> None:
    """Write the bundle `output`. `files`: INT8 ONNX, INT8 TFLite, and the float ONNX to compare them with. Raises
    CalledProcessError where lineside refuses."""
    model, lite, reference = files
    for name in ("train", "new", "golden", "bundle", "pictures"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "train").mkdir()
    with (data / "magnetic_tile" / "train.csv").open(newline="") as listed:
        for number, row in enumerate(csv.DictReader(listed)):
            if number % EVERY == 0:
                picture = (data / "magnetic_tile" / "images" / row["file"]).resolve()
                (work / "train" / row["file"]).symlink_to(picture)
    (work / "labels.txt").write_text("anomaly\n")
    lineside(
        *("bundle", "new", model, "--artefact", lite, "-o", work / "new"),
        *("--labels", work / "labels.txt", "--decode", "anomaly"),
        *("--threshold", "0.5", "--resize", spec.resize, "--color", spec.color),
        *("--mean", ",".join(map(str, spec.mean)), "--std", ",".join(map(str, spec.std))),
        *("--name", NAME, "--version", version, "--licence", LICENCE),
        *("--source", "tools/train/anomaly.py, fitted to good tiles of magnetic_tile; card.md"),
    )
    manifest = work / "new" / "model.toml"
    manifest.write_text(manifest.read_text().replace('precision = "int8"', 'precision = "mixed"'))  # the head is float
    (work / "pictures").mkdir()
    shown = [work / "pictures" / f"{number}.png" for number in range(2)]
    for path, hole in zip(shown, (0.0, 1.0), strict=True):
        cv2.imwrite(str(path), surface(hole))
    lineside("bundle", "golden", work / "new", *shown, "-o", work / "golden", "--version", version)
    lineside(
        *("parity", "--bundle", work / "golden", "--data", work / "train", "--into", work / "bundle"),
        *("--reference", reference, "--state-dir", work / "state"),
    )
    bundle = work / "bundle"
    (bundle / "LICENSE").write_text((ROOT / "LICENSE").read_text() + "\n\n" + BACKBONE)
    scores = scored(bundle, reference, data)
    (work / "scores.json").write_text(json.dumps(scores, indent=1))
    (bundle / "card.md").write_text(card(chosen, scores))
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(bundle, output)


def lineside(*words: object) -> None:
    """One of lineside's commands, shown and run."""
    print("lineside", *words, flush=True)
    path = os.pathsep.join(filter(None, (str(ROOT / "runtime"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", "import sys; from lineside.cli import main; sys.exit(main())", *map(str, words)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def scored(bundle: Path, reference: Path, data: Path) -> list[dict[str, Any]]:
    """Every file on every backend, and the float model beside them, on the test list."""
    from dataclasses import asdict

    from lineside.store.bundle import open_bundle
    from models_report import BACKENDS
    from score_models import SCORED_ON, rows

    return [asdict(row) for row in rows(open_bundle(bundle), SCORED_ON[NAME], data, BACKENDS, [reference])]


def surface(hole: float) -> NDArray[np.uint8]:
    """A ground grey surface, drawn from nothing, with a dark hole or without: (H, W, 3) BGR."""
    rng = np.random.default_rng(7)
    height, width = 330, 300
    stripes = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), sigmaX=0.8, sigmaY=30)
    light = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 40)
    drawn = 100 + 6 * stripes / stripes.std() + 20 * light / light.std() + rng.normal(0, 8, (height, width))
    drawn -= 25 * np.linspace(-1, 1, width) ** 2
    drawn[:, :4] *= 0.3
    drawn[:, -4:] *= 0.3
    dark = np.zeros((height, width))
    cv2.ellipse(dark, (170, 190), (12, 8), 10, 0, 360, 1.0, -1)
    drawn *= 1 - 0.8 * hole * cv2.GaussianBlur(dark, (0, 0), 1.0)
    return np.repeat(np.clip(drawn, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def card(chosen: dict[str, Any], scores: list[dict[str, Any]]) -> str:
    """card.md: what the model is for, what it has seen, how good it is and where it ends."""
    table = ["| file | backend | AUROC | by tile | escapes | overkill | model ms | MB |", "| --- " * 8 + "|"]
    for row in scores:
        if row["fault"]:
            table.append(f"| {row['file']} | {row['backend']} | cannot be read there |" + " |" * 5)
            continue
        cells = [_with_interval(row["metrics"][name]) for name in ("AUROC", "AUROC by group", "escapes", "overkill")]
        cells += [f"{row['model_ms']:.1f}", f"{row['megabytes']:.2f}"]
        table.append(f"| {row['file']} | {row['backend']} | " + " | ".join(cells) + " |")
    tried = ["| spots | whole | AUROC of spots | of the whole | of both |", "| --- " * 5 + "|"]
    tried += ["| {:g} | {:g} | {:.3f} | {:.3f} | {:.3f} |".format(*row) for row in chosen["tried"]]
    return TEXT.format(
        table="\n".join(table),
        tried="\n".join(tried),
        by_label=", ".join(f"{label} {value:.2f}" for label, value in chosen["by_label"].items()),
        good=chosen["pictures"]["good"],
        defective=chosen["pictures"]["defective"],
        detected=f"{100 * chosen['detected']:.0f}",
        auroc=f"{chosen['auroc']:.3f}",
        auroc_fp32=f"{chosen['aurocs']['fp32.onnx']:.3f}",
        auroc_lite=f"{chosen['aurocs']['int8.tflite']:.3f}",
    )


def _with_interval(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


TEXT = """\
# tile-anomaly

Says how unlike good magnetic tiles a picture is, and where. It has learned from pictures of good tiles only: no defect
was ever shown to it. Use it where defects are rare or not known yet; where there are labelled ones, a classifier is
better (tile-mobilenet, on the same pictures).

- Licence: Apache-2.0 for what lineside added; the backbone is torchvision's MobileNetV2 (BSD-3-Clause). LICENSE has
  both. The pictures it was fitted to state no licence, and their authors ask to be cited: Huang, Qiu, Guo, Wang, Yuan,
  "Saliency of magnetic tile surface defects". None of them is in this bundle.
- Input: 320 x 320 RGB, the picture stretched to it (letterboxed, the bars are what is most unusual).
- Outputs: `pred_score`, 0 to 1, anomalous from 0.5, and `anomaly_map`, 20 x 20 on the same scale.
- MobileNetV2 down to stride 16, its maps of 64 and 96 channels, means over 3 x 3 cells. Two Mahalanobis distances: of
  each spot, against the mean and spread of its own picture, so that exposure does not count; and of those means and
  spreads, which tell a tile that is odd as a whole. Their sum, in standard deviations of good tiles, through a sigmoid
  that is 0.5 at the threshold. Cells at the edge of the picture are not judged.
- INT8: the whole backbone (activations uint8, weights int8 per channel, ranges 99.99 % of what 50 pictures had); the
  distances stay in float. They were fitted to what the INT8 backbone says, its rounding included; the FP32 model below
  was fitted to the float backbone, the TFLite file to its own INT8 backbone. It takes int8 pixels; on a Coral box all
  behind the backbone (from DEQUANTIZE on, with float SQRT, SUM and DIV among it) runs on the CPU.

## Data
magnetic_tile's train list, {good} good pictures, split into five folds by tile. What is unlike them was measured on
{defective} pictures of defects in the same list, which took part in choosing the settings below and in nothing else.
The threshold leaves 5 % of good pictures of held-out tiles above it: a false alarm rate of 5 % is what it promises.

## Scores on the test list
136 pictures of 24 tiles, 40 good, scored once for this version, each through the path of `lineside infer`; intervals
of 95 % (Newcombe's as if pictures were independent, `by tile` a bootstrap over tiles, Wilson's). `escapes`: defective
pictures below the threshold. `overkill`: good ones above. Times on one thread of a shared x86-64 core.
INT8 and FP32 differ by less than the intervals; AUROC on held-out tiles of the train list was {auroc} (INT8 ONNX),
{auroc_lite} (INT8 TFLite) and {auroc_fp32} (FP32).

{table}

`python tools/score_models.py tile-anomaly` measures this. The supervised model, tile-mobilenet 1.0.0, which was trained
with the defects, has an AUROC of 0.976 (0.924 to 0.992) on the same list (INT8 ONNX, onnxruntime): what it costs to
know no defect.

## Choosing
AUROC on held-out tiles of the train list, and how much of the mean variance was added to each direction's. Of both
with the chosen: {auroc}; by defect: {by_label}.
{detected} % of the defective pictures were above the threshold.

Before this grid about sixty variants were compared on the same folds (other layers, PatchCore, letterbox, 256 and 384
pixels), so that these figures are a little too good; those of the test list are not.

{tried}

## Limits
Many defects of these tiles are small, faint, or like the stains that good tiles have: about half of them escape at
this threshold. Tiles that are uneven as a whole, and cracks along the grinding marks, are found worst. It knows one
kind of tile, six exposures, and one camera; another line needs its own fit, which takes good pictures and minutes.

## Golden pictures
Two surfaces drawn from nothing, one with a hole.

## Made by
`python tools/train/anomaly.py --data ../shared/data --work build/anomaly -o models/tile-anomaly`
"""

BACKBONE = """\
The backbone is torchvision's MobileNetV2:

BSD 3-Clause License

Copyright (c) Soumith Chintala 2016, All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

* Redistributions of source code must retain the above copyright notice, this list of conditions and the following
  disclaimer.
* Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
  disclaimer in the documentation and/or other materials provided with the distribution.
* Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote products
  derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
