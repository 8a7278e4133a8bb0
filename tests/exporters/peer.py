"""What the scripts of this folder share: pictures, the book of answers, and how random weights are made to answer.

Runs inside the projects' venvs, so it imports only numpy and Pillow at its top; torch is imported where it is used.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

Json = dict[str, Any]
Numbers = Any  # a torch tensor or a numpy array


class Book:
    """OUT/expected.json: what the project's own pipeline answers, by variant; written after each one.

    Variants that stand there with the same stamp are not made again.
    """

    def __init__(self, out: Path, stamp: str, wanted: list[str]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self._stamp, self._wanted = out, stamp, wanted
        self._file = out / "expected.json"
        rows = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._rows = {name: row for name, row in rows.items() if row["stamp"] == stamp}

    def add(self, variant: str, make: Callable[[Path], Json]) -> None:
        """`make` exports into the folder that it is given, and returns model (a path), tool, pipeline and pictures.

        A variant that fails is written down with its reason: the others go on.
        """
        if variant in self._rows or (self._wanted and variant not in self._wanted):
            return
        home = self.out / variant
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        try:
            row = make(home)
            row["model"] = str(Path(row["model"]).resolve().relative_to(self.out))
        except Exception as error:  # a row of its own for each variant, whatever fails
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        self._rows[variant] = row | {"stamp": self._stamp}
        self._file.write_text(json.dumps(self._rows, indent=1))
        print(f"{variant}: {row.get('error', 'done')}", file=sys.stderr, flush=True)


def arguments() -> tuple[Book, list[Path]]:
    """OUT PICTURE... [--stamp WORD] [--only VARIANT...]"""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--stamp", default="by hand")
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    return Book(args.out.resolve(), args.stamp, args.only), [path.resolve() for path in args.pictures]


def sized(pictures: list[Path], folder: Path, width: int, height: int) -> list[Path]:
    """The same pictures at the model's own size, as PNG: no resize stands between the two sides."""
    made = []
    for path in pictures:
        made.append(folder / f"{path.stem}-{width}x{height}.png")
        Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(made[-1])
    return made


def answered(pictures: list[Path], look: Callable[[Path], Any]) -> dict[str, Any]:
    return {str(path): look(path) for path in pictures}


def finding(class_id: int, label: str, score: float, box: Numbers) -> Json:
    """One box in pixels of the picture, x1 y1 x2 y2."""
    return {
        "class_id": int(class_id),
        "label": label,
        "score": float(score),
        "box": [float(side) for side in np.asarray(box).reshape(-1)],
    }


def names(count: int) -> list[str]:
    return [f"thing {number}" for number in range(count)]


# --- random weights that answer (torch) ---------------------------------------------------------------------------


def soften(net: Any) -> None:
    """Make every filter of a network a blur: its answers, like a trained network's, hold when single pixels change.

    A random network is chaotic: rounding a resized picture to whole grey levels may change its class.
    """
    import torch

    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.weight.shape[-1] > 1:
                layer.weight[:] = layer.weight.mean(dim=(2, 3), keepdim=True)


def settle_norms(net: Any, run: Callable[[], Any]) -> None:
    """Statistics of the batch norms from these pictures: activations that depend on the picture, as after training."""
    import torch

    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        run()
    net.eval()


def outputs_of(layer: Any, run: Callable[[], Any]) -> list[Any]:
    """What a layer gives while `run` runs, a tensor a call."""
    import torch

    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.detach()))
    with torch.no_grad():
        run()
    handle.remove()
    return seen


def stretch(layer: Any, factor: float, old: Any, new: float) -> None:
    """Change a linear or convolutional layer so that its output y becomes new + factor * (y - old)."""
    import torch

    with torch.no_grad():
        layer.weight *= factor
        if layer.bias is None:
            layer.bias = torch.nn.Parameter(torch.zeros(layer.weight.shape[0]))
        layer.bias[:] = new + factor * (layer.bias - old)


def liven_classifier(layer: Any, run: Callable[[], Any], spread: float = 2.0) -> None:
    """Logits of a classifier's last layer: around 0 over the pictures, so that each picture has a class of its own."""
    import torch

    seen = torch.cat([each.reshape(-1, each.shape[-1]) for each in outputs_of(layer, run)])
    stretch(layer, 1.0, seen.mean(dim=0), 0.0)
    seen = torch.cat([each.reshape(-1, each.shape[-1]) for each in outputs_of(layer, run)])
    stretch(layer, spread / float(seen.std()), 0.0, 0.0)


def liven_scores(
    layer: Any, run: Callable[[], Any], classes: int, candidates: int, low_at: float = -1.0, background: bool = False
) -> None:
    """A detector's last layer of class logits: in every picture some lie on both sides of a score of 0.25, none is 1.

    The channels of the layer are `classes` for each anchor of a place. Their means go first: random weights favour one
    class everywhere. Then the `candidates`th best place of the poorest picture gets `low_at` (-1: a sigmoid of 0.27),
    the best of all 4.5 more. A background class, the first, gets a logit of 0: a softmax is then much like a sigmoid.
    """
    import torch

    def rows() -> Any:  # (pictures or 1, places, classes)
        seen = []
        for each in outputs_of(layer, run):
            last = each.movedim(1, -1) if each.dim() == 4 else each
            seen.append(last.reshape(last.shape[0] if last.dim() > 2 else 1, -1, classes))
        return seen

    means = torch.cat(
        [
            each.movedim(1, -1).flatten(0, -2) if each.dim() == 4 else each.flatten(0, -2)
            for each in outputs_of(layer, run)
        ]
    ).mean(dim=0)
    stretch(layer, 1.0, means, 0.0)
    best = [each[..., 1:].amax(dim=-1) if background else each.amax(dim=-1) for each in rows()]
    low = min(float(each.topk(min(candidates, each.shape[1]), dim=1).values[:, -1].min()) for each in best)
    high = max(float(each.max()) for each in best)
    stretch(layer, 4.5 / (high - low), low, low_at)
    if background:
        with torch.no_grad():
            layer.weight[::classes] = 0.0
            layer.bias[::classes] = 0.0
