"""What was seen and decided then against what is now: equal, within bounds, or where it differs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lineside import plain
from lineside.config.stations import StationConfig
from lineside.records import Box, Finding

Outcome: TypeAlias = Literal["identical", "within bounds", "differs", "tampered"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far another runtime or processor may be off with the same model, in what a rule or the tracker looks at.

    A finding that no rule would have counted may be there or not: INT8 arithmetic differs in the last bits, and of
    overlapping weak boxes non-maximum suppression then keeps another.
    """

    score: float = 0.15
    overlap: float = 0.5  # intersection over union
    lowest: Mapping[str, float] = field(default_factory=dict)  # label -> score from which on it counts; "" is any other

    def weight(self, finding: Finding) -> float:
        """By how much its score is above what counts; negative: nobody looks at it."""
        lowest = [self.lowest[label] for label in (finding.label, "") if label in self.lowest]
        return finding.score - min(lowest) if lowest else float("-inf")


def lowest_scores(station: StationConfig) -> dict[str, float]:
    """From which score on a label counts for a rule or the tracker of a station; "" stands for every label."""
    lowest: dict[str, float] = {}
    for rule in station.rules:
        told = [getattr(rule, name, None) for name in ("min_score", "high", "low", "keep_score")]
        score = min(value for value in told if value is not None)
        for label in rule.labels or ("",):
            lowest[label] = min(score, lowest.get(label, score))
    if station.trigger.per == "object":
        for label in station.trigger.track_labels or ("",):
            score = station.trigger.track_high_score
            lowest[label] = min(score, lowest.get(label, score))
    return lowest


@dataclass(slots=True)
class Differences:
    """What two answers differ in. `beyond` are those that no bounds allow."""

    lines: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    score: float = 0.0  # the largest that was met
    overlap: float = 1.0  # the least

    @property
    def outcome(self) -> Outcome:
        return "differs" if self.beyond else "within bounds" if self.lines else "identical"

    def add(self, line: str, *, allowed: bool) -> None:
        self.lines.append(line)
        if not allowed:
            self.beyond.append(line)


def same(then: object, now: object) -> bool:
    """Bit for bit: every float's shortest text tells it from all others."""
    return json.dumps(plain.pack(then)) == json.dumps(plain.pack(now))


def compare_findings(
    where: str, then: Sequence[Finding], now: Sequence[Finding], bounds: Bounds | None, into: Differences
) -> None:
    """Add what differs between two answers to one picture; without bounds, every bit counts."""
    if same(then, now):
        return
    left = list(now)
    for index, finding in enumerate(then):
        name = f"{where}, finding {index + 1} ({finding.label})"
        nearest = min(left, key=lambda other: _distance(finding, other), default=None)
        if nearest is None or _distance(finding, nearest) >= _STRANGER:
            into.add(f"{name}: score {finding.score:.6g} then, not found now", allowed=_is_weak(finding, bounds))
            continue
        left = [other for other in left if other is not nearest]
        _compare_one(name, finding, nearest, bounds, into)
    for finding in left:
        line = f"{where}: {finding.label} {finding.score:.6g} now, not found then"
        into.add(line, allowed=_is_weak(finding, bounds))


def _is_weak(finding: Finding, bounds: Bounds | None) -> bool:
    return bounds is not None and bounds.weight(finding) <= bounds.score


def _compare_one(name: str, then: Finding, now: Finding, bounds: Bounds | None, into: Differences) -> None:
    off = abs(then.score - now.score)
    common = 1.0 if then.box is None or now.box is None else overlap(then.box, now.box)
    ignored = bounds is not None and max(bounds.weight(then), bounds.weight(now)) < 0
    if not ignored:
        into.score, into.overlap = max(into.score, off), min(into.overlap, common)
    if then.score != now.score:
        allowed = bounds is not None and (ignored or off <= bounds.score)
        into.add(f"{name}: score {then.score!r} then, {now.score!r} now", allowed=allowed)
    if then.box != now.box:
        allowed = bounds is not None and (ignored or common >= bounds.overlap)
        into.add(f"{name}: box {_shown(then.box)} then, {_shown(now.box)} now", allowed=allowed)


_STRANGER = 2.0  # another label, or boxes that do not touch


def _distance(a: Finding, b: Finding) -> float:
    """0 for the same box with the same label, up to 1 as they overlap less; `_STRANGER` where nothing is common."""
    if a.label != b.label or (a.box is None) != (b.box is None):
        return _STRANGER
    if a.box is None or b.box is None:
        return 0.0
    common = overlap(a.box, b.box)
    return 1.0 - common if common > 0.1 else _STRANGER


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _shown(box: Box | None) -> str:
    return "none" if box is None else f"({', '.join(f'{side:.6g}' for side in box)})"
