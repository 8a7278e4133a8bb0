"""What exporters write about a model, in its file and in files beside it, as the words of a bundle.

A note is a value and where it stands; what is written nearer to the weights wins. Keys: labels, task, author, nms,
size, mean,
std, color, resize, pad_value, crop_fraction, min_score, nms_iou, threshold, scores, extra_channels, model_type.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lineside.commands import small_yaml
from lineside.errors import ConfigError

MAX_NOTE_BYTES = 1 << 20
METADATA = "the model's metadata"
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_RESIZES = {
    "standard": "stretch",
    "fit_to_window": "letterbox_top_left",
    "fit_to_window_letterbox": "letterbox",
    "crop": "center_crop",
}


class Note(NamedTuple):
    value: Any
    source: str  # "the model's metadata", "metadata.yaml"


Notes = Mapping[str, Note]


def notes_of(path: Path, metadata: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Note]:
    """Of a model file: its metadata as the exporter wrote it, what a reader of its format understood (`more`), and the
    files beside it. Raises ConfigError where a file beside it that is meant for lineside cannot be read."""
    found: dict[str, Note] = {}
    for source, told in (
        (METADATA, more),
        (METADATA, _model_info(metadata)),
        (METADATA, _ultralytics(metadata)),
        *_beside(path),
    ):
        for key, value in told.items():
            if value not in (None, ()):
                found.setdefault(key, Note(value, source))
    return found


def literal(text: str) -> Any:
    """JSON, or the Python literal that Ultralytics writes; None for anything else."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def labels_of(names: Any) -> tuple[str, ...]:
    """Class names as {0: 'a', 1: 'b'} or ['a', 'b'], or such in a text; none where a number is left out."""
    if isinstance(names, str):
        names = literal(names)
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        by_number = {int(number): str(name) for number, name in names.items()}
        return tuple(by_number[number] for number in range(len(names)))
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _ultralytics(told: Mapping[str, Any]) -> dict[str, Any]:
    """Ultralytics' exporters, in the file or in metadata.yaml."""
    found: dict[str, Any] = {"labels": labels_of(told.get("names")), "author": told.get("author")}
    if "labels" in told and not found["labels"]:
        words = told["labels"]
        found["labels"] = tuple(words.split()) if isinstance(words, str) else labels_of(words)
    if sides := numbers(told.get("imgsz", "")):
        found["size"] = (int(sides[-1]), int(sides[0]))
    task = told.get("task")
    if not isinstance(task, str):
        return found
    found["task"] = task
    arguments = told.get("args", {})
    if isinstance(arguments, str):
        arguments = literal(arguments)
    if isinstance(arguments, dict) and "nms" in arguments:
        found["nms"] = arguments["nms"] is True or str(arguments["nms"]).lower() == "true"
    if points := numbers(told.get("kpt_shape", "")):
        found["extra_channels"] = int(math.prod(points))
    if task == "classify" and "ultralytics" in str(told.get("author", "")).lower():
        found |= {"mean": (0.0,) * 3, "std": (255.0,) * 3, "resize": "center_crop"}
        found |= {"crop_fraction": 1.0, "scores": "probability"}
    return found


def _model_info(told: Mapping[str, Any]) -> dict[str, Any]:
    """OpenVINO's model_info, as its Model API reads it (docs.openvino.ai, "Model API", "Model configuration")."""
    found: dict[str, Any] = {"model_type": told.get("model_type")}
    embedded = str(told.get("embedded_processing", "")).lower() in ("true", "yes", "1")
    mean, std = (_three(numbers(told.get(key, ""))) for key in ("mean_values", "scale_values"))
    if embedded:
        found |= {"mean": (0.0,) * 3, "std": (1.0,) * 3, "color": "bgr"}
    elif mean or std:
        found |= {"mean": mean or (0.0,) * 3, "std": std or (1.0,) * 3}
    reverse = str(told.get("reverse_input_channels", "")).lower()
    if reverse and not embedded:
        found["color"] = "rgb" if reverse in ("true", "yes", "1") else "bgr"
    found["resize"] = _RESIZES.get(str(told.get("resize_type", "")))
    if found["resize"] == "center_crop":
        found["crop_fraction"] = 1.0
    for key, ours in (
        ("pad_value", "pad_value"),
        ("confidence_threshold", "min_score"),
        ("iou_threshold", "nms_iou"),
        ("image_threshold", "threshold"),
    ):
        if values := numbers(told.get(key, "")):
            found[ours] = int(values[0]) if ours == "pad_value" else values[0]
    if told.get("multilabel") is not None and str(told["multilabel"]).lower() in ("true", "yes", "1"):
        found["scores"] = "sigmoid"
    return found


# --- files beside the model


