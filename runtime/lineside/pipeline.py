"""THE FRAME PATH. Follow one frame from capture to journal: Station.run_lane -> Model.see -> Station._conclude.

One thread takes a frame and keeps it to the end, so nothing is handed over on the way. A station has as many lanes
as its device has slots: they see frames at the same time and conclude them in the order they were taken.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

from lineside.contracts import Beat, Clock, RecordStore, Status
from lineside.errors import DeviceError
from lineside.metrics import Latency
from lineside.recipe import Logic, Recipe, findings_of
from lineside.records import Change, Decision, Event, Finding, Frame, Observation, Part, Ruling

_log = logging.getLogger(__name__)

Answer = tuple[Finding, ...] | DeviceError

_AHEAD = 2  # frames a lane that may wait for an earlier one to be seen
_TAKE_S = 0.5  # how long a lane waits for a frame before it shows that it is alive


class FrameSource(Protocol):
    """What the pipeline sees of a capture thread: a Frame, None after the time, anything else once it has ended."""

    def take(self, timeout_s: float) -> Frame | object | None: ...


class Station:
    """One camera's frames become decisions or events. `run_lane` is a thread; there are as many as device slots."""

    def __init__(
        self,
        name: str,
        source: FrameSource,
        recipe: Recipe,
        store: RecordStore,
        clock: Clock,
        lanes: int = 1,
        log_each: bool = False,
    ) -> None:
        self._log_each = log_each
        self.name = name
        self.lanes = lanes
        self._source = source
        self._recipe = recipe
        self._logic: tuple[int, int, Logic] | None = None  # for pictures of that width and height
        self._store = store
        self._clock = clock
        self._intake = threading.Lock()
        self._in_order = _InOrder(self._conclude, _AHEAD * lanes)
        self._taken = 0
        self._open_lanes = lanes
        self._stop = threading.Event()
        self._open_events: dict[str, tuple[str, int]] = {}  # key -> event_id, started_wall_ns
        self._counts = dict.fromkeys(("frames", "decisions", "accept", "reject", "unknown", "late", "events"), 0)
        self._seen_ns = 0  # capture of the newest frame that the rules saw, on the frames' own time line
        self._seen_at = (0, 0)  # the same on the clock, and on the wall
        self._past_trigger: Counter[str] = Counter()  # counts for pictures of other sizes
        self._device_misses = 0
        self._last_fault = ""
        self._path = Latency()  # picture decoded -> record handed to the journal
        self._whole = Latency()  # captured -> record handed to the journal

    @property
    def ended(self) -> bool:
        """Every lane has finished."""
        return self._open_lanes == 0

    @property
    def backend(self) -> str:
        return self._recipe.model.backend

    def summary(self) -> str:
        """One line for the log."""
        shown = ("frames", "decisions", "accept", "reject", "unknown", "late", "events")
        return ", ".join(f"{self._counts[name]} {name}" for name in shown)

    def stop(self) -> None:
        """Let each lane finish the frame in hand and no more."""
        self._stop.set()

    def run_lane(self, beat: Beat) -> None:
        """Until stopped or the source has ended: take a frame, see it, conclude in the frames' order."""
        cores = self._recipe.model.cores
        with cores.taken() if cores else nullcontext():
            self._run_lane(beat)

    def _run_lane(self, beat: Beat) -> None:
        while not self._stop.is_set():
            beat()
            if not self._intake.acquire(timeout=_TAKE_S):
                continue  # another lane waits for a frame: a lock is not fair, and this one must show that it is alive
            try:
                if not self._in_order.has_room(_TAKE_S):
                    continue
                frame = self._source.take(_TAKE_S)
                if not isinstance(frame, Frame):
                    if frame is None:
                        continue
                    break
                turn = self._taken
                self._taken += 1
            finally:
                self._intake.release()
            self._in_order.bring(turn, frame, self._see(frame))
            del frame  # its memory serves the next picture
        with self._intake:
            self._open_lanes -= 1
            last = self._open_lanes == 0
        if last:
            self._finish()

    def handle(self, frame: Frame) -> None:
        """One frame, start to end, in the caller's thread: what `bench` measures and a single lane does."""
        self._conclude(frame, self._see(frame))

    def status(self) -> Status:
        trigger = self._logic[2].trigger if self._logic else None
        for _ in range(10):  # without a frame in between, so that the counts add up; a lock would cost each frame
            counts, parts = self._counts.copy(), trigger.status() if trigger else {}
            if counts == self._counts:
                break
        return {
            **counts,
            "frames_without_device": self._device_misses,
            "last_error": self._last_fault,
            "model": f"{self._recipe.model.ref.name} {self._recipe.model.ref.version}",
            "backend": self._recipe.model.backend,
            "device": dict(self._recipe.model.executor.status()),
            "frame_path_ms": self._path.summary(),
            "capture_to_decision_ms": self._whole.summary(),
            **({"trigger": _added(self._past_trigger, parts)} if trigger else {}),
        }

    def histograms(self) -> dict[str, dict[float, int]]:
        """The latencies of `status` as they are kept: upper edge in ms -> how many."""
        return {"frame_path_ms": self._path.counts(), "capture_to_decision_ms": self._whole.counts()}

    def _see(self, frame: Frame) -> Answer:
        model = self._recipe.model
        try:
            return findings_of(model.see(frame.image), model.labels)
        except DeviceError as error:
            return error

    def _conclude(self, frame: Frame, seen: Answer) -> None:
        logic = self._logic_for(frame)
        self._counts["frames"] += 1
        if isinstance(seen, DeviceError):
            self._device_misses += 1
            self._last_fault = str(seen)
            if self._recipe.part_per_frame and logic.trigger is not None:
                # the part was there: it ends in a decision all the same
                for part in logic.trigger.step(
                    Observation(frame.captured_ns, (), frame.number), frame.captured_wall_ns
                ):
                    self._decide(part, Ruling("unknown", f"no model answer: {seen}"), frame)
            return
        self._seen_ns, self._seen_at = frame.captured_ns, self._captured(frame)
        observation = Observation(frame.captured_ns, seen, frame.number)
        if logic.trigger is not None:
            for part in logic.trigger.step(observation, frame.captured_wall_ns):
                self._decide(part, logic.judge(part), frame)
        for rule in logic.events:
            for change in rule.step(observation):
                self._announce(change, frame)

    def _finish(self) -> None:
        """The source has ended or the daemon stops: decide the parts in hand, end the open events."""
        if self._logic is None:
            return
        logic = self._logic[2]
        if logic.trigger is not None:
            for part in logic.trigger.finish():
                self._decide(part, logic.judge(part), None)
        for rule in logic.events:
            for change in rule.finish():
                self._announce(change, None)

    def _logic_for(self, frame: Frame) -> Logic:
        """Lines, zones and tracks for pictures of this size; a camera that changed its size starts them anew."""
        height, width = frame.image.shape[:2]
        if self._logic is None or self._logic[:2] != (width, height):
            self._finish()
            if self._logic is not None and self._logic[2].trigger is not None:
                self._past_trigger = Counter(_added(self._past_trigger, self._logic[2].trigger.status()))
            self._logic = (width, height, self._recipe.build_logic(width, height))
        return self._logic[2]

    def _decide(self, part: Part, ruling: Ruling, frame: Frame | None) -> None:
        recipe, now_ns = self._recipe, self._clock.monotonic_ns()
        captured_ns, captured_wall_ns = self._captured(frame)
        late = recipe.deadline_ms is not None and now_ns - captured_ns > recipe.deadline_ms * 1e6
        wall_ns, id_ = self._clock.wall_ns(), str(uuid.uuid4())
        part = replace(part, number=self._counts["decisions"] + 1)  # goes on where a size change begins a new trigger
        self._store.put(
            Decision(
                id=id_,
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
                captured_wall_ns=captured_wall_ns,
                decided_ns=now_ns,
                decided_wall_ns=wall_ns,
            )
        )
        self._counts["decisions"] += 1
        self._counts[ruling.verdict] += 1
        self._counts["late"] += late
        self._measure(frame)
        if self._log_each:
            _log.info("%s: part %d: %s: %s (decision %s)", self.name, part.number, ruling.verdict, ruling.cause, id_)

    def _announce(self, change: Change, frame: Frame | None) -> None:
        recipe, now_ns, wall_ns = self._recipe, self._clock.monotonic_ns(), self._clock.wall_ns()
        captured_ns, captured_wall_ns = self._captured(frame)
        lasted_ns = self._seen_ns - change.started_ns
        begun = self._open_events.setdefault(change.key, (str(uuid.uuid4()), captured_wall_ns - lasted_ns))
        event_id, started_wall_ns = begun  # the same in every message of the event, should the clock be set meanwhile
        if change.phase == "end":
            del self._open_events[change.key]
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
                started_ns=captured_ns - lasted_ns,
                started_wall_ns=started_wall_ns,
                captured_ns=captured_ns,
                captured_wall_ns=captured_wall_ns,
                decided_ns=now_ns,
                decided_wall_ns=wall_ns,
            )
        )
        self._counts["events"] += 1
        self._measure(frame)
        if self._log_each:
            _log.info("%s: %s: %s (event %s)", self.name, change.phase, change.cause, event_id)

    def _captured(self, frame: Frame | None) -> tuple[int, int]:
        """Monotonic and wall time of capture, for the message; of no frame (the source has ended): of the last one."""
        if frame is None:
            return self._seen_at
        if frame.paced:
            return frame.captured_ns, frame.captured_wall_ns
        return frame.ready_ns, self._clock.wall_ns() - (self._clock.monotonic_ns() - frame.ready_ns)

    def _measure(self, frame: Frame | None) -> None:
        if frame is None:
            return
        now_ns = self._clock.monotonic_ns()
        self._path.add(now_ns - frame.ready_ns)
        self._whole.add(now_ns - (frame.captured_ns if frame.paced else frame.ready_ns))


