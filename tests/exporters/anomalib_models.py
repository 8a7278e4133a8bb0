"""Runs inside the venv `anomalib`: trains on real photos with random backbones, exports, and predicts, all by Anomalib.

    python anomalib_models.py OUT NORMAL ANOMALOUS PICTURE...

NORMAL and ANOMALOUS are folders of photos. The pictures are written again at the size of the models, so that no resize
stands between the two sides. Writes OUT/<variant>/ with the exported file, the maps as .npy, and OUT/expected.json:
what Anomalib's own inferencer says.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before anything that imports torchvision

# isort: split
import numpy as np
import torch
from anomalib.data import Folder
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim
from PIL import Image

SIZE = 128
SEED = 7


def main(out: Path, normal: Path, anomalous: Path, pictures: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # the inferencer keeps a cache where it stands
    torch.set_num_threads(2)
    shown = []
    for path in pictures:
        shown.append(out / f"{path.stem}.png")
        Image.open(path).convert("RGB").resize((SIZE, SIZE)).save(shown[-1])
    torch.manual_seed(SEED)
    folders = {"normal_dir": normal, "abnormal_dir": anomalous, "val_split_mode": "same_as_test"}
    photos = Folder("photos", **folders, train_batch_size=4, eval_batch_size=4, num_workers=0, seed=SEED)
    model = Padim(backbone="resnet18", pre_trained=False, pre_processor=Padim.configure_pre_processor((SIZE, SIZE)))
    engine = Engine(default_root_dir=out / "runs", accelerator="cpu", logger=False, enable_progress_bar=False)
    engine.fit(model=model, datamodule=photos)
    files = {
        "padim-onnx": model.to_onnx(out / "onnx", input_size=(SIZE, SIZE), external_data=False),
        "padim-openvino": model.to_openvino(out / "openvino", input_size=(SIZE, SIZE)),
    }
    expected: dict[str, Any] = {}
    for variant, file in files.items():
        inferencer = OpenVINOInferencer(file, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
        answers = {}
        for path in shown:
            answer = inferencer.predict(path)
            heat = file.parent / f"{path.stem}.npy"
            np.save(heat, np.squeeze(answer.anomaly_map))
            answers[str(path)] = {
                "score": float(np.squeeze(answer.pred_score)),
                "anomalous": bool(np.squeeze(answer.pred_label)),
                "map": str(heat.relative_to(out)),
            }
        expected[variant] = {"model": str(file.relative_to(out)), "pictures": answers}
    (out / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    out, normal, anomalous, *pictures = (Path(each).resolve() for each in sys.argv[1:])
    main(out, normal, anomalous, pictures)
