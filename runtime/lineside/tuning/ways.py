"""The ways to run a bundle on this box (backend, device, file, threads), and the reference to compare them with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lineside.config.stations import StationConfig
from lineside.errors import ConfigError, LinesideError
from lineside.golden import differences
from lineside.hal.board import Board
from lineside.hal.present import devices
from lineside.hal.profile import Candidate, Profile
from lineside.recipe import Model, open_model
from lineside.records import Artefact
from lineside.registry import driver, names
from lineside.store.bundle import Bundle
from lineside.store.passport import NotRun

_log = logging.getLogger(__name__)

# Runtimes that compute a float file in FP32, by its format; OpenVINO must be told, else it takes bf16 where it can.
_F32 = {
    "onnx": (Candidate(name="onnxruntime"), Candidate(name="openvino", options={"precision": "f32"})),
    "tflite": (Candidate(name="litert"), Candidate(name="openvino", options={"precision": "f32"})),
    "openvino": (Candidate(name="openvino", options={"precision": "f32"}),),
    "edgetpu": (),
}


@dataclass(frozen=True, slots=True)
class Way:
    """One file of a bundle on one backend and device. `threads` None: as many as the profile says."""

    backend: str
    device: str
    artefact: Artefact
    threads: int | None = None

    @property
    def file(self) -> str:
        return Path(self.artefact.path).name

    @property
    def place(self) -> str:
        """ "openvino:cpu", as a station's status calls it."""
        return f"{self.backend}:{self.device}"

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.file} on {self.place}{threads}"

    def candidate(self, profile: Profile) -> Candidate:
        """As the profile has it, options included; the same that `run` proves."""
        for one in profile.backend:
            if (one.name, one.device) == (self.backend, self.device):
                return one
        return Candidate(name=self.backend, device=self.device)

    def not_run(self, why: object) -> NotRun:
        """Without the path of the file, which is nobody's business in a passport that ships."""
        return NotRun(backend=self.place, file=self.file, why=str(why).replace(f"{self.artefact.path}: ", ""))


def ways(bundle: Bundle, profile: Profile, board: Board, asked: Sequence[str] = ()) -> tuple[list[Way], list[NotRun]]:
    """Every file on every backend and device that this box has, the profile's first, in its order; and what cannot be.

    `asked`: NAME or NAME:DEVICE, only these. Raises ConfigError for a name that nobody registered, or if there is none.
    """
    found, absent = [], []
    for backend, device in _places(profile, board, asked):
        formats = driver("backend", backend).formats(device)
        fitting = [artefact for artefact in bundle.artefacts if artefact.format in formats]
        found += [Way(backend, device, artefact) for artefact in fitting]
        if not fitting:
            has = ", ".join(sorted({one.format for one in bundle.artefacts}))
            why = f"the bundle has no artefact of format {' or '.join(formats)} (it has {has})"
            absent.append(NotRun(backend=f"{backend}:{device}", file="", why=why))
    if not found:
        lines = [f"{one.backend}: {one.why}" for one in absent]
        raise ConfigError(
            f"bundle {bundle.folder}: no backend here runs it: `lineside probe` says what is here", *lines
        )
    return found, absent


def _places(profile: Profile, board: Board, asked: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(backend, device), each once: what the profile calls "edgetpu:pci" is not there as "edgetpu", too."""
    known = [(one.name, one.device) for one in profile.backend]
    for one in devices(board):
        if one.present and not any(name == one.backend and _kind(at) == one.device for name, at in known):
            known.append((one.backend, one.device))
    if not asked:
        yield from dict.fromkeys(known)
        return
    for entry in dict.fromkeys(asked):
        backend, colon, device = entry.partition(":")
        if backend not in names("backend"):
            raise ConfigError(f"--backend {entry}: unknown; known are {', '.join(names('backend'))}")
        if colon and not device:
            raise ConfigError(f"--backend {entry}: write NAME or NAME:DEVICE, for example openvino:cpu")
        here = [(name, at) for name, at in known if name == backend and device in ("", at, _kind(at))]
        yield from here or [(backend, device or "cpu")]


def _kind(device: str) -> str:
    return device.partition(":")[0]


def open_way(bundle: Bundle, way: Way, profile: Profile, cache_dir: Path | None) -> Model:
    """As `lineside run` opens it for a station of its own. Raises ConfigError, DeviceError."""
    station = StationConfig(
        camera="none", bundle=str(bundle.folder), backend=way.backend, device=way.device, threads=way.threads
    )
    only = replace(bundle, artefacts=(way.artefact,))
    return open_model(only, station, profile, alone=True, cache_dir=cache_dir)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the others are compared with. `model` is open; whoever has it closes it."""

    way: Way
    model: Model
    is_fp32: bool


def open_reference(bundle: Bundle, given: Artefact | None, profile: Profile, others: Sequence[Way]) -> Reference:
    """`given`, else the bundle's own FP32 file, in FP32 on this CPU.

    Without either it is the first of `others` that opens and gives the bundle's golden answers, and `is_fp32` is
    False. Raises ConfigError where `given` does not fit the bundle, or nothing opens.
    """
    own = [artefact for artefact in bundle.artefacts if artefact.precision == "fp32"]
    exact = [
        (Way(candidate.name, candidate.device, artefact), replace(profile, backend=(candidate,)))
        for artefact in ([given] if given else own)
        for candidate in _F32[artefact.format]
    ]
    faults: list[str] = []
    for way, how in exact if given else [*exact, *((way, profile) for way in others)]:
        try:
            model = open_way(bundle, way, how, None)
        except LinesideError as error:
            faults.append(f"{way}: {error}")
            continue
        wrong = [] if given else differences(bundle, way.file, model.see, model.settings.min_score)
        if not wrong:
            return Reference(way, model, is_fp32=how is not profile)
        model.executor.close()
        faults.append(f"{way}: gives wrong answers to its golden pictures: {wrong[0]}")
    if given is not None:
        raise ConfigError(f"--reference {given.path}: does not run as this bundle's model:", *faults)
    raise ConfigError(f"bundle {bundle.folder}: nothing runs that could be the reference:", *faults)
