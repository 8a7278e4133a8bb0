"""Runs inside the venv `anomalib`: trains on real photos with random backbones, exports, and predicts, all by Anomalib.

    python anomalib_models.py OUT PICTURE... [--only VARIANT...]

The pictures are photos of good and bad parts; their folder holds normal-1.jpg to normal-6.jpg and anomaly-1.jpg to
anomaly-6.jpg to train with. The answers are those of Anomalib's own inferencer; maps are kept as .npy beside the model.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before anything that imports torchvision

# isort: split
import anomalib
import numpy as np
import peer
import torch
from anomalib.data import Folder
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim

SIZE = 128
SEED = 7


def main(book: peer.Book, pictures: list[Path]) -> None:
    os.chdir(book.out)  # the inferencer keeps a cache where it stands
    torch.set_num_threads(1)

    @functools.cache
    def trained() -> Any:
        for name in ("normal", "anomaly"):
            (book.out / name).mkdir(exist_ok=True)
            for number in range(1, 7):
                link = book.out / name / f"{number}.jpg"
                link.unlink(missing_ok=True)
                link.symlink_to(pictures[0].parent / f"{name}-{number}.jpg")
        torch.manual_seed(SEED)
        folders = {"normal_dir": book.out / "normal", "abnormal_dir": book.out / "anomaly"}
        photos = Folder(
            "photos", **folders, val_split_mode="same_as_test", train_batch_size=4, eval_batch_size=4, num_workers=0,
            seed=SEED,
        )  # fmt: skip
        model = Padim(backbone="resnet18", pre_trained=False, pre_processor=Padim.configure_pre_processor((SIZE, SIZE)))
        engine = Engine(default_root_dir=book.out / "runs", accelerator="cpu", logger=False, enable_progress_bar=False)
        engine.fit(model=model, datamodule=photos)
        return model

    def make(home: Path, how: str) -> peer.Json:
        model = trained()
        if how == "onnx":
            file = model.to_onnx(home, input_size=(SIZE, SIZE), external_data=False)
        else:
            file = model.to_openvino(home, input_size=(SIZE, SIZE))
        inferencer = OpenVINOInferencer(file, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})

        def look(path: Path) -> peer.Json:
            answer = inferencer.predict(path)
            heat = home / f"{path.stem}.npy"
            np.save(heat, np.squeeze(answer.anomaly_map))
            return {
                "score": float(np.squeeze(answer.pred_score)),
                "anomalous": bool(np.squeeze(answer.pred_label)),
                "map": str(heat.relative_to(book.out)),
            }

        return {
            "tool": f"anomalib {anomalib.__version__}",
            "model": file,
            "pipeline": "OpenVINOInferencer in FP32",
            "sized": peer.answered(peer.sized(pictures, home, SIZE, SIZE), look),
        }

    for how in ("onnx", "openvino"):
        book.add(f"padim-{how}", functools.partial(make, how=how))


if __name__ == "__main__":
    main(*peer.arguments())
