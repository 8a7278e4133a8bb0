"""What a station decides with: a model that is opened and warmed, and the rules around it.

`open_model` is what `run`, `infer` and `bench` share; `recipe_for` adds a station's trigger and rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lineside.clock import SystemClock
from lineside.config.stations import StationConfig, outside, problems
from lineside.contracts import Backend, Decoder, EventRule, Trigger
from lineside.decide.steady import Steady, build_events, build_rules, judge
from lineside.errors import ConfigError
from lineside.hal.board import allowed_cores
from lineside.hal.choose import Choice, open_backend
from lineside.hal.cores import Cores
from lineside.hal.executor import Executor
from lineside.hal.profile import Profile
from lineside.records import Artefact, Classification, Finding, Image, ModelRef, Part, Ruling, Seen, Task
from lineside.registry import driver
from lineside.store.bundle import Bundle
from lineside.vision.decode import findings, open_decoder
from lineside.vision.prepare import Prepare

_log = logging.getLogger(__name__)

_MOST_CLASSES = 100  # a classifier with more gives only its best
_CLASSES_KEPT = 10
_MOST_SLOTS = 4
_ANY_PX = 320  # a model that takes any size is warmed with a square of this side


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle, opened and warmed on a device."""

    ref: ModelRef
    task: Task
    labels: tuple[str, ...]
    backend: str  # "onnxruntime:cpu", where it truly runs
    artefact: Artefact
    threads: int  # of the runtime, for each slot
    executor: Executor
    prepare: Prepare
    decoder: Decoder
    cores: Cores | None = None  # None: the kernel places every thread

    def see(self, image: Image) -> Seen:
        """One frame's findings: after(infer(before(image))). Raises DeviceError."""
        with self.executor.slot() as slot:
            canvas, placement = self.prepare.put(image, slot)
            return self.decoder.decode(self.executor.infer(canvas, slot), placement)

    def warm(self) -> None:
        """One run in every slot: memory is taken and kernels are chosen before the first frame comes."""
        spec = self.prepare.spec
        grey = np.full((spec.height_px or _ANY_PX, spec.width_px or _ANY_PX, 3), 114, np.uint8)
        for slot in range(self.executor.slots):
            self.executor.infer(self.prepare.put(grey, slot)[0], slot)


@dataclass(frozen=True, slots=True)
class Logic:
    """What depends on the picture's size: lines and zones are pixels by now. Holds the state of tracks and events."""

    trigger: Trigger | None  # None: an event pipeline
    judge: Callable[[Part], Ruling]
    events: tuple[EventRule, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The one thing that swaps, whole and between two parts."""

    model: Model
    build_logic: Callable[[int, int], Logic]  # width_px, height_px of the pictures
    part_per_frame: bool
    deadline_ms: float | None


def findings_of(seen: Seen, labels: Sequence[str]) -> tuple[Finding, ...]:
    """The words of a message for what a model saw, best first; of a classifier with over 100 classes the best ten."""
    if isinstance(seen, Classification) and len(seen.scores) > _MOST_CLASSES:
        best = np.argsort(-seen.scores)[:_CLASSES_KEPT].tolist()
        return tuple(Finding(labels[i], i, float(seen.scores[i])) for i in best)
    return findings(seen, labels)


def open_model(
    bundle: Bundle,
    station: StationConfig,
    profile: Profile,
    *,
    throughput: bool = False,
    alone: bool = False,
    cache_dir: Path | None = None,
) -> Model:
    """Open a bundle on a device as the station asks, check that its outputs fit the decoder, and warm it up.

    `throughput` gives every core a slot of its own instead of all cores to one frame: more frames a second, each later.
    `alone`: no other model runs beside it, so that its threads may have cores of their own.
    Raises ConfigError (the bundle or the choice is wrong) or DeviceError (the device is absent or refuses).
    """
    cores = allowed_cores()
    slots = station.slots or (min(cores, _MOST_SLOTS) if throughput else 1)
    threads = station.threads or (max(1, cores // slots) if slots > 1 else 0)
    first: list[Choice] = []
    place = Cores() if alone and slots == 1 else None

    def open_() -> Backend:
        return place.open(choose) if place else choose()

    def choose() -> Backend:
        if first:
            return reopen(first[0]).backend
        choice = open_backend(
            bundle.artefacts,
            bundle.input,
            profile=profile,
            backend=station.backend,
            device=station.device,
            fallback=station.fallback,
            threads=threads,
            slots=slots,
            cache_dir=cache_dir,
        )
        first.append(choice)
        return choice.backend

    def reopen(choice: Choice) -> Choice:
        """The same again and nothing else: decoder and decisions are bound to what was opened first."""
        one = choice.candidate
        only = replace(profile, backend=(one,))
        return open_backend(
            [choice.artefact],
            bundle.input,
            profile=only,
            backend=one.name,
            device=one.device,
            threads=threads,
            slots=slots,
            cache_dir=cache_dir,
        )

    executor = Executor(open_, slots=slots, clock=SystemClock())
    choice = first[0]
    _log.info("%s %s on %s", bundle.name, bundle.version, choice)
    settings = bundle.settings if station.min_score is None else replace(bundle.settings, min_score=station.min_score)
    try:
        spec = bundle.input.of(choice.artefact)
        decoder = open_decoder(bundle.decode, executor.backend.outputs, bundle.labels, spec, settings)
        prepare = Prepare(spec, slots)
        model = Model(
            bundle.ref,
            bundle.task,
            bundle.labels,
            choice.name,
            choice.artefact,
            threads or cores,
            executor,
            prepare,
            decoder,
            place,
        )
        model.warm()
    except ConfigError as error:
        executor.close()
        raise ConfigError(*(f"bundle {bundle.folder}: {line}" for line in error.lines)) from error
    return model


def recipe_for(station_name: str, station: StationConfig, model: Model) -> Recipe:
    """The recipe of a station. Raises ConfigError where its rules don't fit the bundle's labels."""
    faults = problems(station_name, station, model.labels, model.task)
    if faults:
        raise ConfigError(*faults)
    return Recipe(
        model=model,
        build_logic=lambda width_px, height_px: logic(station_name, station, width_px, height_px),
        part_per_frame=station.trigger.per == "frame",
        deadline_ms=station.deadline_ms,
    )


def logic(name: str, station: StationConfig, width_px: int, height_px: int) -> Logic:
    """Trigger and rules of a station for pictures of this size. Raises ConfigError."""
    for line in outside(name, station, width_px, height_px):
        _log.error("%s", line)
    if station.trigger.per == "event":
        steady = station.steady.values(without=("min_frames", "of_frames"))
        events = build_events(station.event_options(width_px, height_px), **steady)
        return Logic(None, _never, events)
    trigger = driver("trigger", station.trigger.driver)(station=name, **station.trigger_options(width_px, height_px))
    rules = build_rules(station.rule_options(width_px, height_px))
    return Logic(trigger, judge(rules, Steady(station.steady.min_frames, station.steady.of_frames)), ())


def _never(part: Part) -> Ruling:
    raise AssertionError(f"part {part.id} in an event pipeline")
