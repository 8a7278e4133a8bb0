"""What exact INT8 costs on a processor without VNNI, and whether the tuner finds the fastest exact way.

    python tools/bench_exact.py                                   # the shipped bundles, about six minutes
    python tools/bench_exact.py pcb-yolo --write docs/performance.md

Each file of a bundle on each backend, exact as lineside runs it and with `exact_int8 = false`, in turn, so that all see
the same noise of others on this machine; medians of the frame path (resize, model, decoding) with all cores. Then
`lineside tune`, whose pick must be within 1.1 x of the fastest exact way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench.machine import machine
from lineside.config.stations import StationConfig
from lineside.errors import LinesideError
from lineside.hal.choose import installed
from lineside.hal.profile import GENERIC, Candidate
from lineside.images import read_image
from lineside.recipe import Model, findings_of, open_model
from lineside.registry import driver
from lineside.resources import shipped
from lineside.store.bundle import Bundle, open_bundle
from models_report import write_between

BEGIN, END = "<!-- bench_exact.py begins -->", "<!-- bench_exact.py ends -->"
ROUNDS, RUNS = 12, 5
INEXACT = ("onnxruntime", "openvino")  # the backends that have exact_int8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="*", help="default: every shipped one")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between its marks there")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    names = asked.bundle or sorted(path.parent.name for path in shipped("models").glob("*/model.toml"))
    about = machine()
    lines = [
        "",
        f"{about['date']}, on {about['cores']} cores of {about['cpu']} {'with' if about['vnni'] else 'without'} VNNI; "
        f"{about['system']}; load at start {about['load_1min_at_start']}. "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "",
        "| bundle | file, backend | exact ms | not exact ms | cost |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name in names:
        for line in rows(open_bundle(name)):
            print(line, flush=True)
            lines.append(line)
    if asked.write:
        write_between(asked.write, BEGIN, END, [*lines, ""])
    return 0


def rows(bundle: Bundle) -> Iterator[str]:
    """A line for each way, the fastest first, and one for the tuner's pick."""
    assert bundle.golden is not None
    image = read_image(bundle.folder / bundle.golden.cases[0].image)
    models: dict[tuple[str, str, bool], Model] = {}
    for artefact in bundle.artefacts:
        for backend in installed():
            if artefact.format not in driver("backend", backend).formats("cpu"):
                continue
            for exact in (True, False) if backend in INEXACT else (True,):
                options: dict[str, bool | int | float | str] = {} if exact else {"exact_int8": False}
                station = StationConfig(camera="none", bundle=str(bundle.folder), backend=backend, device="cpu")
                only = replace(GENERIC, backend=(Candidate(name=backend, options=options),))
                try:
                    model = open_model(replace(bundle, artefacts=(artefact,)), station, only)
                except LinesideError:
                    continue  # OpenVINO does not take every TFLite file
                models[Path(artefact.path).name, backend, exact] = model
    times: dict[tuple[str, str, bool], list[float]] = {way: [] for way in models}
    for _ in range(ROUNDS):
        for way, model in models.items():
            findings_of(model.see(image), model.labels)  # another's threads were just here
            for _ in range(RUNS):
                began_ns = time.perf_counter_ns()
                findings_of(model.see(image), model.labels)
                times[way].append((time.perf_counter_ns() - began_ns) / 1e6)
    medians = {way: float(np.median(taken)) for way, taken in times.items()}
    for model in models.values():
        model.executor.close()
    ranked = sorted((way for way in medians if way[2]), key=lambda way: medians[way])
    for file, backend, _ in ranked:
        inexact = medians.get((file, backend, False))
        cost = "-" if inexact is None else f"{medians[file, backend, True] / inexact:.2f} x"
        shown = "-" if inexact is None else f"{inexact:.2f}"
        yield f"| {bundle.name} | {file}, {backend} | {medians[file, backend, True]:.2f} | {shown} | {cost} |"
    pick = tuned(bundle)
    ratio = medians[pick] / medians[ranked[0]] if pick in medians else float("nan")
    yield f"| {bundle.name} | `tune` picks {pick[0]}, {pick[1]} | {ratio:.2f} x of the fastest exact way | | |"


def tuned(bundle: Bundle) -> tuple[str, str, bool]:
    """What `lineside tune` picks, with nothing known before."""
    with tempfile.TemporaryDirectory() as state:
        words = ["tune", "--bundle", str(bundle.folder), "--state-dir", state, "--seconds", "20", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "lineside.cli", *words], check=True, stdout=subprocess.PIPE, text=True
        )
    pick = json.loads(done.stdout)["tried"][0]
    return pick["file"], pick["backend"], True


if __name__ == "__main__":
    sys.exit(main())
