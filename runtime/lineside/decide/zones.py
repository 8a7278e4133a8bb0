"""The zone rule: things that are in a polygon, or missing from it, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lineside.decide.rules import Fault, summary
from lineside.errors import ConfigError
from lineside.records import Box, Finding, Observation, Ruling

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = Sequence[Point]
Anchor: TypeAlias = Literal["centre", "bottom_centre", "overlap"]

_SAME_IOU = 0.2  # a box that overlaps a stay's last box by so much is the same thing


@dataclass(slots=True)
class _Stay:
    """One thing in the zone, or the zone's occupation as a whole."""

    since_ns: int
    last_ns: int
    box: Box | None = None


class ZoneRule:
    """Holds while `min_count` or more findings of `labels` have been in the polygon for `dwell_s`.

    `when` = "absent": holds while there have been fewer than `min_count` for `dwell_s`. `dwell_of` = "object": each
    thing must stay by itself (followed from frame to frame by overlap); "zone": the zone must stay occupied, by
    whomever. A stay survives `gap_s` out of sight. Corners are pixels of the picture.
    """

    def __init__(
        self,
        *,
        polygon_px: Polygon,
        zone: str = "zone",
        labels: Sequence[str] = (),
        when: Literal["present", "absent"] = "present",
        anchor: Anchor = "centre",
        min_overlap: float = 0.5,
        min_score: float = 0.5,
        min_count: int = 1,
        dwell_s: float = 0.0,
        dwell_of: Literal["object", "zone"] = "object",
        gap_s: float = 0.5,
        verdict: Fault = "reject",
        name: str = "zone",
    ) -> None:
        if len(polygon_px) < 3:
            raise ConfigError(f"rule {name!r}: a polygon has 3 corners or more, here are {len(polygon_px)}")
        self.name = name
        self._polygon, self._zone, self._labels = tuple(polygon_px), zone, tuple(labels)
        self._when, self._anchor, self._min_overlap = when, anchor, min_overlap
        self._min_score, self._min_count, self._verdict = min_score, min_count, verdict
        self._dwell_ns, self._dwell_of, self._gap_ns = round(dwell_s * 1e9), dwell_of, round(gap_s * 1e9)
        self._stays: list[_Stay] = []

    def reset(self) -> None:
        self._stays = []

    def state(self) -> object:
        """The stays, for `restore`."""
        return [(stay.since_ns, stay.last_ns, stay.box) for stay in self._stays]

    def restore(self, state: Any) -> None:
        self._stays = [_Stay(since_ns, last_ns, box) for since_ns, last_ns, box in state]

    def look(self, seen: Observation) -> Ruling | None:
        inside = [
            f
            for f in seen.findings
            if f.box is not None
            and f.score >= self._min_score
            and (not self._labels or f.label in self._labels)
            and within(f.box, self._polygon, self._anchor, self._min_overlap)
        ]
        if self._when == "absent":
            return self._absence(inside, seen.captured_ns)
        by_object = self._dwell_of == "object" and self._dwell_ns > 0
        stayed = self._stayed_each(inside, seen.captured_ns) if by_object else self._stayed(inside, seen.captured_ns)
        if len(stayed) < self._min_count:
            return None
        score = max((f.score for f in stayed), default=0.0)
        return Ruling(self._verdict, self._cause(summary(stayed)), score, tuple(stayed))

    def _absence(self, inside: list[Finding], now_ns: int) -> Ruling | None:
        if len(inside) >= self._min_count:
            self._stays = []
            return None
        if not self._stays:
            self._stays = [_Stay(now_ns, now_ns)]
        if now_ns - self._stays[0].since_ns < self._dwell_ns:
            return None
        wanted = " or ".join(self._labels) or "anything"
        return Ruling(self._verdict, self._cause(f"{len(inside)} of {self._min_count} {wanted}"), 0.0, tuple(inside))

    def _stayed(self, inside: list[Finding], now_ns: int) -> list[Finding]:
        """All that are inside, once the zone was occupied long enough."""
        self._stays = [stay for stay in self._stays if now_ns - stay.last_ns <= self._gap_ns]
        if len(inside) < self._min_count:
            return []
        if not self._stays:
            self._stays = [_Stay(now_ns, now_ns)]
        self._stays[0].last_ns = now_ns
        return inside if now_ns - self._stays[0].since_ns >= self._dwell_ns else []

    def _stayed_each(self, inside: list[Finding], now_ns: int) -> list[Finding]:
        """Those that are inside and have been there long enough, best overlap first."""
        old = [stay for stay in self._stays if now_ns - stay.last_ns <= self._gap_ns]
        pairs = sorted(
            ((_iou(stay.box, f.box), i, j) for i, stay in enumerate(old) for j, f in enumerate(inside)),
            key=lambda pair: (-pair[0], pair[1], pair[2]),
        )
        stay_of: dict[int, int] = {}
        for iou, i, j in pairs:
            if iou >= _SAME_IOU and j not in stay_of and i not in stay_of.values():
                stay_of[j] = i
        stayed = []
        for j, finding in enumerate(inside):
            if j not in stay_of:
                stay_of[j] = len(old)
                old.append(_Stay(now_ns, now_ns))
            stay = old[stay_of[j]]
            stay.last_ns, stay.box = now_ns, finding.box
            if now_ns - stay.since_ns >= self._dwell_ns:
                stayed.append(finding)
        self._stays = old
        return stayed

    def _cause(self, what: str) -> str:
        lasting = f" for {self._dwell_ns / 1e9:g} s" if self._dwell_ns else ""
        return f"{self.name}: {what} in {self._zone}{lasting}"


def within(box: Box, polygon: Polygon, anchor: Anchor, min_overlap: float = 0.5) -> bool:
    """Whether the box's anchor is in the polygon; for "overlap", whether `min_overlap` of its area is."""
    x1, y1, x2, y2 = box
    if anchor == "overlap":
        area = (x2 - x1) * (y2 - y1)
        return area > 0 and shared_area(box, polygon) >= min_overlap * area - 1e-6 * area
    return contains(polygon, ((x1 + x2) / 2, y2 if anchor == "bottom_centre" else (y1 + y2) / 2))


def contains(polygon: Polygon, point: Point) -> bool:
    """Even-odd test; of two zones with a common side, a point on it is in one."""
    x, y = point
    inside = False
    ax, ay = polygon[-1]
    for bx, by in polygon:
        if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
            inside = not inside
        ax, ay = bx, by
    return inside


def shared_area(box: Box, polygon: Polygon) -> float:
    """Area of the polygon inside the box (Sutherland and Hodgman 1974: the polygon may be concave, the box not)."""
    corners = list(polygon)
    for axis, limit, sign in ((0, box[0], 1.0), (0, box[2], -1.0), (1, box[1], 1.0), (1, box[3], -1.0)):
        clipped: list[Point] = []
        for i, after in enumerate(corners):
            before = corners[i - 1]
            d0, d1 = (before[axis] - limit) * sign, (after[axis] - limit) * sign
            if (d0 < 0) != (d1 < 0):
                t = d0 / (d0 - d1)
                clipped.append((before[0] + t * (after[0] - before[0]), before[1] + t * (after[1] - before[1])))
            if d1 >= 0:
                clipped.append(after)
        corners = clipped
    return abs(sum(corners[i - 1][0] * y - x * corners[i - 1][1] for i, (x, y) in enumerate(corners))) / 2


def _iou(a: Box | None, b: Box | None) -> float:
    if a is None or b is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
