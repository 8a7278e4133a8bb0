"""The tuning plan of a bundle on a box: what was tried, what came of it, and why one way is pinned. As JSON.

Read by `run` at each start, so it does without the validator; a plan that does not parse is no plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Literal, TypeAlias

from lineside.hal import fingerprint
from lineside.hal.board import Board, read
from lineside.hal.choose import installed
from lineside.hal.profile import Profile
from lineside.registry import driver

State: TypeAlias = Literal["picked", "within noise", "slower", "refused"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the plan was made for; made again for the same."""

    p99_ms: float | None
    max_flips: float
    backends: tuple[str, ...]
    data: str | None  # folder of pictures; None: the golden ones
    reference: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Tried:
    """One way and what came of it. Times are of the frame path: resize, model, decoding."""

    backend: str
    device: str
    file: str
    sha256: str
    threads: int | None  # None: the profile's
    state: State
    why: str
    frames: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    flips: int | None = None
    pictures: int = 0

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.file} on {self.backend}:{self.device}{threads}"


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """`tried` is in the order of preference: the pick first, the refused last."""

    made: str  # RFC 3339
    took_s: float
    asked: Asked
    reference: str
    pictures: int
    notes: tuple[str, ...]  # what is to be known of the measurement
    tried: tuple[Tried, ...]

    @property
    def pick(self) -> Tried:
        return self.tried[0]

    def best(self, backend: str | None, device: str | None) -> Tried | None:
        """The best that was not refused, of one backend or device if given; "edgetpu" stands for "edgetpu:usb", too."""
        for one in self.tried:
            fits = backend in (None, one.backend) and device in (None, one.device, one.device.partition(":")[0])
            if fits and one.state != "refused":
                return one
        return None

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def parse(told: Mapping[str, Any]) -> TuningPlan:
    """The plan that `told` wrote down. Raises KeyError, TypeError or ValueError where it is none."""
    tried = tuple(Tried(**one) for one in told["tried"])
    for one in tried:
        texts = (one.backend, one.device, one.file, one.sha256, one.state, one.why)
        if not all(isinstance(text, str) for text in texts) or not isinstance(one.threads, int | None):
            raise TypeError(f"{one!r} is no way to run a model")
    if not tried or tried[0].state != "picked":
        raise ValueError("nothing is picked")
    asked = Asked(**{**told["asked"], "backends": tuple(told["asked"]["backends"])})
    rest = {key: told[key] for key in ("made", "took_s", "reference", "pictures")}
    return TuningPlan(**rest, asked=asked, notes=tuple(told["notes"]), tried=tried)


def box_facts(profile: Profile, board: Board | None = None) -> dict[str, str]:
    """What times and answers depend on: processor, drivers, the version of each runtime, the profile's backends."""
    packages = dict.fromkeys(name for backend in installed() for name in driver("backend", backend).packages)
    found = fingerprint.facts(board or read(), tuple(packages))
    backends = sha256(repr(profile.backend).encode()).hexdigest()[:8]
    return {**found, "profile": f"{profile.name} ({backends})"}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, for the log: "openvino 2026.3 -> 2026.4"."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in names)
