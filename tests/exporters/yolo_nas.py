"""Runs inside the venv `super-gradients`: exports a random-weight YOLO-NAS by its own `export` and predicts.

python yolo_nas.py OUT PICTURE... [--only VARIANT...]
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchvision_cpu  # before torchvision

# isort: split
import functools

import peer
import torch
from peer import Json
from super_gradients.training import models
from super_gradients.training.processing.processing import (
    ComposeProcessing,
    DetectionCenterPadding,
    DetectionLongestMaxSizeRescale,
    ImagePermute,
    StandardizeImage,
)

SIZE = 320
SEED = 13
CLASSES = 8
CANDIDATES = 4
MIN_SCORE, MAX_IOU = 0.25, 0.7


torchvision_cpu.stand_in()


def main(book: peer.Book, pictures: list[Path]) -> None:
    torch.set_num_threads(1)

    @functools.cache
    def livened() -> Any:
        torch.manual_seed(SEED)
        net = models.get("yolo_nas_s", num_classes=CLASSES, pretrained_weights=None).eval()
        steps = [DetectionLongestMaxSizeRescale((SIZE, SIZE)), DetectionCenterPadding((SIZE, SIZE), 114)]
        net.set_dataset_processing_params(
            class_names=peer.names(CLASSES),
            image_processor=ComposeProcessing([*steps, StandardizeImage(255.0), ImagePermute()]),
            iou=MAX_IOU,
            conf=MIN_SCORE,
        )

        def run() -> None:
            for path in pictures:
                net.predict(str(path), fuse_model=False)

        peer.settle_norms(net, run)
        for head in (net.heads.head1, net.heads.head2, net.heads.head3):
            peer.liven_scores(head.cls_pred, run, CLASSES, CANDIDATES)
            seen = torch.cat(peer.outputs_of(head.reg_pred, run))
            peer.stretch(head.reg_pred, 2.0 / float(seen.std()), float(seen.mean()), 1.0)
        return net

    def look(path: Path) -> list[Json]:
        seen = livened().predict(str(path), fuse_model=False).prediction
        rows = zip(seen.bboxes_xyxy, seen.confidence, seen.labels, strict=True)
        return [peer.finding(class_id, f"thing {int(class_id)}", score, box) for box, score, class_id in rows]

    def make(home: Path, whole: bool) -> Json:
        model = home / "yolo_nas_s.onnx"
        livened().export(
            str(model), preprocessing=whole, postprocessing=whole, input_image_shape=(SIZE, SIZE), onnx_simplify=False,
            confidence_threshold=MIN_SCORE, nms_threshold=MAX_IOU,
        )  # fmt: skip
        return {
            "tool": f"super-gradients {version('super-gradients')}",
            "model": model,
            "labels": peer.names(CLASSES),
            "options": [] if whole else ["--nms-iou", str(MAX_IOU), "--max-findings", "300"],
            "min_score": MIN_SCORE,
            "pipeline": "YOLO-NAS' predict in PyTorch",
            "photos": peer.answered(pictures, look),
            "sized": peer.answered(peer.sized(pictures, home, SIZE, SIZE), look),
        }

    book.add("yolo-nas-onnx", functools.partial(make, whole=False))
    book.add("yolo-nas-nms-onnx", functools.partial(make, whole=True))


if __name__ == "__main__":
    main(*peer.arguments())