def _added(past: Mapping[str, int], now: Status) -> dict[str, int]:
    """A trigger's counts with those of the triggers before it."""
    return {name: past.get(name, 0) + count for name, count in now.items() if isinstance(count, int)}


class _InOrder:
    """Concludes frames in the order of their turns, each in the thread that brings the one that was waited for.

    Who comes too early leaves its frame here and goes on, as far as there is room: a slow frame delays the decisions
    after it, and no other work.
    """

    def __init__(self, conclude: Callable[[Frame, Answer], None], room: int) -> None:
        self._conclude = conclude
        self._room = room
        self._waiting: dict[int, tuple[Frame, Answer]] = {}
        self._next = 0
        self._busy = False  # a thread concludes: it will find what others bring meanwhile
        self._moved = threading.Condition()

    def has_room(self, timeout_s: float) -> bool:
        """Wait until another frame may be taken; False after the time."""
        if len(self._waiting) < self._room:
            return True
        with self._moved:
            return self._moved.wait_for(lambda: len(self._waiting) < self._room, timeout_s)

    def bring(self, turn: int, frame: Frame, seen: Answer) -> None:
        """Conclude this frame and all that follow it without a gap, or leave it to the thread that closes the gap."""
        with self._moved:
            self._waiting[turn] = frame, seen
            if self._busy:
                return
            self._busy = True
        while True:
            with self._moved:
                if self._next not in self._waiting:
                    self._busy = False
                    return
                frame, seen = self._waiting.pop(self._next)
                self._next += 1
                self._moved.notify()
            self._conclude(frame, seen)
