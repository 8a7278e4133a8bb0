"""Imported first by scripts whose exporter needs torchvision: makes its import work beside the CPU build of torch.

PyPI's torchvision is built against CUDA: its compiled operators cannot be loaded there, and then its import fails for
want of the operators' schemas. Declaring them is enough; the operators themselves stay absent, unless a script gives
one its exporter's own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

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
