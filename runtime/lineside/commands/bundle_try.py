"""`lineside bundle new --try`: the new bundle on real pictures: findings are drawn, signs of a misreading refuse it.

Where the pictures have labels the filter of the resize is measured on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lineside.commands.describe import Described
from lineside.commands.guess import Guess
from lineside.commands.model_facts import ModelFacts
from lineside.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineside.commands.habits import Filter
    from lineside.commands.signs import Look
    from lineside.quantize.pictures import Shot
    from lineside.quantize.truth import Truth
    from lineside.records import Image, InputSpec, Seen
    from lineside.store.bundle import Bundle

_FILTERS: tuple[Filter, ...] = ("linear", "area", "antialias", "bicubic")
_MOST_MEASURED = 200  # pictures
_FEWEST_MEASURED = 4
_CLEARLY = 2.0  # standard errors by which the scores of what is right must rise, picture by picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--try",
        dest="tried",
        type=Path,
        nargs="+",
        default=[],
        metavar="PICTURE",
        help="draw what the model finds on these pictures or folders of pictures; refuse it where it cannot be right",
    )
    parser.add_argument("--draw", type=Path, metavar="OUTDIR", help="of --try; default: the bundle's folder and -tried")
    parser.add_argument("--keep-faces", action="store_true", help="with --try: don't blur the faces that are found")
    parser.add_argument(
        "--labels-from",
        metavar="folders | COCO.json | DIR",
        help="what is on the pictures of --try, to measure --filter: their folders' names, or boxes (as for quantize)",
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """The pictures, read when they are looked at, and where they are drawn."""

    paths: tuple[Path, ...]
    folder: Path
    keep_faces: bool


def read_trial(args: argparse.Namespace) -> Trial | None:
    """Which pictures --try names; None without. Raises ConfigError when there are none."""
    if not args.tried:
        for option in ("draw", "labels_from"):
            if getattr(args, option) is not None:
                raise ConfigError(f"--{option.replace('_', '-')}: is for --try PICTURE...: say which pictures")
        return None
    from lineside.commands.infer import make_folder
    from lineside.commands.shots import Given

    given = Given(args.tried, args.draw)
    paths = [path for path in given.files if not given.is_video(path)]
    videos = [f"{path}: is a video: --try takes pictures" for path in given.files if path not in paths]
    for line in (*given.faults, *given.notes(), *videos):
        print(f"lineside bundle new: {line}", file=sys.stderr)
    output = args.output.resolve()
    folder = args.draw or output.with_name(f"{output.name}-tried")
    make_folder(folder)
    return Trial(tuple(paths), folder, args.keep_faces)


def _read(path: Path, told: bool = False) -> Image | None:
    """None for a picture that cannot be read, which is said once, when it is `told`."""
    from lineside.images import read_image

    try:
        return read_image(path)
    except ConfigError as error:
        if told:
            sys.stdout.flush()
            print(f"lineside bundle new: {error}", file=sys.stderr)
        return None


def show(bundle: Bundle, trial: Trial) -> None:
    """Draws and prints what each picture shows. Raises ConfigError with the signs that refute the reading."""
    from lineside.commands.infer import Pen, as_text, row_of, tell_undrawable
    from lineside.commands.looking import Looker, runnable
    from lineside.commands.shots import Shot
    from lineside.commands.signs import signs

    pen = Pen(trial.folder, trial.keep_faces)
    tell_undrawable(bundle.labels)
    looks: list[Look] = []
    with Looker(bundle, runnable(bundle)) as looker:
        for path in trial.paths:
            if (image := _read(path, told=True)) is None:
                continue
            look, placement = looker.look(path.name, image)
            shot = Shot(path, None, image)
            print(as_text(row_of(shot, look.seen, looker)))
            pen.draw(shot, look.seen, placement, looker)
            looks.append(look)
    if not looks:
        raise ConfigError("--try: none of the pictures could be read")
    found = signs(looks, len(bundle.labels))
    refuting = [f"{sign}" for sign in found if sign.refutes]
    if refuting:
        raise ConfigError(
            f"the bundle was not kept: its answers to {len(looks)} pictures cannot be right "
            f"(they are drawn in {trial.folder}):",
            *refuting,
        )
    for sign in found:
        print(f"look: {sign}")
    print(f"drawn: {len(looks)} pictures in {trial.folder}")


# --- the filter, measured


class Right(NamedTuple):
    """How right a filter is: accuracy or average precision, and the score of each class or object that is there."""

    share: float
    scores: NDArray[np.float64]

    def __str__(self) -> str:
        return f"{self.share:.3f} / {self.scores.mean():.3f}"

    def clearly_above(self, other: Right) -> bool:
        """By its scores, each beside the other's of the same picture."""
        more = self.scores - other.scores
        error = float(more.std(ddof=1)) / len(more) ** 0.5 if len(more) > 1 else np.inf
        return self.share >= other.share and float(more.mean()) > _CLEARLY * error


