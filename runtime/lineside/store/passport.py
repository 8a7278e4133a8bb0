"""The parity passport: how far each way to run a bundle is from its FP32 reference. As a table, for JSON.

parity.json of a bundle is what was measured when it was released; what a box measured is in its state folder.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated

from lineside.checked import Is, Table, table
from lineside.store.packed import read_packed

FILE = "parity.json"
INTERVALS = "95 %: of rates Wilson's, of means a bootstrap over pictures (percentiles of 2000 resamples)"


@table
class Estimate(Table):
    """A rate or a mean with its 95 % interval; of one picture a mean has none."""

    value: float
    low: float | None = None
    high: float | None = None


@table
class Drift(Table):
    """Differences of scores: of a classifier's the reference's first class, of a detector's matched findings, of an
    anomaly model's the one score, in its own scale."""

    mean: Estimate
    p95: float
    max: float


@table
class Row(Table):
    """One file on one backend and device, against the reference on the same pictures."""

    backend: Annotated[str, Is('"openvino:cpu"')]
    file: str
    precision: str
    pictures: Annotated[int, Is(ge=1)]
    flips: Annotated[int | None, Is("Pictures about which a station would decide otherwise; None: no threshold")]
    flip_rate: Estimate | None
    any_flips: Annotated[int | None, Is("Detectors: pictures where one finds something and the other nothing")] = None
    any_flip_rate: Estimate | None = None
    drift: Annotated[Drift | None, Is("None: no finding that both have")] = None
    iou: Annotated[Estimate | None, Is("Mean overlap of matched findings")] = None
    matched: Annotated[Estimate | None, Is("Share of all findings of both that both have")] = None
    median_ms: Annotated[float, Is("Of the frame path: resize, model, decoding")] = 0.0
    refused: Annotated[str, Is("Why `run` does not use it on this machine; empty: its answers are right here")] = ""


@table
class NotRun(Table):
    """What could not be compared here."""

    backend: str
    file: str
    why: str


@table
class Reference(Table):
    """What all others are compared with."""

    backend: str
    file: str
    precision: str
    is_fp32: bool


@table
class Passport(Table):
    """The whole parity.json."""

    format: Annotated[int, Is(ge=1, le=1)] = 1
    reference: Reference
    task: str
    pictures: Annotated[int, Is(ge=1)]
    skipped: Annotated[int, Is("Pictures that could not be read", ge=0)] = 0
    intervals: str = INTERVALS
    machine: Annotated[dict[str, str], Is("Processor, runtimes and drivers")] = field(default_factory=dict)
    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...] = ()


def read(folder: Path, sha256: str) -> Passport:
    """The passport of the bundle in `folder`; `sha256` is what its model.toml says. Raises ConfigError."""
    return read_packed(Passport, folder, FILE, sha256, "lineside parity --into")
