"""Makes and measures INT8 ONNX models for the search, from ranges that were taken once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lineside.errors import LinesideError
from lineside.hal.artefact import first_line
from lineside.quantize import qdq
from lineside.quantize.graph import Network
from lineside.quantize.measure import Judge, Reading, Runner, Score, drift_of
from lineside.quantize.pictures import Shot
from lineside.quantize.ranges import Method, Ranges
from lineside.quantize.search import Candidate, Say
from lineside.records import Artefact, Seen

_FEW = 8  # calibration pictures on which blocks are blamed


class OnnxMaker:
    """A search.Maker that runs its models on ONNX Runtime."""

    def __init__(
        self,
        network: Network,
        ranges: Ranges,
        reading: Reading,
        judge: Judge,
        validation: Sequence[Shot],
        calibration: Sequence[Shot],
        reference: Runner,
        folder: Path,
        say: Say,
    ) -> None:
        self._network, self._reading, self._judge, self._folder, self._say = network, reading, judge, folder, say
        self._validation, self._few = validation, calibration[:_FEW]
        self._expected = reference.see(self._few)
        self._limits = cache(ranges.limits)

    def make(self, what: str, method: Method, in_float: frozenset[str]) -> Candidate:
        try:
            score, fault = self._judge.score(self._see(method, in_float, self._validation)), ""
        except LinesideError as error:  # such as one quantisation step for boxes and scores
            count = len(self._validation)
            score, fault = Score(count, count, 1.0, None if self._judge.accuracy is None else 0.0, 1.0), str(error)
        self._say(f"{what}: {first_line(fault) if fault else score}")
        return Candidate(what, method, in_float, score, fault)

    def drift(self, method: Method, in_float: frozenset[str]) -> float:
        try:
            return drift_of(self._expected, self._see(method, in_float, self._few))
        except LinesideError:
            return 1.0

    def write(self, one: Candidate, path: Path) -> None:
        """The model that was measured, once more."""
        qdq.quantise(self._network, self._limits(one.method), one.in_float, path)

    def _see(self, method: Method, in_float: frozenset[str], shots: Sequence[Shot]) -> list[Seen]:
        path = self._folder / "tried.onnx"  # each over the last: a search makes dozens
        qdq.quantise(self._network, self._limits(method), in_float, path)
        runner = Runner(Artefact(str(path), "onnx", "int8", ""), self._reading, "onnxruntime")
        try:
            return runner.see(shots)
        finally:
            runner.close()
