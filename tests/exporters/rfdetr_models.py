"""Runs inside the venv `rfdetr`: exports a random-weight RF-DETR by its own `export`; answers by its `predict`.

python rfdetr_models.py OUT PICTURE... [--only VARIANT...]
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before torchvision

# isort: split
import peer
import torch
from peer import Json
from PIL import Image
from rfdetr import RFDETRNano

SEED = 12
CLASSES = 8
CANDIDATES = 6
MIN_SCORE = 0.25
SIZE = 192  # a multiple of patch and windows: quarter of the pixels of the published one


def nano(pictures: list[Path], home: Path) -> Json:
    torch.manual_seed(SEED)
    model = RFDETRNano(
        pretrain_weights=None, num_classes=CLASSES, device="cpu", resolution=SIZE, positional_encoding_size=SIZE // 16
    )
    net = model.model.model

    def run() -> None:
        for path in pictures:
            model.predict(Image.open(path).convert("RGB"), threshold=MIN_SCORE)

    transformer = net.transformer
    for each in getattr(transformer, "enc_out_class_embed", [])[:1]:  # the first group is the one used after training
        peer.liven_scores(each, run, CLASSES + 1, CANDIDATES)
    peer.liven_scores(net.class_embed, run, CLASSES + 1, CANDIDATES)
    made = Path(model.export(str(home)))
    labels = peer.names(CLASSES)

    def look(path: Path) -> list[Json]:
        seen = model.predict(Image.open(path).convert("RGB"), threshold=MIN_SCORE)
        return [
            peer.finding(class_id, labels[int(class_id)], score, box)
            for box, score, class_id in zip(seen.xyxy, seen.confidence, seen.class_id, strict=True)
        ]

    return {
        "tool": f"rfdetr {version('rfdetr')}",
        "model": made if made.suffix == ".onnx" else next(home.glob("*.onnx")),
        "labels": labels,
        "options": ["--max-findings", "300"],
        "min_score": MIN_SCORE,
        "pipeline": "RF-DETR's predict in PyTorch",
        "photos": peer.answered(pictures, look),
        "sized": peer.answered(peer.sized(pictures, home, SIZE, SIZE), look),
    }


def main(book: peer.Book, pictures: list[Path]) -> None:
    torch.set_num_threads(1)
    book.add("nano-onnx", lambda home: nano(pictures, home))


if __name__ == "__main__":
    main(*peer.arguments())
