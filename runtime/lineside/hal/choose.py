"""Picks the backend and device that a model runs on, and keeps why each candidate before it was passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lineside import registry
from lineside.contracts import Backend
from lineside.errors import ConfigError, DeviceError, LinesideError
from lineside.hal.artefact import Options
from lineside.hal.processor import features
from lineside.hal.profile import Candidate, Profile
from lineside.records import Artefact, InputSpec


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A candidate that was not taken."""

    name: str  # "onnxruntime:cuda"
    why: str
    file: str = ""  # of the bundle; empty: none of its files would do


@dataclass(frozen=True, slots=True)
class Choice:
    """What `open_backend` opened."""

    backend: Backend
    name: str  # "onnxruntime:cpu", by the device where it truly runs
    artefact: Artefact
    passed_over: tuple[PassedOver, ...]
    fallback: bool  # it is not what was asked for by name, but a declared fallback
    candidate: Candidate  # what opens the same again

    def __str__(self) -> str:
        told = "".join(f"; not {one.name}: {one.why}" for one in self.passed_over)
        return f"{self.name}{' (fallback)' if self.fallback else ''}{told}"


def open_backend(
    artefacts: Sequence[Artefact],
    input: InputSpec,
    *,
    profile: Profile,
    backend: str = "auto",
    device: str | None = None,
    fallback: Sequence[str] = (),
    threads: int = 0,
    slots: int = 1,
    options: Mapping[str, Options] | None = None,
    cache_dir: Path | None = None,
    accept: Callable[[Artefact, Candidate], object] = lambda artefact, candidate: None,
) -> Choice:
    """Open the first file on the first candidate that `accept` lets pass and that opens.

    `accept` raises ConfigError or DeviceError for what may not run here.

    `backend` = "auto": the profile's order (of one `device`, if given), then `fallback`; a name: that one on `device`
    (else on the first device that the profile has for it), then `fallback`, entries "openvino:cpu". `threads` is for
    each slot; 0: the profile's, divided by the slots. `options` by backend name, over the profile's.

    Raises ConfigError (no runtime, no fitting artefact, a bad model file) or DeviceError (a device is absent).
    """
    passed: list[PassedOver] = []
    errors: list[LinesideError] = []
    asked = _asked(backend, device, profile)
    for number, candidate in enumerate((*asked, *(_declared(entry, profile) for entry in fallback))):
        name = f"{candidate.name}:{candidate.device}"
        driver = registry.driver("backend", candidate.name)
        try:
            _check_installed(driver, candidate.name)
            fitting = _fitting(artefacts, driver.formats(candidate.device), candidate)
        except ConfigError as error:
            passed.append(PassedOver(name, str(error)))
            errors.append(error)
            continue
        for artefact in fitting:
            try:
                accept(artefact, candidate)
                opened = driver(
                    artefact,
                    input.of(artefact),
                    device=candidate.device,
                    threads=threads or (max(1, candidate.threads // slots) if candidate.threads else 0),
                    slots=slots,
                    options={**candidate.options, **(options or {}).get(candidate.name, {})},
                    cache_dir=cache_dir,
                )
            except (ConfigError, DeviceError) as error:
                passed.append(PassedOver(name, str(error), Path(artefact.path).name))
                errors.append(error)
                if isinstance(error, DeviceError):
                    break  # another file would not find the device either
                continue
            came = f"{candidate.name}:{opened.device}"
            return Choice(opened, came, artefact, tuple(passed), number >= len(asked), candidate)
    raise _nothing(passed, errors)


def _asked(backend: str, device: str | None, profile: Profile) -> tuple[Candidate, ...]:
    if backend != "auto":
        return (_named(backend, device, profile),)
    found = tuple(one for one in profile.backend if device is None or one.device.partition(":")[0] == device)
    if not found:
        devices = ", ".join(sorted({one.device for one in profile.backend}))
        raise ConfigError(
            f'device = "{device}": profile {profile.name} has it for no backend (it has {devices}): name a backend too'
        )
    return found


def _named(backend: str, device: str | None, profile: Profile) -> Candidate:
    registry.driver("backend", backend)  # a misspelt name is a ConfigError that lists the known ones
    for one in profile.backend:
        if one.name == backend and device in (None, one.device):
            return one
    return Candidate(name=backend, device=device or "cpu")


def _declared(entry: str, profile: Profile) -> Candidate:
    backend, colon, device = entry.partition(":")
    if not colon or not device:
        raise ConfigError(f'fallback "{entry}": write "backend:device", for example "onnxruntime:cpu"')
    return _named(backend, device, profile)


def _check_installed(driver: type, name: str) -> None:
    packages: tuple[str, ...] = getattr(driver, "packages", ())
    if packages and all(find_spec(package) is None for package in packages):
        raise ConfigError(f"{name} is not installed: {registry.VENDORS.get(packages[0], f'pip install {packages[0]}')}")


def _fitting(artefacts: Sequence[Artefact], formats: Sequence[str], candidate: Candidate) -> list[Artefact]:
    """The files that this candidate runs and whose needs this processor meets: the best precision first; of two the one
    in the format that the runtime likes best. Raises ConfigError where there is none."""

    def rank(artefact: Artefact) -> tuple[int, int]:
        order = candidate.precision
        precision = order.index(artefact.precision) if artefact.precision in order else len(order)
        return precision, list(formats).index(artefact.format)

    fitting = sorted((one for one in artefacts if one.format in formats), key=rank)
    has_needs = [one for one in fitting if candidate.device != "cpu" or set(one.needs) <= set(features())]
    if fitting and not has_needs:
        needs = ", ".join(sorted({need for one in fitting for need in one.needs} - set(features())))
        raise ConfigError(f"{Path(fitting[0].path).name} needs a processor with {needs}, which this one lacks")
    if not fitting:
        has = ", ".join(sorted({one.format for one in artefacts})) or "none"
        raise ConfigError(f"the bundle has no artefact of format {' or '.join(formats)} (it has {has})")
    return has_needs


def _nothing(passed: Sequence[PassedOver], errors: Sequence[LinesideError]) -> LinesideError:
    if len(errors) == 1:
        return errors[0]
    lines = [f"{one.name}: {one.why}" for one in passed]
    if any(isinstance(error, DeviceError) for error in errors):  # it may come back, so the caller tries again
        return DeviceError("no backend opened: " + "; ".join(lines))
    return ConfigError("no backend opened:", *lines)


def installed() -> Iterator[str]:
    """Names of the backends whose runtime is installed, `fake` left out."""
    for name in registry.names("backend"):
        packages: tuple[str, ...] = getattr(registry.driver("backend", name), "packages", ())
        if any(find_spec(package) is not None for package in packages):
            yield name
