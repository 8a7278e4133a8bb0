"""Records and clocks for the tests of delivery."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lineside.clock import SystemClock
from lineside.deliver.journal import Journal
from lineside.records import Decision, Event, Finding, ModelRef, Part

MODEL = ModelRef("caps", "3", "sha256:" + "ab" * 32)
FINDING = Finding("scratch", 3, 0.91, (1.5, 2.0, 30.25, 40.0))


class SteppedClock(SystemClock):
    """The machine's clock, but somebody sets its wall time."""

    def __init__(self) -> None:
        self.step_s = 0.0

    def wall_ns(self) -> int:  # type: ignore[override]
        return time.time_ns() + round(self.step_s * 1e9)


def decision(number: int = 1, station: str = "gate", **fields: Any) -> Decision:
    """A reject that was decided just now."""
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    made = Decision(
        id=f"{station}-{number}",
        station=station,
        part=Part(f"part-{number}", station, number, now_ns, wall_ns, serial="S1"),
        verdict="reject",
        output="reject",
        cause="defect: scratch 0.91",
        late=False,
        score=0.91,
        findings=(FINDING,),
        model=MODEL,
        backend="onnxruntime:cpu",
        captured_ns=now_ns - 5_000_000,
        captured_wall_ns=wall_ns - 5_000_000,
        decided_ns=now_ns,
        decided_wall_ns=wall_ns,
    )
    return replace(made, **fields)


def event(number: int = 1, station: str = "yard", **fields: Any) -> Event:
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    made = Event(
        id=f"{station}-e{number}",
        event_id=f"{station}-present",
        station=station,
        phase="start",
        cause="person in zone dock",
        count=1,
        score=0.8,
        findings=(Finding("person", 0, 0.8, None),),
        model=MODEL,
        backend="onnxruntime:cpu",
        started_ns=now_ns - 10_000_000,
        started_wall_ns=wall_ns - 10_000_000,
        captured_ns=now_ns - 5_000_000,
        captured_wall_ns=wall_ns - 5_000_000,
        decided_ns=now_ns,
        decided_wall_ns=wall_ns,
    )
    return replace(made, **fields)


def journal(folder: Path, **options: Any) -> Journal:
    """A started journal; stop it."""
    clock = options.pop("clock", None) or SystemClock()
    opened = Journal(folder / "journal.db", clock, **options)
    opened.start()
    return opened
