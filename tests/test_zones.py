"""The zone rule: where a box counts as inside, presence, absence and dwell, by capture time alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.decide.zones import ZoneRule, contains, shared_area, within
from lineside.errors import ConfigError
from lineside.records import Box, Finding, Observation

SQUARE = ((100.0, 100.0), (200.0, 100.0), (200.0, 200.0), (100.0, 200.0))
CONCAVE = ((0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (50.0, 20.0), (0.0, 100.0))  # a notch from below


def box_at(x: float, y: float, side: float = 20) -> Box:
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def seen(at_s: float, *boxes: Box, label: str = "person", score: float = 0.9) -> Observation:
    return Observation(round(at_s * 1e9), tuple(Finding(label, 0, score, box) for box in boxes))


def test_each_anchor_says_for_itself_what_is_inside() -> None:
    above = (140.0, 40.0, 160.0, 110.0)  # only its feet are in
    assert not within(above, SQUARE, "centre")
    assert within(above, SQUARE, "bottom_centre")
    assert not within(above, SQUARE, "overlap", 0.5)
    assert within(above, SQUARE, "overlap", 0.1)
    assert within((0.0, 0.0, 300.0, 300.0), SQUARE, "overlap", 0.11)


def test_the_notch_of_a_concave_zone_is_outside() -> None:
    assert contains(CONCAVE, (50, 10))
    assert not contains(CONCAVE, (50, 60))
    assert contains(CONCAVE, (10, 60))
    assert shared_area((0, 0, 100, 100), CONCAVE) == pytest.approx(100 * 100 - 100 * 80 / 2)


def test_of_two_zones_side_by_side_a_point_on_their_border_is_in_one() -> None:
    right = ((200.0, 100.0), (300.0, 100.0), (300.0, 200.0), (200.0, 200.0))
    assert contains(SQUARE, (200, 150)) + contains(right, (200, 150)) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(5, 60), min_size=3, max_size=9), st.tuples(*[st.floats(-50, 50)] * 2), st.floats(5, 60))
def test_shared_area_is_what_counting_pixels_gives(
    radii: list[float], corner: tuple[float, float], side: float
) -> None:
    """Star-shaped polygons, many of them concave, against a fine grid."""
    turns = np.linspace(0, 2 * math.pi, len(radii), endpoint=False)
    polygon = [(float(r * math.cos(t)), float(r * math.sin(t))) for r, t in zip(radii, turns, strict=True)]
    x, y = corner
    grid = (np.arange(40) + 0.5) / 40 * side
    inside = sum(contains(polygon, (x + dx, y + dy)) for dx in grid for dy in grid)
    exact = shared_area((x, y, x + side, y + side), polygon)
    assert inside / 1600 * side**2 == pytest.approx(exact, abs=0.04 * side**2 + 1e-6)


def test_presence_holds_at_once_and_names_zone_and_count() -> None:
    rule = ZoneRule(polygon_px=SQUARE, zone="door", labels=("person",), name="intruder")
    assert rule.look(seen(0, box_at(50, 50))) is None
    assert rule.look(seen(0, box_at(150, 150), label="dog")) is None
    assert rule.look(seen(0, box_at(150, 150), score=0.4)) is None
    ruling = rule.look(seen(0, box_at(150, 150), box_at(50, 50), box_at(120, 120)))
    assert ruling is not None
    assert (ruling.cause, len(ruling.findings)) == ("intruder: 2 person in door", 2)


def test_dwell_of_an_object_counts_its_own_time() -> None:
    rule = ZoneRule(polygon_px=SQUARE, dwell_s=2.0)
    for step in range(20):  # one stands from the start, another comes at 1 s
        boxes = [box_at(120 + step * 0.5, 120), *([box_at(180, 180)] if step >= 10 else [])]
        assert rule.look(seen(step * 0.1, *boxes)) is None
    first = rule.look(seen(2.0, box_at(130, 120), box_at(180, 180)))
    assert first is not None
    assert len(first.findings) == 1
    both = [rule.look(seen(2 + step * 0.1, box_at(130, 120), box_at(180, 180))) for step in range(1, 11)][-1]
    assert both is not None
    assert len(both.findings) == 2


def test_passers_by_never_dwell_as_objects_but_keep_the_zone_occupied() -> None:
    each, zone = ZoneRule(polygon_px=SQUARE, dwell_s=1.0), ZoneRule(polygon_px=SQUARE, dwell_s=1.0, dwell_of="zone")
    held = {"each": 0, "zone": 0}
    for step in range(30):  # every 300 ms another one stands somewhere else
        frame = seen(step * 0.1, box_at(*((120, 120), (180, 120), (150, 180))[step // 3 % 3]))
        held["each"] += each.look(frame) is not None
        held["zone"] += zone.look(frame) is not None
    assert held == {"each": 0, "zone": 20}


def test_a_stay_survives_a_short_gap_and_not_a_long_one() -> None:
    for gap_s, holds in ((0.4, True), (0.8, False)):
        for dwell_of in ("object", "zone"):
            rule = ZoneRule(polygon_px=SQUARE, dwell_s=1.0, dwell_of=dwell_of, gap_s=0.5)  # type: ignore[arg-type]
            for at_s in (0.0, 0.3, 0.6):
                rule.look(seen(at_s, box_at(150, 150)))
            rule.look(seen(0.6 + gap_s / 2))
            assert (rule.look(seen(0.6 + gap_s, box_at(150, 150))) is not None) == holds


def test_absence_holds_while_too_few_are_inside_for_long_enough() -> None:
    rule = ZoneRule(polygon_px=SQUARE, zone="cap", labels=("cap",), when="absent", dwell_s=0.5, min_count=2)
    assert rule.look(seen(0.0, box_at(150, 150), label="cap")) is None
    ruling = rule.look(seen(0.5, box_at(150, 150), label="cap"))
    assert ruling is not None
    assert ruling.cause == "zone: 1 of 2 cap in cap for 0.5 s"
    assert rule.look(seen(0.6, box_at(150, 150), box_at(120, 120), label="cap")) is None
    assert rule.look(seen(0.7, label="cap")) is None


def test_reset_forgets_how_long() -> None:
    rule = ZoneRule(polygon_px=SQUARE, dwell_s=1.0)
    rule.look(seen(0, box_at(150, 150)))
    rule.reset()
    assert rule.look(seen(1.0, box_at(150, 150))) is None


def test_a_polygon_of_two_corners_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 corners"):
        ZoneRule(polygon_px=SQUARE[:2])
