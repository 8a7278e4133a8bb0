"""Makes and measures INT8 models for the search, from ranges that were taken once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lineside.errors import LinesideError
from lineside.hal.artefact import first_line
from lineside.quantize.measure import Judge, Reading, Runner, Score, drift_of
from lineside.quantize.pictures import Shot
from lineside.quantize.ranges import Method
from lineside.quantize.search import Candidate, Say
from lineside.records import Artefact, Seen

_FEW = 8  # calibration pictures on which blocks are blamed
Write = Callable[[Method, frozenset[str], Path], None]  # ranges, nodes in float, where to


class ModelMaker:
    """A search.Maker: `write` makes a model, `backend` runs it. `tried` is the file that each is written to, over the
    last one: a search makes dozens."""

    def __init__(
        self,
        write: Write,
        tried: Artefact,
        backend: str,
        reading: Reading,
        judge: Judge,
        validation: Sequence[Shot],
        calibration: Sequence[Shot],
        reference: Runner,
        say: Say,
    ) -> None:
        self.write, self._tried, self._backend = write, tried, backend
        self._reading, self._judge, self._say = reading, judge, say
        self._validation, self._few = validation, calibration[:_FEW]
        self._expected = reference.see(self._few)

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

    def made(self, method: Method, in_float: frozenset[str], path: Path) -> Artefact:
        """A model to keep. Raises ConfigError where it cannot be made."""
        self.write(method, in_float, path)
        return replace(self._tried, path=str(path), precision="mixed" if in_float else "int8")

    def _see(self, method: Method, in_float: frozenset[str], shots: Sequence[Shot]) -> list[Seen]:
        self.write(method, in_float, Path(self._tried.path))
        runner = Runner(self._tried, self._reading, self._backend)
        try:
            return runner.see(shots)
        finally:
            runner.close()
