"""Runs inside the venv `ultralytics`: exports random-weight YOLO models with Ultralytics' own exporter, and predicts.

    python ultralytics_yolo.py OUT PICTURE...

Writes OUT/<variant>/ with the exported file, and OUT/expected.json: what Ultralytics' own `predict` finds with it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["YOLO_OFFLINE"] = "true"  # it would ask for its newest version
os.environ["YOLO_AUTOINSTALL"] = "false"

import torchvision_cpu  # before torchvision

# isort: split
import cv2
import torch
import torchvision
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import TorchNMS

if not torchvision_cpu.HAS_OPERATORS:
    torchvision.ops.nms = TorchNMS.nms  # Ultralytics' own suppression, which it uses where torchvision is absent

SIZE = 320
SEED = 11
CANDIDATES = 12  # in every picture on each of the three grids, at least
NAMES = {number: f"thing {number}" for number in range(80)}
Options = dict[str, Any]
# variant -> model, what `export` is told, what `predict` is told
VARIANTS: dict[str, tuple[str, Options, Options]] = {
    "yolo11-onnx": ("yolo11n.yaml", {"format": "onnx"}, {"conf": 0.25, "iou": 0.45, "max_det": 100}),
    "yolo11-openvino": ("yolo11n.yaml", {"format": "openvino"}, {"conf": 0.25, "iou": 0.45, "max_det": 100}),
    "yolo26-onnx": ("yolo26n.yaml", {"format": "onnx", "nms": False}, {"conf": 0.25, "max_det": 300}),
    "yolo26-raw-onnx": ("yolo26n.yaml", {"format": "onnx"}, {"conf": 0.25, "iou": 0.7, "max_det": 30}),
}


def liven(model: Any, pictures: torch.Tensor) -> None:
    """Give random weights what training would: activations that depend on the picture, and a few sure boxes.

    The statistics of the batch norms are taken from the pictures; then the last layers are scaled so that in every
    picture scores lie on both sides of 0.25, none is 1, and sides of boxes differ.
    """
    net, head = model.model, model.model.model[-1]
    for norm in (layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    net.train()
    with torch.no_grad():
        net(pictures)
    net.eval()
    pairs = [(head.cv2, head.cv3)]
    if getattr(head, "one2one_cv2", None) is not None:
        pairs.append((head.one2one_cv2, head.one2one_cv3))
    # a distance itself, or the bins of its softmax; all positive, since no trained box ends before it begins
    center, spread = (4.0, 0.5) if head.reg_max == 1 else (1.0, 2.0)
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


def answers(net: Any, pictures: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
    """What a layer gives for these pictures, (pictures, channels, rows, columns)."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    with torch.no_grad():
        net(pictures)
    handle.remove()
    return seen[0]


def stretch(layer: torch.nn.Conv2d, factor: float, old: Any, new: float) -> None:
    """Change a layer so that its output y becomes new + factor * (y - old)."""
    with torch.no_grad():
        layer.weight *= factor
        layer.bias[:] = new + factor * (layer.bias - old)


def batch(paths: list[Path]) -> torch.Tensor:
    """The pictures as `predict` will show them to the model, (pictures, 3, SIZE, SIZE)."""
    shown = [LetterBox((SIZE, SIZE), auto=False)(image=cv2.imread(str(path)))[..., ::-1] for path in paths]
    return torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1) / 255.0 for each in shown])


def predicted(model: Any, path: Path, settings: Options) -> list[dict[str, Any]]:
    """What Ultralytics finds in one picture, best score first."""
    (result,) = model.predict(str(path), imgsz=SIZE, verbose=False, save=False, device="cpu", **settings)
    return [
        {"class_id": int(class_id), "label": result.names[int(class_id)], "score": float(score), "box": box.tolist()}
        for box, score, class_id in zip(result.boxes.xyxy, result.boxes.conf, result.boxes.cls, strict=True)
    ]


def main(out: Path, pictures: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # Ultralytics writes beside what it is given, and runs/ where it stands
    checkpoints: dict[str, Path] = {}
    expected: dict[str, Any] = {}
    for variant, (name, how, settings) in VARIANTS.items():
        if name not in checkpoints:
            torch.manual_seed(SEED)
            model = YOLO(name)
            model.model.names = NAMES
            liven(model, batch(pictures))
            checkpoints[name] = out / f"{name}.pt"
            model.save(checkpoints[name])
        home = out / variant
        home.mkdir()
        exported = Path(YOLO(checkpoints[name]).export(imgsz=SIZE, verbose=False, **how))
        exported = exported.rename(home / exported.name)
        peer = YOLO(exported, task="detect")
        file = next(exported.glob("*.xml")) if exported.is_dir() else exported
        expected[variant] = {
            "model": str(file.relative_to(out)),
            "labels": list(NAMES.values()),
            "settings": settings,
            "pictures": {str(path): predicted(peer, path, settings) for path in pictures},
        }
    (out / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), [Path(path).resolve() for path in sys.argv[2:]])
