"""Runs every model of a data folder through a bundle on every backend, and writes the table of docs/models.md.

    python tools/models_report.py [--data FOLDER]     # about two minutes; prints the table too

The checks are those of tests/test_models.py: AP on two lists of faces, the main object on sample photos.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "train"))
import lists
from score import gather, match

from lineside.commands.infer import Eye
from lineside.errors import ConfigError, LinesideError
from lineside.images import read_image
from lineside.records import AnomalyMap, Classification, Detections, Image
from lineside.store.bundle import open_bundle
from lineside.vision.decode import findings

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("onnxruntime", "openvino", "litert")
BEGIN, END = "<!-- models_report: begin -->", "<!-- models_report: end -->"
FACE_LISTS = ("faces_mask", "faces_dlib")
LEAST_SIDE_PX = 20.0
FACE_MIN_SCORE = 0.05

# sample photo -> how the label of its main object begins
CLASSIFIED = {
    "bird": "chickadee",
    "cat": "Egyptian cat",
    "dragonfly": "dragonfly",
    "grace_hopper": "military uniform",
    "hot_dog": "hotdog",
    "owl": "kite",  # wrong, and what the reference says
    "parrot": "macaw",
    "pets": "Italian greyhound",
    "sunflower": "daisy",
}
DETECTED = {
    **{"bird": "bird", "cat": "cat", "face": "person", "grace_hopper": "person", "hot_dog": "hot dog"},
    **{"kite_and_cold": "kite", "owl": "bird", "parrot": "bird", "pets": "dog"},
}
PEOPLE = {
    **{"face": "person", "cat": "no person", "sunflower": "no person", "hot_dog": "no person"},
    **{"dragonfly": "no person", "owl": "no person", "pets": "no person"},
}


class Model(NamedTuple):
    """One file under data/models, and what is expected of it."""

    file: str
    labels: str  # a file under data/models/labels, or the labels themselves
    check: str  # classified | detected | people | faces | none
    note: str = ""
    options: tuple[str, ...] = ()  # of `lineside bundle new`, beside MODEL and --labels


IMAGENET, COCO = "imagenet_labels_1001.txt", "coco_labels_80.txt"
MODELS = (
    Model("classify/mobilenet_v1_0.25_128_quant.tflite", IMAGENET, "classified"),
    Model("classify/mobilenet_v2_1.0_224_quant.tflite", IMAGENET, "classified"),
    Model("classify/mobilenet_v2_224_fp32.onnx", IMAGENET, "classified"),
    Model("classify/mobilenet_v2_224_int8_qdq.onnx", IMAGENET, "classified"),
    Model("classify/vww_96_int8.tflite", "no person\nperson\n", "people"),
    Model(
        "classify/mobilevit_xxs_128_int8_untrained.tflite",
        "".join(f"class {number}\n" for number in range(10)),
        "none",
        "untrained: for speed only",
    ),
    Model("detect/yolox_nano_416.onnx", COCO, "detected"),
    Model("detect/yolox_nano_416_dynamic_range.tflite", COCO, "detected"),
    Model("detect/nanodet_m_320.onnx", COCO, "detected"),
    Model("detect/fastestdet_352.onnx", COCO, "detected"),
    Model("detect/yolov8n_640_full_int8.tflite", COCO, "detected"),
    Model("detect/yolov5n_224_int8.tflite", COCO, "detected"),
    Model("face/yunet_n_dynamic.onnx", "face\n", "faces"),
    Model("face/yunet_n_320_320.onnx", "face\n", "faces"),
    Model("face/yunet_s_320_320.onnx", "face\n", "faces"),
    Model("face/ultraface_rfb_320.onnx", "face\n", "faces"),
    Model("face/face_detection_short_range.tflite", "face\n", "faces"),
    Model("face/face_detection_full_range_sparse.tflite", "face\n", "faces"),
)
NOT_RUN = (
    ("face/ultraface_rfb_320_nopost.tflite", "its boxes are not decoded in the model, and no decoder does it"),
    ("edgetpu/mobilenet_v1_0.25_128_quant_edgetpu.tflite", "packs and decodes; runs on an Edge TPU only"),
    ("edgetpu/face-detector-quantized_edgetpu.tflite", "packs and decodes; runs on an Edge TPU only"),
    ("edgetpu/yolov8n_640_full_int8_edgetpu.tflite", "packs and decodes; runs on an Edge TPU only"),
)


def make_bundle(model: Model, data: Path, folder: Path) -> Path:
    """A bundle as `lineside bundle new` makes it, with nothing said but the labels. Raises ConfigError."""
    from lineside.commands import bundle

    labels = data / "models" / "labels" / model.labels
    if not model.labels.endswith(".txt"):
        labels = folder / f"{Path(model.file).stem}.txt"
        labels.write_text(model.labels)
    target = folder / Path(model.file).stem
    parser = argparse.ArgumentParser()
    bundle.add_arguments(parser)
    words = ["new", str(data / "models" / model.file), "--labels", str(labels), *model.options, "-o", str(target)]
    with contextlib.redirect_stdout(io.StringIO()):
        bundle.run(parser.parse_args(words))
    return target


def named(eye: Eye, expected: dict[str, str], data: Path) -> list[str]:
    """The sample photos whose best finding is the expected one."""
    right = []
    for photo, label in expected.items():
        found = findings(eye.see(read_image(data / "samples" / f"{photo}.jpg"))[0], eye.bundle.labels)
        if found and found[0].label.startswith(label):
            right.append(photo)
    return right


def face_ap(eye: Eye, data: Path, name: str) -> float:
    """AP at IoU 0.5 over the whole list, faces of LEAST_SIDE_PX and more (see lists.faces and score.match)."""
    matched, totals = [], []
    for shown in lists.faces(data, name, LEAST_SIDE_PX):
        seen = eye.look(shown.image)
        assert isinstance(seen, Detections)
        found = np.concatenate([seen.scores[:, None], seen.boxes], axis=1)
        matched.append(match(found, shown.boxes, 0.5, shown.skipped, LEAST_SIDE_PX))
        totals.append(int((~shown.skipped).sum()))
    return gather(matched, totals).precision()


def result(eye: Eye, check: str, data: Path) -> str:
    """What this bundle answers, in the table's words."""
    match check:
        case "classified":
            right = named(eye, CLASSIFIED, data)
            return f"{len(right)} of {len(CLASSIFIED)} photos as the reference"
        case "detected":
            return f"{len(named(eye, DETECTED, data))} of {len(DETECTED)} main objects"
        case "people":
            return f"{len(named(eye, PEOPLE, data))} of {len(PEOPLE)} person or not"
        case "faces":
            return "AP50 " + " / ".join(f"{face_ap(eye, data, name):.3f}" for name in FACE_LISTS)
    return "runs"


