"""What a station decides with: a model that is opened and warmed, and the rules around it.

`open_model` is what `run`, `infer` and `bench` share; `recipe_for` adds a station's trigger and rules.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lineside import __version__
from lineside.clock import SystemClock
from lineside.config.stations import StationConfig, outside, problems
from lineside.contracts import Backend, Clock, Decoder, EventRule, Stateful, Trigger
from lineside.decide.steady import Steady, build_events, build_rules, judge
from lineside.errors import ConfigError
from lineside.hal.board import allowed_cores
from lineside.hal.choose import Choice, PassedOver, open_backend
from lineside.hal.cores import Cores
from lineside.hal.executor import Executor
from lineside.hal.profile import Candidate, Profile
from lineside.proof import UNASKED, NotProven, Proof, Prover
from lineside.records import (
    Artefact,
    Classification,
    DecodeSettings,
    Finding,
    Image,
    ModelRef,
    Note,
    Part,
    Ruling,
    Seen,
    Task,
)
from lineside.registry import driver
from lineside.store.bundle import Bundle
from lineside.vision.decode import findings, open_decoder
from lineside.vision.prepare import Prepare

_log = logging.getLogger(__name__)

_MOST_CLASSES = 100  # a classifier with more gives only its best
_CLASSES_KEPT = 10
_MOST_SLOTS = 4
_WORTH_PLACING_S = 0.014  # shorter runs gain little time from cores of their own, and cost a fifth more of it
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
    settings: DecodeSettings
    executor: Executor
    prepare: Prepare
    decoder: Decoder
    cores: Cores | None = None  # None: the kernel places every thread
    options: Mapping[str, object] = field(default_factory=dict)  # that the profile gave the runtime
    sees_unsure: bool = False  # what is below settings.min_score, too: faces are hidden rather once too often
    why: str = ""  # this backend, file and number of threads
    proof: Proof = UNASKED  # that its answers are right on this box
    passed_over: tuple[PassedOver, ...] = ()  # backends and files that come first by the profile, and may not run here

    def sure(self, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        """Those that a rule may look at."""
        if not self.sees_unsure:
            return findings
        return tuple(finding for finding in findings if finding.score >= self.settings.min_score)

    def see(self, image: Image) -> Seen:
        """One frame's findings: after(infer(before(image))). Raises DeviceError."""
        with self.executor.slot() as slot:
            canvas, placement, window = self.prepare.put(image, slot)
            return self.decoder.decode(self.executor.infer(canvas, slot, window), placement)

    def warm(self) -> float:
        """One run in every slot: memory is taken and kernels are chosen before the first frame comes.

        Returns how long the last took, in seconds.
        """
        spec = self.prepare.spec
        grey = np.full((spec.height_px or _ANY_PX, spec.width_px or _ANY_PX, 3), 114, np.uint8)
        took_s = 0.0
        for slot in range(self.executor.slots):
            began = time.monotonic()
            self.executor.infer(self.prepare.put(grey, slot)[0], slot)
            took_s = time.monotonic() - began
        return took_s


