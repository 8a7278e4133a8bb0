"""Runs the frames of a piece of evidence through a model and recipe again: through the frame path itself.

The station is that of pipeline.py; only its first state comes from the evidence, and where the device failed then it
fails again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from lineside import plain
from lineside.checked import Unfit, checked
from lineside.clock import SystemClock
from lineside.config.stations import StationConfig, face_labels
from lineside.deliver.evidence.folder import Kept, pixels_sha256
from lineside.deliver.evidence.ring import Answer
from lineside.deliver.evidence.sealed import SUFFIX, Opener
from lineside.errors import ConfigError, DeviceError
from lineside.evidence import FACE_SCORE
from lineside.hal.board import read
from lineside.hal.executor import Executor
from lineside.hal.profile import Candidate, Match, Profile, Thermal, match
from lineside.images import decode
from lineside.pipeline import Station
from lineside.proof import Prover
from lineside.recipe import Logic, Model, Recipe, canonical, open_model, recipe_for
from lineside.records import Decision, Event, Finding, Frame, Image, Part, Record, Ruling, Tensor
from lineside.replay.find import bundle_of
from lineside.store.bundle import Bundle


@dataclass(slots=True)
class Rerun:
    """What the frames gave this time. `at[i]` are the records of frame i, `after` those of the end."""

    seen: list[Answer] = field(default_factory=list)
    at: list[list[Record]] = field(default_factory=list)
    after: list[Record] = field(default_factory=list)
    waiting: tuple[tuple[Part, Ruling], ...] = ()  # parts that had not crossed the line at the last frame
    ended: bool = False

    def put(self, record: Record, committed: Callable[[], None] | None = None) -> None:
        (self.after if self.ended else self.at[-1]).append(record)

    def decisions(self) -> list[Decision]:
        return [record for records in self.at for record in records if isinstance(record, Decision)]

    def events(self, at_end: bool) -> list[Event]:
        """Those of the last frame, or those of the end after it."""
        records = self.after if at_end else self.at[-1] if self.at else []
        return [record for record in records if isinstance(record, Event)]


def rerun(kept: Kept, images: Sequence[Image], recipe: Recipe) -> Rerun:
    """Raises ConfigError where the state that was kept does not fit this lineside."""
    result = Rerun()
    started = _Restored(recipe, kept)
    frames = [known.with_image(image) for known, image in zip(kept.frames, images, strict=True)]
    faults = [known.seen if isinstance(known.seen, str) else None for known in kept.frames]
    model = replace(recipe.model, executor=cast(Executor, _AsThen(recipe.model.executor, faults)), cores=None)
    again = replace(recipe, model=model, build_logic=started.build)
    Station(
        str(kept.told["station"]), _Line(frames), again, result, SystemClock(), witness=_Watch(result, started)
    ).run_lane(lambda: None)
    return result


def pictures(kept: Kept, opener: Opener | None) -> tuple[list[Image], list[str]]:
    """Every frame's picture, and a line for each whose pixels are not those that were hashed. Raises ConfigError."""
    images, faults = [], []
    for known in kept.frames:
        if known.file is None:
            raise ConfigError(
                f"evidence {kept.id}: faces were blurred and the frames not kept (keep_unblurred = false), "
                "so nothing can be replayed"
            )
        path = kept.folder / known.file
        try:
            packed = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        if path.suffix == SUFFIX:
            if opener is None:
                raise ConfigError(f"{path}: is sealed: give the private key with --key FILE")
            packed = opener.open(packed, str(path))
        image = decode(packed, str(path))
        if list(image.shape) != known.frame["shape"] or pixels_sha256(image) != known.frame["pixels"]:
            faults.append(f"frame {known.number} ({known.file}): its pixels are not those that the model saw")
        images.append(image)
    return images, faults


def recipe_of(kept: Kept, models: Sequence[Path], backend: str | None, prover: Prover | None = None) -> Recipe:
    """The recipe by which it was decided, on the backend of then or another. Raises ConfigError, DeviceError."""
    told = kept.told["described"]
    station = station_of(kept)
    bundle = bundle_of(told["model"], told["artefact"], station.bundle, models)
    return recipe_for(str(kept.told["station"]), station, open_as_then(kept, station, bundle, backend, prover))


