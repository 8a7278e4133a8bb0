"""Runs inside the venv `huggingface`: exports random-weight transformers models by Optimum, and runs them.

    python huggingface_models.py OUT PICTURE... [--only VARIANT...]

The answers are the exported file's in ONNX Runtime, between the image processor that lies beside it and, for
detectors, that processor's own post-processing.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before torchvision

# isort: split
import onnxruntime
import peer
import torch
from optimum.exporters.onnx import main_export
from peer import Json
from PIL import Image
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    MobileViTConfig,
    MobileViTForImageClassification,
    MobileViTImageProcessor,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
)

SIZE = 320
SEED = 8
CLASSES = 12
CANDIDATES = 6
MIN_SCORE = 0.25
TOOL = f"optimum-onnx {version('optimum-onnx')}, transformers {version('transformers')}"


def labels(count: int) -> Json:
    return {
        "id2label": dict(enumerate(peer.names(count))),
        "label2id": {name: n for n, name in enumerate(peer.names(count))},
    }


def exported(net: Any, processor: Any, home: Path, task: str) -> Any:
    net.save_pretrained(home / "model")
    processor.save_pretrained(home / "model")
    main_export(str(home / "model"), output=home / "onnx", task=task, do_validation=False, opset=17)
    return onnxruntime.InferenceSession(str(home / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])


def mobilevit(book: peer.Book, pictures: list[Path], home: Path) -> Json:
    torch.manual_seed(SEED)
    # the sizes of apple/mobilevit-xx-small
    config = MobileViTConfig(
        hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0, image_size=256,
        **labels(CLASSES),
    )  # fmt: skip
    net = MobileViTForImageClassification(config).eval()
    peer.soften(net)
    processor = MobileViTImageProcessor(size={"shortest_edge": 288})  # 256 cut out of it, BGR, 0 to 1, as published

    def batch(path: Path) -> torch.Tensor:
        shown: torch.Tensor = processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        return shown

    shown = torch.cat([batch(path) for path in pictures])
    peer.settle_norms(net, lambda: net(shown))
    peer.liven_classifier(net.classifier, lambda: net(shown))
    session = exported(net, processor, home, "image-classification")

    def look(path: Path) -> list[float]:
        (logits,) = session.run(None, {"pixel_values": batch(path).numpy()})
        return [float(score) for score in torch.softmax(torch.from_numpy(logits[0]), dim=0)]

    edge = processor.size["shortest_edge"]
    return {
        "tool": TOOL,
        "model": home / "onnx" / "model.onnx",
        "labels": peer.names(CLASSES),
        "pipeline": f"MobileViTImageProcessor (shorter side {edge}, crop {processor.crop_size['height']})",
        "photos": peer.answered(pictures, look),
        "sized": peer.answered(peer.sized(pictures, home, edge, edge), look),
    }


def detector(book: peer.Book, pictures: list[Path], home: Path, build: Any, config: Any) -> Json:
    torch.manual_seed(SEED)
    net = build(config).eval()
    peer.soften(net)
    processor = RTDetrImageProcessor(size={"height": SIZE, "width": SIZE})

    def batch(path: Path) -> torch.Tensor:
        shown: torch.Tensor = processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        return shown

    shown = torch.cat([batch(path) for path in pictures])

    def run() -> None:
        net(shown)

    peer.settle_norms(net, run)
    peer.liven_scores(net.model.enc_score_head, run, config.num_labels, CANDIDATES)
    with torch.no_grad():
        for each in (*net.model.decoder.bbox_embed, net.model.enc_bbox_head):
            each.layers[-1].weight.normal_(0.0, 0.05)
    peer.liven_scores(net.model.decoder.class_embed[-1], run, config.num_labels, CANDIDATES)
    session = exported(net, processor, home, "object-detection")
    names = [each.name for each in session.get_outputs()]

    def look(path: Path) -> list[Json]:
        answer = dict(zip(names, session.run(None, {session.get_inputs()[0].name: batch(path).numpy()}), strict=True))
        outputs = type("Outputs", (), {name: torch.from_numpy(answer[name]) for name in ("logits", "pred_boxes")})()
        picture = Image.open(path)
        (seen,) = processor.post_process_object_detection(
            outputs, threshold=MIN_SCORE, target_sizes=[(picture.height, picture.width)]
        )
        return [
            peer.finding(class_id, config.id2label[int(class_id)], score, box)
            for box, score, class_id in zip(seen["boxes"], seen["scores"], seen["labels"], strict=True)
        ]

    return {
        "tool": TOOL,
        "model": home / "onnx" / "model.onnx",
        "labels": peer.names(config.num_labels),
        "options": ["--size", f"{SIZE}x{SIZE}", "--max-findings", "300"],
        "min_score": MIN_SCORE,
        "pipeline": "RTDetrImageProcessor before and after",
        "photos": peer.answered(pictures, look),
        "sized": peer.answered(peer.sized(pictures, home, SIZE, SIZE), look),
    }


def main(book: peer.Book, pictures: list[Path]) -> None:
    torch.set_num_threads(1)
    book.add("mobilevit-onnx", lambda home: mobilevit(book, pictures, home))
    small = {"decoder_layers": 2, "num_queries": 100, "anchor_image_size": None, **labels(8)}
    rtdetr = RTDetrConfig(**small)
    rtdetr.backbone_config.depths, rtdetr.backbone_config.layer_type = [2, 2, 2, 2], "basic"
    rtdetr.backbone_config.hidden_sizes = [64, 128, 256, 512]
    rtdetr.encoder_in_channels = [128, 256, 512]
    book.add("rtdetr-onnx", lambda home: detector(book, pictures, home, RTDetrForObjectDetection, rtdetr))
    dfine = DFineConfig(**small)
    book.add("dfine-onnx", lambda home: detector(book, pictures, home, DFineForObjectDetection, dfine))


if __name__ == "__main__":
    main(*peer.arguments())
