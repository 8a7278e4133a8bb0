"""Points in the configuration: fractions or pixels of the picture, and polygons that are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]


def polygon_fault(points: Sequence[Point]) -> str | None:
    """Why these corners are no simple polygon, or None."""
    if len(points) < 3:
        return f"a polygon has 3 corners or more, here are {len(points)}"
    sides = [(points[i], points[(i + 1) % len(points)]) for i in range(len(points))]
    for i, (a, b) in enumerate(sides):
        if a == b:
            return f"corners {i + 1} and {(i + 1) % len(points) + 1} are the same point ({a[0]:g}, {a[1]:g})"
        for j in range(i + 2, len(sides)):
            if (i, j) != (0, len(sides) - 1) and _meet(a, b, *sides[j]):
                return f"sides {i + 1} and {j + 1} cross or touch: give the corners in order around the zone"
    area = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in sides)) / 2
    return None if area > 1e-9 else "the polygon has no area: its corners lie on one line"


def check_fractions(key: str, points: Sequence[Point]) -> None:
    """Raises ValueError for a point outside of 0 to 1."""
    for x, y in points:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"{key} has the point ({x:g}, {y:g}): fractions are 0 to 1; for pixels use {key}_px")


def in_pixels(
    fractions: Sequence[Point] | None, pixels: Sequence[Point] | None, width_px: int, height_px: int
) -> tuple[Point, ...]:
    """Whichever was given, in pixels of a picture of that size."""
    if fractions is None:
        return tuple(pixels or ())
    return tuple((x * width_px, y * height_px) for x, y in fractions)


def _meet(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments ab and cd have a point in common."""

    def turn(p: Point, q: Point, r: Point) -> float:
        cross = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
        return 0.0 if abs(cross) < 1e-12 else cross

    def between(p: Point, q: Point, r: Point) -> bool:
        return min(p[0], q[0]) <= r[0] <= max(p[0], q[0]) and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])

    abc, abd, cda, cdb = turn(a, b, c), turn(a, b, d), turn(c, d, a), turn(c, d, b)
    if abc * abd < 0 and cda * cdb < 0:
        return True
    return any(
        side == 0 and between(*segment)
        for side, segment in ((abc, (a, b, c)), (abd, (a, b, d)), (cda, (c, d, a)), (cdb, (c, d, b)))
    )
