"""Runs inside the venv `torch`: exports random-weight torchvision detectors by torch.onnx; answers by torchvision.

    python torchvision_models.py OUT PICTURE... [--only VARIANT...]

Where torchvision's compiled operators do not load, torchvision_cpu.py stands in for two of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchvision_cpu  # before torchvision

# isort: split
import peer
import torch
import torchvision
from peer import Json
from PIL import Image
from torchvision.models import detection
from torchvision.transforms.v2 import functional

SIZE = 320
SEED = 3
CLASSES = 7  # the first is background
CANDIDATES = 3
LABELS = ["background", *peer.names(CLASSES - 1)]
MIN_SCORE = 0.25

torchvision_cpu.stand_in()


def read(path: Path) -> torch.Tensor:
    return functional.to_dtype(functional.pil_to_tensor(Image.open(path).convert("RGB")), torch.float32, scale=True)


def liven(net: Any, pictures: list[torch.Tensor]) -> None:
    """Only what comes before suppression is run, again and again: that is slow in Python."""
    net.eval()
    peer.soften(net)
    shown = net.transform(pictures)[0].tensors
    if hasattr(net, "head"):
        peer.settle_norms(net, lambda: net.head(list(net.backbone(shown).values())))
        with torch.no_grad():
            features = list(net.backbone(shown).values())
        for level, layer in enumerate(net.head.classification_head.module_list):
            few = CANDIDATES if level < 3 else 1
            peer.liven_scores(layer[-1], lambda: net.head(features), CLASSES, few, -0.6, background=True)
        return
    peer.settle_norms(net, lambda: net(pictures))
    predictor = net.roi_heads.box_predictor
    seen = []
    with torch.no_grad():
        handle = predictor.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
        for each in pictures:
            net([each])
        handle.remove()
    peer.liven_scores(
        predictor.cls_score, lambda: [predictor(each) for each in seen], CLASSES, 10, -0.6, background=True
    )


def found(net: Any, path: Path) -> list[Json]:
    """What torchvision detects in one picture; boxes in its pixels."""
    with torch.no_grad():
        (seen,) = net([read(path)])
    return [
        peer.finding(class_id, LABELS[int(class_id)], score, box)
        for box, score, class_id in zip(seen["boxes"], seen["scores"], seen["labels"], strict=True)
        if score >= MIN_SCORE
    ]


def main(book: peer.Book, pictures: list[Path]) -> None:
    torch.set_num_threads(1)

    def make(home: Path, build: Any, exact: bool) -> Json:
        torch.manual_seed(SEED)
        net = build(weights=None, weights_backbone=None, num_classes=CLASSES)
        small = peer.sized(pictures, home, SIZE, SIZE)
        liven(net, [read(path) for path in small])
        model = home / "model.onnx"
        torch.onnx.export(
            net, (torch.rand(1, 3, SIZE, SIZE),), str(model), dynamo=False, opset_version=17, input_names=["images"],
            output_names=["boxes", "scores", "labels"] if exact else ["boxes", "labels", "scores"],
        )  # fmt: skip
        return {
            "tool": f"torchvision {torchvision.__version__.partition('+')[0]}, torch.onnx",
            "model": model,
            "labels": LABELS,
            "pipeline": "torchvision's model in PyTorch, which resizes by itself",
            "min_score": MIN_SCORE,
            # Faster R-CNN keeps the picture's shape, which a file of one size cannot: only pictures of its size
            **({"photos": peer.answered(pictures, lambda path: found(net, path))} if exact else {}),
            "sized": peer.answered(small, lambda path: found(net, path)),
        }

    book.add("ssdlite-onnx", lambda home: make(home, detection.ssdlite320_mobilenet_v3_large, True))
    book.add("fasterrcnn-onnx", lambda home: make(home, detection.fasterrcnn_mobilenet_v3_large_320_fpn, False))


if __name__ == "__main__":
    main(*peer.arguments())
