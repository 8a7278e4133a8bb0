"""From a float model and pictures to INT8 artefacts that hold the bounds, each measured on the backends that run it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lineside.errors import ConfigError, LinesideError
from lineside.hal.pixels import PixelWriter
from lineside.quantize import graph, ir, qdq, ranges, tflite
from lineside.quantize.maker import ModelMaker, Write
from lineside.quantize.measure import Judge, Reading, Runner
from lineside.quantize.pictures import Pictures, Shot
from lineside.quantize.processor_proof import ProcessorProof, ProcessorProver
from lineside.quantize.processors import PROCESSORS, Processor, here
from lineside.quantize.report import Row
from lineside.quantize.search import Bounds, Found, Say, search
from lineside.records import Artefact, InputSpec, TensorSpec
from lineside.registry import vendor
from lineside.store.bundle import artefact_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKENDS = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "tflite": ("litert",)}
_FASTER = 0.95  # an IR that takes more of the ONNX file's time than this is not worth a second file
_FAR_FASTER = 0.75  # of the whole TFLite file's time
_ROUNDS, _RUNS = 5, 6  # for latency: every artefact has its turn in every round, so that all see the same noise


@dataclass(slots=True)
class Job:
    """What every step needs."""

    reading: Reading
    pictures: Pictures
    judge: Judge
    reference: Runner
    bounds: Bounds
    backends: Sequence[str]  # that are installed and asked for
    scratch: Path
    stem: str  # of the artefacts' names
    search_s: float
    say: Say
    kinds: Sequence[Processor] = PROCESSORS  # that the files are for
    emulators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # commands, by the processor's name
    emulate_s: float = 0.0  # for proofs by emulation, a format
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kept: list[Artefact] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)  # by format, where layers were looked at
    proofs: list[ProcessorProof] = field(default_factory=list)  # of what is kept

    @property
    def holds(self) -> bool:
        """Whether every artefact that is kept holds the bounds on every backend that will take it, on every processor
        that it is for."""
        files = {Path(artefact.path).name for artefact in self.kept}
        used = [row.score for row in self.rows if row.file in files and not row.left_out]
        return bool(used) and all(map(self.bounds.hold, used)) and all(proof.holds for proof in self.proofs)

    @property
    def saturates(self) -> bool:
        """Whether one of the processors adds products of unbounded weights in 16 bits."""
        return any(kind.saturates for kind in self.kinds)


def feed(shot: Shot, spec: InputSpec) -> NDArray[np.float32]:
    """The model's input as the runtime writes it: (1, C, H, W) or (1, H, W, C), by the layout."""
    height, width = shot.canvas.shape[:2]
    channels = 1 if spec.color == "gray" else 3
    shape = (channels, height, width) if spec.layout == "nchw" else (height, width, channels)
    out = np.empty(shape, np.float32)
    PixelWriter(spec, TensorSpec("", (1, *shape), "float32")).write(shot.canvas, out)
    return out[None]


def from_onnx(job: Job, source: Artefact) -> None:
    """INT8 ONNX, and OpenVINO IR where that is faster. Raises ConfigError for a model that cannot be quantised."""
    spec, shots = job.reading.input.of(source), job.pictures.calibration
    network = graph.prepare(Path(source.path), feed(shots[0], spec).shape, job.scratch)
    job.say(f"{len(network.blocks)} layers; ranges of their activations on {len(shots)} pictures")
    feeds = [_later(shot, spec) for shot in shots]
    limits = cache(ranges.collect(network.path, feeds, network.input, lambda: None).limits)
    maker = _maker(
        job,
        Artefact(str(job.scratch / "tried.onnx"), "onnx", "int8", "", source.layout),
        lambda method, in_float, path: qdq.quantise(network, limits(method), in_float, path),
    )
    job.found["onnx"] = found = search(network, maker, job.bounds, job.say, budget_s=job.search_s)
    if found.best.fault:
        raise ConfigError(f"{source.path}: its INT8 model cannot be used: {found.best.fault}")
    best = found.best
    path = job.scratch / f"{job.stem}_int8{'_8bit' if job.saturates else ''}.onnx"
    one = replace(maker.made(best.method, best.in_float, path), precision="mixed" if found.floats else "int8")
    made = [one]
    if job.saturates:
        path = job.scratch / f"{job.stem}_int8.onnx"
        qdq.quantise(network, limits(best.method), best.in_float, path, weight_bits=7)
        made = [replace(one, path=str(path)), one]
    if "openvino" in job.backends:
        made += _ir(job, network, [one() for one in feeds], found, replace(one, format="openvino"))
    rows = measured(job, [source, *made])

    def choose(left: list[Row]) -> list[Row]:
        return to_use(left, Path(one.path).name if job.saturates else "", job.bounds)

    _keep(job, rows, made, choose)


