"""Rules over one observation: a score, a defect, a count. Each says what holds now; `steady` debounces over frames.

A cause is a short sentence that names rule and finding: "scratches: scratch 0.83".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from lineside.contracts import Rule
from lineside.errors import ConfigError
from lineside.records import Finding, Observation, Ruling
from lineside.registry import driver

Fault: TypeAlias = Literal["reject", "unknown"]  # what a part becomes where a rule holds


def build(kind: str, options: Mapping[str, object]) -> Rule:
    """One rule out of `StationConfig.rule_options`. Raises ConfigError."""
    try:
        return cast(Rule, driver("rule", kind)(**options))
    except TypeError as error:
        raise ConfigError(f"rule {options.get('name', kind)!r} of kind {kind!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """Holds where a finding of `labels` (none given: any label) scores `high` or more.

    From `low` up to `high` the ruling is unknown. `of` = "top" looks at the best finding of the frame alone, as one
    does with a classifier; "any" looks at all. Anomaly models have one finding, "anomaly".
    """

    high: float
    low: float | None = None
    labels: Sequence[str] = ()
    of: Literal["any", "top"] = "any"
    verdict: Fault = "reject"
    name: str = "threshold"

    def __post_init__(self) -> None:
        if self.low is not None and self.low > self.high:
            raise ConfigError(f"rule {self.name!r}: low {self.low} is above high {self.high}")

    def look(self, seen: Observation) -> Ruling | None:
        best = max(seen.findings, key=_score, default=None) if self.of == "top" else _best(seen.findings, self.labels)
        if best is None or not _counts(best, self.labels):
            return None
        if best.score >= self.high:
            return Ruling(self.verdict, _cause(self.name, best), best.score, (best,))
        if self.low is not None and best.score >= self.low:
            cause = f"{_cause(self.name, best)} is between {self.low:g} and {self.high:g}"
            return Ruling("unknown", cause, best.score, (best,))
        return None

    def reset(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True)
class DefectRule:
    """Holds where a finding of `labels` (none given: any label) is sure and large enough.

    `min_side_px` is for the shorter side of its box, `min_area_px` for the area in square pixels. A finding without a
    box has no size and is never too small.
    """

    labels: Sequence[str] = ()
    min_score: float = 0.5
    min_side_px: float = 0.0
    min_area_px: float = 0.0
    verdict: Fault = "reject"
    name: str = "defect"

    def look(self, seen: Observation) -> Ruling | None:
        found = [f for f in seen.findings if f.score >= self.min_score and _counts(f, self.labels) and self._large(f)]
        if not found:
            return None
        found.sort(key=_score, reverse=True)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return Ruling(self.verdict, _cause(self.name, found[0]) + more, found[0].score, tuple(found))

    def reset(self) -> None:
        """Nothing is kept."""

    def _large(self, finding: Finding) -> bool:
        if finding.box is None:
            return True
        x1, y1, x2, y2 = finding.box
        return min(x2 - x1, y2 - y1) >= self.min_side_px and (x2 - x1) * (y2 - y1) >= self.min_area_px


@dataclass(frozen=True, slots=True)
class CountRule:
    """Holds where the number of findings of `labels` (none given: any) is below `min_count` or above `max_count`."""

    labels: Sequence[str] = ()
    min_count: int | None = None
    max_count: int | None = None
    min_score: float = 0.5
    verdict: Fault = "reject"
    name: str = "count"

    def __post_init__(self) -> None:
        if self.min_count is None and self.max_count is None:
            raise ConfigError(f"rule {self.name!r}: needs min_count, max_count or both")

    def look(self, seen: Observation) -> Ruling | None:
        found = tuple(f for f in seen.findings if f.score >= self.min_score and _counts(f, self.labels))
        lowest, highest = self.min_count or 0, math.inf if self.max_count is None else self.max_count
        if lowest <= len(found) <= highest:
            return None
        wanted = f"fewer than {lowest}" if len(found) < lowest else f"more than {highest}"
        of = f" of {', '.join(self.labels)}" if self.labels else ""
        score = max((f.score for f in found), default=0.0)
        return Ruling(self.verdict, f"{self.name}: {len(found)}{of}, {wanted}", score, found)

    def reset(self) -> None:
        """Nothing is kept."""


def summary(findings: Sequence[Finding]) -> str:
    """ "2 person, 1 dog", most first."""
    counts = Counter(f.label for f in findings)
    return ", ".join(f"{count} {label}" for label, count in sorted(counts.items(), key=lambda at: (-at[1], at[0])))


def _score(finding: Finding) -> float:
    return finding.score


def _counts(finding: Finding, labels: Sequence[str]) -> bool:
    return not labels or finding.label in labels


def _best(findings: Sequence[Finding], labels: Sequence[str]) -> Finding | None:
    return max((f for f in findings if _counts(f, labels)), key=_score, default=None)


def _cause(name: str, finding: Finding) -> str:
    return f"{name} {finding.label} {finding.score:.2f}"
