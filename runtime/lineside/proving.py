"""One trial: run a file of a bundle on a backend, and compare its answers. `python -m lineside.proving`, for proof.py.

With golden pictures, they decide. Without, rendered pictures are shown to this way and to a second one (the same file
in another runtime or without a runtime's optimisations, or another file of the bundle), and their answers compared.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lineside.config.stations import StationConfig
from lineside.errors import DeviceError, LinesideError
from lineside.golden import differences
from lineside.hal.choose import installed
from lineside.hal.processor import features
from lineside.hal.profile import GENERIC, Candidate
from lineside.recipe import Model, findings_of, open_model
from lineside.records import Artefact, Finding, Image
from lineside.registry import driver
from lineside.store import golden
from lineside.store.bundle import Bundle, read_bundle

_PR_SET_PDEATHSIG = 1  # prctl(2)
_SHOWN = 3  # differences that a sentence names
_PICTURES = 8
_MOST_DIFFER = 2  # of these pictures: two files of one model may decide a close case differently
_OTHER_FILE = golden.Tolerance(score=0.3, iou=0.6)  # two quantisations of a model differ by more than two runtimes


def main() -> None:
    """argv: the file descriptor of the answer, and what is asked, as JSON."""
    with suppress(OSError, AttributeError):  # a parent that is killed takes a trial that hangs with it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    asked = json.loads(sys.argv[2])
    if os.getppid() != asked["parent"]:
        sys.exit("whoever asked is gone")
    with suppress(OSError):  # where memory ends, it is this process that goes
        Path("/proc/self/oom_score_adj").write_text("1000")
    cv2.setNumThreads(1)
    answer = {**_try(asked), "features": features()}
    with open(int(sys.argv[1]), "w", encoding="utf-8") as file:
        json.dump(answer, file)
        file.flush()
        os._exit(0)  # a runtime that dies at exit has answered before


def _try(asked: Mapping[str, Any]) -> dict[str, str]:
    candidate = Candidate(**asked["candidate"])
    cache_dir = Path(asked["cache_dir"]) if asked["cache_dir"] else None
    try:
        bundle = read_bundle(asked["folder"])
        artefact = next(one for one in bundle.artefacts if Path(one.path).name == asked["file"])
        model = _open(bundle, Way(artefact, candidate), cache_dir)
        try:
            if bundle.golden is not None:
                return _golden(bundle, Path(artefact.path).name, model)
            return _consistent(bundle, Way(artefact, candidate), model)
        finally:
            model.executor.close()
    except DeviceError as error:
        return {"state": "absent", "told": str(error)}
    except LinesideError as error:
        return {"state": "broken", "told": f"does not run: {error}"}


class Way(NamedTuple):
    """A file on a backend, with options."""

    artefact: Artefact
    candidate: Candidate

    def __str__(self) -> str:
        candidate = self.candidate
        plain = candidate.options.get("graph_optimization") == "disabled"
        place = f"{candidate.name}:{candidate.device}{' without optimisation' if plain else ''}"
        return f"{Path(self.artefact.path).name} on {place}"


def _open(bundle: Bundle, way: Way, cache_dir: Path | None) -> Model:
    candidate = way.candidate
    station = StationConfig(camera="none", bundle=str(bundle.folder), backend=candidate.name, device=candidate.device)
    only = replace(bundle, artefacts=(way.artefact,))
    return open_model(only, station, replace(GENERIC, backend=(candidate,)), cache_dir=cache_dir)


def _golden(bundle: Bundle, file: str, model: Model) -> dict[str, str]:
    assert bundle.golden is not None
    found = differences(bundle, file, model.see, model.settings.min_score)
    if found:
        return {"state": "wrong", "told": f"gives wrong answers to its golden pictures: {_listed(found)}"}
    return {"state": "golden", "told": f"answers its {len(bundle.golden.cases)} golden pictures"}


def _consistent(bundle: Bundle, way: Way, model: Model) -> dict[str, str]:
    """Against the first other way that opens."""
    unproven = "is unproven on this machine: the bundle has no golden pictures (`lineside bundle golden` adds them)"
    shown = list(_pictures())
    seen = [findings_of(model.see(image), model.labels) for image in shown]
    for other in _others(bundle, way):
        try:
            second = _open(bundle, other, None)
        except LinesideError:
            continue
        try:
            wanted = [findings_of(second.see(image), second.labels) for image in shown]
        except LinesideError:
            continue
        finally:
            second.executor.close()
        lines = _compared(bundle, way, other, wanted, seen)
        if len(lines) > _MOST_DIFFER:
            return {
                "state": "wrong",
                "told": f"and {other} answer differently to {len(lines)} of {len(shown)} pictures: {_listed(lines)}",
            }
        if bundle.task == "detect" and not any(map(_is_sure(bundle), (*wanted, *seen))):
            return {"state": "unproven", "told": f"{unproven}, and neither it nor {other} found anything to compare"}
        return {"state": "consistent", "told": f"answers {len(shown)} pictures as {other} does"}
    return {"state": "unproven", "told": f"{unproven}, and nothing else here runs it"}


def _others(bundle: Bundle, way: Way) -> Iterator[Way]:
    """Other ways to run the same model, the most telling first: a float file, the same file, other files."""
    here = [name for name in installed()]
    ways = [
        Way(artefact, Candidate(name=name, options=options))
        for artefact in bundle.artefacts
        for name in here
        if artefact.format in driver("backend", name).formats("cpu")
        for options in _options(name)
    ]

    def rank(other: Way) -> tuple[bool, bool]:
        is_exact = other.artefact.precision == "fp32" or bool(other.candidate.options)
        return not is_exact, other.artefact.path != way.artefact.path

    same = (way.artefact.path, way.candidate.name)
    ways = [one for one in ways if (one.artefact.path, one.candidate.name) != same or one.candidate.options]
    yield from sorted(ways, key=rank)


def _options(name: str) -> tuple[dict[str, Any], ...]:
    """Options under which a runtime computes as the file says, without kernels of the processor's own."""
    if name == "onnxruntime":
        return {"graph_optimization": "disabled"}, {}
    return ({"precision": "f32"},) if name == "openvino" else ({},)