def times_ms(eye: Eye, image: Image, rounds: int = 12, runs: int = 10) -> tuple[float, float, float]:
    """Before, model and after on one picture: medians, each of the calmest round, where others use the machine, too."""
    before, model, after = zip(*(round_ms(eye, image, runs) for _ in range(rounds)), strict=True)
    return min(before), min(model), min(after)


def round_ms(eye: Eye, image: Image, runs: int = 10) -> tuple[float, float, float]:
    """Medians of one round."""
    steps: list[list[float]] = [[], [], []]
    for _ in range(runs + 3):
        at = [time.perf_counter()]
        canvas, placement, _ = eye.model.prepare.put(image)
        at.append(time.perf_counter())
        outputs = eye.runtime.infer(canvas)
        at.append(time.perf_counter())
        seen = eye.model.decoder.decode(outputs, placement)
        assert isinstance(seen, Detections | Classification | AnomalyMap)
        at.append(time.perf_counter())
        for step, begin, end in zip(steps, at, at[1:], strict=False):
            step.append((end - begin) * 1e3)
    before, model, after = (float(np.median(step[3:])) for step in steps)
    return before, model, after


def rows(data: Path, folder: Path) -> Iterator[str]:
    """The lines of the table."""
    yield "| model | decode | backend | result | model ms | before + after ms |"
    yield "| --- | --- | --- | --- | ---: | ---: |"
    for model in MODELS:
        bundle = open_bundle(make_bundle(model, data, folder))
        formats = {artefact.format for artefact in bundle.artefacts}
        for backend in BACKENDS:
            if backend != "openvino" and formats != {"litert": {"tflite"}, "onnxruntime": {"onnx"}}[backend]:
                continue
            head = f"| {model.file} | {bundle.decode} | {backend} |"
            try:
                eye = Eye(bundle, backend, FACE_MIN_SCORE if model.check == "faces" else None, threads=1)
                told = result(eye, model.check, data)
            except LinesideError as error:
                yield f"{head} {str(error).partition(': ')[2].replace('|', '/')[:90]} | | |"
                continue
            timed = Eye(bundle, backend, None, threads=1)
            before, alone, after = times_ms(timed, read_image(data / "samples" / "face.jpg"))
            note = f"; {model.note}" if model.note else ""
            yield f"{head} {told}{note} | {alone:.2f} | {before + after:.2f} |"
    for file, why in NOT_RUN:
        yield f"| {file} | | | {why} | | |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LINESIDE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with models, samples and faces_*")
    data = parser.parse_args(arguments).data
    cv2.setNumThreads(1)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(data, Path(folder)):
            print(line, flush=True)
            lines.append(line)
    write_between(ROOT / "docs" / "models.md", BEGIN, END, lines)
    return 0


def write_between(page: Path, begin: str, end: str, lines: Sequence[str]) -> None:
    """Put these lines between the two marks of a page. Raises ConfigError where it has no such marks."""
    try:
        text = page.read_text()
    except OSError as error:
        raise ConfigError(f"{page}: cannot be read: {error.strerror}") from error
    head, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise ConfigError(f"{page}: has no lines {begin} and {end}, between which the table goes")
    page.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    sys.exit(main())
