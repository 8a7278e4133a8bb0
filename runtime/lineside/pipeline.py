"""THE FRAME PATH. Follow one frame from capture to journal: Station.run_lane -> Model.see -> Station._conclude.

One thread takes a frame and keeps it to the end, so nothing is handed over on the way. A station has as many lanes
as its device has slots: they see frames at the same time and conclude them in the order they were taken.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lineside.contracts import Beat, Clock, Decoder, EventRule, RecordStore, Status, Trigger
from lineside.errors import DeviceError
from lineside.hal.executor import Executor
from lineside.metrics import Latency
from lineside.records import (
    AnomalyMap,
    Change,
    Classification,
    Decision,
    Event,
    Finding,
    Frame,
    Image,
    ModelRef,
    Observation,
    Part,
    Ruling,
    Seen,
)
from lineside.vision.prepare import Prepare

_TAKE_S = 0.5  # how long a lane waits for a frame before it shows that it is alive
_CLASSES_KEPT = 10  # of a classifier with more than 100 classes


class Ended:
    """What a frame source gives when no frame will come any more."""


ENDED = Ended()


class FrameSource(Protocol):
    """What the pipeline sees of a capture thread."""

    def take(self, timeout_s: float) -> Frame | Ended | None: ...


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle, opened and warmed on a device."""

    ref: ModelRef
    labels: tuple[str, ...]
    backend: str  # "onnxruntime:cpu"
    executor: Executor
    prepare: Prepare
    decoder: Decoder

    def see(self, image: Image) -> Seen:
        """One frame's findings: after(infer(before(image))). Raises DeviceError."""
        with self.executor.slot() as slot:
            canvas, placement = self.prepare.put(image, slot)
            return self.decoder.decode(self.executor.infer(canvas, slot), placement)