def _compared(
    bundle: Bundle, way: Way, other: Way, wanted: list[tuple[Finding, ...]], seen: list[tuple[Finding, ...]]
) -> list[str]:
    """A line for each picture in which the two differ."""
    same_file = way.artefact.path == other.artefact.path
    tolerance = golden.Tolerance() if same_file else _OTHER_FILE
    lines = []
    for number, (first, second) in enumerate(zip(wanted, seen, strict=True), 1):
        said = tuple(golden.Said(label=one.label, score=one.score, box=one.box) for one in first)
        case = golden.Case(image=f"picture {number}", sha256="0" * 64, answers={"": said})
        held = golden.Golden(min_score=bundle.settings.min_score, tolerance=tolerance, cases=(case,))
        found = golden.differences(case, "", second, bundle.task, held, bundle.settings.min_score)
        lines += [line.replace("golden", "there") for line in found[:1]]
    return lines


def _is_sure(bundle: Bundle) -> Any:
    least = bundle.settings.min_score + golden.Tolerance().score
    return lambda findings: any(finding.score >= least for finding in findings)


def _listed(lines: list[str]) -> str:
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more


def _pictures() -> Iterator[Image]:
    """Rendered parts, and clouds of colour of several sizes: something for every kind of layer, the same everywhere."""
    camera = driver("camera", "synthetic")(seed=7, frames=_PICTURES, pace="max_speed")
    camera.open()
    try:
        for _ in range(_PICTURES // 2):
            captured = camera.read()
            if captured is not None:
                yield captured.image
    finally:
        camera.close()
    random = np.random.default_rng(0)
    for cells in (3, 8, 24, 64)[: _PICTURES // 2]:
        light, colour = random.integers(-256, 512, (cells, cells, 1)), random.integers(-60, 61, (cells, cells, 3))
        grid = (light + colour).clip(0, 255).astype(np.uint8)  # with black and white, where sums are the greatest
        yield np.asarray(cv2.resize(grid, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


if __name__ == "__main__":
    main()
