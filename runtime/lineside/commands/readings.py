"""Which readings of a model's outputs come into question: by its metadata, by the outputs' names, then by their shapes.

Which of them holds is found out by running the model (try_model.py, judge.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from lineside.commands.guess import kin_of, task_of
from lineside.commands.model_facts import ModelFacts
from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec, Task, TensorSpec
from lineside.vision.decode import fitting, open_decoder
from lineside.vision.decode.outputs import describe

# where several fit, the one whose outputs are the most particular
PREFERENCE = (
    *("yunet", "blazeface", "ultraface", "ssd", "nanodet", "fastestdet", "efficientdet", "detection_output"),
    *("labelled_boxes", "fomo", "yolox", "yolo_e2e", "yolov8", "yolov5", "detr", "yolov7_e2e", "nas_flat"),
    *("classify", "anomaly"),
)
BY_METADATA, BY_NAMES, BY_SHAPES = 3, 2, 1
# decoder -> output names that only its family uses; all of one set must be there
_NAMES: dict[str, tuple[frozenset[str], ...]] = {
    "detr": tuple(map(frozenset, ({"dets", "labels"}, {"pred_logits", "pred_boxes"}, {"logits", "pred_boxes"}))),
    "yolov8": (frozenset({"pred_bboxes", "pred_scores"}),),
    "labelled_boxes": tuple(
        map(
            frozenset,
            (
                {"boxes", "labels", "scores"},
                {"boxes", "scores", "labels", "masks"},
                {"num_dets", "det_boxes", "det_scores", "det_classes"},
                {"detection_boxes", "detection_classes", "detection_scores"},
            ),
        )
    ),
    "detection_output": (frozenset({"detection_out"}), frozenset({"DetectionOutput"})),
    "anomaly": tuple(map(frozenset, ({"pred_score"}, {"anomaly_map"}, {"pred_score", "anomaly_map"}))),
    "efficientdet": (frozenset({"regression", "classification"}),),
    "yunet": (frozenset({"cls_8", "obj_8", "bbox_8"}),),
}
_ULTRALYTICS = {
    "classify": ("classify",),
    "detect": ("yolo_e2e", "yolov8", "yolov5", "yolox", "labelled_boxes", "detr", "nas_flat", "yolov7_e2e", "ssd"),
    "segment": ("yolo_e2e", "yolov8", "yolov5"),
    "pose": ("yolo_e2e", "yolov8"),
}
_REFUSED_TASKS = {
    "obb": "oriented boxes",
    "semantic": "masks of a semantic segmentation",
    "depth": "depths",
    "RotatedDetection": "oriented boxes",
    "Segmentation": "masks of a semantic segmentation",
    "KeypointDetection": "key points",
}
_MODEL_TYPES = {"AnomalyDetection": ("anomaly",), "Classification": ("classify",)}


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the outputs."""

    decode: str
    settings: DecodeSettings
    rank: int  # BY_METADATA, BY_NAMES, BY_SHAPES
    why: str


def readings(
    facts: ModelFacts,
    labels: tuple[str, ...],
    asked: str | None,
    task: Task | None,
    input: InputSpec,
    said: dict[str, Any],
) -> list[Reading]:
    """Every reading that fits, those with the best grounds first. `said` are settings that the user gave.

    Raises ConfigError when none fits, or when the metadata tells of a task that lineside has no decoder for.
    """
    _check_task(facts)
    known = labels or facts.labels
    found: list[Reading] = []
    for names in _output_sets(facts, said):
        if found and not found[0].settings.outputs:
            break  # all outputs together are one family's
        for decode in PREFERENCE if asked is None else (asked,):
            settings = _settings(facts, decode, {**said, **({"outputs": names} if names else {})})
            if task in (None, task_of(decode)) and _fits(facts, decode, known, input, settings):
                found.append(_grounded(facts, decode, settings, names))
    allowed = _allowed(facts)
    found = [each for each in found if allowed is None or each.decode in allowed or asked]
    if not found:
        raise _no_fit(facts, known, asked, input, said)
    return sorted(found, key=lambda each: -each.rank)


def _check_task(facts: ModelFacts) -> None:
    for key in ("task", "model_type"):
        note = facts.notes.get(key)
        if note and note.value in _REFUSED_TASKS:
            raise ConfigError(
                f'{facts.path}: its metadata says {key} = "{note.value}": {_REFUSED_TASKS[note.value]}, '
                "which lineside does not read: export a model that gives upright boxes (detect) or classes"
            )


def _allowed(facts: ModelFacts) -> tuple[str, ...] | None:
    """The decoders that the metadata leaves, or None where it says nothing."""
    notes = facts.notes
    if "nms" in notes and notes["nms"].value and "task" in notes and notes["task"].value != "classify":
        return ("yolo_e2e", "labelled_boxes")
    if "task" in notes:
        return _ULTRALYTICS.get(notes["task"].value)
    if "model_type" in notes:
        return _MODEL_TYPES.get(notes["model_type"].value)
    return None


