"""Runs inside the venv `ultralytics`: exports random-weight models with Ultralytics' own exporter, and predicts.

    python ultralytics_yolo.py OUT PICTURE... [--only VARIANT...]

Writes OUT/<variant>/ with the exported file, and OUT/expected.json: what Ultralytics' own `predict` finds with it.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

os.environ["YOLO_OFFLINE"] = "true"  # it would ask for its newest version
os.environ["YOLO_AUTOINSTALL"] = "false"

import torchvision_cpu  # before torchvision

# isort: split
import cv2
import peer
import torch
import ultralytics
from peer import Json, outputs_of, settle_norms, stretch
from ultralytics import RTDETR, YOLO
from ultralytics.data.augment import LetterBox, classify_transforms

torchvision_cpu.stand_in()

SIZE = 320
CLASSIFY_SIZE = 224
SEED = 11
CANDIDATES = 4  # in every picture on each of the three grids, at least
SORTS = 12  # classes of the classifiers
Options = dict[str, Any]
ONNX, OPENVINO = {"format": "onnx", "simplify": False}, {"format": "openvino"}
ONE = {"conf": 0.25, "iou": 0.7, "max_det": 300}  # what `predict` does by itself
LESS = {"conf": 0.25, "iou": 0.45, "max_det": 100}  # what lineside does where the file says nothing
INSIDE = {"nms": True, **ONE}  # suppression inside of the file: `export` is told what `predict` would be
# variant -> model, what `export` is told, what `predict` is told
VARIANTS: dict[str, tuple[str, Options, Options]] = {
    "yolo11-onnx": ("yolo11n.yaml", {"format": "onnx"}, LESS),  # simplified, as by default; the others need not be
    "yolo11-nms-onnx": ("yolo11n.yaml", ONNX | INSIDE, ONE),
    "yolo11-openvino": ("yolo11n.yaml", OPENVINO, LESS),
    "yolov8-onnx": ("yolov8n.yaml", ONNX, LESS),
    "yolo26-onnx": ("yolo26n.yaml", ONNX | {"nms": False}, {"conf": 0.25, "max_det": 300}),
    "yolo26-raw-onnx": ("yolo26n.yaml", ONNX, {"conf": 0.25, "iou": 0.7, "max_det": 30}),
    "yolov10-onnx": ("yolov10n.yaml", ONNX, ONE),
    "yolov5u-onnx": ("yolov5n.yaml", ONNX, ONE),
    "yolo11-nms-openvino": ("yolo11n.yaml", OPENVINO | INSIDE, ONE),
    "yolov9-onnx": ("yolov9t.yaml", ONNX, ONE),
    "yolo12-onnx": ("yolo12n.yaml", ONNX, ONE),
    "yolov8-nms-onnx": ("yolov8n.yaml", ONNX | INSIDE, ONE),
    "yolo11-dynamic-onnx": ("yolo11n.yaml", ONNX | {"dynamic": True}, ONE),
    "yolo11-cls-onnx": ("yolo11n-cls.yaml", ONNX, {}),
    "yolo11-seg-onnx": ("yolo11n-seg.yaml", ONNX, ONE),
    "yolo11-obb-onnx": ("yolo11n-obb.yaml", ONNX, ONE),
    "yolo11-seg-nms-onnx": ("yolo11n-seg.yaml", ONNX | INSIDE, ONE),
    "yolo11-obb-nms-onnx": ("yolo11n-obb.yaml", ONNX | INSIDE, ONE),
    "yolo11-pose-onnx": ("yolo11n-pose.yaml", ONNX, ONE),
    "rtdetr-onnx": ("rtdetr-l.yaml", ONNX, {"conf": 0.25, "max_det": 300}),
    "yolo26-seg-onnx": ("yolo26n-seg.yaml", ONNX | {"nms": False}, {"conf": 0.25, "max_det": 300}),
    "yolo26-obb-onnx": ("yolo26n-obb.yaml", ONNX | {"nms": False}, {"conf": 0.25, "max_det": 300}),
    "yolo26-pose-onnx": ("yolo26n-pose.yaml", ONNX | {"nms": False}, {"conf": 0.25, "max_det": 300}),
    "yolo11-pose-nms-onnx": ("yolo11n-pose.yaml", ONNX | INSIDE, ONE),
    "yolo11-cls-openvino": ("yolo11n-cls.yaml", OPENVINO, {}),
}


def liven(model: Any, pictures: torch.Tensor) -> None:
    """Give random weights what training would: activations that depend on the picture, and a few sure boxes.

    The last layers are scaled so that in every picture scores lie on both sides of 0.25, none is 1, and sides of boxes
    differ.
    """
    net, head = model.model, model.model.model[-1]
    if hasattr(head, "linear") or hasattr(head, "dec_score_head"):
        peer.soften(net)
    settle_norms(net, lambda: net(pictures))
    if hasattr(head, "linear"):
        peer.liven_classifier(head.linear, lambda: net(pictures))
        return
    if hasattr(head, "dec_score_head"):
        liven_rtdetr(net, head, pictures)
        return
    pairs = [(head.cv2, head.cv3)]
    if getattr(head, "one2one_cv2", None) is not None:
        pairs.append((head.one2one_cv2, head.one2one_cv3))
    # a distance itself, or the bins of its softmax; all positive, since no trained box ends before it begins
    center, spread = (4.0, 0.15) if head.reg_max == 1 else (1.0, 2.0)
    for boxes, classes in pairs:
        for box, scores in zip(boxes, classes, strict=True):
            seen = answers(net, pictures, box[-1])
            stretch(box[-1], spread / float(seen.std()), float(seen.mean()), center)
            seen = answers(net, pictures, scores[-1])
            seen = seen - seen.mean(dim=(0, 2, 3), keepdim=True)
            stretch(scores[-1], 1.0, answers(net, pictures, scores[-1]).mean(dim=(0, 2, 3)), 0.0)
            best = seen.amax(dim=1).flatten(1)  # of each place
            low = float(best.topk(CANDIDATES, dim=1).values[:, -1].min())
            stretch(scores[-1], 4.5 / (float(best.max()) - low), low, -1.0)  # -1.0: a score of 0.27


def liven_rtdetr(net: Any, head: Any, pictures: torch.Tensor) -> None:
    def run() -> None:
        net(pictures)

    peer.liven_scores(head.enc_score_head, run, head.nc, CANDIDATES)
    with torch.no_grad():
        for number in range(len(head.dec_bbox_head)):
            last = head.dec_bbox_head[number].layers[-1]
            last.weight.normal_(0.0, 0.05)
    peer.liven_scores(head.dec_score_head[-1], run, head.nc, CANDIDATES)


def answers(net: Any, pictures: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
    """What a layer gives for these pictures, (pictures, channels, rows, columns)."""
    seen: torch.Tensor = outputs_of(layer, lambda: net(pictures))[0]
    return seen


def batch(paths: list[Path], name: str) -> torch.Tensor:
    """The pictures as `predict` will show them to the model, (pictures, 3, SIZE, SIZE)."""
    if "-cls" in name:
        from PIL import Image

        shrink = classify_transforms(CLASSIFY_SIZE)
        return torch.stack([shrink(Image.open(path).convert("RGB")) for path in paths])
    box = LetterBox((SIZE, SIZE), auto=False, scale_fill="rtdetr" in name)
    shown = [box(image=cv2.imread(str(path)))[..., ::-1] for path in paths]
    return torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1) / 255.0 for each in shown])


def predicted(model: Any, size: int, settings: Options, path: Path) -> Any:
    """What Ultralytics finds in one picture, best score first; of a classifier the scores of all classes."""
    (result,) = model.predict(str(path), imgsz=size, verbose=False, save=False, device="cpu", **settings)
    if result.probs is not None:
        return [float(score) for score in result.probs.data]
    found = result.obb if result.obb is not None else result.boxes
    return [
        peer.finding(class_id, result.names[int(class_id)], score, box)
        for box, score, class_id in zip(found.xyxy, found.conf, found.cls, strict=True)
    ]


def main(book: peer.Book, pictures: list[Path]) -> None:
    os.chdir(book.out)  # Ultralytics writes beside what it is given, and runs/ where it stands
    torch.set_num_threads(1)

    @functools.cache
    def checkpoint(name: str) -> Path:
        torch.manual_seed(SEED)
        kind = RTDETR if name.startswith("rtdetr") else YOLO
        model = kind(name)
        shown = batch(pictures, name)
        head, count = model.model.model[-1], model.model.yaml["nc"]
        if "-cls" in name:
            head.linear, count = torch.nn.Linear(head.linear.in_features, SORTS), SORTS
        model.model.names = dict(enumerate(peer.names(count)))
        liven(model, shown)
        path = book.out / f"{name}.pt"
        model.save(path)
        return path

    for variant, (name, how, settings) in VARIANTS.items():

        def make(home: Path, name: str = name, how: Options = how, settings: Options = settings) -> Json:
            size = CLASSIFY_SIZE if "-cls" in name else SIZE
            kind = RTDETR if name.startswith("rtdetr") else YOLO
            exported = Path(kind(checkpoint(name)).export(imgsz=size, verbose=False, **how))
            target = home / exported.name
            exported.rename(target)
            model = kind(target) if kind is RTDETR else YOLO(target, task=model_task(name))
            file = next(target.glob("*.xml")) if target.is_dir() else target
            told = []
            if "iou" in settings and not how.get("nms"):
                told += ["--nms-iou", str(settings["iou"])]
            if "max_det" in settings:
                told += ["--max-findings", str(settings["max_det"])]
            look = functools.partial(predicted, model, size, settings)
            return {
                "tool": f"ultralytics {ultralytics.__version__}",
                "model": file,
                "options": told,
                "pipeline": "Ultralytics predict",
                "labels": peer.names(SORTS) if "-cls" in name else peer.names(len(model.names)),
                "min_score": settings.get("conf"),
                "photos": peer.answered(pictures, look),
                "sized": peer.answered(peer.sized(pictures, home, size, size), look),
            }

        book.add(variant, make)


def model_task(name: str) -> str:
    for word, task in {"-cls": "classify", "-seg": "segment", "-pose": "pose", "-obb": "obb"}.items():
        if word in name:
            return task
    return "detect"


if __name__ == "__main__":
    main(*peer.arguments())
