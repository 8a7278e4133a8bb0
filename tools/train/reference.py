"""How much sooner a bundle answers than ResNet50 in FP32, or a float model of its own kind, with the same input, on
each backend, one thread:

    python tools/train/reference.py models/ballscrew-mobilevit --work build/reference
    python tools/train/reference.py models/tile-mobilenet --of mobilenet --work build/tile-reference
    python tools/train/reference.py models/pcb-yolo --of build/pcb/pcb-yolo.pt2 --work build/pcb/reference

A network that is named is not trained: its weights do not change its time. OpenVINO computes float in FP32, which it
would not do by itself where the processor has bfloat16. Every model has its turn in every round, so that all see the
same noise.
"""

# mypy: disable-error-code="no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nets import NETS

from lineside.contracts import Backend
from lineside.hal import board, choose, profile
from lineside.quantize.pytorch import export
from lineside.records import Artefact
from lineside.store.bundle import Bundle, artefact_files, open_bundle, sha256_of

ROUNDS, RUNS = 7, 5
BACKENDS = {"onnxruntime": ("onnx",), "openvino": ("onnx", "openvino"), "litert": ("tflite",)}


@dataclass(frozen=True, slots=True)
class Timed:
    """One file on one backend, and the reference there: medians of one thread, ms; files in MB."""

    backend: str
    file: str
    precision: str
    megabytes: float
    ms: float
    reference_megabytes: float
    reference_ms: float
    times_sooner: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="folder of the bundle")
    parser.add_argument(
        "--of", default="resnet50", metavar="PT2", help=f"what it is timed beside, or {', '.join(NETS)}"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of datasets and models")
    parser.add_argument("--work", type=Path, default=Path("build/reference"), help="where the reference is exported")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write it there, too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bundle = open_bundle(asked.bundle)
    asked.work.mkdir(parents=True, exist_ok=True)
    found = [one for name in BACKENDS for one in timed(bundle, references(bundle, asked), name)]
    for one in found:
        sooner = f"{one.times_sooner:.2f} times as fast as {asked.of} in FP32, {one.reference_ms:.2f} ms"
        smaller = f"{one.megabytes:.2f} of {one.reference_megabytes:.2f} MB"
        print(f"{one.backend:12} {one.file:36} {one.precision:6} {one.ms:8.2f} ms: {sooner}; {smaller}")
    if asked.json:
        rows = [{name: getattr(one, name) for name in one.__slots__} for one in found]
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


def references(bundle: Bundle, asked: argparse.Namespace) -> list[Artefact]:
    """A float model as ONNX and TFLite; exported once."""
    spec, work = bundle.input, asked.work
    assert spec.width_px is not None
    assert spec.height_px is not None
    program = work / f"{asked.of}.pt2" if asked.of in NETS else Path(asked.of)
    if asked.of in NETS and not program.exists():
        torch.manual_seed(0)
        net = NETS[asked.of](len(bundle.labels), asked.data / "models/classify/mobilenet_v2_224_fp32.onnx").eval()
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):  # training begins with zeros in some, which converters drop
                torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
        sample = torch.zeros(1, 3, spec.height_px, spec.width_px)
        torch.export.save(torch.export.export(net, (sample,)), str(program))
    paths = [work / "model.onnx", work / "model.tflite"]
    if not all(path.exists() for path in paths):
        export(str(program), None, work)
    formats = (("onnx", "nchw"), ("tflite", "nhwc"))
    return [
        Artefact(str(path.resolve()), name, "fp32", sha256_of(path), layout)  # type: ignore[arg-type]
        for path, (name, layout) in zip(paths, formats, strict=True)
    ]


def timed(bundle: Bundle, references: list[Artefact], name: str) -> Iterator[Timed]:
    """The bundle's files of one backend, beside the reference."""
    spec = bundle.input
    mine = [artefact for artefact in bundle.artefacts if artefact.format in BACKENDS[name]]
    theirs = next(artefact for artefact in references if artefact.format in BACKENDS[name])
    opened = [_open(bundle, artefact, name) for artefact in (*mine, theirs)]
    canvas = np.random.default_rng(0).integers(0, 256, (spec.height_px or 0, spec.width_px or 0, 3), np.uint8)
    times: list[list[float]] = [[] for _ in opened]
    for _ in range(ROUNDS):
        for backend, found in zip(opened, times, strict=True):
            for _ in range(RUNS):
                began = time.perf_counter()
                backend.infer(canvas)
                found.append(1000 * (time.perf_counter() - began))
    *medians, reference = (statistics.median(found) for found in times)
    for artefact, median in zip(mine, medians, strict=True):
        yield Timed(
            name,
            Path(artefact.path).name,
            artefact.precision,
            megabytes(artefact),
            round(median, 3),
            megabytes(theirs),
            round(reference, 3),
            round(reference / median, 2),
        )


def megabytes(artefact: Artefact) -> float:
    return round(sum(part.stat().st_size for part in artefact_files(Path(artefact.path))) / 1e6, 3)


def _open(bundle: Bundle, artefact: Artefact, name: str) -> Backend:
    return choose.open_backend(
        [artefact],
        bundle.input,
        profile=profile.match(board.read()),
        backend=name,
        threads=1,
        options={"openvino": {"precision": "f32"}},
    ).backend


if __name__ == "__main__":
    main()
