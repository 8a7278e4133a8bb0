"""device_profiles/*.toml: what suits a board, found by matching what `board.read` saw."""

from __future__ import annotations

from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from lineside.checked import Is, Table, Unfit, checked, table
from lineside.errors import ConfigError
from lineside.hal.board import Board
from lineside.resources import shipped


@table
class Match(Table):
    """Every key that is given must fit; of its values any one. More keys make a closer match."""

    arch: tuple[str, ...] = ()
    model: tuple[str, ...] = ()  # device-tree model, with * and ?
    compatible: tuple[str, ...] = ()  # device-tree
    pci: tuple[str, ...] = ()  # "vendor:device", hexadecimal, lower case
    usb: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()  # below /dev, with * and ?

    def closeness(self, board: Board) -> int | None:
        """How many keys fit; None where one doesn't."""
        fits = {
            "arch": board.arch in self.arch,
            "model": any(fnmatchcase(board.model, pattern) for pattern in self.model),
            "compatible": not set(self.compatible).isdisjoint(board.compatible),
            "pci": not board.pci.isdisjoint(self.pci),
            "usb": not board.usb.isdisjoint(self.usb),
            "dev": any(fnmatchcase(node, pattern) for pattern in self.dev for node in board.dev),
        }
        asked = [fit for key, fit in fits.items() if getattr(self, key)]
        return len(asked) if all(asked) else None


@table
class Candidate(Table):
    """One backend on one device, in the order in which `open_backend` tries them."""

    name: str
    device: str = "cpu"
    threads: Annotated[int, Is(ge=0)] = 0  # of all slots together; 0: every core that the process may use
    precision: tuple[Literal["int8", "mixed", "fp16", "fp32"], ...] = ("int8", "mixed", "fp16", "fp32")  # best first
    options: dict[str, bool | int | float | str] = field(default_factory=dict)


@table
class Thermal(Table):
    """From `warn_c` on lineside warns, from `critical_c` on it sheds background work."""

    zones: tuple[str, ...]  # names of the kernel's thermal zones, with * and ?
    warn_c: Annotated[float, Is(gt=0, lt=150)]
    critical_c: Annotated[float, Is(gt=0, lt=150)]

    def __post_init__(self) -> None:
        if self.warn_c >= self.critical_c:
            raise ValueError(f"warn_c = {self.warn_c} must be below critical_c = {self.critical_c}")

    def state(
        self, temperatures_c: dict[str, float]
    ) -> tuple[Literal["ok", "warn", "critical", "unknown"], float | None]:
        """What the hottest of the profile's zones says, and its temperature; unknown where no zone is readable."""
        seen = [
            celsius
            for name, celsius in temperatures_c.items()
            if any(fnmatchcase(name, pattern) for pattern in self.zones)
        ]
        if not seen:
            return "unknown", None
        hottest = max(seen)
        return "critical" if hottest >= self.critical_c else "warn" if hottest >= self.warn_c else "ok", hottest

    def status(self, temperatures_c: dict[str, float]) -> dict[str, object]:
        """`state` with the limits and each zone of the profile, for `lineside status`."""
        state, hottest_c = self.state(temperatures_c)
        zones_c = {
            name: celsius
            for name, celsius in temperatures_c.items()
            if any(fnmatchcase(name, pattern) for pattern in self.zones)
        }
        limits = {"warn_c": self.warn_c, "critical_c": self.critical_c}
        return {"state": state, "hottest_c": hottest_c, **limits, "zones_c": zones_c}


@table
class CameraDefaults(Table):
    """What a camera of `lineside init` starts with on this board."""

    driver: str = "v4l2"
    width_px: Annotated[int, Is(gt=0)] = 1280
    height_px: Annotated[int, Is(gt=0)] = 720
    fps: Annotated[float, Is(gt=0)] = 30
    pixel_format: str | None = None


@table
class Profile(Table):
    """One board. `name` is the file's."""

    name: str
    title: str
    match: Match
    backend: Annotated[tuple[Candidate, ...], Is(min_length=1)]
    thermal: Thermal
    camera: CameraDefaults = field(default_factory=CameraDefaults)


GENERIC = Profile(
    name="generic",
    title="a board that no profile knows",
    match=Match(),
    backend=tuple(Candidate(name=name) for name in ("litert", "onnxruntime", "openvino")),
    thermal=Thermal(zones=("*",), warn_c=80, critical_c=90),
)


def load(path: Path) -> Profile:
    """Raises ConfigError with one line per fault."""
    import tomllib

    try:
        return checked(Profile, {"name": path.stem, **tomllib.loads(path.read_text())})
    except OSError as error:
        raise ConfigError(f"device profile {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"device profile {path}: is not valid TOML: {error}") from error
    except Unfit as error:
        lines = (f"{'.'.join(map(str, fault.path))} = {fault.value!r}: {fault.message}" for fault in error.faults)
        raise ConfigError(*(f"device profile {path}: {line}" for line in lines)) from error


def known(folder: Path | None = None) -> tuple[Profile, ...]:
    """Every profile of a folder, the shipped ones without one, by name."""
    return tuple(load(path) for path in sorted((folder or shipped("device_profiles")).glob("*.toml")))


def find(name: str) -> Profile:
    """A shipped profile by name, or one by the path of its file. Raises ConfigError."""
    if name.endswith(".toml"):
        return load(Path(name).expanduser())
    path = shipped("device_profiles") / f"{name}.toml"
    if not path.is_file():
        names = ", ".join(sorted(other.stem for other in path.parent.glob("*.toml")))
        raise ConfigError(f"device profile {name!r}: unknown; known are {names}, or give the path of a .toml file")
    return load(path)


def match(board: Board, profiles: tuple[Profile, ...] | None = None) -> Profile:
    """The closest profile, the first by name of two that are equally close; GENERIC where none fits."""
    best, closest = GENERIC, 0
    for profile in known() if profiles is None else profiles:
        closeness = profile.match.closeness(board)
        if closeness is not None and closeness > closest:
            best, closest = profile, closeness
    return best
