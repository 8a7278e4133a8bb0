"""Makes tile-anomaly, which has seen good magnetic tiles only and says how unlike them a picture is:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/anomaly.py --data ../shared/data --work build/anomaly -o models/tile-anomaly

Nothing is trained: features of MobileNetV2 with ImageNet's weights, and how those of good tiles are distributed. The
backbone is INT8 first, and the distribution is that of what it then says, its rounding included: fitted to the float
features, the distances would take the rounding for a defect. Settings are chosen, and the threshold is set, on tiles
of the train list that a fold held out; pictures of defects take part in the choice, never in a fit. Features are kept
in --work, so it may be stopped and started again.
"""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator,no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from distances import SIDE, Distances, Fitted
from lists import OK, tiles
from nets import load_imagenet, mobilenet_blocks
from numpy.typing import NDArray
from release_anomaly import release
from score import auroc
from torch import Tensor, nn

from lineside.quantize import graph, qdq, ranges
from lineside.records import InputSpec
from lineside.vision.prepare import Prepare

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's pixels, RGB
SPEC = InputSpec(SIDE, SIDE, "rgb", "nchw", MEAN, STD, "stretch")
MAPS = ("near", "far")
BACKBONE = ".*Features_(features|wrapped)/.*"  # what its layers are called in a TFLite file
CALIBRATED = 11  # every so manyth picture of the train list tells the ranges of the activations
FOLDS = 5
FALSE_ALARMS = 0.05  # share of good pictures, of tiles that the fit has not seen
GRID = (0.1, 0.3, 1.0)  # how much of the mean variance is added to each, local and whole


