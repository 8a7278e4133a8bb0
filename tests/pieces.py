"""Small evidence for tests: a station's frames and decisions without a camera, a worker with a real journal."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import deliveries
from lineside.deliver.evidence.ring import Entry, Job
from lineside.deliver.evidence.worker import EvidenceWorker
from lineside.deliver.evidence.writer import About
from lineside.deliver.journal import Journal
from lineside.records import Decision, Finding, Frame, Observation
from lineside.vision.draw import annotate

FACE = Finding("face", 0, 0.9, (8.0, 8.0, 24.0, 24.0))
ROOM = {
    "queue_bytes": 1 << 28,
    "cap_bytes": 1 << 30,
    "min_free_bytes": 0,
    "min_free_percent": 0.0,
    "grace_s": 3600.0,
    "nice": 0,
}
RECIPE = "sha256:" + "5c" * 32


def noise(number: int, width_px: int = 64, height_px: int = 48) -> np.ndarray:
    """A picture that packs badly, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (height_px, width_px, 3), np.uint8)


def entry(number: int, *findings: Finding, image: np.ndarray | None = None) -> Entry:
    pixels = noise(number) if image is None else image
    now_ns = number * 33_000_000
    return Entry(Frame(pixels, "cam", number, now_ns, now_ns, now_ns), findings, {"trigger": None, "events": []})


def decided(number: int, *frames: int, verdict: str = "reject", station: str = "gate") -> Decision:
    """A decision about a part that was seen in these frames."""
    made = deliveries.decision(number, station, verdict=verdict, recipe=RECIPE)
    seen = tuple(Observation(frame, (), frame) for frame in frames)
    return replace(made, part=replace(made.part, observations=seen))


def job(number: int, *entries: Entry, why: str = "reject", wall_ns: int | None = None, note: str = "") -> Job:
    entries = entries or (entry(number),)
    record = None if why == "missed" else decided(number, *(e.frame.number for e in entries))
    kind = "missed" if why == "missed" else "decision"
    return Job(f"gate-{number}", kind, why, "gate", entries, 0, wall_ns or time.time_ns(), record, note=note)


def about(**fields: Any) -> About:
    told: dict[str, Any] = {
        "camera": "cam",
        "recipe": {"lineside": "0"},
        "digest": RECIPE,
        "draw": lambda image, findings, caption: annotate(image, findings, caption=caption),
    }
    return About(**{**told, **fields})


def worker(root: Path, journal: Journal, *, of: About | None = None, **options: Any) -> EvidenceWorker:
    """Not started yet."""
    stations = {"gate": of or about()}
    room = {**ROOM, **options}
    return EvidenceWorker(root, journal, journal.clock, stations, machine="test", version="0", **room)


def write(running: EvidenceWorker, *jobs: Job, eventually: Callable[..., None]) -> None:
    """Offer each and wait until it is written, or lost."""
    for asked in jobs:
        running.offer(asked)
        eventually(lambda: running.waiting() == 0, what=f"{asked.id} is done with")


def notes(folder: Path) -> list[dict[str, Any]]:
    """Every evidence record of the journal in this folder, as committed."""
    import json

    with sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True) as store:
        rows = store.execute("SELECT body FROM row WHERE kind = 'evidence' ORDER BY id").fetchall()
    return [json.loads(text) for (text,) in rows]


def kept_folders(root: Path) -> list[Path]:
    return sorted(path for path in (root / "gate").iterdir()) if (root / "gate").is_dir() else []