def _output_sets(facts: ModelFacts, said: dict[str, Any]) -> list[tuple[str, ...]]:
    """All outputs, then each alone: a model may end in two equal heads, or give what nobody reads beside its answer."""
    if said.get("outputs"):
        return [said["outputs"]]
    return [(), *((output.name,) for output in facts.outputs if len(facts.outputs) > 1)]


def _settings(facts: ModelFacts, decode: str, said: dict[str, Any]) -> DecodeSettings:
    family, _ = kin_of(facts, decode)
    keys = ("min_score", "nms_iou", "threshold", "scores", "extra_channels")
    noted = {key: facts.notes[key].value for key in keys if key in facts.notes and _takes(decode, key)}
    return replace(family.settings, **{**noted, **said})


def _takes(decode: str, key: str) -> bool:
    if key == "threshold":
        return decode == "anomaly"
    return key != "scores" or decode == "classify"


def _fits(facts: ModelFacts, decode: str, labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings) -> bool:
    tried = labels if decode not in ("yunet", "ultraface", "blazeface") or len(labels) == 1 else ()
    tried = tried or (("face",) if decode in ("yunet", "ultraface", "blazeface", "anomaly") else ())
    if not tried:
        return False
    if labels and decode in ("yunet", "ultraface", "blazeface") and len(labels) != 1 and "labels" not in facts.notes:
        return False
    if decode == "anomaly" and not _anomaly_like(facts):
        return False
    return decode in fitting(facts.outputs, tried, input, settings, (decode,))


def _anomaly_like(facts: ModelFacts) -> bool:
    """A single number may be anything; only a name or a map tells of an anomaly."""
    names = " ".join(output.name for output in facts.outputs).lower()
    told = any(word in names for word in ("anomaly", "pred_score", "score"))
    return told or any(math.prod(size or 2 for size in output.shape) > 1 for output in facts.outputs)


def _grounded(facts: ModelFacts, decode: str, settings: DecodeSettings, names: tuple[str, ...]) -> Reading:
    outputs = {output.name for output in facts.outputs}
    which = f"output {names[0]}" if names else "the outputs"
    allowed = _allowed(facts)
    if (
        allowed is not None
        and decode in allowed
        and (len(allowed) == 1 or ("nms" in facts.notes and decode == allowed[0]))
    ):
        return Reading(decode, settings, BY_METADATA, f"{facts_word(facts)}, and {which} fit it")
    if any(wanted <= outputs for wanted in _NAMES.get(decode, ())):
        return Reading(decode, settings, BY_NAMES, f"the outputs are named and shaped as {kin_of(facts, decode)[1]}'s")
    return Reading(decode, settings, BY_SHAPES, f"{which} fit{'s' if names else ''} it")


def facts_word(facts: ModelFacts) -> str:
    """What the metadata says of the task."""
    notes = facts.notes
    if "nms" in notes and notes["nms"].value:
        return f"{notes['nms'].source} says nms"
    key = "task" if "task" in notes else "model_type"
    return f"{notes[key].source} says {key} = {notes[key].value}"


def _no_fit(
    facts: ModelFacts, labels: tuple[str, ...], asked: str | None, input: InputSpec, said: dict[str, Any]
) -> ConfigError:
    if asked is not None:
        try:
            open_decoder(asked, facts.outputs, labels or ("object",), input, _settings(facts, asked, said))
        except ConfigError as error:
            return ConfigError(f"{facts.path}: {error}") if labels else _no_labels(facts)
    if not labels:
        return _no_labels(facts)
    named = [name for name, sets in _NAMES.items() if any(each <= {o.name for o in facts.outputs} for each in sets)]
    why = ""
    for name in (*named, *_counted(facts, input)):
        try:
            open_decoder(name, facts.outputs, labels, input, _settings(facts, name, said))
        except ConfigError as error:
            why = f" ({error})"
            break
    masks = [output for output in facts.outputs if _is_mask(output, input)]
    if len(masks) == len(facts.outputs):
        why = f" ({masks[0].name} looks like the masks of a segmentation, which lineside does not read)"
    shapes = ", ".join(describe(output) for output in facts.outputs)
    if "labels" in facts.notes and labels == facts.labels:
        why = f" of {facts.notes['labels'].source}{why}"
    return ConfigError(
        f"{facts.path}: no decoder fits the outputs {shapes} with {len(labels)} labels{why}: "
        "check --labels, or say --decode NAME to read what that decoder expects"
    )


def _no_labels(facts: ModelFacts) -> ConfigError:
    return ConfigError(f"{facts.path}: holds no class names: give --labels FILE, one label a line in class order")


def _counted(facts: ModelFacts, input: InputSpec) -> list[str]:
    """Decoders that say how many classes they count in these outputs."""
    shapes = [len(output.shape) for output in facts.outputs]
    if shapes == [3]:
        return ["yolov8"]
    return ["fomo"] if shapes == [4] and input.width_px else []


def _is_mask(output: TensorSpec, input: InputSpec) -> bool:
    if len(output.shape) != 4 or not input.width_px or not input.height_px:
        return False
    _, *sides = output.shape
    return sum(side is not None and side * 4 > input.width_px for side in sides) >= 2
