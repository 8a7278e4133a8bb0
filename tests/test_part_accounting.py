"""Every part of a station is decided, missed, in doubt or open, whatever hangs, dies or stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deliveries import journal
from fakes import FakeClock
from lineside.clock import SystemClock
from lineside.deliver.doubts import Doubts
from lineside.deliver.journal import Journal
from lineside.deliver.openparts import OpenParts, read
from lineside.pipeline import Station
from lineside.recipe import Logic
from lineside.records import Finding, Image, Note, Observation, Part, Ruling, Tensor
from lineside.triggers.free import FreeTrigger
from rig import BANDS
from test_pipeline import Kept, Line, Uneven, config, frames, recipe

Eventually = Callable[..., None]


def parts(station: Station) -> dict[str, Any]:
    shown = station.status()["parts"]
    assert isinstance(shown, dict)
    assert shown["triggers"] == shown["decisions"] + shown["misses"] + shown["in_doubt"] + shown["open"], shown
    return shown


class Hanging(Uneven):
    """A device that keeps the pictures of one band until it is let go."""

    def __init__(self, band: int) -> None:
        super().__init__(1, frozenset())
        self._band = band
        self.let_go = threading.Event()

    def infer(self, pixels: Image, *options: Any) -> tuple[Tensor, ...]:
        if int(pixels.mean() * BANDS / 256) == self._band:
            assert self.let_go.wait(20)
        return super().infer(pixels, *options)


def started(station: Station) -> list[threading.Thread]:
    lanes = [threading.Thread(target=station.run_lane, args=(lambda: None,)) for _ in range(station.lanes)]
    for lane in lanes:
        lane.start()
    return lanes


def test_frames_behind_a_hung_lane_are_in_doubt_at_the_stop_and_the_lane_that_comes_late_decides_nothing(
    eventually: Eventually,
) -> None:
    device, store, source = Hanging(5), Kept(), Line(frames(8), wait_s=0.01)
    station = Station("s1", source, recipe(config(), lambda: device, 2), store, FakeClock(), 2)
    lanes = started(station)
    eventually(lambda: len(store.decisions()) == 5 and parts(station)["open"] == 3, what="frames 7 and 8 wait for 6")
    station.stop()
    station.abandon()
    told = [record for record in store.records if isinstance(record, Note)]
    assert [note.fields["part"]["number"] for note in told] == [6, 7, 8]  # type: ignore[index]
    assert (parts(station)["in_doubt"], parts(station)["open"]) == (3, 0)
    device.let_go.set()
    for lane in lanes:
        lane.join(20)
    assert len(store.decisions()) == 5
    assert station.ended
    known = {decision.part.id for decision in store.decisions()} | {note.fields["part"]["id"] for note in told}  # type: ignore[index]
    assert len(known) == 8


def test_a_stop_that_waits_for_its_lanes_leaves_nothing_in_doubt() -> None:
    store = Kept()
    station = Station("s1", Line(frames(20)), recipe(config(), lanes=2), store, FakeClock(), 2)
    for lane in started(station):
        lane.join(20)
    station.abandon()
    assert len(store.records) == len(store.decisions()) == 20
    assert (parts(station)["triggers"], parts(station)["open"], parts(station)["unaccounted"]) == (20, 0, 0)


def test_frames_that_wait_behind_one_whose_rules_broke_are_in_doubt(eventually: Eventually) -> None:
    made, store = recipe(config(), lanes=2), Kept()

    def broken(part: Part) -> Ruling:
        if part.observations[0].frame_number == 4:
            raise ZeroDivisionError("a rule from outside")
        return Ruling("accept", "")

    made = replace(made, build_logic=lambda width, height: Logic(FreeTrigger("s1"), broken, ()))
    station = Station("s1", Line(frames(6)), made, store, FakeClock(), 2)
    raised: list[BaseException] = []

    def lane() -> None:
        try:
            station.run_lane(lambda: None)
        except ZeroDivisionError as error:
            raised.append(error)

    lanes = [threading.Thread(target=lane) for _ in range(2)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join(20)
    assert len(raised) == 1
    station.abandon()
    assert len(store.decisions()) == 3
    taken = parts(station)["triggers"]
    assert parts(station)["in_doubt"] == taken - 3 >= 1


@pytest.fixture
def opened(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db", SystemClock())  # not started: it commits nothing until it is


def test_a_mark_stands_until_the_decision_is_committed_and_no_longer(tmp_path: Path, opened: Journal) -> None:
    """The process may die between the two: a decision that waits for the disk is not made yet."""
    book = Doubts(opened, SystemClock()).open_parts("s1", "cam")
    (path,) = (tmp_path / "journal.db.open").iterdir()
    station = Station("s1", Line([]), recipe(config()), opened, SystemClock(), parts=book)
    for frame in frames(3):
        station.handle(frame)
    assert (parts(station)["decisions"], parts(station)["open"], parts(station)["uncommitted"]) == (3, 0, 3)
    assert [mark.number for mark in read(path).marks] == [1, 2, 3]
    opened.start()
    assert opened.flush(10)
    assert read(path).marks == ()
    assert parts(station)["uncommitted"] == 0
    opened.stop()


def test_a_frame_is_marked_open_while_it_is_in_the_device(tmp_path: Path, opened: Journal) -> None:
    book = Doubts(opened, SystemClock()).open_parts("s1", "cam")
    (path,) = (tmp_path / "journal.db.open").iterdir()
    seen: list[int] = []

    class Looking(Uneven):
        def infer(self, pixels: Image, *options: Any) -> tuple[Tensor, ...]:
            seen.append(len(read(path).marks))
            return super().infer(pixels, *options)

    made = recipe(config(), lambda: Looking(1, frozenset()))
    station = Station("s1", Line([]), made, opened, SystemClock(), parts=book)
    seen.clear()
    station.handle(frames(1)[0])
    assert seen == [1]


def test_a_decision_that_was_lost_before_the_disk_leaves_its_part_marked(tmp_path: Path) -> None:
    full = Journal(tmp_path / "journal.db", SystemClock(), waiting_max=1)
    book = Doubts(full, SystemClock()).open_parts("s1", "cam")
    station = Station("s1", Line([]), recipe(config()), full, SystemClock(), parts=book)
    for frame in frames(3):
        station.handle(frame)
    full.start()
    assert full.flush(10)
    full.stop()
    (path,) = (tmp_path / "journal.db.open").iterdir()
    assert [mark.number for mark in read(path).marks] == [2, 3], "the next start tells which were lost"


@dataclass(slots=True)
class Forgetful(FreeTrigger):
    """Deliberately broken: a track that ends before the line is in no count."""

    def _end(self, thing: Any) -> None:
        self._open.pop(thing.part_id, None)


def objects(trigger: type[FreeTrigger], book: OpenParts) -> tuple[Station, Kept]:
    """A station whose pictures show an object as long as they are bright; it never reaches the line."""
    store = Kept()

    def build(width_px: int, height_px: int) -> Logic:
        line = ((60.0, 48.0), (60.0, 0.0))
        made = trigger("s1", per="object", line_px=line, max_age_s=0.15)
        return Logic(Blinking(made), lambda part: Ruling("accept", ""), ())

    made = replace(recipe(config()), build_logic=build, part_per_frame=False)
    return Station("s1", Line([]), made, store, FakeClock(), parts=book), store


class Blinking:
    """What the fake backend's classes are to a tracker: a box that moves on while they are bright."""

    def __init__(self, trigger: FreeTrigger) -> None:
        self._trigger = trigger
        self.finish, self.open_parts, self.status = trigger.finish, trigger.open_parts, trigger.status

    def step(self, seen: Observation, wall_ns: int) -> tuple[Part, ...]:
        band = int(seen.findings[0].label.removeprefix("band")) if seen.findings else 0
        box = (5.0 * band - 10, 10.0, 5.0 * band + 10, 30.0)
        found = (Finding("part", 0, 0.9, box),) if band >= 2 else ()
        return self._trigger.step(Observation(seen.captured_ns, found, seen.frame_number), wall_ns)