def recipe_with(kept: Kept, bundle: Bundle, backend: str | None, prover: Prover | None = None) -> Recipe:
    """The rules of then with another bundle. Raises ConfigError where they don't fit its labels, DeviceError."""
    station = replace(station_of(kept), bundle=str(bundle.folder))
    name, _, device = (backend or str(kept.told["described"]["backend"])).partition(":")
    chosen = replace(station, backend=name, device=device or None, fallback=(), slots=1)
    return recipe_for(str(kept.told["station"]), station, open_model(bundle, chosen, match(read()), prover=prover))


def station_of(kept: Kept) -> StationConfig:
    """The station's configuration as it was. Raises ConfigError where this lineside does not know it."""
    told = kept.told["described"]
    try:
        return checked(StationConfig, told["station"])
    except (Unfit, KeyError, TypeError) as error:
        raise ConfigError(
            f"evidence {kept.id}: its recipe, of lineside {told.get('lineside')}, is none of this: {error}"
        ) from error


def is_recipe_whole(kept: Kept) -> bool:
    """Whether the recipe that stands in the evidence is the one whose digest the decision carries."""
    import hashlib

    return bool("sha256:" + hashlib.sha256(canonical(kept.told["described"])).hexdigest() == kept.told["recipe"])


def open_as_then(
    kept: Kept, station: StationConfig, bundle: Bundle, backend: str | None, prover: Prover | None = None
) -> Model:
    """The model with the runtime, threads and options of then; on another backend with this box's own."""
    told = kept.told["described"]
    unsure_from = FACE_SCORE if kept.told["faces"] != "none" and face_labels(bundle.labels) else None
    name, _, device = (backend or str(told["backend"])).partition(":")
    chosen = replace(station, backend=name, device=device or None, fallback=(), slots=1, threads=told["threads"])
    if backend is not None:
        chosen = replace(chosen, threads=None)
        return open_model(bundle, chosen, match(read()), unsure_from=unsure_from, prover=prover)
    file = tuple(one for one in bundle.artefacts if one.sha256 == told["artefact"]["sha256"])
    if not file:
        raise ConfigError(f"bundle {bundle.folder}: has no file with sha256 {told['artefact']['sha256'][:12]}...")
    device = device or "cpu"
    chosen = replace(chosen, device=device)
    candidate = Candidate(name=name, device=device, threads=told["threads"], options=dict(told["options"]))
    return open_model(replace(bundle, artefacts=file), chosen, _only(candidate), unsure_from=unsure_from, prover=prover)


def _only(candidate: Candidate) -> Profile:
    thermal = Thermal(zones=("*",), warn_c=80, critical_c=90)
    return Profile(name="replay", title="as it was", match=Match(), backend=(candidate,), thermal=thermal)


class _Restored:
    """Builds the logic and gives it the state that was kept."""

    def __init__(self, recipe: Recipe, kept: Kept) -> None:
        self._recipe, self._kept = recipe, kept
        self.logic: Logic | None = None

    def build(self, width_px: int, height_px: int) -> Logic:
        self.logic = logic = self._recipe.build_logic(width_px, height_px)
        try:
            logic.restore(plain.unpack(self._kept.told["state"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"evidence {self._kept.id}: its snapshot does not fit the rules ({error}): "
                f"it was written by lineside {self._kept.told['lineside']}"
            ) from error
        return logic


class _Watch:
    """A pipeline.Witness that writes down what each frame gave."""

    def __init__(self, result: Rerun, started: _Restored) -> None:
        self._result, self._started = result, started

    def see(self, frame: Frame, seen: tuple[Finding, ...] | str, state: Mapping[str, object]) -> None:
        self._result.seen.append(seen)
        self._result.at.append([])

    def end(self) -> None:
        logic = self._started.logic
        waiting = getattr(logic.trigger, "waiting_parts", None) if logic else None
        if logic is not None and waiting is not None:
            self._result.waiting = tuple((part, logic.judge(part)) for part in waiting())
        self._result.ended = True


class _Line:
    """A pipeline.FrameSource of frames that are all there."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = iter(frames)

    def take(self, timeout_s: float) -> Frame | object | None:
        return next(self._frames, self)


class _AsThen:
    """The executor, but with the device's faults of then: one infer a frame, in order."""

    def __init__(self, executor: Executor, faults: Sequence[str | None]) -> None:
        self._executor = executor
        self._faults = iter(faults)
        self.slots = 1

    @contextmanager
    def slot(self) -> Iterator[int]:
        with self._executor.slot() as number:
            yield number

    def infer(self, pixels: Image, slot: int, *window: Any) -> tuple[Tensor, ...]:
        fault = next(self._faults)
        if fault is not None:
            raise DeviceError(fault)
        return self._executor.infer(pixels, slot, *window)
