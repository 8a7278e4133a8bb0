"""A model compiled for the CPU, kept on disk with its specs: opening it needs no reading, folding or compiling.

INT8 YOLOv8n 640: 0.48 s of CPU time instead of 1.65, and 0.73 with OpenVINO's own cache, which reads the model first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lineside.records import Artefact, InputSpec, TensorSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A vendor's compiled model, and the inputs and outputs of the model it was made from."""

    model: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def kept_at(cache_dir: Path, core: Any, version: str, artefact: Artefact, input: InputSpec, config: object) -> Path:
    """Where a model is kept: another file, input, option, OpenVINO or CPU gives another name."""
    stat = os.stat(artefact.path)
    cpu = core.get_property("CPU", "FULL_DEVICE_NAME"), core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    told = (version, cpu, artefact.path, artefact.sha256, stat.st_size, stat.st_mtime_ns, input, config)
    return cache_dir / f"openvino-{hashlib.sha256(repr(told).encode()).hexdigest()[:24]}.bin"


def load(path: Path, core: Any, config: Mapping[str, object]) -> Compiled | None:
    """None where nothing is kept or it is damaged; then it is compiled again."""
    try:
        head, _, blob = path.read_bytes().partition(b"\n")
        told = json.loads(head)
        if told["sha256"] != hashlib.sha256(blob).hexdigest():  # OpenVINO might crash on a damaged one
            raise ValueError("damaged")
        model = core.import_model(blob, "CPU", config)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        _log.warning("compiled model %s cannot be used (%s): compiling again", path, error)
        return None
    return Compiled(model, _specs(told["inputs"]), _specs(told["outputs"]))


def save(path: Path, compiled: Compiled) -> None:
    """Written whole or not at all. A full disk costs the next start its speed, nothing else."""
    exported = compiled.model.export_model()
    blob = exported if isinstance(exported, bytes) else exported.getvalue()
    told = {
        "sha256": hashlib.sha256(blob).hexdigest(),
        "inputs": [asdict(spec) for spec in compiled.inputs],
        "outputs": [asdict(spec) for spec in compiled.outputs],
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(json.dumps(told).encode() + b"\n" + blob)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        _log.warning("compiled model %s cannot be kept (%s): the next start compiles again", path, error.strerror)


def _specs(told: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in told)
