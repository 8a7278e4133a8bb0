"""MobileViT against ResNet50 on the ball screws of the train list: places held out in turn, several seeds.

    python tools/train/crossval.py --work build/crossval
    python tools/train/crossval.py --nets mobilevit --size 640x256 --epochs 10 --work build/crossval-shipped

Each run (a seed, a fold, a network) leaves its scores in --work, so that it may be stopped and started again; what is
written to -o is of the runs that are there, and says how many those are. Both networks see the same pictures in the
same order. MobileViT begins with ImageNet's weights in its MobileNetV2 layers, ResNet50 with none.
"""

# mypy: disable-error-code="no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from ballscrew import LABELS, plan_of, read_list
from classifier import Plan, classify, fit
from nets import NETS
from numpy.typing import NDArray
from paired import Run, read_run, summary, told
from photos import Sample

FOLDS = (  # places on the spindle; all photos of one are in one fold
    ("277500_315", "490000_180", "KGT1-S"),
    ("332500_225", "560000_000", "635000_270"),
    ("430000_180", "585000_090", "KGT2-S"),
)
PAIR = ("mobilevit", "resnet50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with bsdata and models")
    parser.add_argument("--work", type=Path, default=Path("build/crossval"), help="scores of each run, checkpoints")
    parser.add_argument("-o", "--output", type=Path, help="where the summary goes; default: WORK/summary.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--nets", nargs="+", choices=PAIR, default=PAIR, help="both are compared; default: both")
    parser.add_argument("--size", default="256x96", metavar="WxH", help="of the input, smaller than what ships")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--summary", action="store_true", help="train nothing, only sum up what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, asked.size.split("x"))
    for seed in range(1, asked.seeds + 1):
        for fold in range(len(FOLDS)):
            for name in asked.nets:
                plan = replace(plan_of(width, height), epochs=asked.epochs, seed=seed, batch=16)
                if not asked.summary:
                    run(name, fold, plan, asked.data, asked.work)
    runs = [read_run(path) for path in sorted(asked.work.glob("*.json")) if path.name != "summary.json"]
    if set(asked.nets) == set(PAIR):
        found = summary(runs, *PAIR)
    else:
        found = told([run for run in runs if run.net in asked.nets])
    output = asked.output or asked.work / "summary.json"
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def run(name: str, fold: int, plan: Plan, data: Path, work: Path) -> None:
    """Train one network without one fold's places, and keep what it says of them; nothing where that is there."""
    done = work / f"{name}-seed{plan.seed}-fold{fold}.json"
    if done.exists():
        return
    samples = read_list(data / "bsdata", "train")
    held = [sample for sample in samples if sample.group in FOLDS[fold]]
    torch.manual_seed(plan.seed)
    net = NETS[name](len(LABELS), data / "models/classify/mobilenet_v2_224_fp32.onnx")
    folder = work / done.stem
    print(done.stem, flush=True)
    net = fit(net, [sample for sample in samples if sample.group not in FOLDS[fold]], plan, folder)
    found = _run_of(name, fold, plan, held, classify(net, held, plan)[:, 1])
    done.with_suffix(".new").write_text(json.dumps(asdict(found)))
    done.with_suffix(".new").replace(done)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _run_of(name: str, fold: int, plan: Plan, held: Sequence[Sample], scores: NDArray[np.float64]) -> Run:
    return Run(
        seed=plan.seed,
        fold=fold,
        net=name,
        size_px=(plan.spec.width_px or 0, plan.spec.height_px or 0),
        epochs=plan.epochs,
        places=tuple(sample.group for sample in held),
        truth=tuple(sample.label for sample in held),
        scores=tuple(round(float(score), 5) for score in scores),
    )


if __name__ == "__main__":
    main()
