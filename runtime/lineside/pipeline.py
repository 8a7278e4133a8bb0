"""THE FRAME PATH. Follow one frame from capture to journal: Station.run_lane -> Model.see -> Station._conclude.

One thread takes a frame and keeps it to the end, so nothing is handed over on the way. A station has as many lanes
as its device has slots: they see frames at the same time and conclude them in the order they were taken.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple, Protocol

from lineside.contracts import Beat, Clock, RecordStore, Status, Trigger
from lineside.deliver.openparts import OpenParts, Origin, in_doubt
from lineside.errors import DeviceError
from lineside.inorder import InOrder
from lineside.metrics import Latency, Stages
from lineside.recipe import Logic, Recipe, findings_of
from lineside.records import Change, Decision, Event, Finding, Frame, Observation, Part, Ruling

_log = logging.getLogger(__name__)

Answer = tuple[Finding, ...] | DeviceError

_AHEAD = 2  # frames a lane that may wait for an earlier one to be seen
_TAKE_S = 0.5  # how long a lane waits for a frame before it shows that it is alive
_CLOSE_S = 0.1  # how long a stop waits for the frame that is being concluded


class FrameSource(Protocol):
    """What the pipeline sees of a capture thread: a Frame, None after the time, anything else once it has ended."""

    def take(self, timeout_s: float) -> Frame | object | None: ...


class Witness(Protocol):
    """Who keeps the last frames and what was known before each, as evidence; see deliver/evidence/."""

    def see(self, frame: Frame, seen: tuple[Finding, ...] | str, state: Mapping[str, object]) -> None: ...
    def end(self) -> None: ...


class _Seen(NamedTuple):
    """A frame on its way through a lane. `part_id` where each frame is a part."""

    frame: Frame
    part_id: str | None
    answer: Answer


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
        parts: OpenParts | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._witness = witness
        self._log_each = log_each
        self.name = name
        self._parts = parts or OpenParts(Origin(name, ""))
        self._followed: set[str] = set()  # the trigger's open parts, as of the last frame
        self._unaccounted = 0
        self.lanes = lanes
        self._source = source
        self._recipe = recipe
        self._logic: tuple[int, int, Logic] | None = None  # for pictures of that width and height
        self._store = store
        self._clock = clock
        self._intake = threading.Lock()
        self._stages = Stages("take", "see", "conclude")
        self._in_order = InOrder(self._stages.timed("conclude", self._conclude), _AHEAD * lanes)
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
                part_id = self._open(frame)
            finally:
                self._intake.release()
            self._in_order.bring(turn, _Seen(frame, part_id, self._see(frame)))
            del frame  # its memory serves the next picture
        with self._intake:
            self._open_lanes -= 1
            last = self._open_lanes == 0
        if last and self._in_order.close(_CLOSE_S):
            self._finish()

    def abandon(self) -> None:
        """The stop waits no longer: what no lane has decided by now is in doubt, and a lane that comes late decides
        nothing. Where even this cannot be told, the next start tells it."""
        if not self._in_order.close(_CLOSE_S):
            return
        for mark in self._parts.undecided():
            note = in_doubt(self._parts.origin, mark, "the stop came before it was decided", self._clock)
            self._store.put(note, self._parts.doubted(mark.id))
            _log.warning("%s: part %s is in doubt: the stop came before it was decided", self.name, mark.id)

    def handle(self, frame: Frame) -> None:
        """One frame, start to end, in the caller's thread: what `bench` measures and a single lane does."""
        self._taken += 1
        part_id = self._open(frame)
        self._conclude(_Seen(frame, part_id, self._see(frame)))

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
            "chosen_by": self._recipe.model.why,
            "proof": {"state": self._recipe.model.proof.state, "told": self._recipe.model.proof.told},
            "passed_over": [
                {"backend": one.name, "file": one.file, "why": one.why} for one in self._recipe.model.passed_over
            ],
            "device": dict(self._recipe.model.executor.status()),
            "frame_path_ms": self._path.summary(),
            "capture_to_decision_ms": self._whole.summary(),
            "parts": {**self._parts.status(), "unaccounted": self._unaccounted},
            **({"trigger": _added(self._past_trigger, parts)} if trigger else {}),
        }

    def histograms(self) -> dict[str, dict[float, int]]:
        """The latencies of `status` as they are kept: upper edge in ms -> how many."""
        return {"frame_path_ms": self._path.counts(), "capture_to_decision_ms": self._whole.counts()}

    def latencies(self) -> Mapping[str, Latency]:
        """frame_path, capture_to_decision, and the stages: take (waits for its lane), see, conclude."""
        return {"frame_path": self._path, "capture_to_decision": self._whole, **self._stages.latencies}

    def _see(self, frame: Frame) -> Answer:
        model, began_ns = self._recipe.model, self._clock.monotonic_ns()
        self._stages.add("take", began_ns - frame.ready_ns)
        try:
            return findings_of(model.see(frame.image), model.labels)
        except DeviceError as error:
            return error
        finally:
            self._stages.add("see", self._clock.monotonic_ns() - began_ns)

    def _open(self, frame: Frame) -> str | None:
        """A frame that is a part is open from here on, whatever happens to it."""
        if not self._recipe.part_per_frame:
            return None
        part_id = str(uuid.uuid4())
        self._parts.open(part_id, self._taken, *self._captured(frame))
        return part_id

    def _conclude(self, seen: _Seen) -> None:
        logic = self._logic_for(seen.frame)
        if self._witness is not None:
            answer = str(seen.answer) if isinstance(seen.answer, DeviceError) else seen.answer
            self._witness.see(seen.frame, answer, logic.state())
        self._counts["frames"] += 1
        self._judge(*seen, logic)
        if logic.trigger is not None:
            self._account(logic.trigger)

    def _judge(self, frame: Frame, part_id: str | None, seen: Answer, logic: Logic) -> None:
        if isinstance(seen, DeviceError):
            self._device_misses += 1
            self._last_fault = str(seen)
            if self._recipe.part_per_frame and logic.trigger is not None:
                # the part was there: it ends in a decision all the same
                for part in self._step(logic.trigger, Observation(frame.captured_ns, (), frame.number), frame):
                    self._decide(part, Ruling("unknown", f"no model answer: {seen}"), frame, part_id)
            return
        self._seen_ns, self._seen_at = frame.captured_ns, self._captured(frame)
        observation = Observation(frame.captured_ns, self._recipe.model.sure(seen), frame.number)
        if logic.trigger is not None:
            for part in self._step(logic.trigger, observation, frame):
                self._decide(part, logic.judge(part), frame, part_id)
        for rule in logic.events:
            for change in rule.step(observation):
                self._announce(change, frame)

    def _step(self, trigger: Trigger, seen: Observation, frame: Frame) -> tuple[Part, ...]:
        """The parts that this frame completes; those that it begins become open, those that it ends are missed."""
        parts = trigger.step(seen, frame.captured_wall_ns)
        if not self._recipe.part_per_frame:
            self._follow(trigger, parts, frame)
        return parts

    def _follow(self, trigger: Trigger, announced: tuple[Part, ...], frame: Frame | None) -> None:
        now = trigger.open_parts()
        if not announced and now == self._followed:
            return
        ready = {part.id for part in announced}
        for part_id in (now | ready) - self._followed:
            self._parts.open(part_id, 0, *self._captured(frame))
        for part_id in self._followed - now - ready:
            self._parts.missed(part_id)
        self._followed = set(now)

    def _account(self, trigger: Trigger) -> None:
        """After each frame: every part is decided, given up by the trigger, or open; else say so at once."""
        if self._recipe.part_per_frame:
            unaccounted = self._counts["frames"] - self._counts["decisions"]
        else:
            known, given_up = self._parts.triggers, trigger.status()["given_up"]
            assert isinstance(given_up, int)
            ended = self._counts["decisions"] + self._past_trigger["given_up"] + given_up
            unaccounted = known - ended - len(trigger.open_parts())
        if unaccounted != self._unaccounted:
            self._unaccounted = unaccounted
            _log.error("%s: %d parts are neither decided nor missed nor open: report it", self.name, unaccounted)

    def _finish(self) -> None:
        """The source has ended or the daemon stops: decide the parts in hand, end the open events."""
        if self._logic is None:
            return
        if self._witness is not None:
            self._witness.end()
        logic = self._logic[2]
        if logic.trigger is not None:
            parts = logic.trigger.finish()
            self._follow(logic.trigger, parts, None)
            for part in parts:
                self._decide(part, logic.judge(part), None, None)
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
            if (trigger := self._logic[2].trigger) is not None and not self._recipe.part_per_frame:
                self._follow(trigger, (), frame)  # what a replay's logic was following already
        return self._logic[2]

    def _decide(self, part: Part, ruling: Ruling, frame: Frame | None, part_id: str | None) -> None:
        recipe, now_ns = self._recipe, self._clock.monotonic_ns()
        captured_ns, captured_wall_ns = self._captured(frame)
        late = recipe.deadline_ms is not None and now_ns - captured_ns > recipe.deadline_ms * 1e6
        wall_ns, id_ = self._clock.wall_ns(), str(uuid.uuid4())
        # the number goes on where a size change begins a new trigger
        part = replace(part, id=part_id or part.id, number=self._counts["decisions"] + 1)
        committed = self._parts.decided(part.id)
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
                recipe=recipe.digest,
                captured_ns=captured_ns,
                captured_wall_ns=captured_wall_ns,
                decided_ns=now_ns,
                decided_wall_ns=wall_ns,
            ),
            committed,
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
                recipe=recipe.digest,
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
