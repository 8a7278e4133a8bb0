"""Runs inside the venv `torch`: exports random-weight timm classifiers by timm's own exporter, and classifies.

    python timm_models.py OUT PICTURE... [--only VARIANT...]

The answers are the exported file's in ONNX Runtime, behind timm's own transform (resize, crop, normalisation).
"""

from __future__ import annotations

from pathlib import Path

import torchvision_cpu  # noqa: F401  # before torchvision

# isort: split
import onnxruntime
import peer
import timm
import torch
from peer import Json
from PIL import Image
from timm.utils.onnx import onnx_export

SEED = 4
CLASSES = 12
# variant -> timm's name of the model
VARIANTS = {
    "mobilenetv2-onnx": "mobilenetv2_050",
    "mobilenetv3-onnx": "mobilenetv3_small_050",
    "mobilevit-onnx": "mobilevit_xxs",
}


def main(book: peer.Book, pictures: list[Path]) -> None:
    torch.set_num_threads(1)
    for variant, name in VARIANTS.items():

        def make(home: Path, name: str = name) -> Json:
            torch.manual_seed(SEED)
            net = timm.create_model(name, pretrained=False, num_classes=CLASSES, exportable=True).eval()
            peer.soften(net)
            config = timm.data.resolve_model_data_config(net)
            transform = timm.data.create_transform(**config)

            def batch(path: Path) -> torch.Tensor:
                shown: torch.Tensor = transform(Image.open(path).convert("RGB"))
                return shown[None]

            shown = torch.cat([batch(path) for path in pictures])
            peer.settle_norms(net, lambda: net(shown))
            peer.liven_classifier(net.get_classifier(), lambda: net(shown))
            model = home / f"{name}.onnx"
            around = int(config["input_size"][-1] / config["crop_pct"])  # what timm resizes the shorter side to
            onnx_export(net, str(model), example_input=shown[:1], input_size=config["input_size"], check=False)
            session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
            wanted = session.get_inputs()[0].name

            def look(path: Path) -> list[float]:
                (logits,) = session.run(None, {wanted: batch(path).numpy()})
                return [float(score) for score in torch.softmax(torch.from_numpy(logits[0]), dim=0)]

            mean, std = (",".join(f"{255 * value:g}" for value in config[key]) for key in ("mean", "std"))
            return {
                "tool": f"timm {timm.__version__}",
                "model": model,
                "labels": peer.names(CLASSES),
                "options": ["--mean", mean, "--std", std, "--crop-fraction", f"{config['crop_pct']:g}"],
                "filter": "antialias",  # bicubic, which is the nearest to it
                "pipeline": f"timm's transform ({config['interpolation']}, crop {config['crop_pct']:g})",
                "photos": peer.answered(pictures, look),
                "sized": peer.answered(peer.sized(pictures, home, around, around), look),
            }

        book.add(variant, make)


if __name__ == "__main__":
    main(*peer.arguments())
