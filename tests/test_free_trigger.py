"""The free trigger: each object that crosses the line is one part, whatever happens on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lineside.errors import ConfigError
from lineside.records import Box, Finding, Observation, Part
from lineside.triggers.free import FreeTrigger

FRAME_NS = 33_333_333
MIDDLE = ((320.0, 360.0), (320.0, 0.0))  # drawn upwards: forward is from left to right
LINE_X = 320.0


def around(x: float, y: float = 180, width: float = 60, height: float = 80) -> Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def part_at(x: float, y: float = 180, score: float = 0.9, label: str = "part") -> Finding:
    return Finding(label, 0, score, around(x, y))


def seen(frame: int, *findings: Finding) -> Observation:
    return Observation(frame * FRAME_NS, findings, frame)


def trigger(**options: object) -> FreeTrigger:
    return FreeTrigger(station="s1", **{"per": "object", "line_px": MIDDLE, **options})  # type: ignore[arg-type]


def ran(free: FreeTrigger, path: list[float]) -> list[Part]:
    parts = [part for frame, x in enumerate(path) for part in free.step(seen(frame, part_at(x)), 0)]
    return parts + list(free.finish())


def balanced(free: FreeTrigger) -> bool:
    count = {key: int(value) for key, value in free.status().items()}  # type: ignore[call-overload]
    ended = count["parts"] + count["lost_before_line"] + count["appeared_after_line"] + count["wrong_direction"]
    return count["tracks"] == ended + count["open"]


def test_an_object_that_crosses_is_one_part_with_all_its_frames() -> None:
    free = trigger()
    parts = ran(free, [20.0 * i for i in range(32)])
    assert [part.number for part in parts] == [1]
    assert parts[0].station == "s1"
    numbers = [observation.frame_number for observation in parts[0].observations]
    assert numbers == list(range(18))  # x = 340 is the first place clear of the line
    assert parts[0].triggered_ns == 17 * FRAME_NS
    assert parts[0].observations[3].box == around(60)
    assert balanced(free)


@pytest.mark.parametrize(
    ("direction", "rightwards", "leftwards"),
    [("any", 1, 1), ("right", 1, 0), ("left", 0, 1), ("forward", 1, 0), ("backward", 0, 1)],
)
def test_only_the_wanted_direction_counts(direction: str, rightwards: int, leftwards: int) -> None:
    path = [20.0 * i for i in range(32)]
    for way, expected in ((path, rightwards), (path[::-1], leftwards)):
        free = trigger(direction=direction)
        assert len(ran(free, way)) == expected
        assert free.status()["wrong_direction"] == 1 - expected
        assert balanced(free)


def test_down_and_up_are_told_apart_on_a_level_line() -> None:
    for direction, expected in (("down", 1), ("up", 0)):
        free = trigger(line_px=((0, 180), (640, 180)), direction=direction)
        parts = [p for f in range(30) for p in free.step(seen(f, part_at(300, 12.0 * f)), 0)]
        assert len(parts) == expected


def test_a_direction_along_the_line_is_refused() -> None:
    with pytest.raises(ConfigError, match="runs that way itself"):
        trigger(direction="up")
    with pytest.raises(ConfigError, match="allowed are any"):
        trigger(direction="sideways")
    with pytest.raises(ConfigError, match="line"):
        trigger(line_px=None)
    with pytest.raises(ConfigError, match="per"):
        trigger(per="event")


def test_an_object_that_trembles_on_the_line_is_one_part() -> None:
    path = (
        [20.0 * i for i in range(16)]
        + [318.0 + 9 * (-1) ** i for i in range(200)]
        + [330.0 + 20 * i for i in range(10)]
    )
    free = trigger(max_frames=50)
    assert len(ran(free, path)) == 1


def test_an_object_that_trembles_the_wrong_way_over_the_line_is_no_part() -> None:
    path = (
        [640.0 - 20 * i for i in range(16)]
        + [320 + 2.0 * (-1) ** i for i in range(50)]
        + [300.0 - 20 * i for i in range(10)]
    )
    free = trigger(direction="right")
    assert ran(free, path) == []
    assert free.status()["wrong_direction"] == 1


def test_an_object_that_passes_beside_the_ends_of_the_line_is_no_part() -> None:
    free = trigger(line_px=((320, 300), (320, 360)))
    assert ran(free, [20.0 * i for i in range(32)]) == []
    assert free.status()["parts"] == 0
    assert balanced(free)


def test_an_object_that_vanishes_before_the_line_or_appears_behind_it_is_a_counted_miss() -> None:
    free = trigger()
    assert ran(free, [10.0 * i for i in range(20)]) == []
    assert ran(free, [400.0 + 10 * i for i in range(20)]) == []
    assert free.status() | {"lost_before_line": 1, "appeared_after_line": 1, "missed": 2} == free.status()
    assert balanced(free)


def test_a_part_has_its_id_from_its_confirmation_and_keeps_it_until_it_is_announced_or_given_up() -> None:
    free = trigger(min_hits=3)
    opened: list[set[str]] = []
    parts: list[Part] = []
    for frame in range(20):
        parts += free.step(seen(frame, part_at(20.0 * frame)), 0)
        opened.append(set(free.open_parts()))
    assert opened[1] == set()
    assert opened[2] == opened[16] == {parts[0].id}
    assert opened[17] == set(), "announced"
    for frame in range(20, 26):
        free.step(seen(frame, part_at(20.0 * frame), part_at(100)), 0)
    (lost,) = free.open_parts()
    assert lost != parts[0].id
    free.finish()
    assert free.open_parts() == set()
    assert free.status()["given_up"] == 1


def test_an_object_seen_too_seldom_to_be_sure_is_counted_where_it_crossed() -> None:
    free = trigger(min_hits=5)
    assert ran(free, [290.0, 310, 335, 350]) == []
    assert free.status()["crossed_unconfirmed"] == 1


def test_a_track_that_crosses_before_it_is_confirmed_is_announced_when_it_is() -> None:
    free = trigger(min_hits=5)
    parts = ran(free, [290.0, 310, 335, 350, 365, 380])
    assert [len(part.observations) for part in parts] == [5]


def test_what_is_found_inside_a_part_belongs_to_it_and_another_part_does_not() -> None:
    free = trigger(track_labels=("part",))
    parts: list[Part] = []
    for frame in range(32):
        x = 20.0 * frame
        scratch = Finding("scratch", 1, 0.7, around(x + 10, width=8, height=8))
        elsewhere = Finding("scratch", 1, 0.6, around(x, y=300, width=8, height=8))
        neighbour = part_at(x - 25)
        parts += free.step(seen(frame, scratch, part_at(x), elsewhere, neighbour), 0)
    assert len(parts) == 2
    first = parts[0].observations[5].findings
    assert [f.label for f in first] == ["part", "scratch"]
    assert first[1].score == 0.7


def test_without_labels_each_finding_with_a_box_is_followed_and_one_without_is_not() -> None:
    free = trigger()
    parts = [
        part for frame in range(32) for part in free.step(seen(frame, part_at(20.0 * frame), Finding("ok", 0, 1.0)), 0)
    ]
    assert len(parts) == 1


def test_boxes_that_score_too_low_to_be_followed_are_counted() -> None:
    free = trigger(track_high_score=0.5)
    for frame in range(10):
        free.step(seen(frame, part_at(20.0 * frame, score=0.45)), 0)
    assert free.status() | {"boxes_unfollowed": 10, "tracks": 0} == free.status()


def test_per_frame_each_frame_is_a_part() -> None:
    free = FreeTrigger(station="s", per="frame")
    frames = [seen(i, Finding("ok", 0, 0.9)) for i in range(3)]
    parts = [part for frame in frames for part in free.step(frame, 5)]
    assert [part.observations for part in parts] == [(frame,) for frame in frames]
    assert [part.number for part in parts] == [1, 2, 3]
    assert len({part.id for part in parts}) == 3
    assert parts[0].triggered_wall_ns == 5
    assert free.finish() == ()


def test_an_object_that_stands_still_keeps_only_its_newest_frames_and_says_so() -> None:
    free = trigger(max_frames=10)
    parts = ran(free, [100.0] * 40 + [100.0 + 20 * i for i in range(20)])
    assert [len(part.observations) for part in parts] == [10]
    assert int(free.status()["frames_forgotten"]) > 30  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True)
class Belt:
    """Parts that may touch, frames that are skipped, boxes that are missed and tremble; all follows from these."""

    spacing_px: int
    step_px: float
    count: int
    skipped_share: float
    missed_share: float
    seed: int

    def frames(self) -> list[tuple[int, list[tuple[int, float]]]]:
        """(frame number, the (part, x) found in it) of each frame that was not skipped."""
        rng = np.random.default_rng(self.seed)
        frames, gap = [], 0
        for number in range(int((700 + self.spacing_px * self.count) / self.step_px) + 2):
            places = [(part, self.step_px * number - 30 - self.spacing_px * part) for part in range(self.count)]
            rough = places[0][1] > 120  # from here on the first part's speed is known
            gap = gap + 1 if rough and rng.random() < self.skipped_share and gap < 3 else 0
            there = [(part, x + float(rng.normal(0, 0.6))) for part, x in places if -30 < x < 670]
            if not gap:
                frames.append((number, [at for at in there if not (rough and rng.random() < self.missed_share)]))
        return frames


belts = st.builds(
    Belt,
    spacing_px=st.integers(60, 200),  # 60: they touch
    step_px=st.floats(4, 24),
    count=st.integers(1, 6),
    skipped_share=st.sampled_from([0, 0.2, 0.4]),
    missed_share=st.sampled_from([0, 0.1, 0.2]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=150, deadline=None)
@given(belts)
@example(Belt(spacing_px=60, step_px=23.0, count=4, skipped_share=0.2, missed_share=0.1, seed=60))
def test_each_part_on_the_belt_is_announced_exactly_once_and_never_mixed_with_its_neighbour(belt: Belt) -> None:
    free = trigger(direction="right", min_hits=2)
    truth: dict[Box, int] = {}
    parts: list[Part] = []
    for number, there in belt.frames():
        truth |= {around(x): part for part, x in there}
        parts += free.step(seen(number, *(part_at(x) for _, x in there)), 0)
        assert balanced(free)
    free.finish()
    owners = [{truth[o.box] for o in part.observations if o.box} for part in parts]
    assert sorted(map(sorted, owners)) == [[part] for part in range(belt.count)]


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_a_real_bolt_on_a_real_belt_is_one_part_however_many_frames_are_skipped(every: int, data: Path) -> None:
    bright = bolts(data)
    for first in range(every):
        free = FreeTrigger(station="s", per="object", line_px=((240, 0), (240, 270)), direction="left")
        assert [p for frame in bright[first::every] for p in free.step(frame, 0)] == []
        free = FreeTrigger(station="s", per="object", line_px=((240, 0), (240, 270)), direction="right")
        parts = [p for frame in bright[first::every] for p in free.step(frame, 0)]
        free.finish()
        assert len(parts) == 1
        assert free.status()["missed"] == 0


def bolts(data: Path) -> list[Observation]:
    """Bolts are brighter than the belt: their boxes without a model."""
    import cv2

    video = cv2.VideoCapture(str(data / "videos" / "bolts_conveyor.mp4"))
    observations = []
    while True:
        ok, image = video.read()
        if not ok:
            assert len(observations) == 37
            return observations
        gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (5, 5), 0)
        contours = cv2.findContours((gray > 140).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        rects = [cv2.boundingRect(contour) for contour in contours]
        found = tuple(Finding("bolt", 0, 0.9, (x, y, x + w, y + h)) for x, y, w, h in rects if w * h > 300)
        number = len(observations)
        observations.append(Observation(number * 66_666_667, found, number))


def test_the_answer_depends_on_capture_times_alone() -> None:
    """A replay with other wall times gives the same parts, but for their ids."""
    runs = []
    for wall_ns in (0, 10**18):
        free = trigger(new_id=lambda: "id")
        runs.append([p for f in range(32) for p in free.step(seen(f, part_at(20.0 * f)), wall_ns)])
    assert [dataclasses.replace(p, triggered_wall_ns=0) for p in runs[1]] == runs[0]
