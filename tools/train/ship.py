"""From a trained detector to its bundle: exported, quantised, given golden answers and a parity passport by lineside's
own commands, scored once on its test list, and described in its card."""

# mypy: disable-error-code="misc"
# (torch is not installed where types are checked)

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from boxes import Labelled, read
from card_classifier import table
from release import ROOT, lineside, publish, scored
from torch import nn
from yolo import OUTPUTS, Exported

from lineside.records import Image

SCORED = """\
The test list, scored once for this version, each picture through the path of `lineside infer`; average precision at IoU
0.5 (`50`) and 0.33 (`33`) with the 95 % interval of a bootstrap over pictures; times are medians on one thread of an
x86-64 server with VNNI that others used too. The float model is not in the bundle:"""


@dataclass(frozen=True, slots=True)
class Told:
    """What the bundle says of itself. `words`: of `lineside quantize`, such as how a picture is laid on the canvas."""

    name: str
    version: str
    licence: str
    source: str
    size_px: tuple[int, int]  # width and height
    labels: tuple[str, ...]
    golden: Mapping[str, Image]  # a drawn picture for each name
    words: tuple[str, ...]
    head: str  # of the card
    tail: str


def begin(what: str | None, work: str, output: str) -> argparse.Namespace:
    """What was asked for on the command line; sets threads and seeds."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), help="checkpoints and what is in between")
    parser.add_argument("-o", "--output", type=Path, default=Path(output))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--version", default="1.0.0")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(1)
    return asked


def ship(
    net: nn.Module,
    told: Told,
    pictures: Sequence[Labelled],
    curves: Mapping[str, Path],
    data: Path,
    work: Path,
    output: Path,
    beyond: Callable[[Path, Path], str] = lambda bundle, reference: "",
) -> None:
    """Put the bundle at `output`. `pictures`: to calibrate and measure INT8 on; `curves`: what each course left;
    `beyond`: more for the card, of the bundle and the float model."""
    names = ("float", "shown", "golden", "quantised", "with-golden", "bundle")
    float_, shown, drawn, quantised, with_golden, bundle = (work / name for name in names)
    for folder in (float_, shown, drawn, quantised, with_golden, bundle):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (float_, shown, drawn):
        folder.mkdir(parents=True)
    for name, image in told.golden.items():
        cv2.imwrite(str(drawn / f"{name}.png"), image)
    (work / "boxes.json").write_text(json.dumps(coco(pictures, told.labels, shown)))
    (work / "labels.txt").write_text("".join(f"{label}\n" for label in told.labels))
    exported, sample = Exported(net).eval(), torch.zeros(1, 3, *reversed(told.size_px))
    program, reference = work / f"{told.name}.pt2", float_ / f"{told.name}_fp32.onnx"
    torch.export.save(torch.export.export(exported, (sample,)), str(program))
    names_of = {"input_names": ["image"], "output_names": list(OUTPUTS)}
    torch.onnx.export(exported, (sample,), str(reference), opset_version=17, dynamo=False, **names_of)
    lineside(
        *("quantize", program, "-o", quantised, "--images", shown, "--labels-from", work / "boxes.json"),
        *(
            "--labels",
            work / "labels.txt",
            "--decode",
            "nanodet",
            "--color",
            "bgr",
            "--mean",
            "0,0,0",
            "--std",
            "1,1,1",
        ),
        *("--name", told.name, "--version", told.version, "--licence", told.licence, "--source", told.source),
        *told.words,
    )
    lineside("bundle", "golden", quantised, *sorted(drawn.iterdir()), "-o", with_golden)
    asked = ("--data", shown, "--reference", reference, "--state-dir", work / "state")
    lineside("parity", "--bundle", with_golden, *asked, "--into", bundle)
    shutil.copyfile(ROOT / "LICENSE", bundle / "LICENSE")
    scores = scored(told.name, bundle, work, data)
    courses = {name: json.loads(path.read_text()) for name, path in curves.items()}
    (bundle / "card.md").write_text(card(told, scores, courses, beyond(bundle, reference)))
    publish(bundle, output)


def coco(pictures: Sequence[Labelled], labels: Sequence[str], folder: Path) -> dict[str, list[dict[str, object]]]:
    """Link the pictures into `folder` under names of their own; their boxes, as COCO has them."""
    images: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    for number, one in enumerate(pictures):
        link = folder / f"{number:04}{one.path.suffix}"
        link.symlink_to(one.path.resolve())
        height, width = read(one).shape[:2]
        images.append({"id": number, "file_name": link.name, "width": width, "height": height})
        for class_id, x1, y1, x2, y2 in one.truth.tolist():
            if class_id >= 0:
                box = [x1, y1, x2 - x1, y2 - y1]
                boxes.append({"id": len(boxes), "image_id": number, "category_id": int(class_id), "bbox": box})
    categories: list[dict[str, object]] = [{"id": number, "name": name} for number, name in enumerate(labels)]
    return {"images": images, "annotations": boxes, "categories": categories}


def card(
    told: Told, scores: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[Mapping[str, Any]]], beyond: str
) -> str:
    """card.md: what is said by hand, and between it the scores and the training curve."""
    whole = [{**row, "metrics": {k: v for k, v in row["metrics"].items() if " " not in k}} for row in scores]
    lines = [told.head.strip(), "", "## Scores", "", SCORED, "", *table(whole), ""]
    if len(told.labels) > 1:
        ran = [row for row in scores if not row["fault"]]
        least = sorted({name.split()[0] for row in ran for name in row["metrics"] if " " in name}, reverse=True)
        lines += ["Each class alone, as each file finds it on the first backend that takes it:", ""]
        files = {row["file"]: row["metrics"] for row in reversed(ran)}
        lines += ["| file | | " + " | ".join(told.labels) + " |", "| --- | --- " + "| --- " * len(told.labels) + "|"]
        for file, metrics in reversed(files.items()):
            for at in least:
                each_of = [found["value"] for name, found in metrics.items() if name.startswith(f"{at} ")]
                lines.append(f"| {file} | {at} | " + " | ".join(f"{value:.3f}" for value in each_of) + " |")
        lines.append("")
    lines += [beyond.strip(), ""] if beyond else []
    lines += ["## Training curve", "", "AP50 on the pictures to choose by, averaged weights, in float.", ""]
    lines += ["| course | epoch | loss | " + " | ".join(told.labels) + " |", "| --- " * (3 + len(told.labels)) + "|"]
    for course, points in curves.items():
        for point in points:
            each = " | ".join(f"{point['ap50'][label]:.3f}" for label in told.labels)
            lines.append(f"| {course} | {point['epoch']} | {sum(point['loss'].values()):.2f} | {each} |")
    return "\n".join([*lines, "", told.tail.strip(), ""])
