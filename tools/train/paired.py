"""Two networks compared on the same pictures: accuracy, AUROC and the paired difference with its interval. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from score import auroc

RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Run:
    """What one network, trained with one seed, said of the pictures of the fold that it had not seen."""

    seed: int
    fold: int
    net: str
    size_px: tuple[int, int]
    epochs: int
    places: tuple[str, ...]  # of each picture
    truth: tuple[int, ...]  # 1: pitting
    scores: tuple[float, ...]  # of pitting, 0 to 1

    def right(self) -> NDArray[np.float64]:
        """(N,) 1 where the picture is judged rightly, at a score of 0.5."""
        return np.asarray((np.array(self.scores) >= 0.5) == np.array(self.truth, bool), float)

    def auroc(self) -> float:
        return auroc(np.array(self.scores), np.array(self.truth, bool))


def read_run(path: Path) -> Run:
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(path.read_text()).items()
    }
    return Run(**found)


def summary(runs: Sequence[Run], ours: str, theirs: str) -> dict[str, object]:
    """Accuracy and AUROC of each network, means over seeds and folds, and the paired difference of accuracy, ours less
    theirs, with its 95 % interval. Only folds and seeds count that both have run. Raises ValueError where none is."""
    paired = {(r.seed, r.fold) for r in runs if r.net == ours} & {(r.seed, r.fold) for r in runs if r.net == theirs}
    if not paired:
        raise ValueError(f"no fold has been run with both {ours} and {theirs}")
    runs = [run for run in runs if (run.seed, run.fold) in paired]
    found: dict[str, object] = {"runs_of_each": len(paired), "seeds": sorted({seed for seed, _ in paired})}
    for net in (ours, theirs):
        found[net] = told([run for run in runs if run.net == net])
    by_place = differences(runs, ours, theirs)
    low, high = interval(by_place)
    pairs = [pair for seeds in by_place.values() for pair in seeds]
    found["accuracy_difference"] = round(sum(mean * count for mean, count in pairs) / sum(n for _, n in pairs), 4)
    found["accuracy_difference_95"] = [round(low, 4), round(high, 4)]
    found["interval"] = f"bootstrap over {len(by_place)} places and the seeds of each, {RESAMPLES} draws"
    return found


def told(runs: Sequence[Run]) -> dict[str, object]:
    """Of one network: accuracy of all pictures, AUROC of each run and place, means. `runs`: one or more."""
    return {
        "size": "{}x{}".format(*runs[0].size_px),
        "epochs": runs[0].epochs,
        "accuracy": round(float(np.concatenate([run.right() for run in runs]).mean()), 4),
        "auroc": round(float(np.mean([run.auroc() for run in runs])), 4),
        "auroc_of_each": [round(run.auroc(), 4) for run in runs],
        "auroc_by_place": within_places(runs),
    }


def within_places(runs: Sequence[Run]) -> dict[str, float]:
    """AUROC of the photos of each place, the mean over seeds; of places that have photos of both kinds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        truth, scores, places = np.array(run.truth, bool), np.array(run.scores), np.array(run.places)
        for place in sorted(set(run.places)):
            there = places == place
            if len(set(truth[there].tolist())) == 2:
                found.setdefault(place, []).append(auroc(scores[there], truth[there]))
    return {place: round(float(np.mean(each)), 4) for place, each in sorted(found.items())}


def differences(runs: Sequence[Run], ours: str, theirs: str) -> dict[str, list[tuple[float, int]]]:
    """By place, for each seed: the mean of (ours is right) - (theirs is right), and of how many pictures."""
    by = {(run.net, run.seed, run.fold): run for run in runs}
    found: dict[str, list[tuple[float, int]]] = {}
    for seed, fold in sorted({(run.seed, run.fold) for run in runs}):
        mine, other = by[ours, seed, fold], by[theirs, seed, fold]
        differ, places = mine.right() - other.right(), np.array(mine.places)
        for place in sorted(set(mine.places)):
            there = differ[places == place]
            found.setdefault(place, []).append((float(there.mean()), len(there)))
    return found


def interval(by_place: dict[str, list[tuple[float, int]]]) -> tuple[float, float]:
    """2.5 and 97.5 % of the mean when places are drawn with replacement, and of each its seeds: photos of one place are
    nearly one photo, so that pictures drawn alone would tell too narrow an interval."""
    rng, places, drawn = np.random.default_rng(0), list(by_place), []
    for _ in range(RESAMPLES):
        total = count = 0.0
        for number in rng.integers(len(places), size=len(places)):
            seeds = by_place[places[number]]
            for picked in rng.integers(len(seeds), size=len(seeds)):
                mean, pictures = seeds[picked]
                total, count = total + mean * pictures, count + pictures
        drawn.append(total / count)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)
