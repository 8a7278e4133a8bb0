"""[stations.NAME]: what it accepts, what it refuses with which words, and what the drivers are given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.checked import checked
from lineside.config import parse
from lineside.config.geometry import polygon_fault
from lineside.config.stations import StationConfig, outside, problems
from lineside.decide.steady import Steady, build_events, build_rules
from lineside.errors import ConfigError
from lineside.registry import driver, names
from lineside.triggers.free import FreeTrigger

SQUARE = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]
CROSSING = {"per": "object", "line": [[0.5, 0.0], [0.5, 1.0]]}


def station(**keys: Any) -> StationConfig:
    return checked(StationConfig, {"camera": "gate", "bundle": "models/demo", **keys})


def faults(**keys: Any) -> list[str]:
    """The lines that a user reads."""
    tree = {
        "cameras": {"gate": {"driver": "synthetic"}},
        "stations": {"s1": {"camera": "gate", "bundle": "models/demo", **keys}},
    }
    with pytest.raises(ConfigError) as caught:
        parse(tree, "lineside.toml")
    return list(caught.value.lines)


def test_a_camera_and_a_bundle_are_enough() -> None:
    plain = station()
    assert (plain.backend, plain.trigger.driver, plain.trigger.per, plain.steady.min_frames) == (
        "auto",
        "free",
        "frame",
        1,
    )
    assert plain.trigger_options(640, 480) == {"per": "frame"}


def test_fractions_become_pixels_and_pixels_stay() -> None:
    both = station(
        trigger={**CROSSING, "direction": "right"},
        zones={"a": {"polygon": SQUARE}, "b": {"polygon_px": [[1, 2], [30, 4], [5, 60]]}},
        rules=[{"kind": "zone", "zone": "a"}, {"kind": "zone", "zone": "b", "name": "second"}],
    )
    assert both.trigger_options(640, 480)["line_px"] == ((320, 0), (320, 480))
    assert both.lines_px(640, 480) == {"line": ((320, 0), (320, 480))}
    (_, first), (_, second) = both.rule_options(640, 480)
    assert first["polygon_px"] == ((64, 48), (320, 48), (320, 240), (64, 240))
    assert second["polygon_px"] == ((1, 2), (30, 4), (5, 60))
    assert outside("s1", both, 640, 480) == []
    assert outside("s1", both, 20, 480) == [
        "stations.s1.zones.b.polygon_px: (30, 4) is outside of the picture of 20 x 480 pixels"
    ]


EVERY_RULE = [
    {"kind": "threshold", "high": 0.6, "low": 0.4, "labels": ["scratch"], "of": "top"},
    {"kind": "defect", "labels": ["scratch"], "min_score": 0.6, "min_side_px": 3, "min_area_px": 20},
    {"kind": "count", "labels": ["cap"], "min_count": 1, "max_count": 1},
    {"kind": "zone", "zone": "a", "anchor": "bottom_centre", "dwell_s": 1.5, "dwell_of": "zone"},
]


def test_every_option_reaches_a_driver_that_takes_it() -> None:
    assert sorted({rule["kind"] for rule in EVERY_RULE}) == sorted(names("rule"))
    full = station(trigger={**CROSSING, "track_labels": ["part"]}, zones={"a": {"polygon": SQUARE}}, rules=EVERY_RULE)
    assert len(build_rules(full.rule_options(640, 480))) == 4
    free = driver("trigger", full.trigger.driver)(station="s1", **full.trigger_options(640, 480))
    assert isinstance(free, FreeTrigger)
    assert free.track_labels == ("part",)
    assert Steady(full.steady.min_frames, full.steady.of_frames) == Steady()


def test_keep_score_makes_the_rule_that_keeps_an_event_open() -> None:
    watch = station(
        trigger={"per": "event"},
        rules=[
            {"kind": "defect", "name": "face", "min_score": 0.7, "keep_score": 0.4},
            {"kind": "threshold", "high": 0.9, "keep_score": 0.5},
            {"kind": "count", "max_count": 3},
        ],
    )
    (_, start, keep), (_, high, lower), (_, count, same) = watch.event_options(640, 480)
    assert (start["min_score"], keep["min_score"]) == (0.7, 0.4)
    assert (high["high"], lower["high"]) == (0.9, 0.5)
    assert count == same
    assert [event.key for event in build_events(watch.event_options(640, 480))] == ["face", "threshold", "count"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"treshold": 1}, ["stations.s1.treshold", "unknown key"]),
        ({"trigger": {"per": "part"}}, ["stations.s1.trigger.per", "'frame', 'object' or 'event'"]),
        ({"trigger": {"per": "object"}}, ["stations.s1.trigger", "line = [[0.5, 0], [0.5, 1]]"]),
        ({"trigger": {"per": "object", "line": [[100, 0], [100, 50]]}}, ["(100, 0)", "use line_px"]),
        ({"trigger": {"per": "object", "line": [[0.5, 0], [0.5, 0]]}}, ["two points are the same"]),
        ({"trigger": {"line": [[0.5, 0], [0.5, 1]]}}, ['for per = "object"']),
        ({"trigger": {**CROSSING, "direction": "north"}}, ["direction", "'left'"]),
        ({"trigger": {**CROSSING, "track_low_score": 0.5}}, ["track_low_score = 0.5 is above"]),
        ({"trigger": {**CROSSING, "max_age_s": float("nan")}}, ["max_age_s"]),
        ({"zones": {"a": {"polygon": SQUARE[:2]}}}, ["stations.s1.zones.a", "3 corners or more, here are 2"]),
        ({"zones": {"a": {"polygon": []}}}, ["stations.s1.zones.a"]),
        ({"zones": {"a": {}}}, ["stations.s1.zones.a", "polygon_px"]),
        ({"zones": {"a": {"polygon": [[0, 0], [1, 1], [1, 0], [0, 1]]}}}, ["sides 1 and 3 cross"]),
        ({"zones": {"a": {"polygon": [[0, 0], [0.5, 0.5], [1, 1]]}}}, ["stations.s1.zones.a", "no area"]),
        ({"zones": {"a": {"polygon": [[0, 0], [64, 0], [1, 1]]}}}, ["(64, 0)", "polygon_px"]),
        ({"rules": [{"kind": "defects"}]}, ["stations.s1.rules[0]", "defect"]),
        ({"rules": [{"kind": "defect", "min_score": 80}]}, ["stations.s1.rules[0].min_score = 80", "1"]),
        ({"rules": [{"kind": "defect", "min_size": 8}]}, ["stations.s1.rules[0].min_size", "min_side_px"]),
        ({"rules": [{"kind": "threshold", "high": 0.4, "low": 0.5}]}, ["low = 0.5 is above high = 0.4"]),
        ({"rules": [{"kind": "count"}]}, ["min_count, max_count"]),
        ({"rules": [{"kind": "count", "min_count": 3, "max_count": 2}]}, ["min_count = 3 is above max_count = 2"]),
        ({"rules": [{"kind": "zone", "zone": "a"}]}, ["rules[0].zone = 'a'", "no [zones] table"]),
        (
            {"zones": {"door": {"polygon": SQUARE}}, "rules": [{"kind": "zone", "zone": "dor"}]},
            ["no such zone, did you mean 'door'?"],
        ),
        ({"rules": [{"kind": "defect"}, {"kind": "defect"}]}, ["two rules are called 'defect'", "name ="]),
        ({"rules": [{"kind": "defect", "keep_score": 0.1}]}, ["rules[0].keep_score", "event"]),
        (
            {"trigger": {"per": "event"}, "rules": [{"kind": "defect", "keep_score": 0.9}]},
            ["keep_score = 0.9 is above min_score = 0.5"],
        ),
        ({"trigger": {"per": "event"}}, ["add [[rules]]"]),
        ({"steady": {"min_frames": 2}}, ["steady.min_frames = 2", "one frame"]),
        ({"steady": {"min_frames": 3, "of_frames": 2}}, ["can never be reached"]),
        (
            {"zones": {"a": {"polygon": SQUARE}}, "rules": [{"kind": "zone", "zone": "a", "dwell_s": 2}]},
            ["rules[0].dwell_s = 2", "judged by itself"],
        ),
        ({"deadline_ms": 0}, ["stations.s1.deadline_ms = 0"]),
        ({"camera": "gates"}, ["stations.s1.camera", "no such camera"]),
    ],
)
def test_a_wrong_station_is_refused_with_path_and_remedy(keys: dict[str, Any], words: list[str]) -> None:
    lines = faults(**keys)
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


def test_labels_are_checked_against_the_bundle() -> None:
    config = station(
        trigger={**CROSSING, "track_labels": ["prat"]},
        rules=[
            {"kind": "defect", "labels": ["Scratch", "part"]},
            {"kind": "count", "max_count": 1, "labels": ["zebra"]},
        ],
    )
    assert problems("s1", config, ["part", "scratch"]) == [
        "stations.s1.trigger.track_labels: the bundle has no label 'prat', did you mean 'part'?; "
        "its labels are part, scratch",
        "stations.s1.rules[0].labels: the bundle has no label 'Scratch', did you mean 'scratch'?; "
        "its labels are part, scratch",
        "stations.s1.rules[1].labels: the bundle has no label 'zebra'; its labels are part, scratch",
    ]
    many = problems("s1", config, [f"class {i}" for i in range(80)])
    assert "(80 in all)" in many[0]


def test_rules_that_need_boxes_are_refused_for_models_without() -> None:
    config = station(trigger=CROSSING, rules=[{"kind": "count", "max_count": 1}, {"kind": "threshold", "high": 1.5}])
    lines = problems("s1", config, ["ok", "bad"], "classify")
    assert [line.split(":")[0] for line in lines] == [
        'stations.s1.trigger.per = "object"',
        'stations.s1.rules[0].kind = "count"',
        "stations.s1.rules[1].high = 1.5",
    ]
    anomaly = station(rules=[{"kind": "threshold", "high": 1.5, "labels": ["anomaly"]}])
    assert problems("s1", anomaly, [], "anomaly") == []


@pytest.mark.parametrize(
    ("label", "is_face"), [("face", True), ("Faces", True), ("face_mask", True), ("surface", False), ("facet", False)]
)
def test_faces_are_blurred_where_the_model_finds_faces_unless_told_otherwise(label: str, is_face: bool) -> None:
    assert station().blurs(["person", label]) == is_face
    assert station(blur_faces=True).blurs(["person"])
    assert not station(blur_faces=False).blurs(["face"])


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=8),
    st.integers(0, 7),
    st.booleans(),
)
def test_whether_a_polygon_is_simple_does_not_depend_on_where_it_starts_or_turns(
    points: list[tuple[int, int]], start: int, turned: bool
) -> None:
    same = points[start % len(points) :] + points[: start % len(points)]
    assert (polygon_fault(points) is None) == (polygon_fault(same[::-1] if turned else same) is None)


def test_a_corner_that_touches_another_side_is_refused() -> None:
    assert polygon_fault([(0, 0), (10, 0), (10, 10), (5, 0), (0, 10)])
    assert polygon_fault([(0, 0), (10, 0), (10, 10), (5, 1), (0, 10)]) is None
    assert polygon_fault([(0, 0), (0, 0), (10, 10)])