class Features(nn.Module):
    """Pictures (B, 3, H, W), normalised -> the two maps of stride 16: (B, 64, h, w) and (B, 96, h, w)."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        blocks = mobilenet_blocks()[:-2]  # without the widening behind the last map
        load_imagenet(nn.Sequential(*blocks), weights)
        self.near, self.far = nn.Sequential(*blocks[:-3]), nn.Sequential(*blocks[-3:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near = self.near(x)
        return near, self.far(near)


class Anomaly(nn.Module):
    """Pictures (B, 3, H, W), normalised -> pred_score (B, 1), anomaly_map (B, 1, h, w)."""

    def __init__(self, features: Features, distances: Distances) -> None:
        super().__init__()
        self.features, self.distances = features, distances

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.distances(*self.features(x))


@dataclass(frozen=True, slots=True)
class Seen:
    """Features of every picture of the train list."""

    near: Tensor  # (N, 64, h, w)
    far: Tensor  # (N, 96, h, w)
    labels: NDArray[np.str_]
    folds: NDArray[np.intp]

    @property
    def good(self) -> NDArray[np.bool_]:
        return self.labels == OK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of datasets and models")
    parser.add_argument("--work", type=Path, default=Path("build/anomaly"), help="features and what is in between")
    parser.add_argument("-o", "--output", type=Path, default=Path("models/tile-anomaly"))
    parser.add_argument("--version", default="1.0.0")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    pictures = [shown.image for shown in tiles(asked.data, "train")]
    features = Features(asked.data / "models/classify/mobilenet_v2_224_fp32.onnx").eval()
    prepare = Prepare(SPEC)
    feeds = [pixels(prepare.put(picture)[0]) for picture in pictures[::CALIBRATED]]
    files = []
    chosen: dict[str, Any] = {}
    for backbone in make_backbones(features, feeds, asked.work):  # INT8 ONNX first: it chooses
        seen = look(backbone, asked.data, asked.work / f"features_{backbone.name}.npz")
        found = choose(seen, chosen.get("settings"))
        chosen = chosen or found
        chosen.setdefault("aurocs", {})[backbone.name.removeprefix("backbone_")] = found["auroc"]
        distances = fit(seen, np.flatnonzero(seen.good), *found["settings"])
        distances.set_scale(*found["scale"])
        files.append(asked.work / backbone.name.replace("backbone", "tile-anomaly"))
        if backbone.suffix == ".onnx":
            put_together(backbone, distances.eval(), seen, files[-1])
        else:
            to_tflite(Anomaly(features, distances).eval(), feeds, files[-1])
    (asked.work / "chosen.json").write_text(json.dumps(chosen, indent=1))
    release(files, SPEC, chosen, asked.data, asked.work, asked.output, asked.version)


def make_backbones(features: Features, feeds: Sequence[NDArray[np.float32]], work: Path) -> tuple[Path, Path, Path]:
    """The backbone, all of it INT8, as ONNX and TFLite, and as float ONNX; from the last time, where they are there."""
    int8, lite, fp32 = (work / f"backbone_{name}" for name in ("int8.onnx", "int8.tflite", "fp32.onnx"))
    if not lite.exists():
        to_tflite(features, feeds, lite)
    if int8.exists() and fp32.exists():
        return int8, lite, fp32
    torch.onnx.export(
        features,
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(fp32),
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        output_names=list(MAPS),
    )
    network = graph.prepare(fp32, (1, 3, SIDE, SIDE), work)
    seen = ranges.collect(network.path, [functools.partial(_same, feed) for feed in feeds], network.input, lambda: None)
    qdq.quantise(network, seen.limits("percentile"), (), int8)
    return int8, lite, fp32


def _same(feed: NDArray[np.float32]) -> NDArray[np.float32]:
    return feed


def to_tflite(model: nn.Module, feeds: Sequence[NDArray[np.float32]], path: Path) -> None:
    """TFLite: the backbone INT8 with int8 pixels, what follows it float. The ranges are those of `feeds`, so the
    backbone alone computes what it does in the whole model."""
    import litert_torch
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager

    whole = path.with_suffix(".float.tflite")
    last = litert_torch.to_channel_last_io(model, args=[0]).eval()
    litert_torch.convert(last, (torch.zeros(1, SIDE, SIDE, 3),)).export(str(whole))
    recipe = RecipeManager()
    recipe.add_static_config(".*", qtyping.TFLOperationName("INPUT"), activation_num_bits=8, weight_num_bits=8)
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD"):
        operation = qtyping.TFLOperationName(name)
        recipe.add_static_config(BACKBONE, operation, activation_num_bits=8, weight_num_bits=8)
    work = quantizer.Quantizer(str(whole), recipe.get_quantization_recipe())
    shown = [{"args_0": feed.transpose(0, 2, 3, 1)} for feed in feeds]
    work.quantize(work.calibrate({"serving_default": shown}, num_threads=1)).export_model(str(path), overwrite=True)


def put_together(backbone: Path, distances: Distances, seen: Seen, path: Path) -> None:
    """One ONNX file: pictures -> pred_score, anomaly_map."""
    head = path.with_suffix(".head.onnx")
    torch.onnx.export(
        distances,
        (seen.near[:1], seen.far[:1]),
        str(head),
        opset_version=17,
        dynamo=False,
        input_names=list(MAPS),
        output_names=["pred_score", "anomaly_map"],
    )
    both = onnx.load(str(backbone)), onnx.compose.add_prefix(onnx.load(str(head)), "head/", rename_outputs=False)
    both[1].ir_version = both[0].ir_version
    del both[0].opset_import[:]
    both[0].opset_import.extend(both[1].opset_import)
    whole = onnx.compose.merge_models(*both, io_map=[(name, f"head/{name}") for name in MAPS])
    onnx.checker.check_model(whole)
    onnx.save(whole, str(path))


def look(backbone: Path, data: Path, kept: Path) -> Seen:
    """Features of the train list's pictures, prepared as the runtime does; from the last time, where they are kept."""
    if not kept.exists():
        run = runner(backbone)
        near, far, labels, groups = [], [], [], []
        prepare = Prepare(SPEC)
        for shown in tiles(data, "train"):
            maps = run(pixels(prepare.put(shown.image)[0]))
            near.append(maps[0][0].astype(np.float16))
            far.append(maps[1][0].astype(np.float16))
            labels.append(shown.label)
            groups.append(int(shown.group))
        order = np.random.default_rng(1).permutation(max(groups) + 1)
        np.savez(kept, near=near, far=far, labels=labels, folds=order[groups] % FOLDS)
    held = np.load(kept)
    near_maps, far_maps = (torch.from_numpy(held[name]).float() for name in MAPS)
    return Seen(near_maps, far_maps, held["labels"], held["folds"])


