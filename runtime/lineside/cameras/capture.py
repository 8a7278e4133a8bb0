"""The capture thread, one per camera: opens the driver, reads, orients, numbers, puts frames where the pipeline takes.

Beside it sleeps a watch thread, which gives the heartbeat, notices a stalled read, and abandons it with its driver if
closing does not end it. Everything that is not delivered is counted in `status`.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from threading import Event, Lock, Thread
from typing import Literal, TypeVar

from lineside.cameras.orient import Orientation
from lineside.cameras.queues import END, End, LatestFrame, PartQueue
from lineside.contracts import Beat, Camera, Status
from lineside.errors import ConfigError, DeviceError, LinesideError
from lineside.records import Captured, Frame

log = logging.getLogger(__name__)
T = TypeVar("T")

ROUND_S = 0.2  # how long any wait lasts before stop and heartbeat are looked at
CLOSE_GRACE_S = 1.0  # how long a closed driver may take to end its read
OPEN_ALLOWANCE_S = 15.0  # how much longer than a read an open may take
MOST_ABANDONED = 3  # reads that never came back; after that only a restart of the process helps


class _Run:
    """One driver and the thread that reads it, until the end or until both are abandoned."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.busy_since_ns = 0  # when the driver was called, 0 while it is not
        self.allowed_s = float("inf")
        self.fault = ""  # what the watch found, which says more than the error of a read that was cut off

    def call(self, function: Callable[[], T], allowed_s: float) -> T:
        self.allowed_s = allowed_s
        self.busy_since_ns = time.monotonic_ns()
        try:
            return function()
        finally:
            self.busy_since_ns = 0

    def overdue(self) -> bool:
        since_ns = self.busy_since_ns
        return since_ns > 0 and time.monotonic_ns() - since_ns > self.allowed_s * 1e9


class Tap:
    """What one station gets of a camera: its own queue, freshest or every, whatever other stations do."""

    def __init__(self, capture: Capture, mode: Literal["freshest", "every"], queue_frames: int) -> None:
        self._capture = capture
        self.freshest = mode == "freshest"
        self.queue: LatestFrame | PartQueue = LatestFrame() if self.freshest else PartQueue(queue_frames)
        self.stale = 0
        self.lost = 0

    def take(self, timeout_s: float) -> Frame | End | None:
        """The next frame; END once the source has ended; None after `timeout_s`. Raises what ended the capture."""
        taken = self.queue.take(timeout_s)
        if taken is END and self._capture.failure is not None:
            raise self._capture.failure
        return taken

    @property
    def skipped(self) -> int:
        return self.stale + (self.queue.skipped if isinstance(self.queue, LatestFrame) else 0)


