"""Runs cells on a processor, several in one process, and keeps each as soon as it is done.

To start an emulated Python takes longer than many a cell, so a process goes on to the next one; when it dies, the cell
that it was at is what died, and a new process takes the rest.
"""

from __future__ import annotations

import json
import math
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpus.machines import environment

PROGRAM = Path(__file__).with_name("answer.py")
Found = dict[str, Any]
_LATE = "late"
# says nothing of the processor: a person, or the system where memory ends
_ENDED_BY_SOMEBODY = [-number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)]


@dataclass(frozen=True, slots=True)
class Job:
    """A cell to run. `file`: an artefact's name, or the path of a float model; empty: what the product chooses."""

    name: str
    bundle: str
    backend: str
    file: str
    pictures: Path
    golden: bool = True
    options: Mapping[str, object] = field(default_factory=dict)  # of the backend, over the profile's


def prove(
    python: Path, jobs: Sequence[Job], limit_s: float, program: Path = PROGRAM, until_s: float = math.inf
) -> Iterator[tuple[Job, Found]]:
    """What each gave, as soon as it is there. A cell that takes longer than `limit_s` is stopped, and told as such; at
    `until_s` of time.monotonic() all is stopped, and the cells that are left are not told."""
    left = list(jobs)
    while left and time.monotonic() < until_s:
        done = 0
        with tempfile.TemporaryDirectory(prefix="lineside-cpus-") as folder:
            for job, found in _process(python, left, (limit_s, until_s), Path(folder), program):
                done += 1
                yield job, found
        left = left[done:]
        if not done:
            return


def _process(
    python: Path, jobs: Sequence[Job], limits: tuple[float, float], folder: Path, program: Path
) -> Iterator[tuple[Job, Found]]:
    """One process: every job up to the end, or up to the one at which it died or time ended."""
    limit_s, until_s = limits
    outs = [folder / f"{number}.json" for number in range(len(jobs))]
    described = [
        {**{key: str(getattr(job, key)) for key in ("name", "bundle", "backend", "file", "pictures")}, "out": str(out)}
        | {"golden": job.golden, "options": dict(job.options)}
        for job, out in zip(jobs, outs, strict=True)
    ]
    (folder / "job.json").write_text(json.dumps({"cells": described}))
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [python, program, folder / "job.json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
        )
        told = _lines(process)
        try:
            for job, out in zip(jobs, outs, strict=True):
                ends_s = time.monotonic() + limit_s
                fault = _waited(process, told, out, min(ends_s, until_s))
                if fault == _LATE and until_s < ends_s:
                    return
                if process.poll() in _ENDED_BY_SOMEBODY:
                    yield job, {"stopped": fault}
                    return
                if fault:
                    why = f"no answer within {limit_s:.0f} s" if fault == _LATE else fault
                    last = "" if fault == _LATE else _last(folder / "errors")
                    yield job, {"died": f"{why}{f': {last}' if last else ''}"}
                    return
                yield job, json.loads(out.read_text())
        finally:
            process.kill()
            process.wait()


def _lines(process: subprocess.Popen[str]) -> queue.SimpleQueue[str | None]:
    """Its stdout a line at a time, and None at the end."""
    told: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            told.put(line.strip())
        told.put(None)

    threading.Thread(target=read, daemon=True).start()
    return told


def _waited(process: subprocess.Popen[str], told: queue.SimpleQueue[str | None], out: Path, until_s: float) -> str:
    """Wait until the cell is written; else how the process ended, or that it was late."""
    while not out.exists():
        try:
            line = told.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            return _LATE
        if line is None and not out.exists():
            return _ended(process.wait())
    return ""


def _ended(code: int) -> str:
    """An exit status in words: a signal by its name, an illegal instruction as such."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = signal.Signals(-code).name
    return f"died of {'an illegal instruction' if name == 'SIGILL' else name}"


def _last(errors: Path) -> str:
    lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
