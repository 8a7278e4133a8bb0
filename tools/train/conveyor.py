"""Makes the model of the demo, models/conveyor-parts, from nothing but the renderer:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/conveyor.py --work build/conveyor -o models/conveyor-parts

It may be stopped and started again: training goes on from its last checkpoint in --work. Settings are chosen on one set
of scenes; the scores in card.md are of another, which is looked at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import parts
import torch
from card import write_card
from detector import Detector
from export import Canvas, to_int8_onnx, to_int8_tflite, to_onnx
from fit import fit
from lists import scenes
from rendered import CHOOSE_SEED, HEIGHT_PX, LABELS, TEST_SEED, TRAIN_SEED, WIDTH_PX, still
from score import Found, average_precision

from lineside.recipe import Model
from lineside.records import Detections
from lineside.store.bundle import sha256_of

STAGES = (9000, 13500, 17000)  # steps; each ends with a low learning rate, and the next begins high again
CHOOSE_CLIPS, TEST_CLIPS, CLIP_S = 6, 10, 40.0
FILES = {"conveyor_int8.tflite": ("tflite", "int8"), "conveyor_int8.onnx": ("onnx", "int8")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/conveyor"), help="checkpoints and what is in between")
    parser.add_argument("-o", "--output", type=Path, default=Path("models/conveyor-parts"))
    parser.add_argument(
        "--steps", type=int, nargs="+", default=STAGES, help="of training, four pictures each, by stage"
    )
    parser.add_argument("--version", default="1.2.0")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    for steps in asked.steps:
        detector = fit(asked.work, steps)
    print("exporting", flush=True)
    fp32 = pack(detector, asked.work, asked.output, asked.version)
    print("scoring", flush=True)
    results = score(fp32, asked.output)
    results |= {"steps": asked.steps[-1], "curve": json.loads((asked.work / "curve.json").read_text())}
    (asked.work / "results.json").write_text(json.dumps(results, indent=1))
    write_card(asked.output / "card.md", results, detector)


def pack(detector: Detector, work: Path, output: Path, version: str) -> Path:
    """Write the bundle; returns a second one in `work` with the float model, to compare with."""
    output.mkdir(parents=True, exist_ok=True)
    fp32 = work / "float"
    fp32.mkdir(exist_ok=True)
    calibration: list[Canvas] = [canvas for canvas, _ in still(TRAIN_SEED + 500_000, 40, 3)]
    to_onnx(detector, fp32 / "conveyor_fp32.onnx")
    to_int8_onnx(fp32 / "conveyor_fp32.onnx", output / "conveyor_int8.onnx", calibration)
    to_int8_tflite(detector, output / "conveyor_int8.tflite", calibration)
    for folder, files in ((output, FILES), (fp32, {"conveyor_fp32.onnx": ("onnx", "fp32")})):
        (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
        (folder / "model.toml").write_text(manifest(folder, files, version))
    shutil.copyfile(Path(__file__).resolve().parents[2] / "LICENSE", output / "LICENSE")
    return fp32


def manifest(folder: Path, files: dict[str, tuple[str, str]], version: str) -> str:
    """model.toml, as docs/models.md describes it."""
    head = f"""\
format = 1
name = "conveyor-parts"
version = "{version}"
task = "detect"
licence = "Apache-2.0"
source = "tools/train/conveyor.py, trained on pictures of lineside's own renderer; card.md"
labels = "labels.txt"

[input]
width_px = {WIDTH_PX}
height_px = {HEIGHT_PX}
color = "bgr"
layout = "nchw"
resize = "letterbox"

[decode]
name = "yolov8"
min_score = 0.25
nms_iou = 0.45
boxes = "pixels"
"""
    return head + "".join(
        f"""
[[artefact]]
file = "{file}"
format = "{format}"
precision = "{precision}"
sha256 = "{sha256_of(folder / file)}"
"""
        for file, (format, precision) in files.items()
    )


def score(fp32: Path, bundle: Path) -> dict[str, object]:
    """Choose the rule's settings on one set of scenes, then score all three models on the other, through lineside."""
    ways = {"fp32 onnx": (fp32, "onnxruntime"), "int8 onnx": (bundle, "onnxruntime"), "int8 tflite": (bundle, "litert")}
    models = {name: parts.open_for(*way) for name, way in ways.items()}
    judged = []
    for clip in range(CHOOSE_CLIPS):
        judged += parts.watch({"int8 onnx": models["int8 onnx"]}, CHOOSE_SEED + 10_000 + clip, CLIP_S)["int8 onnx"]
        print(f"  choosing: {len(judged)} parts", flush=True)
    min_score, min_frames = parts.choose(judged, LABELS[1:])
    seen: dict[str, list[parts.Judged]] = {name: [] for name in models}
    for clip in range(TEST_CLIPS):
        for name, found in parts.watch(models, TEST_SEED + 10_000 + clip, CLIP_S).items():
            seen[name] += found
        print(f"  testing: {len(seen['int8 onnx'])} parts", flush=True)
    tallies = {name: parts.tally(found, LABELS[1:], min_score, min_frames) for name, found in seen.items()}
    precise = {name: precision(parts.open_for(*way, min_score=0.05)) for name, way in ways.items()}
    return {
        "min_score": min_score,
        "min_frames": min_frames,
        "chosen_on_parts": len(judged),
        "ap50": precise,
        "parts": {name: {f: getattr(tally, f) for f in tally.__slots__} for name, tally in tallies.items()},
    }


def precision(model: Model) -> dict[str, float]:
    """AP50 per class of the test scenes, boxes in pixels of the 640 x 360 frame."""
    found: list[Found] = []
    truths = []
    for shown in scenes(Path()):
        seen = model.see(shown.image)
        assert isinstance(seen, Detections)
        columns = (seen.class_ids[:, None], seen.scores[:, None], seen.boxes)
        found.append(np.concatenate(columns, 1).astype(np.float32))
        kinds = np.array([LABELS.index(name) for name in shown.names], np.float32)
        truths.append(np.concatenate((kinds[:, None], shown.boxes), 1))
    return dict(zip(LABELS, average_precision(found, truths, len(LABELS)), strict=True))


if __name__ == "__main__":
    main()
