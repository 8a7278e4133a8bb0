"""On which processors a file holds its bounds, and how that is known: measured here, emulated, or by construction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lineside.hal.artefact import Options
from lineside.quantize.emulated import look
from lineside.quantize.measure import Judge, Reading, Runner, Score
from lineside.quantize.pictures import LEAST, Shot
from lineside.quantize.processors import Processor, exact_by, not_run_by, weights_of
from lineside.quantize.search import Bounds, Say
from lineside.records import Artefact

How = Literal["this machine", "emulated", "by construction", "not run", "not proved"]
MOST = 40  # pictures that an emulated processor looks at


@dataclass(frozen=True, slots=True)
class ProcessorProof:
    """One file in one backend on one kind of processor."""

    file: str
    backend: str
    processor: str
    how: How
    why: str  # the emulator, or what makes its sums exact
    score: Score | None = None  # where pictures were looked at
    holds: bool = True

    def __str__(self) -> str:
        flips = "" if self.score is None else f", {self.score.flips} of {self.score.pictures} decisions flip"
        return (
            f"{self.file} on {self.backend}, {self.processor}: {self.how}{f' ({self.why})' if self.why else ''}{flips}"
        )


@dataclass(frozen=True, slots=True)
class ProcessorProver:
    """What proofs are made with. `emulators`: commands by the processor's name, see `emulated.emulators`."""

    kinds: Sequence[Processor]  # that the files are for
    here: str  # the kind of this machine
    emulators: Mapping[str, tuple[str, ...]]
    reading: Reading
    judge: Judge
    shots: Sequence[Shot]
    bounds: Bounds
    say: Say
    options: Options | None = None  # of the backend, on emulated processors

    def prove(self, used: Sequence[tuple[Artefact, str, Score]], within_s: float) -> list[ProcessorProof]:
        """A proof for each file and backend (with its score on this machine) on each kind of processor.

        Emulation takes `within_s` seconds at most in all; each has its share of what is left.
        """
        ends = time.monotonic() + within_s
        cells = [(one, kind) for one in used for kind in self.kinds]
        slow = [cell for cell in cells if self._emulates(cell[0][1], cell[1])]
        found = []
        for (artefact, backend, score), kind in cells:
            if self._emulates(backend, kind):
                share_s = (ends - time.monotonic()) / len(slow)
                slow.pop()
            else:
                share_s = 0.0
            found.append(self._one(artefact, backend, score, kind, share_s))
        return found

    def _emulates(self, backend: str, kind: Processor) -> bool:
        return kind.name != self.here and kind.name in self.emulators and not not_run_by(backend, kind)

    def _one(self, artefact: Artefact, backend: str, score: Score, kind: Processor, within_s: float) -> ProcessorProof:
        file = Path(artefact.path).name
        if why := not_run_by(backend, kind):
            return ProcessorProof(file, backend, kind.name, "not run", why)
        if kind.name == self.here:
            return ProcessorProof(file, backend, kind.name, "this machine", "", score, self.bounds.hold(score))
        told = ""
        if self._emulates(backend, kind):
            proof = self._emulated(artefact, backend, kind, within_s)
            if isinstance(proof, ProcessorProof):
                return proof
            told = proof
        why = exact_by(backend, kind, weights_of(Path(artefact.path)))
        words = "; ".join(part for part in (why, told) if part)
        return ProcessorProof(
            file, backend, kind.name, "by construction" if why else "not proved", words, holds=bool(why)
        )

    def _emulated(self, artefact: Artefact, backend: str, kind: Processor, within_s: float) -> ProcessorProof | str:
        """The proof, or why there is none."""
        if within_s <= 0:
            return "no time for emulation (--emulate-s)"
        file, shots, command = Path(artefact.path).name, self.shots[:MOST], self.emulators[kind.name]
        looked = look(command, kind, artefact, self.reading, backend, shots, within_s, self.say, self.options)
        count = len(looked.seen)
        if count < min(LEAST, len(shots)):
            if looked.fault:
                return f"emulation failed: {looked.fault}"
            return f"{count} pictures emulated in time (--emulate-s)"
        judge = self.judge.first(count)
        score = judge.score(looked.seen)
        holds = self.bounds.hold(score) or self._no_worse(judge, artefact, backend, shots[:count], score)
        proof = ProcessorProof(file, backend, kind.name, "emulated", _words(command), score, holds)
        self.say(str(proof))
        return proof

    def _no_worse(self, judge: Judge, artefact: Artefact, backend: str, shots: Sequence[Shot], score: Score) -> bool:
        """Whether it is as good as on this machine on the same few pictures, of which a flip may be one of four."""
        runner = Runner(artefact, self.reading, backend)
        mine = judge.score(runner.see(shots))
        runner.close()
        return score.flips <= mine.flips and score.loss <= mine.loss


def _words(command: Sequence[str]) -> str:
    """For people, without the folders above: "qemu-x86_64 -cpu Haswell", ".venv-arm/bin/python"."""
    program, *more = command
    return " ".join((Path(program).name, *more[:-1])) if more else str(Path(*Path(program).parts[-3:]))
