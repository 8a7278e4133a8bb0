"""MobileViT against ResNet50 on the ball screws of the train list: places held out in turn, several seeds.

    python tools/train/crossval.py --work build/crossval -o models/ballscrew-mobilevit/crossval.json

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ballscrew import LABELS, plan_of, read_list
from classifier import Plan, auroc, classify, fit
from nets import NETS
from numpy.typing import NDArray
from photos import Sample

FOLDS = (  # places on the spindle; all photos of one are in one fold
    ("277500_315", "490000_180", "KGT1-S"),
    ("332500_225", "560000_000", "635000_270"),
    ("430000_180", "585000_090", "KGT2-S"),
)
PAIR = ("mobilevit", "resnet50")
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Run:
    """What one network said of the pictures of the fold that it had not seen."""

    seed: int
    fold: int
    net: str
    size_px: tuple[int, int]
    epochs: int
    places: tuple[str, ...]  # of each picture
    truth: tuple[int, ...]
    scores: tuple[float, ...]  # of pitting, 0 to 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with bsdata and models")
    parser.add_argument("--work", type=Path, default=Path("build/crossval"), help="scores of each run, checkpoints")
    parser.add_argument("-o", "--output", type=Path, help="where the summary goes; default: WORK/summary.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", default="320x128", metavar="WxH", help="of the input, smaller than what ships")
    parser.add_argument("--epochs", type=int, nargs=2, default=(8, 12), metavar="N", help="of MobileViT, of ResNet50")
    parser.add_argument("--summary", action="store_true", help="train nothing, only sum up what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, asked.size.split("x"))
    for seed in range(1, asked.seeds + 1):
        for fold in range(len(FOLDS)):
            for name, epochs in zip(PAIR, asked.epochs, strict=True):
                plan = replace(plan_of(width, height), epochs=epochs, seed=seed, batch=16)
                if not asked.summary:
                    run(name, fold, plan, asked.data, asked.work)
    runs = [_read(path) for path in sorted(asked.work.glob("*.json")) if path.name != "summary.json"]
    found = summary(runs)
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


def _read(path: Path) -> Run:
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(path.read_text()).items()
    }
    return Run(**found)


def summary(runs: Sequence[Run]) -> dict[str, object]:
    """Accuracy and AUROC of each network as means over seeds and folds, and the paired difference of accuracy with its
    95 % interval: a bootstrap that draws places, and of each the seeds, with replacement."""
    paired = {(r.seed, r.fold) for r in runs if r.net == PAIR[0]} & {(r.seed, r.fold) for r in runs if r.net == PAIR[1]}
    if not paired:
        raise SystemExit("crossval: no fold has been run with both networks: run it without --summary first")
    runs = [one for one in runs if (one.seed, one.fold) in paired]
    found: dict[str, object] = {"runs_of_each": len(paired), "seeds": sorted({seed for seed, _ in paired})}
    for name in PAIR:
        mine = [one for one in runs if one.net == name]
        found[name] = {
            "size": "{}x{}".format(*mine[0].size_px),
            "epochs": mine[0].epochs,
            "accuracy": round(float(np.concatenate([_right(one) for one in mine]).mean()), 4),
            "auroc": round(float(np.mean([_auroc(one) for one in mine])), 4),
            "auroc_of_each": [round(_auroc(one), 4) for one in mine],
        }
    differences = _differences(runs)
    low, high = _interval(differences)
    means = [value for seeds in differences.values() for value, _ in seeds]
    weights = [count for seeds in differences.values() for _, count in seeds]
    found["accuracy_difference"] = round(float(np.average(means, weights=weights)), 4)
    found["accuracy_difference_95"] = [round(low, 4), round(high, 4)]
    found["interval"] = f"bootstrap over {len(differences)} places and the seeds of each, {RESAMPLES} draws"
    return found


def _right(one: Run) -> NDArray[np.float64]:
    return np.asarray((np.array(one.scores) >= 0.5) == np.array(one.truth, bool), float)


def _auroc(one: Run) -> float:
    return auroc(np.array(one.scores), np.array(one.truth, bool))


def _differences(runs: Sequence[Run]) -> dict[str, list[tuple[float, int]]]:
    """By place, for each seed: mean of (MobileViT right) - (ResNet50 right), and of how many pictures."""
    by = {(one.net, one.seed, one.fold): one for one in runs}
    found: dict[str, list[tuple[float, int]]] = {}
    for seed, fold in sorted({(one.seed, one.fold) for one in runs}):
        ours, theirs = (by[name, seed, fold] for name in PAIR)
        differ, places = _right(ours) - _right(theirs), np.array(ours.places)
        for place in sorted(set(ours.places)):
            mine = differ[places == place]
            found.setdefault(place, []).append((float(mine.mean()), len(mine)))
    return found


def _interval(differences: dict[str, list[tuple[float, int]]]) -> tuple[float, float]:
    rng, places, drawn = np.random.default_rng(0), list(differences), []
    for _ in range(RESAMPLES):
        total = count = 0.0
        for number in rng.integers(len(places), size=len(places)):
            seeds = differences[places[number]]
            for picked in rng.integers(len(seeds), size=len(seeds)):
                mean, pictures = seeds[picked]
                total, count = total + mean * pictures, count + pictures
        drawn.append(total / count)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
