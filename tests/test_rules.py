"""Rules over one observation: what holds, with which finding, and how the cause reads."""

from __future__ import annotations

import pytest

from lineside.decide.rules import CountRule, DefectRule, ThresholdRule, build, summary
from lineside.errors import ConfigError
from lineside.records import Box, Finding, Observation


def seen(*findings: tuple[str, float] | tuple[str, float, Box]) -> Observation:
    return Observation(0, tuple(Finding(f[0], 0, f[1], f[2] if len(f) == 3 else None) for f in findings))


@pytest.mark.parametrize(("score", "verdict"), [(0.39, None), (0.4, "unknown"), (0.59, "unknown"), (0.6, "reject")])
def test_threshold_rejects_from_high_and_does_not_know_from_low(score: float, verdict: str | None) -> None:
    ruling = ThresholdRule(high=0.6, low=0.4, labels=("scratch",)).look(seen(("ok", 0.9), ("scratch", score)))
    assert (ruling and ruling.verdict) == verdict
    if ruling:
        assert ruling.cause.startswith(f"threshold scratch {score:.2f}")
        assert ruling.score == score
        assert [f.label for f in ruling.findings] == ["scratch"]


def test_threshold_of_top_looks_at_the_best_class_alone() -> None:
    frame = seen(("ok", 0.5), ("scratch", 0.45))
    assert ThresholdRule(high=0.4, labels=("scratch",), of="any").look(frame)
    assert ThresholdRule(high=0.4, labels=("scratch",), of="top").look(frame) is None
    assert ThresholdRule(high=0.4, labels=("scratch",), of="top").look(seen(("scratch", 0.5), ("ok", 0.4)))


def test_threshold_takes_an_anomaly_score_on_any_scale() -> None:
    rule = ThresholdRule(high=12.5, low=10, name="strange")
    assert rule.look(seen(("anomaly", 9.9))) is None
    ruling = rule.look(seen(("anomaly", 11)))
    assert ruling is not None
    assert (ruling.verdict, ruling.cause) == ("unknown", "strange anomaly 11.00 is between 10 and 12.5")


def test_nothing_seen_holds_no_threshold_and_no_defect() -> None:
    assert ThresholdRule(high=0.0).look(seen()) is None
    assert DefectRule().look(seen()) is None


def test_defect_needs_label_score_and_size() -> None:
    rule = DefectRule(labels=("scratch", "dent"), min_score=0.5, min_side_px=4, min_area_px=50)
    assert rule.look(seen(("scratch", 0.49, (0, 0, 20, 20)))) is None
    assert rule.look(seen(("hole", 0.9, (0, 0, 20, 20)))) is None
    assert rule.look(seen(("scratch", 0.9, (0, 0, 100, 3)))) is None  # shorter side 3
    assert rule.look(seen(("scratch", 0.9, (0, 0, 7, 7)))) is None  # area 49
    ruling = rule.look(seen(("scratch", 0.6, (0, 0, 10, 5)), ("dent", 0.83, (0, 0, 10, 5)), ("part", 1, (0, 0, 9, 9))))
    assert ruling is not None
    assert (ruling.verdict, ruling.cause, ruling.score) == ("reject", "defect dent 0.83 and 1 more", 0.83)
    assert [f.label for f in ruling.findings] == ["dent", "scratch"]


def test_a_finding_without_a_box_is_never_too_small() -> None:
    assert DefectRule(min_side_px=10).look(seen(("scratch", 0.9)))


@pytest.mark.parametrize(("count", "holds"), [(0, True), (1, True), (2, False), (4, False), (5, True)])
def test_count_holds_outside_of_its_limits(count: int, holds: bool) -> None:
    rule = CountRule(labels=("cap",), min_count=2, max_count=4)
    ruling = rule.look(seen(*[("cap", 0.9)] * count, ("cap", 0.2), ("bottle", 0.9)))
    assert (ruling is not None) == holds
    if ruling:
        wanted = "fewer than 2" if count < 2 else "more than 4"
        assert ruling.cause == f"count: {count} of cap, {wanted}"


def test_a_verdict_may_be_unknown_instead_of_reject() -> None:
    for rule in (ThresholdRule(high=0.1, verdict="unknown"), DefectRule(verdict="unknown")):
        ruling = rule.look(seen(("a", 0.9)))
        assert ruling is not None
        assert ruling.verdict == "unknown"


def test_rules_that_can_never_decide_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_count"):
        CountRule()
    with pytest.raises(ConfigError, match="above high"):
        ThresholdRule(high=0.3, low=0.4)


def test_build_says_which_option_is_unknown() -> None:
    assert isinstance(build("defect", {"labels": ("a",)}), DefectRule)
    with pytest.raises(ConfigError, match="min_size"):
        build("defect", {"min_size": 3})
    with pytest.raises(ConfigError, match="known are threshold"):
        build("defects", {})


def test_summary_counts_labels() -> None:
    assert summary(seen(("b", 1), ("a", 1), ("b", 1)).findings) == "2 b, 1 a"