class Capture:
    """One camera of the daemon: a `tap` for each station, then `start`; `stop` ends it.

    With a single consumer, `take` is enough: it makes the tap with the mode and queue given here.
    `build` makes a fresh driver: once now (so that a wrong option is a ConfigError before anything runs), and again
    after a read that had to be abandoned. `beat` is called at least five times a second while all is as it should be.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Camera],
        *,
        mode: Literal["freshest", "every"] = "freshest",
        orientation: Orientation | None = None,
        queue_frames: int = 4,
        reopen_min_s: float = 0.5,
        reopen_max_s: float = 15.0,
        stall_s: float | None = None,
        stale_s: float = 0.5,
        beat: Beat = lambda: None,
    ) -> None:
        self.name = name
        self._build = build
        try:
            self._run = _Run(build())
        except ConfigError as error:
            raise self._named(error) from error
        self._live = bool(getattr(self._run.camera, "live", True))
        self._paced = bool(getattr(self._run.camera, "paced", True))
        self._orientation = orientation or Orientation()
        self._reopen_s = (reopen_min_s, reopen_max_s)
        self._stall_s = stall_s if stall_s is not None and self._live else float("inf")
        self._stale_s = stale_s if self._live else float("inf")
        self._fresh_ns = 0  # when the last picture came that was not stale
        self._beat = beat
        self._taps: tuple[Tap, ...] = ()
        self._default_tap = Tap(self, mode, queue_frames)
        self._stopping = Event()
        self._swap = Lock()  # held to abandon a run, and to deliver a frame of the run that counts
        self.failure: Exception | None = None  # what ended the capture, if it was not the end of the source
        self._state = "idle"
        self._counts: Counter[str] = Counter()
        self._abandoned_counts: Counter[str] = Counter()  # what the drivers of abandoned runs had counted
        self._last_error = ""
        self._size_px = (0, 0)
        self._read_ns: deque[int] = deque(maxlen=32)
        self._threads: list[Thread] = []

    # --- for daemon and pipeline

    def tap(self, mode: Literal["freshest", "every"], queue_frames: int = 4) -> Tap:
        """A queue of its own for one consumer; before `start`, so that it misses nothing."""
        tap = Tap(self, mode, queue_frames)
        self._taps = (*self._taps, tap)
        return tap

    def start(self) -> None:
        """Begin to open and read, in threads of its own."""
        self._taps = self._taps or (self._default_tap,)
        self._spawn("capture", self._read_on, self._run)
        self._spawn("watch", self._watch)

    def take(self, timeout_s: float) -> Frame | End | None:
        """As Tap.take, for the only consumer of a capture without other taps."""
        return self._default_tap.take(timeout_s)

    def stop(self, timeout_s: float = 1.0) -> bool:
        """Close the camera and end the threads; frames that wait can still be taken. False if a thread still runs."""
        self._stopping.set()
        self._run.camera.close()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._end()
        if self._state not in ("ended", "failed"):
            self._state = "stopped"
        return not any(thread.is_alive() for thread in self._threads)

    def status(self) -> Status:
        """JSON values. For each tap: frames = taken + waiting + skipped + lost; bad and dropped never became frames."""
        driver = self._abandoned_counts + Counter(_counts(self._run.camera))
        read_ns = tuple(self._read_ns)
        spread_s = (read_ns[-1] - read_ns[0]) / 1e9 if len(read_ns) > 1 else 0.0
        return {
            "state": self._state,
            "frames": self._counts["frames"],
            "skipped": sum(tap.skipped for tap in self._taps),
            "lost": sum(tap.lost for tap in self._taps),
            "bad": driver["bad"],
            "dropped": driver["dropped"],
            "reopens": self._counts["reopens"],
            "stalls": self._counts["stalls"],
            "abandoned": self._counts["abandoned"],
            "fps": round((len(read_ns) - 1) / spread_s, 2)
            if spread_s and self._state in ("streaming", "ended")
            else 0.0,
            "width_px": self._size_px[0],
            "height_px": self._size_px[1],
            "adjusted": dict(getattr(self._run.camera, "adjusted", {})),
            "last_error": self._last_error,
        }

    # --- the capture thread

    def _read_on(self, run: _Run) -> None:
        try:
            self._reopen_until_end(run)
        except Exception as error:  # the worker ends here; take() raises it where the daemon decides
            if self._counts_on(run):
                self.failure = self._named(error) if isinstance(error, ConfigError) else error
                self._last_error, self._state = str(self.failure), "failed"
        finally:
            run.camera.close()
            if self._counts_on(run):
                self._end()

    def _reopen_until_end(self, run: _Run) -> None:
        wait_s = self._reopen_s[0]
        while self._counts_on(run):
            frames = self._counts["frames"]
            try:
                self._state = "opening"
                run.call(run.camera.open, self._stall_s + OPEN_ALLOWANCE_S)
                self._fresh_ns = time.monotonic_ns()
                self._stream(run)
                return
            except ConfigError:
                raise
            except LinesideError as error:
                run.camera.close()
                if not self._counts_on(run):
                    return
                self._lost(run.fault or str(error))
                run.fault = ""
            if self._counts["frames"] > frames:
                wait_s = self._reopen_s[0]
            self._pause(run, wait_s * random.uniform(0.75, 1.25))  # cameras of one switch must not return in step
            wait_s = min(wait_s * 2, self._reopen_s[1])

    def _stream(self, run: _Run) -> None:
        while self._counts_on(run):
            captured = run.call(run.camera.read, self._stall_s)
            if captured is None:
                if self._live:
                    raise DeviceError("the stream ended")
                self._state = "ended"
                return
            self._deliver(run, captured)
            del captured  # its memory serves the next picture

    def _deliver(self, run: _Run, captured: Captured) -> None:
        """Number the picture and queue it, unless its read was abandoned meanwhile."""
        image = self._orientation.apply(captured.image)
        with self._swap:
            if not self._counts_on(run):
                return
            self._counts["frames"] += 1
            number, now_ns = self._counts["frames"], time.monotonic_ns()
            frame = Frame(image, self.name, number, captured.captured_ns, captured.wall_ns, now_ns, self._paced)
            self._state = "streaming"
            self._size_px = (image.shape[1], image.shape[0])
            self._read_ns.append(now_ns)
            stale = self._is_stale(now_ns, captured)
            full = [tap for tap in self._taps if not self._offer(tap, frame, stale)]
        for tap in full:  # the source waits: nothing is lost
            while self._counts_on(run) and not tap.queue.put(frame, ROUND_S):
                pass

    def _offer(self, tap: Tap, frame: Frame, stale: bool) -> bool:
        """Put the frame into one queue, or count why not; False if its source should wait until there is room."""
        if stale and tap.freshest:
            tap.stale += 1
            return True
        if tap.queue.put(frame, 0.0):
            return True
        if self._live:  # waiting would only move the loss into the driver, where nobody counts it
            tap.lost += 1
            if tap.lost.bit_count() == 1:  # at 1, 2, 4, 8, ...: loud, and no flood
                self._last_error = f"{tap.lost} frames lost so far: the path is slower than the camera"
                log.error("camera %s: %s", self.name, self._last_error)
        return self._live

    def _is_stale(self, now_ns: int, captured: Captured) -> bool:
        """A buffer somewhere held this picture back; newer ones follow at once, or else the source is at fault."""
        if now_ns - captured.captured_ns <= self._stale_s * 1e9:
            self._fresh_ns = now_ns
            return False
        if now_ns - self._fresh_ns > (self._stale_s + self._stall_s) * 1e9:
            raise DeviceError(f"every picture is more than {self._stale_s:g} s old when it comes")
        return True

    # --- the watch thread

    def _watch(self) -> None:
        while not self._stopping.wait(min(ROUND_S, self._stall_s / 8)):
            run = self._run
            if run.overdue():
                self._end_stall(run)
            if self._counts["abandoned"] <= MOST_ABANDONED:
                self._beat()

    def _end_stall(self, run: _Run) -> None:
        """Close the driver, and if its read still does not end leave it behind and begin again with a new one."""
        self._counts["stalls"] += 1
        run.fault = f"no picture for {run.allowed_s:g} s"
        run.camera.close()
        deadline = time.monotonic() + CLOSE_GRACE_S
        while run.overdue() and not self._stopping.is_set():
            if time.monotonic() > deadline:
                return self._abandon(run)
            self._stopping.wait(0.02)

    def _abandon(self, run: _Run) -> None:
        if self._counts["abandoned"] == MOST_ABANDONED:
            log.error("camera %s: %d reads never came back; only a restart helps", self.name, MOST_ABANDONED)
        if self._counts["abandoned"] >= MOST_ABANDONED:
            self._counts["abandoned"] = MOST_ABANDONED + 1  # no heartbeat from here on
            return
        with self._swap:
            self._counts["abandoned"] += 1
            self._abandoned_counts += Counter(_counts(run.camera))
            self._run = _Run(self._build())
        self._lost(f"{run.fault}, and the driver does not end its read")
        self._spawn("capture", self._read_on, self._run)

    # --- both

    def _spawn(self, role: str, target: Callable[..., None], *arguments: object) -> None:
        thread = Thread(target=target, args=arguments, name=f"{role}-{self.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end(self) -> None:
        for tap in self._taps:
            tap.queue.end()

    def _counts_on(self, run: _Run) -> bool:
        return run is self._run and not self._stopping.is_set()

    def _lost(self, error: str) -> None:
        self._counts["reopens"] += 1
        if error != self._last_error:
            log.warning("camera %s: %s; trying again", self.name, error)
        self._state, self._last_error = "reopening", error

    def _pause(self, run: _Run, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while self._counts_on(run) and (left_s := until - time.monotonic()) > 0:
            self._stopping.wait(min(ROUND_S, left_s))

    def _named(self, error: ConfigError) -> ConfigError:
        return ConfigError(*(f"cameras.{self.name}.{line}" for line in error.lines))


def _counts(camera: Camera) -> Mapping[str, int]:
    """What the driver itself counts: "bad" pictures that did not decode, "dropped" ones that it had no buffer for."""
    counts: Mapping[str, int] = getattr(camera, "counts", {})
    return counts