def measure_filter(facts: ModelFacts, described: Described, trial: Trial, args: argparse.Namespace) -> Described:
    """The description with the filter that is the most right on labelled pictures, where labels are there.

    The exporter's habit stays where no other is more right. Raises ConfigError for labels that don't fit.
    """
    if args.filter is not None or described.input.width_px is None or described.task == "anomaly":
        return described
    truth_of = _truths(described, trial, args.labels_from)
    if truth_of is None:
        return described
    seen, truths = _look(facts, described, trial, truth_of)
    if len(truths) < _FEWEST_MEASURED:
        return described
    rights = {each: _right(seen[each], truths) for each in _FILTERS}
    habit = described.input.filter
    better = [each for each in _FILTERS if rights[each].clearly_above(rights[habit])]
    best = max(better or [habit], key=lambda each: float(rights[each].scores.mean()))
    what = "accuracy" if described.task == "classify" else "average precision"
    told = f"measured on {len(truths)} labelled pictures, {what} / score: " + ", ".join(
        f"{each} {rights[each]}" for each in _FILTERS
    )
    told += "" if better else f"; none is clearly better than the habit, {habit}"
    note = Guess(f"filter = {best}", told, "--filter")
    guesses = (*(guess for guess in described.guesses if guess.option != "--filter"), note)
    return replace(described, input=replace(described.input, filter=best), guesses=guesses)


def _truths(described: Described, trial: Trial, said: str | None) -> Callable[[Shot], Truth] | None:
    """What tells the truth of a picture; None where nothing does: not every folder has the name of a class."""
    from lineside.quantize.truth import FOLDERS, read_truths

    if said is None:
        folders = {path.parent.name for path in trial.paths}
        if described.task != "classify" or len(folders) < 2 or not folders <= set(described.labels):
            return None
        said = FOLDERS
    return read_truths(said, described.task, described.labels)


def _look(
    facts: ModelFacts, described: Described, trial: Trial, truth_of: Callable[[Shot], Truth]
) -> tuple[dict[Filter, list[Seen]], list[Any]]:
    """What the model sees through each filter on the pictures whose truth is known, evenly chosen of many."""
    from lineside.commands.model_facts import RUNTIMES
    from lineside.hal.choose import installed
    from lineside.quantize.measure import Reading, Runner

    here = set(installed())
    backend = next((name for name in RUNTIMES.get(facts.format, ()) if name in here), None)
    if backend is None:
        raise ConfigError(f"{facts.path}: no runtime here can measure a filter with it: say --filter")
    chosen = np.unique(np.linspace(0, len(trial.paths) - 1, _MOST_MEASURED).round().astype(int)).tolist()
    reading = Reading(described.input, described.decode, described.settings, described.labels)
    seen: dict[Filter, list[Seen]] = {each: [] for each in _FILTERS}
    truths = []
    runner = Runner(facts.artefact, reading, backend)
    try:
        for path in (trial.paths[at] for at in chosen):
            image = _read(path)
            if image is None or (truth := truth_of(_shot(path, image, described.input))) is None:
                continue
            truths.append(truth)
            for each in _FILTERS:
                seen[each] += runner.see([_shot(path, image, replace(described.input, filter=each))])
    finally:
        runner.close()
    return seen, truths


def _shot(path: Path, image: Image, spec: InputSpec) -> Shot:
    from lineside.quantize.pictures import Shot
    from lineside.vision.prepare import Prepare

    canvas, placement, _ = Prepare(spec).put(image)
    return Shot(path, canvas, placement)


def _right(seen: Sequence[Seen], truths: Sequence[Any]) -> Right:
    from lineside.quantize.measure import average_precision
    from lineside.records import Classification, Detections
    from lineside.vision.boxes import iou

    classified = [(one, truth) for one, truth in zip(seen, truths, strict=True) if isinstance(one, Classification)]
    if classified:
        share = np.mean([one.scores.argmax() == truth for one, truth in classified])
        return Right(float(share), np.array([one.scores[truth] for one, truth in classified], np.float64))
    detected = [(one, truth) for one, truth in zip(seen, truths, strict=True) if isinstance(one, Detections)]
    scores = []
    for one, truth in detected:
        for row in truth:
            near = (iou(one.boxes, row[None, 1:])[:, 0] >= 0.5) & (one.class_ids == int(row[0]))
            scores.append(float(one.scores[near].max(initial=0.0)))
    precision = average_precision([one for one, _ in detected], [truth for _, truth in detected])
    return Right(precision, np.array(scores or [0.0]))