def test_an_object_is_open_from_its_confirmation_until_it_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    station, store = objects(FreeTrigger, OpenParts())
    shown = []
    for frame in frames(15):
        station.handle(frame)
        shown.append((parts(station)["triggers"], parts(station)["open"], parts(station)["misses"]))
    assert shown[3] == (0, 0, 0), "seen twice: not confirmed"
    assert shown[4] == (1, 1, 0)
    assert shown[9] == (1, 1, 0)
    assert shown[13][2] == 1, "it ended before the line: a counted miss"
    assert store.records == []
    assert parts(station)["unaccounted"] == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_trigger_that_forgets_a_part_is_found_out_at_that_very_part(caplog: pytest.LogCaptureFixture) -> None:
    station, _ = objects(Forgetful, OpenParts())
    for number, frame in enumerate(frames(15)):
        station.handle(frame)
        assert parts(station)["unaccounted"] == int(number >= 11), number
    assert "1 parts are neither decided nor missed nor open" in caplog.text


def test_a_kept_object_has_its_id_from_its_confirmation_to_its_decision(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    book = Doubts(opened, SystemClock()).open_parts("s1", "cam")
    free, store = FreeTrigger("s1", per="object", line_px=((320.0, 360.0), (320.0, 0.0))), Kept()
    made = replace(recipe(config()), build_logic=moving(free), part_per_frame=False)
    station = Station("s1", Line([]), made, store, FakeClock(), parts=book)
    (path,) = (tmp_path / "journal.db.open").iterdir()
    ids = set()
    for frame in frames(30):
        station.handle(frame)
        ids |= {mark.id for mark in read(path).marks}
    assert ids == {decision.part.id for decision in store.decisions()}
    assert len(ids) == 1
    assert parts(station)["decisions"] == 1
    opened.stop()


def moving(free: FreeTrigger) -> Callable[[int, int], Logic]:
    """An object that goes 20 pixels to the right in each frame."""

    class Moving(Blinking):
        def step(self, seen: Observation, wall_ns: int) -> tuple[Part, ...]:
            x = 20.0 * seen.frame_number
            found = (Finding("part", 0, 0.9, (x - 30, 140.0, x + 30, 220.0)),)
            return self._trigger.step(Observation(seen.captured_ns, found, seen.frame_number), wall_ns)

    return lambda width, height: Logic(Moving(free), lambda part: Ruling("accept", ""), ())