def _keep(job: Job, rows: list[Row], made: Sequence[Artefact], choose: Callable[[list[Row]], list[Row]]) -> None:
    """Keep what `choose` leaves in, with its proofs; what a processor gets wrong is left out, and chosen anew."""
    prover = ProcessorProver(
        job.kinds,
        here(),
        job.emulators,
        job.reading,
        job.judge,
        job.pictures.validation,
        job.bounds,
        job.say,
    )
    ends = time.monotonic() + job.emulate_s
    wrong: list[Row] = []
    while True:
        chosen = choose(rows)
        used = {row.file for row in chosen if not row.left_out}
        pairs = [
            (one, row.backend, row.score)
            for one in made
            for row in chosen
            if row.file == Path(one.path).name and not row.left_out
        ]
        proofs = prover.prove(pairs, max(0.0, ends - time.monotonic()))
        failed = {proof.file: proof for proof in proofs if not proof.holds and proof.processor != prover.here}
        left = [row for row in rows if row.file not in failed]
        if not failed or not any(row.precision != "fp32" for row in left):
            break
        job.notes += [f"Left out: {proof}" for proof in failed.values()]
        wrong += [replace(row, left_out=f"wrong on {failed[row.file].processor}") for row in rows if row not in left]
        rows = left
    job.rows += [*chosen, *wrong]
    needs = job.kinds[0].needs if len(job.kinds) == 1 else ()
    job.kept += [replace(one, needs=needs) for one in made if Path(one.path).name in used]
    job.proofs += proofs


def to_use(rows: list[Row], wide: str, bounds: Bounds) -> list[Row]:
    """Of two ONNX files, that with weights of 7 bits is used where it holds the bounds: without VNNI ONNX Runtime and
    OpenVINO run it by their fast kernels, the `wide` one, whose weights have 8, by slow ones. For OpenVINO see
    `used_in_openvino`.
    """

    def without(files: set[str], why: str) -> list[Row]:
        left = [replace(row, left_out=why) if row.file in files else row for row in rows]
        return used_in_openvino(left, bounds)

    int8 = {row.file for row in rows if row.file.endswith(".onnx") and row.precision != "fp32"}
    if wide not in int8 or len(int8) < 2:
        return used_in_openvino(rows, bounds)
    in_narrow = without({wide}, "weights of 7 bits are faster without VNNI")
    if _hold(in_narrow, bounds):
        return in_narrow
    in_wide = without(int8 - {wide}, "beyond the bounds")
    return in_wide if _hold(in_wide, bounds) else in_narrow


def _hold(rows: Sequence[Row], bounds: Bounds) -> bool:
    return all(bounds.hold(row.score) for row in rows if row.precision != "fp32" and not row.left_out)


def _maker(job: Job, tried: Artefact, write: Write) -> ModelMaker:
    shots, (backend, *_) = job.pictures, BACKENDS[tried.format]
    return ModelMaker(
        write, tried, backend, job.reading, job.judge, shots.validation, shots.calibration, job.reference, job.say
    )


def _later(shot: Shot, spec: InputSpec) -> Callable[[], Any]:
    return lambda: feed(shot, spec)


def _ir(job: Job, network: graph.Network, inputs: list[Any], found: Found, like: Artefact) -> list[Artefact]:
    if find_spec("nncf") is None:
        job.notes.append("No OpenVINO IR was tried, for want of NNCF: pip install 'lineside[quantize]'")
        return []
    path = job.scratch / f"{job.stem}_int8.xml"
    safe = frozenset(network.tail)  # of a transformer NNCF knows itself what to leave in float
    blamed = safe.union(*(block.nodes for block in found.floats))
    made = replace(like, path=str(path), precision="int8")
    for in_float in dict.fromkeys((safe, blamed)):  # NNCF corrects biases: what breaks in ONNX may hold here
        made = replace(made, precision="mixed" if in_float > safe else "int8")
        try:
            ir.quantise(network.path, inputs, in_float, network.attention, path, weight_bits=7 if job.saturates else 8)
            runner = Runner(made, job.reading, "openvino")
            score = job.judge.score(runner.see(job.pictures.validation))
            runner.close()
        except LinesideError as error:
            job.notes.append(f"No OpenVINO IR: {error}")
            return []
        job.say(f"OpenVINO IR by NNCF, {made.precision}, {ir.layers(path)} quantisation steps: {score}")
        if job.bounds.hold(score):
            break
    return [made]


def used_in_openvino(rows: list[Row], bounds: Bounds) -> list[Row]:
    """Of the ONNX file and the IR in OpenVINO, one is used: the IR where it holds the bounds and is faster, or where
    the ONNX file does not hold them."""
    both = {
        Path(row.file).suffix: row
        for row in rows
        if row.backend == "openvino" and row.precision != "fp32" and not row.left_out
    }
    if len(both) < 2:
        return rows
    onnx, xml = both[".onnx"], both[".xml"]
    if not bounds.hold(xml.score):
        out, why = xml, "beyond the bounds"
    elif bounds.hold(onnx.score) and xml.latency_ms > _FASTER * onnx.latency_ms:
        out, why = xml, "no faster than the ONNX file"
    else:
        out, why = onnx, "OpenVINO takes the .xml"
    return [replace(row, left_out=why) if row is out else row for row in rows]


