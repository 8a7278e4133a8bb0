"""Debounce: k of n frames decide a part; an event starts, changes and ends once, whatever flickers. No wall clock."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.contracts import EventRule, Rule
from lineside.decide import rules, steady, zones
from lineside.decide.rules import CountRule, DefectRule, ThresholdRule
from lineside.decide.steady import Steady, SteadyEvent, build_events, build_rules, rule_part
from lineside.decide.zones import ZoneRule
from lineside.errors import ConfigError
from lineside.records import Change, Finding, Observation, Part
from lineside.triggers import free, track

FRAME_NS = 100_000_000


def observation(number: int, *findings: tuple[str, float]) -> Observation:
    return Observation(number * FRAME_NS, tuple(Finding(label, 0, s, (0, 0, 9, 9)) for label, s in findings), number)


def part_of(scores: Sequence[float], label: str = "scratch") -> Part:
    frames = tuple(observation(i, *([(label, score)] if score else [])) for i, score in enumerate(scores))
    return Part("id", "s", 1, 0, 0, observations=frames)


def test_a_defect_in_enough_frames_rejects_and_the_cause_says_in_how_many() -> None:
    ruling = rule_part([DefectRule()], part_of([0, 0.6, 0, 0.83, 0.7, 0.2, 0, 0.55, 0]), Steady(min_frames=4))
    assert (ruling.verdict, ruling.cause, ruling.score) == ("reject", "defect scratch 0.83 in 4 of 9 frames", 0.83)
    assert [f.label for f in ruling.findings] == ["scratch"]


def test_a_defect_in_too_few_frames_is_accepted() -> None:
    ruling = rule_part([DefectRule()], part_of([0.9, 0.9, 0, 0, 0, 0, 0]), Steady(min_frames=3))
    assert (ruling.verdict, ruling.cause) == ("accept", "no rule held in 7 frames")


def test_frames_count_only_within_the_window() -> None:
    spread = part_of([0.9, 0, 0, 0.9, 0, 0, 0.9])
    assert rule_part([DefectRule()], spread, Steady(3)).verdict == "reject"
    assert rule_part([DefectRule()], spread, Steady(3, 5)).verdict == "accept"
    assert rule_part([DefectRule()], spread, Steady(2, 4)).verdict == "reject"


def test_a_part_that_was_hardly_or_never_seen_is_unknown() -> None:
    assert rule_part([DefectRule()], part_of([])).verdict == "unknown"
    assert rule_part([], part_of([])).verdict == "unknown"
    ruling = rule_part([DefectRule()], part_of([0, 0]), Steady(3))
    assert (ruling.verdict, ruling.cause) == ("unknown", "seen in 2 of the 3 frames that the rules need")


def test_one_frame_needs_no_count_in_its_cause() -> None:
    assert rule_part([DefectRule()], part_of([0.83])).cause == "defect scratch 0.83"
    assert rule_part([DefectRule()], part_of([0.1])).cause == "no rule held"


def test_rejects_that_do_not_last_and_doubts_together_make_unknown() -> None:
    rule = ThresholdRule(high=0.8, low=0.5)
    ruling = rule_part([rule], part_of([0.9, 0.6, 0.7, 0, 0]), Steady(3))
    assert ruling.verdict == "unknown"
    assert ruling.cause == "threshold scratch 0.70 is between 0.5 and 0.8 in 3 of 5 frames"
    assert rule_part([rule], part_of([0.9, 0.9, 0.9, 0.6, 0.6]), Steady(3)).verdict == "reject"


def test_the_worst_rule_wins_and_then_the_surest() -> None:
    part = part_of([0.7])
    doubt, strict, sure = ThresholdRule(high=0.6, verdict="unknown"), CountRule(max_count=0), DefectRule(name="surest")
    assert rule_part([doubt], part).verdict == "unknown"
    assert rule_part([doubt, strict], part).cause.startswith("count: 1")
    assert rule_part([doubt, sure], part).cause == "surest scratch 0.70"


def test_a_rule_with_memory_is_reset_for_every_part() -> None:
    rule = ZoneRule(polygon_px=((0, 0), (100, 0), (100, 100)), dwell_s=0.3, dwell_of="zone")
    part = part_of([0.9] * 3)
    assert [rule_part([rule], part).verdict for _ in range(3)] == ["accept"] * 3
    assert rule_part([rule], part_of([0.9] * 4)).verdict == "reject"


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 6))
def test_a_window_holds_exactly_when_some_stretch_has_enough(held: list[bool], least: int, more: int) -> None:
    part = part_of([0.9 if holds else 0 for holds in held])
    window = least + more
    expected = any(sum(held[i : i + window]) >= least for i in range(len(held)))
    verdict = rule_part([DefectRule()], part, Steady(least, window)).verdict
    assert verdict == ("unknown" if len(held) < least else "reject" if expected else "accept")


def test_a_debounce_that_can_never_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="never be reached"):
        Steady(3, 2)


def phases(rule: SteadyEvent, scores: Sequence[Sequence[float]], label: str = "face") -> list[tuple[int, Change]]:
    """(frame number, change) of frames with these scores."""
    return [
        (number, change)
        for number, frame in enumerate(scores)
        for change in rule.step(observation(number, *((label, score) for score in frame)))
    ]


def test_an_event_starts_and_ends_once_although_the_finding_flickers() -> None:
    rule: EventRule = SteadyEvent("seen", DefectRule(), on_frames=3, off_frames=3, off_s=0)
    frames = [[0.9], [], [0.9], [0.9], [0.9], [], [0.9], [], [], [0.9], [], [], [], []]
    assert isinstance(rule, SteadyEvent)
    told = phases(rule, frames)
    assert [(at, change.phase) for at, change in told] == [(4, "start"), (12, "end")]
    start, end = (change for _, change in told)
    assert start.started_ns == end.started_ns == 2 * FRAME_NS
    assert (start.key, start.count, start.cause) == ("seen", 1, "defect face 0.90")
    assert (end.count, end.score, end.cause) == (0, 0.9, "defect face 0.90: no longer")
    assert rule.finish() == ()


def test_start_and_end_also_wait_for_their_seconds() -> None:
    rule = SteadyEvent("seen", DefectRule(), on_frames=2, on_s=0.5, off_frames=2, off_s=0.3)
    told = phases(rule, [[0.9]] * 10 + [[]] * 10)
    assert [(at, change.phase) for at, change in told] == [(5, "start"), (13, "end")]


def test_a_lower_score_keeps_an_event_that_it_could_not_start() -> None:
    options = {"name": "seen", "min_score": 0.7}
    (rule,) = build_events([("defect", options, {**options, "min_score": 0.4})], on_frames=2, off_frames=2, off_s=0)
    told = phases(rule, [[0.5]] * 5 + [[0.8]] * 2 + [[0.5]] * 10 + [[0.3]] * 5)
    assert [(at, change.phase) for at, change in told] == [(6, "start"), (18, "end")]


def test_a_change_is_told_when_count_or_labels_stay_different() -> None:
    rule = SteadyEvent("seen", DefectRule(), on_frames=3, off_frames=3, off_s=0)
    one, two = [0.9], [0.9, 0.8]
    told = phases(rule, [one] * 4 + [two, one, two, two, one, one] + [two] * 5)
    assert [(at, change.phase, change.count) for at, change in told] == [(2, "start", 1), (12, "change", 2)]
    other = [change for n in range(20, 25) for change in rule.step(observation(n, ("hand", 0.9), ("face", 0.9)))]
    assert [(change.phase, change.count) for change in other] == [("change", 2)]


def test_an_open_event_ends_when_no_frame_will_come() -> None:
    rule = SteadyEvent("seen", DefectRule(), on_frames=1)
    phases(rule, [[0.9], [0.6]])
    (end,) = rule.finish()
    assert (end.phase, end.cause, end.score) == ("end", "no more frames", 0.9)
    assert rule.finish() == ()
    assert [change.phase for _, change in phases(rule, [[0.9]])] == ["start"]


@given(st.lists(st.sampled_from([(), (0.9,), (0.9, 0.8), (0.5,)]), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_events_never_overlap_and_each_start_has_its_end(frames: list[tuple[float, ...]], on: int, off: int) -> None:
    keep = DefectRule(min_score=0.4)
    rule = SteadyEvent("k", DefectRule(min_score=0.7), keep=keep, on_frames=on, off_frames=off, off_s=0)
    told = [change.phase for _, change in phases(rule, frames)] + [change.phase for change in rule.finish()]
    is_open = False
    for phase in told:
        assert is_open == (phase != "start")
        is_open = phase != "end"
    assert not is_open


def test_rules_are_built_from_what_the_configuration_says() -> None:
    built: tuple[Rule, ...] = build_rules([("defect", {"labels": ("a",)}), ("count", {"max_count": 1})])
    assert [type(rule) for rule in built] == [DefectRule, CountRule]


@pytest.mark.parametrize("module", [rules, zones, steady, free, track])
def test_nothing_that_decides_reads_a_clock(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not imported & {"time", "datetime", "lineside.clock"}
