"""The frame path: each frame to one decision, in the frames' order, whatever the device does."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeClock
from lineside.checked import checked
from lineside.clock import SystemClock
from lineside.config.stations import StationConfig
from lineside.contracts import Committed
from lineside.errors import DeviceError
from lineside.hal.executor import Executor
from lineside.hal.profile import Candidate, Match, Profile, Thermal
from lineside.pipeline import Station
from lineside.recipe import Model, Recipe, open_model, recipe_for
from lineside.records import Decision, Event, Frame, Image, Record, Tensor, TensorSpec, Window
from lineside.store.bundle import open_bundle
from rig import BANDS, fake_bundle, grey

NS = 1_000_000_000
END = object()


class Line:
    """A FrameSource: gives these frames, then says that it has ended (or, while `open`, that nothing came)."""

    def __init__(self, frames: Sequence[Frame], wait_s: float = 0.0) -> None:
        self._frames = iter(frames)
        self._wait_s = wait_s
        self.open = bool(wait_s)

    def take(self, timeout_s: float) -> Frame | object | None:
        frame = next(self._frames, None)
        if frame is None and self.open:
            time.sleep(self._wait_s)
            return None
        return END if frame is None else frame


@dataclass
class Kept:
    """A RecordStore in memory."""

    records: list[Record] = field(default_factory=list)

    def put(self, record: Record, committed: Committed | None = None) -> None:
        self.records.append(record)
        if committed is not None:
            committed()

    def decisions(self) -> list[Decision]:
        return [record for record in self.records if isinstance(record, Decision)]

    def events(self) -> list[Event]:
        return [record for record in self.records if isinstance(record, Event)]


class Uneven:
    """A Backend whose infers take their time, each another; `breaks` are the bands at which the device fails."""

    device = "cpu"
    inputs = (TensorSpec("canvas", (1, 32, 32, 3), "uint8"),)
    outputs = (TensorSpec("brightness", (1, BANDS), "float32"),)

    def __init__(self, seed: int, breaks: frozenset[int]) -> None:
        self._random = random.Random(seed)
        self._breaks = breaks

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        band = int(pixels.mean() * BANDS / 256)
        time.sleep(self._random.choice((0.0, 0.0005, 0.003)))
        if band in self._breaks:
            raise DeviceError(f"pulled out at band{band}")
        scores = np.full((1, BANDS), 0.01, np.float32)
        scores[0, band] = 0.9
        return (Tensor("brightness", scores),)

    def close(self) -> None: ...


def frames(count: int, sizes: Sequence[tuple[int, int]] = ((64, 48),)) -> list[Frame]:
    """Frame i is of band i modulo ten; 10 frames a second, ready at once."""
    return [
        Frame(grey(i, *sizes[i % len(sizes)]), "cam", i + 1, i * NS // 10, i * NS // 10, i * NS // 10)
        for i in range(count)
    ]


def profile(**options: bool | int | float | str) -> Profile:
    return Profile(
        name="test",
        title="test",
        match=Match(),
        backend=(Candidate(name="fake", options=options),),
        thermal=Thermal(zones=("*",), warn_c=80, critical_c=90),
    )


def config(**keys: object) -> StationConfig:
    return checked(StationConfig, {"camera": "cam", "bundle": str(fake_bundle()), "backend": "fake", **keys})


@cache
def opened(slots: int) -> Model:
    return open_model(open_bundle(fake_bundle()), config(slots=slots), profile())


def recipe(station: StationConfig, open_backend: Callable[[], Uneven] | None = None, lanes: int = 1) -> Recipe:
    """The recipe of a station, on the fake backend or on another that is given."""
    model = opened(lanes)
    if open_backend is not None:
        device = Executor(open_backend, slots=lanes, clock=SystemClock(), reopen_min_s=0.001, reopen_max_s=0.001)
        model = replace(model, backend="fake:cpu", threads=1, executor=device)
    return recipe_for("s1", station, model)


def run(station: Station) -> None:
    """Every lane in a thread of its own, until the source has ended."""
    lanes = [threading.Thread(target=station.run_lane, args=(lambda: None,)) for _ in range(station.lanes)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join(30)
    assert station.ended


def conclude(taken: Sequence[Frame], recipe: Recipe, lanes: int = 1) -> tuple[Kept, Station]:
    store = Kept()
    station = Station("s1", Line(taken), recipe, store, FakeClock(), lanes)
    run(station)
    return store, station


@settings(max_examples=15, deadline=None)
@given(
    lanes=st.integers(1, 4),
    count=st.integers(1, 40),
    seed=st.integers(0, 1000),
    breaks=st.frozensets(st.integers(0, BANDS - 1), max_size=2),
)
def test_each_frame_ends_in_one_decision_in_order_on_any_number_of_lanes(
    lanes: int, count: int, seed: int, breaks: frozenset[int]
) -> None:
    """Slots finish out of order, and the device fails now and then: neither shows in order or number."""
    taken = frames(count)
    store, station = conclude(taken, recipe(config(), lambda: Uneven(seed, breaks), lanes), lanes)
    decisions = store.decisions()
    assert [decision.captured_ns for decision in decisions] == [frame.captured_ns for frame in taken]
    assert [decision.part.number for decision in decisions] == list(range(1, count + 1))
    assert len({decision.part.id for decision in decisions} | {decision.id for decision in decisions}) == 2 * count
    for number, decision in enumerate(decisions):
        if decision.verdict == "unknown":
            assert "pulled out" in decision.cause or "device is down" in decision.cause
        else:
            assert decision.findings[0].label == f"band{number % BANDS}"
    shown = station.status()
    unanswered = sum(decision.verdict == "unknown" for decision in decisions)
    assert (shown["frames"], shown["decisions"]) == (count, count)
    assert (shown["unknown"], shown["frames_without_device"]) == (unanswered, unanswered)
    trigger = shown["trigger"]
    assert isinstance(trigger, dict)
    assert trigger["parts"] == shown["decisions"], "triggers = decisions + misses"
    if not breaks:
        assert not unanswered


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), lanes=st.integers(2, 4))
def test_findings_are_those_of_their_own_frame_when_slots_run_at_once(seed: int, lanes: int) -> None:
    store, _ = conclude(frames(30), recipe(config(), lambda: Uneven(seed, frozenset()), lanes), lanes)
    labels = [decision.findings[0].label for decision in store.decisions()]
    assert labels == [f"band{number % BANDS}" for number in range(30)]


def test_parts_are_numbered_on_when_pictures_change_their_size() -> None:
    """As in a folder of photos: lines and zones are made anew for the size, numbers and counts go on."""
    store, station = conclude(frames(9, sizes=[(64, 48), (48, 64), (64, 48), (32, 32)]), recipe(config()))
    assert [decision.part.number for decision in store.decisions()] == list(range(1, 10))
    trigger = station.status()["trigger"]
    assert isinstance(trigger, dict)
    assert trigger["parts"] == 9


def test_a_verdict_comes_from_the_rules() -> None:
    rules = [{"kind": "threshold", "labels": ["band3"], "high": 0.8}, {"kind": "threshold", "name": "b4", "high": 0.99,
             "low": 0.8, "labels": ["band4"]}]  # fmt: skip
    store, station = conclude(frames(6), recipe(config(rules=rules)))
    assert [decision.verdict for decision in store.decisions()] == [*["accept"] * 3, "reject", "unknown", "accept"]
    shown = station.status()
    assert (shown["accept"], shown["reject"], shown["unknown"]) == (4, 1, 1)
    assert "band3" in store.decisions()[3].cause


def test_a_decision_after_its_deadline_is_late() -> None:
    clock, store = FakeClock(), Kept()
    station = Station("s1", Line([]), recipe(config(deadline_ms=100)), store, clock)
    for age_s, late in ((0.05, False), (0.2, True)):
        now_ns = clock.monotonic_ns()
        station.handle(Frame(grey(1), "cam", 1, now_ns - round(age_s * NS), 0, now_ns))
        assert store.decisions()[-1].late is late
    assert station.status()["late"] == 1


def test_a_quiet_camera_keeps_every_lane_alive(eventually: Callable[..., None]) -> None:
    """The heartbeat of a lane that never gets its turn goes stale, and the watchdog would end a healthy daemon."""
    source = Line([], wait_s=0.05)
    station = Station("s1", source, recipe(config(), lanes=4), Kept(), SystemClock(), lanes=4)
    beats: Counter[int] = Counter()

    def lane(number: int) -> None:
        station.run_lane(lambda: beats.update([number]))

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: min(beats[number] for number in range(4)) >= 5, within_s=10, what=f"beats {beats}")
    finally:
        station.stop()
        source.open = False
        for thread in threads:
            thread.join(10)


def test_a_stop_finishes_the_frame_in_hand_and_takes_no_other(eventually: Callable[..., None]) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Held(Uneven):
        def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
            inside.set()
            assert go_on.wait(10)
            return super().infer(pixels, slot, window)

    store = Kept()
    station = Station("s1", Line(frames(5)), recipe(config(), lambda: Held(1, frozenset())), store, FakeClock())
    thread = threading.Thread(target=run, args=(station,))
    thread.start()
    assert inside.wait(10)
    station.stop()
    go_on.set()
    thread.join(10)
    assert len(store.decisions()) == 1


def test_a_slow_frame_keeps_no_lane_from_the_next_ones_and_only_so_many_wait(eventually: Callable[..., None]) -> None:
    go_on, seen = threading.Event(), []

    class Stuck(Uneven):
        """The first frame is not seen until it is let go."""

        def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
            seen.append(slot)
            assert pixels.mean() > 256 / BANDS or go_on.wait(10)
            return super().infer(pixels, slot, window)

    store = Kept()
    line = recipe(config(slots=2), lambda: Stuck(1, frozenset()), lanes=2)
    station = Station("s1", Line(frames(30)), line, store, FakeClock(), lanes=2)
    thread = threading.Thread(target=run, args=(station,))
    thread.start()
    try:
        eventually(lambda: len(seen) == 5, within_s=10, what="four frames seen beside the first")
        assert not store.decisions()
    finally:
        go_on.set()
        thread.join(10)
    assert [decision.part.number for decision in store.decisions()] == list(range(1, 31))
    assert [d.part.observations[0].frame_number for d in store.decisions()] == list(range(1, 31))


EVENT = {
    "trigger": {"per": "event"},
    "rules": [{"kind": "threshold", "name": "bright", "labels": ["band8", "band9"], "high": 0.8}],
    "steady": {"on_frames": 2, "off_frames": 2, "off_s": 0.0},
}


def lit(*bands: int) -> list[Frame]:
    """Frames of these bands, on a recording's own times, a minute ahead of the clock as at full speed."""
    return [
        Frame(grey(band), "cam", i, 60 * NS + i * NS // 10, 60 * NS + i * NS // 10, NS, False)
        for i, band in enumerate(bands)
    ]


def test_an_event_has_one_id_from_start_over_change_to_end() -> None:
    store, station = conclude(lit(1, 1, 8, 8, 9, 9, 9, 1, 1, 1, 8, 8, 1, 1), recipe(config(**EVENT)))
    events = store.events()
    assert [event.phase for event in events] == ["start", "change", "end", "start", "end"]
    first, second = {event.event_id for event in events[:3]}, {event.event_id for event in events[3:]}
    assert (len(first), len(second), len(first | second)) == (1, 1, 2)
    assert len({event.id for event in events}) == 5
    assert (station.status()["events"], station.status()["decisions"]) == (5, 0)


def test_an_open_event_is_ended_when_the_source_ends() -> None:
    taken = lit(1, 8, 8, 8)
    store, _ = conclude(taken, recipe(config(**EVENT)))
    start, end = store.events()
    assert (start.phase, end.phase, end.cause) == ("start", "end", "no more frames")
    assert start.event_id == end.event_id
    assert end.captured_ns - end.started_ns == NS // 5, "a recording at full speed lasts as long as it shows"

    live = [replace(frame, paced=True, captured_ns=frame.captured_ns - 61 * NS) for frame in taken]
    store, _ = conclude(live, recipe(config(**EVENT)))
    start, end = store.events()
    assert (end.started_ns, end.captured_ns) == (live[1].captured_ns, live[-1].captured_ns)
    assert (end.started_ns, end.started_wall_ns) == (start.started_ns, start.started_wall_ns)


def test_an_open_event_survives_a_device_that_is_away_and_is_still_one_event() -> None:
    taken = lit(8, 8, 8, 5, 5, 8, 8, 1, 1, 1)
    store, station = conclude(taken, recipe(config(**EVENT), lambda: Uneven(1, frozenset({5}))))
    assert {event.event_id for event in store.events()} == {store.events()[0].event_id}
    assert [event.phase for event in store.events()] == ["start", "end"]
    missed = station.status()["frames_without_device"]
    assert isinstance(missed, int)
    assert missed >= 2


def test_a_reopened_device_is_the_one_that_decisions_name(tmp_path: Path) -> None:
    """A fallback has other outputs and another name: it may stand in only where the model is opened anew."""
    unplugged = tmp_path / "unplugged"
    two = replace(
        profile(),
        backend=(
            Candidate(name="fake", device="npu", options={"unplugged_while": str(unplugged)}),
            Candidate(name="fake", device="cpu", options={"classes": 7}),
        ),
    )
    model = open_model(open_bundle(fake_bundle()), config(backend="auto"), two)
    store = Kept()
    station = Station("s1", Line([]), recipe_for("s1", config(backend="auto"), model), store, FakeClock())
    taken = iter(frames(10_000))
    station.handle(next(taken))
    assert store.decisions()[-1].backend == "fake:npu"
    unplugged.touch()
    station.handle(next(taken))
    assert store.decisions()[-1].verdict == "unknown"
    deadline = time.monotonic() + 10
    while not model.executor.status()["reopened"] and time.monotonic() < deadline:
        if time.monotonic() > deadline - 8.5 and unplugged.exists():
            unplugged.unlink()  # after a try in which only the other one could be opened
        time.sleep(0.01)
    assert model.executor.status()["device"] == "npu"
    station.handle(next(taken))
    assert (store.decisions()[-1].backend, len(store.decisions()[-1].findings)) == ("fake:npu", BANDS)
    model.executor.close()


def test_two_stations_on_one_device_both_get_their_frames_through() -> None:
    model = opened(1)
    stores = [Kept(), Kept()]
    stations = [
        Station(name, Line(frames(25)), recipe_for(name, config(), model), store, SystemClock())
        for name, store in zip(("a", "b"), stores, strict=True)
    ]
    threads = [threading.Thread(target=run, args=(station,)) for station in stations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for store in stores:
        assert [d.findings[0].label for d in store.decisions()] == [f"band{n % BANDS}" for n in range(25)]


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (5000, 2)])
def test_a_picture_of_any_shape_ends_in_a_decision(size: tuple[int, int]) -> None:
    store, _ = conclude(frames(2, sizes=[size]), recipe(config()))
    assert len(store.decisions()) == 2