def from_tflite(job: Job, source: Artefact) -> None:
    """INT8 TFLite: whole; or all but the tail, or the weighted layers only, where that is what holds the bounds, or is
    far faster; or without the layers that break accuracy, where none of these holds them."""
    try:
        vendor("ai_edge_quantizer")
    except ConfigError as error:
        if not job.kept:
            raise
        job.notes.append(f"No TFLite file: {error}")
        return
    spec = job.reading.input.of(source)
    layers = tflite.read_layers(Path(source.path))
    seen = tflite.collect(layers.path, [feed(shot, spec) for shot in job.pictures.calibration])
    maker = _maker(
        job,
        Artefact(str(job.scratch / "tried.tflite"), "tflite", "int8", "", source.layout),
        lambda _, in_float, path: tflite.quantise(layers, seen, in_float, path),
    )
    made = _scopes(job, layers.network, maker)
    reference, *rows = measured(job, [source, *made])
    if not any(job.bounds.hold(row.score) for row in rows):
        job.say("no way to quantise the whole of it holds the bounds: looking for the layers that break them")
        found = search(layers.network, maker, job.bounds, job.say, budget_s=job.search_s, methods=("min-max",))
        job.found["tflite"] = found
        if found.floats and not found.best.fault:
            path = job.scratch / f"{job.stem}_by_layer.tflite"
            made.append(maker.made("min-max", found.best.in_float, path))
            rows += measured(job, made[-1:])
    if not made and job.kept:
        return
    if not made:
        raise ConfigError(f"{source.path}: no INT8 TFLite of it can be used", *job.notes)
    for row in rows:
        job.say(f"{row.file}: {row.score}, {row.latency_ms:.2f} ms")

    def choose(left: list[Row]) -> list[Row]:
        best = _tflite_to_use(left[1:], job.bounds)
        return [left[0], *(row if row is best else replace(row, left_out=_why(row, job.bounds)) for row in left[1:])]

    _keep(job, [reference, *rows], made, choose)


def _scopes(job: Job, network: graph.Network, maker: ModelMaker) -> list[Artefact]:
    """One file for each way to quantise the model without looking at its layers, but for those that cannot be used."""
    weighted = {block.name for block in network.blocks}
    ways = {frozenset[str](): ("int8", "everything")}
    if not network.attention:
        ways.setdefault(frozenset(network.tail), ("but_tail", "all but the tail"))
    ways.setdefault(network.every_node - weighted, ("mixed", "weighted layers only"))
    made = []
    for in_float, (name, words) in ways.items():
        path = job.scratch / f"{job.stem}_{name}.tflite"
        try:
            one = maker.made("min-max", in_float, path)
            Runner(one, job.reading, "litert").close()
        except LinesideError as error:  # such as one step for boxes and scores
            job.notes.append(f"No {path.name}, {words}: {error}")
            continue
        made.append(one)
    return made


def _tflite_to_use(rows: Sequence[Row], bounds: Bounds) -> Row:
    """The whole one is what an Edge TPU takes, but of a transformer it takes four times as long as the other."""
    holding = [row for row in rows if bounds.hold(row.score)]
    if not holding:
        return min(rows, key=lambda row: bounds.excess(row.score))
    fastest = min(holding, key=lambda row: row.latency_ms)
    return fastest if fastest.latency_ms < _FAR_FASTER * holding[0].latency_ms else holding[0]


def _why(row: Row, bounds: Bounds) -> str:
    return "another is better for LiteRT" if bounds.hold(row.score) else "beyond the bounds"


def measured(job: Job, artefacts: Sequence[Artefact]) -> list[Row]:
    """Score and latency of every artefact on every backend that runs its format, as a station would open it.

    Raises LinesideError where one cannot run.
    """
    runners = [
        (artefact, name, Runner(artefact, job.reading, name))
        for artefact in artefacts
        for name in BACKENDS[artefact.format]
        if name in job.backends
    ]
    shots = job.pictures.validation
    scores = [job.judge.score(runner.see(shots)) for *_, runner in runners]
    times: list[list[tuple[float, float]]] = [[] for _ in runners]
    for _ in range(_ROUNDS):
        for (*_, runner), mine in zip(runners, times, strict=True):
            mine += [runner.once_ms(shots[number % len(shots)]) for number in range(_RUNS)]
    rows = []
    for (artefact, name, runner), score, mine in zip(runners, scores, times, strict=True):
        runner.close()
        path = Path(artefact.path)
        size_mb = sum(part.stat().st_size for part in artefact_files(path)) / 1e6
        took_ms, cpu_ms = (statistics.median(values) for values in zip(*mine, strict=True))
        rows.append(Row(path.name, artefact.precision, name, size_mb, took_ms, score, cpu_ms=cpu_ms))
    return rows