def findings_of(seen: Seen, labels: Sequence[str]) -> tuple[Finding, ...]:
    """The words of a message for what a model saw, best first; a classifier with over 100 classes gives ten."""
    if isinstance(seen, Classification):
        order = np.argsort(-seen.scores)
        if len(order) > 100:
            order = order[:_CLASSES_KEPT]
        return tuple(Finding(labels[i], int(i), float(seen.scores[i])) for i in order)
    if isinstance(seen, AnomalyMap):
        return (Finding("anomaly", 0, seen.score),)
    rows = zip(seen.class_ids.tolist(), seen.scores.tolist(), seen.boxes.tolist(), strict=True)
    return tuple(Finding(labels[i], i, score, (box[0], box[1], box[2], box[3])) for i, score, box in rows)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one station decides with: the one thing that swaps, whole and between two parts."""

    model: Model
    judge: Callable[[Part], Ruling]  # part pipelines: rules and debounce
    events: tuple[EventRule, ...] = ()  # event pipelines
    trigger: Trigger | None = None  # None: an event pipeline
    part_per_frame: bool = False
    deadline_ms: float | None = None


class Station:
    """One camera's frames become decisions or events. `run_lane` is a thread; there are as many as device slots."""

    def __init__(
        self, name: str, source: FrameSource, recipe: Recipe, store: RecordStore, clock: Clock, lanes: int = 1
    ) -> None:
        self.name = name
        self.lanes = lanes
        self._source = source
        self._recipe = recipe
        self._store = store
        self._clock = clock
        self._intake = threading.Lock()
        self._turns = _Turns()
        self._taken = 0
        self._open_lanes = lanes
        self._stop = threading.Event()
        self._open_events: dict[str, str] = {}
        self._counts = dict.fromkeys(("frames", "decisions", "accept", "reject", "unknown", "late", "events"), 0)
        self._device_misses = 0
        self._last_fault = ""
        self._path = Latency()  # picture decoded -> record handed to the journal
        self._whole = Latency()  # captured -> record handed to the journal

    @property
    def ended(self) -> bool:
        """Every lane has finished."""
        return self._open_lanes == 0

    def stop(self) -> None:
        """Let each lane finish the frame in hand and no more."""
        self._stop.set()

    def run_lane(self, beat: Beat) -> None:
        """Until stopped or the source has ended: take a frame, see it, conclude in the frames' order."""
        while not self._stop.is_set():
            beat()
            with self._intake:
                frame = self._source.take(_TAKE_S)
                if not isinstance(frame, Frame):
                    if frame is None:
                        continue
                    break
                turn = self._taken
                self._taken += 1
            seen = self._see(frame)
            with self._turns.take(turn):
                self._conclude(frame, seen)
        with self._intake:
            self._open_lanes -= 1
            last, turn = self._open_lanes == 0, self._taken
        if last:
            with self._turns.take(turn):
                self._finish()

    def status(self) -> Status:
        trigger_status = getattr(self._recipe.trigger, "status", None)
        return {
            **self._counts,
            "frames_without_device": self._device_misses,
            "last_error": self._last_fault,
            "model": f"{self._recipe.model.ref.name} {self._recipe.model.ref.version}",
            "backend": self._recipe.model.backend,
            "device": dict(self._recipe.model.executor.status()),
            "frame_path_ms": self._path.summary(),
            "capture_to_decision_ms": self._whole.summary(),
            **({"trigger": trigger_status()} if trigger_status else {}),
        }

    def _see(self, frame: Frame) -> tuple[Finding, ...] | DeviceError:
        model = self._recipe.model
        try:
            return findings_of(model.see(frame.image), model.labels)
        except DeviceError as error:
            return error

    def _conclude(self, frame: Frame, seen: tuple[Finding, ...] | DeviceError) -> None:
        self._counts["frames"] += 1
        recipe = self._recipe
        if isinstance(seen, DeviceError):
            self._device_misses += 1
            self._last_fault = str(seen)
            if recipe.part_per_frame:  # the part was there: it ends in a decision all the same
                part = self._bare_part(frame)
                self._decide(part, Ruling("unknown", f"no model answer: {seen}"), frame)
            return
        observation = Observation(frame.captured_ns, seen, frame.number)
        if recipe.trigger is None:
            for rule in recipe.events:
                for change in rule.step(observation):
                    self._announce(change, frame)
            return
        for part in recipe.trigger.step(observation, frame.captured_wall_ns):
            self._decide(part, recipe.judge(part), frame)

    def _finish(self) -> None:
        """The source has ended or the daemon stops: decide the parts in hand, end the open events."""
        if self._recipe.trigger is not None:
            for part in self._recipe.trigger.finish():
                self._decide(part, self._recipe.judge(part), None)
        for rule in self._recipe.events:
            for change in rule.finish():
                self._announce(change, None)

    def _bare_part(self, frame: Frame) -> Part:
        number = self._counts["decisions"] + 1
        return Part(str(uuid.uuid4()), self.name, number, frame.captured_ns, frame.captured_wall_ns)

    def _decide(self, part: Part, ruling: Ruling, frame: Frame | None) -> None:
        recipe, now_ns = self._recipe, self._clock.monotonic_ns()
        captured_ns = frame.captured_ns if frame else now_ns
        late = recipe.deadline_ms is not None and now_ns - captured_ns > recipe.deadline_ms * 1e6
        wall_ns = self._clock.wall_ns()
        self._store.put(
            Decision(
                id=str(uuid.uuid4()),
                station=self.name,
                part=part,
                verdict=ruling.verdict,
                output="none",  # no actuator is wired to this station
                cause=ruling.cause,
                late=late,
                score=ruling.score,
                findings=ruling.findings,
                model=recipe.model.ref,
                backend=recipe.model.backend,
                captured_ns=captured_ns,
                captured_wall_ns=frame.captured_wall_ns if frame else wall_ns,
                decided_ns=now_ns,
                decided_wall_ns=wall_ns,
            )
        )
        self._counts["decisions"] += 1
        self._counts[ruling.verdict] += 1
        self._counts["late"] += late
        self._measure(frame)

    def _announce(self, change: Change, frame: Frame | None) -> None:
        recipe, now_ns, wall_ns = self._recipe, self._clock.monotonic_ns(), self._clock.wall_ns()
        event_id = self._open_events.setdefault(change.key, str(uuid.uuid4()))
        if change.phase == "end":
            del self._open_events[change.key]
        captured_ns = frame.captured_ns if frame else now_ns
        captured_wall_ns = frame.captured_wall_ns if frame else wall_ns
        self._store.put(
            Event(
                id=str(uuid.uuid4()),
                event_id=event_id,
                station=self.name,
                phase=change.phase,
                cause=change.cause,
                count=change.count,
                score=change.score,
                findings=change.findings,
                model=recipe.model.ref,
                backend=recipe.model.backend,
                started_ns=change.started_ns,
                started_wall_ns=captured_wall_ns - (captured_ns - change.started_ns),
                captured_ns=captured_ns,
                captured_wall_ns=captured_wall_ns,
                decided_ns=now_ns,
                decided_wall_ns=wall_ns,
            )
        )
        self._counts["events"] += 1
        self._measure(frame)

    def _measure(self, frame: Frame | None) -> None:
        if frame is None:
            return
        now_ns = self._clock.monotonic_ns()
        self._path.add(now_ns - frame.ready_ns)
        self._whole.add(now_ns - frame.captured_ns)


class _Turns:
    """Lets threads through in the order of their numbers."""

    def __init__(self) -> None:
        self._next = 0
        self._moved = threading.Condition()

    @contextmanager
    def take(self, turn: int) -> Iterator[None]:
        with self._moved:
            while self._next != turn:
                self._moved.wait()
        try:
            yield
        finally:
            with self._moved:
                self._next = turn + 1
                self._moved.notify_all()
