"""Runs a model on pictures that differ, before it is packed: how its outputs have to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lineside.commands import judge
from lineside.commands.guess import Guess
from lineside.commands.judge import Shot, Verdict
from lineside.commands.model_facts import RUNTIMES, ModelFacts
from lineside.commands.probe_pictures import probe_pictures
from lineside.commands.readings import Reading
from lineside.contracts import Backend
from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec, Tensor, TensorSpec
from lineside.registry import VENDORS, driver
from lineside.vision.decode.outputs import is_quantised, trimmed
from lineside.vision.prepare import Prepare

_FREE_PX = (640, 480)
_IMPORT_NAMES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
_TOLD_BY_RUN = "the model's answers to test pictures"
_BACKGROUND = ("background", "__background__", "bg", "unlabeled", "???")


@dataclass(frozen=True, slots=True)
class Trial:
    """What a model gave for the test pictures; its specs as its runtime reports them."""

    outputs: tuple[TensorSpec, ...]
    shots: tuple[Shot, ...]
    canvas: tuple[int, int]  # width, height


@dataclass(frozen=True, slots=True)
class Tried:
    """A reading with what the run told of it."""

    reading: Reading
    labels: tuple[str, ...]
    input: InputSpec
    settings: DecodeSettings
    verdict: Verdict
    guesses: tuple[Guess, ...] = field(default=())


def run_model(facts: ModelFacts, input: InputSpec) -> Trial | None:
    """The outputs for the test pictures; None for a model that only an Edge TPU runs.

    Raises ConfigError where no runtime for this format is installed, or the model does not run.
    """
    if facts.format == "edgetpu":
        return None
    backend = _open(facts, input)
    try:
        prepare = Prepare(input)
        size = (input.width_px or _FREE_PX[0], input.height_px or _FREE_PX[1])
        shots = []
        for picture in probe_pictures(*size):
            canvas, placement, _ = prepare.put(picture)
            shots.append(Shot(tuple(_kept(each) for each in backend.infer(canvas.copy())), placement))
        return Trial(
            backend.outputs, tuple(shots), (shots[0].placement.canvas_width_px, shots[0].placement.canvas_height_px)
        )
    finally:
        backend.close()


def try_reading(
    facts: ModelFacts, reading: Reading, labels: tuple[str, ...], input: InputSpec, trial: Trial, said: dict[str, Any]
) -> Tried:
    """Settle what only the values tell, then judge. Raises ConfigError where they leave open what matters."""
    settings, guesses = reading.settings, []
    names = settings.outputs
    shown = [at for at, spec in enumerate(trial.outputs) if not names or spec.name in names]
    specs = tuple(trial.outputs[at] for at in shown)
    shots = tuple(Shot(tuple(shot.outputs[at] for at in shown), shot.placement) for shot in trial.shots)
    for settle in _SETTLE.get(reading.decode, ()):
        for key, value, why in settle(
            facts, specs, labels, replace(settings, outputs=()), Trial(specs, shots, trial.canvas)
        ):
            if key not in said and getattr(settings, key) != value:
                settings = replace(settings, **{key: value})
                guesses.append(Guess(f"{key} = {value}", why, "--" + key.replace("_", "-")))
    verdict = judge.judge(reading.decode, trial.outputs, labels, input, settings, trial.shots)
    return Tried(reading, labels, input, settings, verdict, tuple(guesses))


def _kept(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.raw.copy(), tensor.scale, tensor.zero_point)


def _open(facts: ModelFacts, input: InputSpec) -> Backend:
    missing = []
    for name in RUNTIMES[facts.format]:
        make = driver("backend", name)
        try:
            backend: Backend = make(facts.artefact, input.of(facts.artefact))
        except ConfigError as error:
            if "cannot be imported" not in str(error):
                raise
            missing.append(VENDORS[_IMPORT_NAMES[name]])
            continue
        return backend
    raise ConfigError(f"{facts.path}: no runtime for this format is installed: {' or '.join(missing)}")


# --- what the values tell: functions that give (setting, value, why)

Told = list[tuple[str, Any, str]]
Settle = Callable[[ModelFacts, tuple[TensorSpec, ...], tuple[str, ...], DecodeSettings, Trial], Told]


def _class_scores(
    facts: ModelFacts, specs: tuple[TensorSpec, ...], labels: tuple[str, ...], settings: DecodeSettings, trial: Trial
) -> Told:
    """Probabilities or logits of a classifier: what the graph ends in, its quantisation, then the values."""
    spec = specs[0]
    if settings.scores != "auto":
        return [("scores", settings.scores, "")]
    end = facts.peek.ends.get(spec.name, "")
    if end in ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid") and end != "LogSoftmax":
        return [("scores", "probability", f"the graph ends in {end}")]
    if is_quantised(spec):
        return []
    values = [shot.outputs[0].real().reshape(-1) for shot in trial.shots]
    low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    one = values[0].size == 1
    if low < -1e-3 or high > 1 + 1e-3:
        return [("scores", "logit", f"{_TOLD_BY_RUN} lie between {low:.3g} and {high:.3g}")]
    if one or all(abs(float(each.sum()) - 1) < 0.01 for each in values):
        return [("scores", "probability", f"{_TOLD_BY_RUN} lie between 0 and 1")]
    if "logit" in spec.name:
        return [("scores", "logit", f"the output is named {spec.name}")]
    return [("scores", "probability", f"{_TOLD_BY_RUN} lie between 0 and 1, each class for itself")]


def _box_unit(at: Callable[[tuple[TensorSpec, ...]], tuple[int, slice, bool] | None]) -> Settle:
    def settle(
        facts: ModelFacts,
        specs: tuple[TensorSpec, ...],
        labels: tuple[str, ...],
        settings: DecodeSettings,
        trial: Trial,
    ) -> Told:
        where = at(specs)
        if where is None or is_quantised(specs[where[0]]):
            return []
        boxes = judge.all_rows(trial.shots, where[0], where[2], where[1])
        if not len(boxes):
            if "author" in facts.notes and "ultralytics" in str(facts.notes["author"].value).lower():
                unit = "unit" if facts.format in ("tflite", "edgetpu") else "pixels"
                return [("boxes", unit, f"Ultralytics writes so; {_TOLD_BY_RUN} had no box")]
            return []
        biggest = float(np.abs(boxes).max())
        if not np.isfinite(biggest):
            return []
        unit = "pixels" if biggest > 4.0 else "unit"
        return [("boxes", unit, f"{_TOLD_BY_RUN} reach {biggest:.4g}")]

    return settle


def _box_format(at: Callable[[tuple[TensorSpec, ...]], tuple[int, slice, bool] | None]) -> Settle:
    def settle(
        facts: ModelFacts,
        specs: tuple[TensorSpec, ...],
        labels: tuple[str, ...],
        settings: DecodeSettings,
        trial: Trial,
    ) -> Told:
        where = at(specs)
        if where is None or is_quantised(specs[where[0]]):
            return []
        boxes = judge.all_rows(trial.shots, where[0], where[2], where[1])
        if not len(boxes):
            return []
        unit = float(np.abs(boxes).max()) <= 4.0
        found = judge.box_format(boxes, *((1.0, 1.0) if unit else trial.canvas))
        return (
            [("box_format", "xyxy", f"in {_TOLD_BY_RUN} each box ends behind where it begins")]
            if found == "xyxy"
            else []
        )

    return settle


def _no_class_numbers(first: int) -> Settle:
    """Refutes a head whose class scores hold class numbers: rows that are suppressed already, or oriented boxes."""

    def settle(
        facts: ModelFacts,
        specs: tuple[TensorSpec, ...],
        labels: tuple[str, ...],
        settings: DecodeSettings,
        trial: Trial,
    ) -> Told:
        where = _head(specs)
        if where is None or is_quantised(specs[where[0]]):
            return []
        rows = judge.all_rows(trial.shots, where[0], where[2], slice(first, first + len(labels)))
        for number, column in enumerate(rows.T):
            whole = np.array_equal(column, np.rint(column)) and len(np.unique(column)) > 1
            if whole and column.size >= judge.FEWEST_CANDIDATES:
                raise ConfigError(
                    f"channel {first + number} of {specs[where[0]].name} holds whole numbers only, class numbers "
                    "and no scores: its rows may be findings, or oriented boxes"
                )
        return []

    return settle


def _detector_scores(at: Callable[[tuple[TensorSpec, ...]], int | None]) -> Settle:
    def settle(
        facts: ModelFacts,
        specs: tuple[TensorSpec, ...],
        labels: tuple[str, ...],
        settings: DecodeSettings,
        trial: Trial,
    ) -> Told:
        where = at(specs)
        if where is None or settings.scores != "auto" or is_quantised(specs[where]):
            return []
        values = [shot.outputs[where].real() for shot in trial.shots]
        low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
        if facts.peek.ends.get(specs[where].name) == "Sigmoid" or (low >= -1e-3 and high <= 1 + 1e-3):
            return [("scores", "probability", f"{_TOLD_BY_RUN} lie between {low:.3g} and {high:.3g}")]
        return [("scores", "logit", f"{_TOLD_BY_RUN} lie between {low:.3g} and {high:.3g}")]

    return settle


def _first_class(decode: str, family: int | None) -> Settle:
    """Whether class numbers begin with 0 or, the background being 0, with 1."""

    def settle(
        facts: ModelFacts,
        specs: tuple[TensorSpec, ...],
        labels: tuple[str, ...],
        settings: DecodeSettings,
        trial: Trial,
    ) -> Told:
        if settings.first_class is not None or labels[0].lower() in _BACKGROUND:
            return []
        wide = replace(settings, min_score=0.05, nms_iou=1.0, max_findings=10_000, first_class=0)
        input = InputSpec(*trial.canvas, "rgb", "nchw")
        numbers = set()
        for each in judge.judge(decode, specs, labels, input, wide, trial.shots).seen:
            numbers |= set(getattr(each, "class_ids", np.empty(0)).tolist())
        if 0 in numbers:
            return []
        if len(labels) in numbers:
            return [("first_class", 1, f"{_TOLD_BY_RUN} number the classes 1 to {len(labels)}")]
        if decode == "labelled_boxes" and _as_torchvision(specs):
            return [("first_class", 1, "torchvision's class 0 is the background")]
        if family is not None:
            return [("first_class", family, "the family's numbers begin so")]
        raise ConfigError(
            f"{facts.path}: read as {decode}, nothing tells whether its class numbers begin with 0 or, the "
            "background being 0, "
            "with 1: --first-class 0 or --first-class 1"
        )

    return settle


def _as_torchvision(specs: tuple[TensorSpec, ...]) -> bool:
    """Lists without a batch, labels of 64 bits."""
    return any(spec.dtype == "int64" and len(spec.shape) == 1 for spec in specs)


def _head(specs: tuple[TensorSpec, ...]) -> tuple[int, slice, bool] | None:
    """Where the boxes of yolov5, yolov8, yolo_e2e are: output, channels, whether candidates come first."""
    heads = [at for at, spec in enumerate(specs) if len(trimmed(spec.shape)) == 2]
    if len(heads) == 2:
        heads = [at for at in heads if 4 in specs[at].shape] or heads
        named = [at for at in heads if "box" in specs[at].name or "dets" in specs[at].name]
        heads = named if len(heads) > 1 and named else heads
    if not heads:
        return None
    shape = trimmed(specs[heads[0]].shape)
    first, last = (size or 10**9 for size in shape)
    return heads[0], slice(0, 4), last < first


def _rows(specs: tuple[TensorSpec, ...]) -> tuple[int, slice, bool] | None:
    return 0, slice(0, 4), True


def _scores_apart(specs: tuple[TensorSpec, ...]) -> int | None:
    boxes = _head(specs)
    heads = [at for at, spec in enumerate(specs) if len(trimmed(spec.shape)) == 2]
    if boxes is None or len(heads) != 2:
        return None
    return next(at for at in heads if at != boxes[0])


def _scores_joined(specs: tuple[TensorSpec, ...]) -> int | None:
    found = [at for at, spec in enumerate(specs) if len(spec.shape) == 3 and "anchor" not in spec.name]
    named = [at for at in found if any(word in specs[at].name for word in ("cls", "class", "score", "logit"))]
    others = [at for at in found if specs[at].shape[-1] != 4]
    chosen = others or named
    return chosen[0] if len(chosen) == 1 else None


_SETTLE: dict[str, tuple[Settle, ...]] = {
    "classify": (_class_scores,),
    "yolov5": (_box_unit(_head), _box_format(_head), _no_class_numbers(5)),
    "yolov8": (_box_unit(_head), _box_format(_head), _detector_scores(_scores_apart), _no_class_numbers(4)),
    "yolo_e2e": (_box_unit(_rows),),
    "detr": (_box_unit(_head), _box_format(_head), _detector_scores(_scores_apart)),
    "efficientdet": (_detector_scores(_scores_joined),),
    "labelled_boxes": (_first_class("labelled_boxes", 0),),
    "detection_output": (_first_class("detection_output", None),),
    "yolov7_e2e": (_first_class("yolov7_e2e", 0),),
    "nas_flat": (_first_class("nas_flat", 0),),
}