def _beside(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What stands beside the model, by the file's name."""
    found = []
    for name, read in (
        ("metadata.yaml", _ultralytics),
        ("metadata.json", _anomalib),
        ("preprocessor_config.json", _preprocessor),
        ("config.json", _config),
        ("data.yaml", lambda told: {"labels": labels_of(told.get("names"))}),
    ):
        file = path.parent / name
        told = _table(file)
        if told:
            found.append((f"{name} beside it", read(told)))
    return found


def _table(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            return {}
        if file.stat().st_size > MAX_NOTE_BYTES:
            raise ValueError(f"larger than {MAX_NOTE_BYTES >> 20} MB")
        text = file.read_text("utf-8-sig")
        told = small_yaml.parse(text) if file.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file}: stands beside the model and cannot be read ({error}): correct it, or move the model elsewhere"
        ) from error
    return told if isinstance(told, dict) else {}


def _anomalib(told: dict[str, Any]) -> dict[str, Any]:
    """Anomalib 1's metadata.json: the threshold of its raw scores, and in older ones the normalisation."""
    found: dict[str, Any] = {}
    if "image_threshold" in told and (values := numbers(told["image_threshold"])):
        found["threshold"] = values[0]
    for step in _steps(told.get("transform")):
        if "mean" in step and "std" in step:
            most = float(step.get("max_pixel_value", 255.0))
            found["mean"] = tuple(most * value for value in _three(numbers(step["mean"])))
            found["std"] = tuple(most * value for value in _three(numbers(step["std"])))
    return found


def _steps(transform: Any) -> list[dict[str, Any]]:
    if isinstance(transform, dict):
        within = [step for value in transform.values() for step in _steps(value)]
        return [transform, *within]
    return [step for each in transform for step in _steps(each)] if isinstance(transform, list) else []


def _preprocessor(told: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's image processors (huggingface.co/docs/transformers, "Image Processor")."""
    kind = str(told.get("image_processor_type") or told.get("feature_extractor_type") or "")
    flips = told.get("do_flip_channel_order", told.get("do_flip_channels", "MobileViT" in kind))
    rescale = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
    found: dict[str, Any] = {"color": "bgr" if flips else "rgb"}
    mean, std = _three(numbers(told.get("image_mean", ""))), _three(numbers(told.get("image_std", "")))
    if told.get("do_normalize", bool(mean)) and mean and std:
        found |= {"mean": tuple(each / rescale for each in mean), "std": tuple(each / rescale for each in std)}
    else:
        found |= {"mean": (0.0,) * 3, "std": (1 / rescale,) * 3}
    if not told.get("do_resize", True):
        return found
    size, crop = _sides(told.get("size")), _sides(told.get("crop_size"))
    shortest = _shortest(told.get("size"))
    if told.get("do_center_crop", "MobileViT" in kind) and crop and (shortest or size):
        if shortest and crop[0] == crop[1]:
            found |= {"resize": "center_crop", "crop_fraction": min(1.0, crop[0] / shortest), "size": crop}
        elif size == crop:
            found |= {"resize": "stretch", "size": size}
    elif shortest and told.get("crop_pct"):
        found |= {"resize": "center_crop", "crop_fraction": float(told["crop_pct"]), "size": (shortest, shortest)}
    elif size:
        found |= {"resize": "stretch", "size": size}
    return found


def _config(told: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's config.json (class names, kind of scores) and timm's (pretrained_cfg)."""
    found: dict[str, Any] = {"labels": labels_of(told.get("id2label", told.get("label_names")))}
    architectures = " ".join(map(str, told.get("architectures") or []))
    if "ForImageClassification" in architectures:
        several = told.get("problem_type") == "multi_label_classification"
        found["scores"] = "sigmoid" if several else "logit"
    timm = told.get("pretrained_cfg")
    if isinstance(timm, dict):
        mean, std = _three(numbers(timm.get("mean", ""))), _three(numbers(timm.get("std", "")))
        if mean and std:
            found |= {"mean": tuple(255 * each for each in mean), "std": tuple(255 * each for each in std)}
        found |= {"color": "rgb", "resize": "center_crop", "crop_fraction": float(timm.get("crop_pct") or 1.0)}
        if "label_names" in timm and not found["labels"]:
            found["labels"] = labels_of(timm["label_names"])
    return found


# --- values


def numbers(value: Any) -> tuple[float, ...]:
    """The numbers in a text, a list or a number."""
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, (int, float)):
        return (float(value),)
    if isinstance(value, (list, tuple)):
        return tuple(number for each in value for number in numbers(each))
    return tuple(float(each) for each in _NUMBER.findall(str(value)))


def _three(values: tuple[float, ...]) -> tuple[float, ...]:
    return values * 3 if len(values) == 1 else values if len(values) == 3 else ()


def _sides(size: Any) -> tuple[int, int] | None:
    """Width and height."""
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return int(size["width"]), int(size["height"])
    return (size, size) if isinstance(size, int) and not isinstance(size, bool) else None


def _shortest(size: Any) -> int | None:
    if isinstance(size, dict) and "shortest_edge" in size and "longest_edge" not in size:
        return int(size["shortest_edge"])
    return None