def runner(backbone: Path) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Runs a backbone: pixels as `pixels` gives them -> its two maps."""
    if backbone.suffix == ".onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(backbone), options)
        return lambda feed: session.run(list(MAPS), {"image": feed})
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(backbone), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), given = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = taken["quantization"]
    given = sorted(given, key=lambda output: output["shape"][1])  # 64 channels, then 96

    def run(feed: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        levels = np.rint(feed.transpose(0, 2, 3, 1) / scale + zero).clip(-128, 127).astype(np.int8)
        interpreter.set_tensor(taken["index"], levels)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in given]

    return run


def pixels(canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
    """BGR canvas -> (1, 3, H, W) RGB, normalised."""
    rgb = (canvas[..., ::-1].astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])


@torch.no_grad()
def fit(seen: Seen, pictures: NDArray[np.intp], local: float, whole: float) -> Distances:
    """How the features of these pictures, and their mirror images, are distributed."""
    return Distances(Fitted.of(seen.near[pictures], seen.far[pictures], local, whole))


@torch.no_grad()
def choose(seen: Seen, settings: tuple[float, float] | None = None) -> dict[str, Any]:
    """The settings with the best AUROC on held-out tiles, or those that are given; how the two parts come to one scale,
    and what each setting gave."""
    good = seen.good
    spots, wholes = {}, {}
    for added in settings or GRID:
        spots[added], wholes[added] = held_out(seen, added)
    tried = []
    for pair in [settings] if settings else itertools.product(GRID, GRID):
        total = standard(spots[pair[0]], good) + standard(wholes[pair[1]], good)
        tried.append([*pair, *(auroc(score, ~good) for score in (spots[pair[0]], wholes[pair[1]], total))])
        print("spots {:g}, whole {:g}: AUROC {:.4f}, {:.4f}, both {:.4f}".format(*tried[-1]), flush=True)
    best = max(tried, key=lambda row: row[-1])
    parts = spots[best[0]], wholes[best[1]]
    total = standard(parts[0], good) + standard(parts[1], good)
    limit = float(np.quantile(total[good], 1 - FALSE_ALARMS))
    return {
        "settings": (best[0], best[1]),
        "scale": [
            *(float(value) for part in parts for value in (part[good].mean(), part[good].std())),
            limit,
            float(total[good].std()),
        ],
        "tried": tried,
        "auroc": best[-1],
        "by_label": {label: of_label(total, seen, label) for label in sorted(set(seen.labels[~good].tolist()))},
        "detected": float((total[~good] >= limit).mean()),
        "pictures": {"good": int(good.sum()), "defective": int((~good).sum())},
    }


@torch.no_grad()
def held_out(seen: Seen, added: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of every picture, by what was learned of the other folds: the farthest spot's distance, and the whole's."""
    spots, wholes = np.empty(len(seen.labels)), np.empty(len(seen.labels))
    for fold in range(FOLDS):
        distances = fit(seen, np.flatnonzero(seen.good & (seen.folds != fold)), added, added)
        for at in np.array_split(np.flatnonzero(seen.folds == fold), 4):
            map_of, whole = distances.parts(seen.near[at], seen.far[at])
            spots[at], wholes[at] = map_of.flatten(1).amax(1).numpy(), whole.numpy()
    return spots, wholes


def standard(part: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """In standard deviations of held-out good pictures."""
    return (part - part[good].mean()) / part[good].std()


def of_label(total: NDArray[np.float64], seen: Seen, label: str) -> float:
    mine = seen.good | (seen.labels == label)
    return round(auroc(total[mine], ~seen.good[mine]), 4)


if __name__ == "__main__":
    main()
