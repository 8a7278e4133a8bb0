"""What a measurement on this box depends on beside the model: processor and what it can do, runtime and drivers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lineside.hal.board import ROOT, Board
from lineside.hal.processor import features

_DRIVERS = ("proc/driver/nvidia/version", "sys/module/apex/version", "sys/module/intel_vpu/version")


def facts(board: Board, packages: Sequence[str], root: Path = ROOT) -> dict[str, str]:
    """The facts by name; `packages` are those of the runtime. A package or driver that is absent is left out."""
    found = {"board": board.model, "cpu": board.cpu, "arch": board.arch, "cores": str(board.cores_allowed)}
    found["features"] = " ".join(features())
    for package in packages:
        try:
            found[package] = version(package.replace("_", "-"))
        except PackageNotFoundError:
            continue
    for name in _DRIVERS:
        try:
            found[name] = (root / name).read_text(errors="replace").strip()
        except OSError:
            continue
    return found


def fingerprint(facts: dict[str, str]) -> str:
    """A short name for these facts, fit for a file name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