@dataclass(frozen=True, slots=True)
class Logic:
    """What depends on the picture's size: lines and zones are pixels by now. Holds the state of tracks and events."""

    trigger: Trigger | None  # None: an event pipeline
    judge: Callable[[Part], Ruling]
    events: tuple[EventRule, ...]

    def state(self) -> Mapping[str, object]:
        """What was kept of earlier frames, as lineside.plain writes it; None for a part that keeps nothing."""
        return {"trigger": _state(self.trigger), "events": [_state(event) for event in self.events]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as after the frames before `state` was taken."""
        for part, kept in zip((self.trigger, *self.events), (state["trigger"], *state["events"]), strict=True):
            if kept is not None and isinstance(part, Stateful):
                part.restore(kept)


def _state(part: object) -> object:
    take = getattr(part, "state", None)  # isinstance with a Protocol takes longer than all the rest
    return take() if take else None


@dataclass(frozen=True, slots=True)
class Recipe:
    """The one thing that swaps, whole and between two parts."""

    model: Model
    build_logic: Callable[[int, int], Logic]  # width_px, height_px of the pictures
    part_per_frame: bool
    deadline_ms: float | None
    described: Mapping[str, object]  # JSON values: all that a decision depends on but the frames
    digest: str  # of `described`, "sha256:..."; every decision carries it

    def note(self, station: str, cause: str, clock: Clock) -> Note:
        """For the journal: from now on the station decides by this."""
        fields = {"digest": self.digest, "recipe": self.described, "cause": cause}
        return Note(str(uuid.uuid4()), "recipe", station, fields, clock.monotonic_ns(), clock.wall_ns())


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
    unsure_from: float | None = None,
    prover: Prover | None = None,
) -> Model:
    """Open a bundle on a device as the station asks, check that its outputs fit the decoder, and warm it up.

    `prover` lets pass only what answers right on this box, so that a station that names no backend goes on to the next
    one; None is for tools that measure what is right.

    `throughput` gives every core a slot of its own instead of all cores to one frame: more frames a second, each later.
    `alone`: no other model runs beside it, so that its threads may have cores of their own. `unsure_from`: findings
    from this score on are seen, too, for who hides faces; `Model.sure` leaves them out.
    Raises ConfigError (the bundle or the choice is wrong) or DeviceError (the device is absent or refuses).
    """
    cores = allowed_cores()
    slots = station.slots or (min(cores, _MOST_SLOTS) if throughput else 1)
    threads = station.threads or (max(1, cores // slots) if slots > 1 else 0)
    first: list[Choice] = []
    place = Cores() if alone and slots == 1 else None

    refused: list[NotProven] = []

    def accept(artefact: Artefact, candidate: Candidate) -> None:
        try:
            if prover is not None:
                prover.check(bundle, artefact, candidate)
        except NotProven as error:
            refused.append(error)
            raise

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
            accept=accept,
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

    try:
        executor = Executor(open_, slots=slots, clock=SystemClock())
    except ConfigError as error:
        if prover is None or not refused or station.backend == "auto":
            raise
        raise _with_advice(error, bundle, prover, profile) from error
    choice = first[0]
    proof = prover.check(bundle, choice.artefact, choice.candidate) if prover else UNASKED
    is_next = any(one.file for one in choice.passed_over)
    _log.log(logging.WARNING if is_next else logging.INFO, "%s %s on %s", bundle.name, bundle.version, choice)
    if proof.state == "unproven" and prover is not None:
        _log.warning("%s %s: %s on %s %s", bundle.name, bundle.version, choice.artefact.path, choice.name, proof)
    settings = bundle.settings if station.min_score is None else replace(bundle.settings, min_score=station.min_score)
    try:
        spec = bundle.input.of(choice.artefact)
        lowest = settings.min_score if unsure_from is None else min(settings.min_score, unsure_from)
        seen = replace(settings, min_score=lowest)
        decoder = open_decoder(bundle.decode, executor.backend.outputs, bundle.labels, spec, seen)
        prepare = Prepare(spec, slots)
        model = Model(
            bundle.ref,
            bundle.task,
            bundle.labels,
            choice.name,
            choice.artefact,
            threads or cores,
            settings,
            executor,
            prepare,
            decoder,
            place,
            choice.candidate.options,
            sees_unsure=lowest < settings.min_score,
            why=f"order of profile {profile.name}" if station.backend == "auto" else "named by the station",
            proof=proof,
            passed_over=choice.passed_over,
        )
        model.warm()
        if place is not None and place.lane is not None:
            with place.taken():
                took_s = model.warm()
            if took_s < _WORTH_PLACING_S:
                place.give_up()
    except ConfigError as error:
        executor.close()
        raise ConfigError(*(f"bundle {bundle.folder}: {line}" for line in error.lines)) from error
    return model


def _with_advice(error: ConfigError, bundle: Bundle, prover: Prover, profile: Profile) -> ConfigError:
    """The refusal of a backend that was named, with those that do answer right here."""
    passing = list(prover.passing(bundle, profile))
    if not passing:
        advice = "no other backend of this box passes: `lineside bundle verify` shows each, and tries them again"
    else:
        name = passing[0].partition(":")[0]
        verb = "passes" if len(passing) == 1 else "pass"
        advice = (
            f'{", ".join(passing)} {verb} here: write backend = "{name}" in the table of the station (for a command: '
            f"--backend {name}), or name no backend: the first that passes is taken"
        )
    return ConfigError(*(f"bundle {bundle.folder}: {line}" for line in error.lines), advice)


def recipe_for(station_name: str, station: StationConfig, model: Model) -> Recipe:
    """The recipe of a station. Raises ConfigError where its rules don't fit the bundle's labels."""
    faults = problems(station_name, station, model.labels, model.task)
    if faults:
        raise ConfigError(*faults)
    described = _described(station, model)
    return Recipe(
        model=model,
        build_logic=lambda width_px, height_px: logic(station_name, station, width_px, height_px),
        part_per_frame=station.trigger.per == "frame",
        deadline_ms=station.deadline_ms,
        described=described,
        digest="sha256:" + hashlib.sha256(canonical(described)).hexdigest(),
    )


def canonical(described: Mapping[str, object]) -> bytes:
    """The one way to write it down: what its digest is taken of."""
    return json.dumps(described, sort_keys=True, separators=(",", ":")).encode("ascii")


def _described(station: StationConfig, model: Model) -> dict[str, object]:
    file = {"name": Path(model.artefact.path).name, "sha256": model.artefact.sha256}
    described = {
        "lineside": __version__,
        "model": dataclasses.asdict(model.ref),
        "artefact": file,
        "backend": model.backend,
        "threads": model.threads,
        "options": dict(model.options),
        "decode": dataclasses.asdict(model.settings),
        "station": dataclasses.asdict(station),
    }
    plain: dict[str, object] = json.loads(json.dumps(described, default=str))
    return plain


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
