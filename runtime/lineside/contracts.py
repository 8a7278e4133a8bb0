"""The seams of lineside, one page for whoever writes a driver. Every driver of a kind passes tests/contracts/.

A driver module imports no vendor package at its top; its constructor checks its options (ConfigError) and asks
`registry.vendor(...)`; its methods map the vendor's errors to DeviceError or RemoteError, `raise ... from error`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lineside.records import (
    Captured,
    Change,
    Image,
    Observation,
    Part,
    Placement,
    Record,
    Ruling,
    Seen,
    Tensor,
    TensorSpec,
    Window,
)

Status: TypeAlias = Mapping[str, object]  # what `lineside status` shows of a worker; JSON values only
Beat: TypeAlias = Callable[[], None]  # a worker calls it each round; the watchdog is fed only while all are fresh
Committed: TypeAlias = Callable[[], None]  # the journal calls it once a record is on disk; quick, and raises nothing


class Clock(Protocol):
    """Time. Logic uses `monotonic_ns`; people and messages get `wall_ns`."""

    def monotonic_ns(self) -> int: ...
    def wall_ns(self) -> int: ...
    def synchronized(self) -> bool: ...


class Camera(Protocol):
    """One source of pictures, used by one capture thread.

    A driver may also have `live` (default True; False: the source waits for its reader, so a full queue loses nothing),
    `paced` (default True; False: captured_ns is a recording's own time, ahead of the clock), `counts` ("bad" pictures
    that did not decode, "dropped" ones that the device had no room for) and `adjusted` (option -> what was taken
    instead); the last two show in `lineside status`.
    """

    def open(self) -> None:
        """Take the device. Raises DeviceError (absent, busy, refused)."""

    def read(self) -> Captured | None:
        """Wait for the next picture; None when the source has come to its end. Raises DeviceError when it is lost."""

    def close(self) -> None:
        """Give the device back; may be called twice, and from another thread to end a blocked read."""


class Backend(Protocol):
    """One model on one device. `infer` may run at the same time in as many threads as there are slots.

    `device` says where it truly runs ("cpu", "cuda:0", "npu", "edgetpu"), after asking the runtime.
    """

    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        """Run the model on a uint8 (H, W, 3) BGR canvas. Raises DeviceError when the device fails.

        `window` is the part that may have changed since the same array was last given with this slot; None: all of it.

        Colour order, normalisation and quantisation of InputSpec happen in here. The tensors are in the order of
        `outputs` and valid until the same slot's next infer.
        """

    def close(self) -> None: ...


class Decoder(Protocol):
    """Turns a model family's outputs into findings in pixels of the frame. Pure.

    Built as Decoder(outputs, labels, input, settings); raises ConfigError if the outputs don't fit.
    """

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Seen: ...


class Rule(Protocol):
    """One sentence of the recipe, told about one observation at a time.

    Returns a Ruling while its condition holds, else None. May keep state (dwell) but no clock: time is
    `seen.captured_ns`, so that replay is exact. `reset` forgets; a part rule is reset for every part.
    """

    def look(self, seen: Observation) -> Ruling | None: ...
    def reset(self) -> None: ...


class EventRule(Protocol):
    """Debounces a Rule over frames and says when its condition starts, changes and ends."""

    def step(self, seen: Observation) -> tuple[Change, ...]: ...
    def finish(self) -> tuple[Change, ...]:
        """Ends an open event when nothing more will be seen."""


class Trigger(Protocol):
    """Says which parts the frame that was just seen completes. `free` needs nothing but what the model saw.

    Where a part is known for longer than a frame its id is made when it becomes known, and is in `open_parts` until
    the part is announced or given up.
    """

    def step(self, seen: Observation, wall_ns: int) -> tuple[Part, ...]: ...
    def finish(self) -> tuple[Part, ...]:
        """Parts still open when the source ends."""

    def open_parts(self) -> Set[str]:
        """Ids of the parts it knows of and has neither announced nor given up; changes with the next step."""

    def status(self) -> Status:
        """Counts since the start, among them `parts` announced and `given_up`: known parts that will never be."""


@runtime_checkable
class Stateful(Protocol):
    """What a Trigger, Rule or EventRule may have beside: then its decisions can be replayed from their evidence.

    `state` is taken before each frame, so it must be cheap: a tree of dicts, sequences, numbers, texts, arrays and
    records that later steps leave as it is. `restore` gets the same from JSON (lineside.plain), lists as tuples.
    """

    def state(self) -> object: ...
    def restore(self, state: Any) -> None: ...


class Sink(Protocol):
    """Carries journal rows to somewhere; runs its own thread. Its cursor moves only on a success reason code."""

    def start(self) -> None: ...
    def stop(self, flush_s: float) -> None: ...
    def status(self) -> Status: ...


class RecordStore(Protocol):
    """What the pipeline sees of the journal."""

    def put(self, record: Record, committed: Committed | None = None) -> None:
        """Hand a record over; never blocks, never raises, never drops (it queues while the disk refuses).

        A decision is made when it is committed: `committed` is called then, in the store's thread.
        """
