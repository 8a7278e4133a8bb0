"""Imported first by scripts whose exporter needs torchvision: makes its import work beside the CPU build of torch.

PyPI's torchvision is built against CUDA: its compiled operators cannot be loaded there, and then its import fails for
want of the operators' schemas. Declaring them is enough for that. `stand_in` gives two of them a body for the CPU; in
an exported ONNX graph they are ONNX's own operators (NonMaxSuppression, RoiAlign), as with the compiled ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torchvision would have its pure Python roi_align compiled

import torch


def _loads() -> bool:
    found = importlib.util.find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return True


HAS_OPERATORS = _loads()
if not HAS_OPERATORS:
    operators = torch.library.Library("torchvision", "DEF")  # kept: its end would take the schemas away
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )


def stand_in() -> None:
    """Bodies for `nms` and `roi_align` where the compiled ones do not load; torchvision is told that it has them."""
    if HAS_OPERATORS:
        return
    operators.impl("nms", _nms, "CPU")
    operators.impl("roi_align", importlib.import_module("torchvision.ops.roi_align")._roi_align, "CPU")
    for name in ("extension", "ops.roi_align", "ops.boxes"):
        module = importlib.import_module(f"torchvision.{name}")
        module._has_ops, module._assert_has_ops = _has_ops, _assert_has_ops


def _has_ops() -> bool:
    return True


def _assert_has_ops() -> None:
    pass


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy suppression: of two boxes that overlap more, the one of the lower score goes."""
    order = torch.argsort(scores, descending=True, stable=True)
    x1, y1, x2, y2 = boxes[order].double().unbind(dim=1)
    area = (x2 - x1) * (y2 - y1)
    gone = torch.zeros(len(order), dtype=torch.bool)
    for at in range(len(order)):
        if gone[at]:
            continue
        rest = slice(at + 1, None)
        width = (torch.minimum(x2[at], x2[rest]) - torch.maximum(x1[at], x1[rest])).clamp(min=0)
        height = (torch.minimum(y2[at], y2[rest]) - torch.maximum(y1[at], y1[rest])).clamp(min=0)
        both = width * height
        gone[rest] |= both / (area[at] + area[rest] - both) > iou_threshold
    return order[~gone]
