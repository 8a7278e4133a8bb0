"""Scores bundles on the test lists of the data folder, each file on each backend that takes it, through `lineside
infer`'s own eye: how right, with 95 % intervals, beside how fast.

    python tools/score_models.py                                   # every bundle under models/ that has a test list
    python tools/score_models.py pcb-yolo --backend onnxruntime --json out/scores.json
    python tools/score_models.py tile-mobilenet --artefact build/tile/tile_fp32.onnx     # the float model beside it
    python tools/score_models.py path/to/bundle --on bsdata
    python tools/score_models.py --write docs/models.md            # the page's table, and the plot beside the page

Shares have Wilson's interval, AUROC Newcombe's, average precision a bootstrap over pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "train"))
from lists import LISTS, OK, Listed, Shown
from score import auroc_by_group, auroc_estimate, gather, match, mean_precision

from lineside.commands.infer import Eye
from lineside.commands.model_facts import read_facts
from lineside.errors import EXIT_CONFIG, ConfigError, LinesideError
from lineside.records import AnomalyMap, Artefact, Classification, Detections
from lineside.registry import driver
from lineside.resources import shipped
from lineside.store.bundle import Bundle, open_bundle, sha256_of
from lineside.store.passport import Estimate
from lineside.tuning.compare import rate
from models_report import BACKENDS, round_ms, write_between
from score_plot import draw

ROOT = Path(__file__).resolve().parents[1]
SCORED_ON = {  # bundle -> list
    "conveyor-parts": "rendered",
    "pcb-yolo": "deeppcb",
    "face-yolo": "faces_mask",
    "ballscrew-mobilenet": "bsdata",
    "ballscrew-mobilevit": "bsdata",
    "ballscrew-resnet50": "bsdata",  # not shipped: to compare with
    "tile-mobilenet": "magnetic_tile",
    "tile-anomaly": "magnetic_tile",
}
BEGIN, END = "<!-- score_models: begin -->", "<!-- score_models: end -->"
ROUNDS = 12  # the calmest counts
GOOD = ("ok", "free", "good", "normal")  # what a bundle may call a part without a defect
ALSO = {"spuriouscopper": "copper", **dict.fromkeys(GOOD, OK)}


@dataclass(frozen=True, slots=True)
class Row:
    """One file of a bundle on one backend. `metrics` by name, what matters most first; `fault`: why there are none."""

    bundle: str
    version: str
    scored_on: str
    file: str
    precision: str
    backend: str
    megabytes: float
    metrics: dict[str, Estimate] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    model_ms: float | None = None  # median of the calmest round, one thread
    around_ms: float | None = None  # what lineside adds: before and after the model
    fault: str = ""


def rows(bundle: Bundle, on: str, data: Path, backends: Sequence[str], extra: Sequence[Path]) -> Iterator[Row]:
    """Every file on every backend that takes it; `extra`: more files of the same model. Raises ConfigError."""
    listed = LISTS[on]
    if listed.folder and not (data / listed.folder).is_dir():
        raise ConfigError(f"--data {data}: has no {listed.folder}, on which {bundle.name} is scored: name its folder")
    found: list[Row] = []
    eyes: list[Eye | None] = []
    for artefact in (*bundle.artefacts, *map(_artefact, extra)):
        for backend in backends:
            if artefact.format not in driver("backend", backend.partition(":")[0]).formats("cpu"):
                continue
            path = Path(artefact.path)
            parts = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
            row = Row(
                bundle=bundle.name,
                version=bundle.version,
                scored_on=on,
                file=path.name,
                precision=artefact.precision,
                backend=backend,
                megabytes=round(sum(part.stat().st_size for part in parts) / 1e6, 3),
            )
            only = replace(bundle, artefacts=(artefact,))
            try:
                found.append(_scored(row, only, listed, data))
                eyes.append(Eye(only, backend, None, threads=1))
            except LinesideError as error:
                found.append(replace(row, fault=str(error)))
                eyes.append(None)
    image = next(listed.read(data)).image
    times: list[list[tuple[float, float, float]]] = [[] for _ in eyes]
    for _ in range(ROUNDS):  # in turn, so that all see the same noise of others on this machine
        for eye, mine in zip(eyes, times, strict=True):
            if eye is not None:
                mine.append(round_ms(eye, image))
    for row, mine in zip(found, times, strict=True):
        if mine:
            before, model, after = np.array(mine).min(axis=0).tolist()
            row = replace(row, model_ms=round(model, 3), around_ms=round(before + after, 3))
        yield row


def _artefact(path: Path) -> Artefact:
    facts = read_facts(path)
    return replace(facts.artefact, path=str(path.resolve()), sha256=sha256_of(path))


def _scored(row: Row, only: Bundle, listed: Listed, data: Path) -> Row:
    eye = Eye(only, row.backend, listed.min_score if only.task == "detect" else None, threads=1)
    scorer = _Detector(eye, listed) if only.task == "detect" else _Judge(eye, listed)
    for shown in listed.read(data):
        scorer.add(shown)
    return replace(row, metrics=scorer.metrics(), counts=scorer.counts())


class _Detector:
    """AP per class and their mean, at each IoU of the list."""

    def __init__(self, eye: Eye, listed: Listed) -> None:
        self._eye, self._listed = eye, listed
        self._ids = {plain(label): number for number, label in enumerate(eye.bundle.labels)}
        self._matched: dict[tuple[float, str], list[list[tuple[float, bool]]]] = {}
        self._totals: dict[str, list[int]] = {name: [] for name in self._ids}

    def add(self, shown: Shown) -> None:
        if unknown := {plain(name) for name in shown.names} - set(self._ids):
            raise ConfigError(
                f"bundle {self._eye.bundle.folder}: its labels have no {', '.join(sorted(unknown))}, "
                f"which {self._listed.what} asks for: score it on another list"
            )
        seen = self._eye.look(shown.image)
        assert isinstance(seen, Detections)
        truth = np.array([plain(name) for name in shown.names], object)
        for name, number in self._ids.items():
            mine, there = seen.class_ids == number, truth == name
            found = np.concatenate([seen.scores[mine, None], seen.boxes[mine]], axis=1).astype(np.float32)
            boxes, skipped = shown.boxes[there], shown.skipped[there]
            self._totals[name].append(int((~skipped).sum()))
            for least in self._listed.least_ious:
                matched = match(found, boxes, least, skipped, self._listed.least_side_px)
                self._matched.setdefault((least, name), []).append(matched)

    def metrics(self) -> dict[str, Estimate]:
        found = {}
        asked = [name for name, totals in self._totals.items() if any(totals)]
        for least in self._listed.least_ious:
            classes = [gather(self._matched[least, name], self._totals[name]) for name in asked]
            at = f"{100 * least:.0f}"
            found[f"{'mAP' if len(asked) > 1 else 'AP'}{at}"] = mean_precision(classes)
            if len(asked) > 1:
                found |= {f"AP{at} {name}": mean_precision([hits]) for name, hits in zip(asked, classes, strict=True)}
        return found

    def counts(self) -> dict[str, int]:
        pictures = max(map(len, self._totals.values()))
        return {"pictures": pictures} | {name: sum(totals) for name, totals in self._totals.items() if any(totals)}


class _Judge:
    """Classifiers and anomaly models: is the part good? And, of classifiers, which class is it?"""

    def __init__(self, eye: Eye, listed: Listed) -> None:
        self._eye = eye
        labels = [plain(label) for label in eye.bundle.labels]
        if eye.bundle.task == "classify" and labels.count(OK) != 1:
            raise ConfigError(
                f"bundle {eye.bundle.folder}: one of its labels must say that a part is good ({', '.join(GOOD)}): "
                f"{listed.what} is scored by that"
            )
        self._labels = labels
        self._scores: list[float] = []
        self._said: list[str] = []  # "": an anomaly model, which names no class
        self._rejected: list[bool] = []
        self._truth: list[str] = []
        self._groups: list[str] = []

    def add(self, shown: Shown) -> None:
        seen = self._eye.look(shown.image)
        match seen:
            case Classification():
                said = self._labels[int(seen.scores.argmax())]
                self._scores.append(1.0 - float(seen.scores[self._labels.index(OK)]))
                self._said.append(said)
                self._rejected.append(said != OK)
            case AnomalyMap():
                threshold = self._eye.settings.threshold
                self._scores.append(seen.score)
                if threshold is not None:
                    self._rejected.append(seen.score >= threshold)
        self._truth.append(plain(shown.label))
        self._groups.append(shown.group)

    def metrics(self) -> dict[str, Estimate]:
        scores, truth = np.array(self._scores), np.array(self._truth, object)
        defect = truth != OK
        found = {"AUROC": auroc_estimate(scores, defect)}
        if len(set(self._groups)) < len(self._groups):
            found["AUROC by group"] = auroc_by_group(scores, defect, self._groups)
        if self._said:
            right = np.array(self._said, object) == truth
            found["accuracy"] = rate(int(right.sum()), len(right))
        if self._rejected:
            rejected = np.array(self._rejected)
            found["escapes"] = rate(int((defect & ~rejected).sum()), int(defect.sum()))
            found["overkill"] = rate(int((~defect & rejected).sum()), int((~defect).sum()))
        return found

    def counts(self) -> dict[str, int]:
        return {"pictures": len(self._truth)} | {name: self._truth.count(name) for name in sorted(set(self._truth))}


def plain(label: str) -> str:
    """A label as lists and bundles have it in common."""
    letters = re.sub("[^a-z0-9]", "", label.lower())
    return ALSO.get(letters, letters)


def table(found: Sequence[Row]) -> Iterator[str]:
    """Markdown: accuracy and latency of each file on each backend."""
    yield "| bundle | file | backend | result (95 %) | model ms | before + after ms | MB |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: |"
    for row in found:
        head = f"| {row.bundle} {row.version} | {row.file} | {row.backend} |"
        if row.fault:
            why = re.split("[(:]", row.fault.splitlines()[0].partition(": ")[2])[0].strip()
            yield f"{head} {why} | | | |"
            continue
        told = "; ".join(f"{name} {shown(value)}" for name, value in row.metrics.items() if in_table(name))
        yield f"{head} {told} | {row.model_ms:.2f} | {row.around_ms:.2f} | {row.megabytes:.2f} |"


def in_table(metric: str) -> bool:
    """Single classes are in the JSON file only."""
    return not re.match(r"AP\d+ ", metric)


def shown(value: Estimate) -> str:
    return f"{value.value:.3f} ({value.low or 0:.3f} to {value.high or 0:.3f})"


def chosen(names: Sequence[str], on: str | None) -> Iterator[tuple[Bundle, str]]:
    """The bundles that were asked for, or all that are shipped, each with its list. Raises ConfigError."""
    if not names:
        for manifest in sorted(shipped("models").glob("*/model.toml")):
            bundle = open_bundle(manifest.parent)
            if scored_on := on or SCORED_ON.get(bundle.name):
                yield bundle, scored_on
        return
    for name in names:
        bundle = open_bundle(name)
        scored_on = on or SCORED_ON.get(bundle.name)
        if scored_on is None:
            raise ConfigError(f"bundle {bundle.folder}: no test list is known for {bundle.name}: name one with --on")
        yield bundle, scored_on


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LINESIDE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("bundle", nargs="*", metavar="NAME", help="a bundle's folder or name; default: all with a list")
    parser.add_argument("--on", choices=list(LISTS), help="the list; default: the bundle's")
    parser.add_argument("--backend", action="append", metavar="NAME", help=f"default: {', '.join(BACKENDS)}")
    parser.add_argument("--artefact", type=Path, action="append", default=[], metavar="FILE", help="score it, too")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the data")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything there")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, a plot beside it")
    asked = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        return _run(asked)
    except LinesideError as error:
        print(f"score_models: {error}", file=sys.stderr)
        return EXIT_CONFIG


def _run(asked: argparse.Namespace) -> int:
    found: list[Row] = []
    for bundle, on in chosen(asked.bundle, asked.on):
        print(f"{bundle.name} {bundle.version} on {LISTS[on].what}", file=sys.stderr, flush=True)
        for row in rows(bundle, on, asked.data, asked.backend or BACKENDS, asked.artefact):
            print(f"  {row.file} on {row.backend}: {row.fault or 'scored'}", file=sys.stderr, flush=True)
            found.append(row)
    print("\n".join(table(found)))
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    scored = {row.bundle for row in found if not row.fault}
    if asked.write is not None and scored:
        write_between(asked.write, BEGIN, END, list(table(found)))
        cv2.imwrite(str(asked.write.with_suffix(".png")), draw([asdict(row) for row in found]))
    if unscored := {row.bundle for row in found} - scored:
        raise ConfigError(f"no file of {', '.join(sorted(unscored))} could be scored: the table says why")
    return 0


if __name__ == "__main__":
    sys.exit(main())
