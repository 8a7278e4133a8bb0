"""A set of whole numbers as few closed intervals: which seqs of a station are settled. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Sorted, disjoint, non-adjacent intervals. `changed` is what a copy on disk must learn: first -> last or None."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        self.changed: dict[int, int | None] = {}
        for first, last in spans:
            self.add(first, last)
        self.changed.clear()

    def add(self, first: int, last: int) -> None:
        """Put first..last into the set."""
        start = bisect_left(self._last, first - 1)  # the first interval that touches first..last
        stop = bisect_right(self._first, last + 1)  # one past the last that does
        for gone in self._first[start:stop]:
            self.changed[gone] = None
        if start < stop:
            first, last = min(first, self._first[start]), max(last, self._last[stop - 1])
        self._first[start:stop], self._last[start:stop] = [first], [last]
        self.changed[first] = last

    def holes(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs of numbers in start..stop that are not in the set, as (first, last), lowest first."""
        index = bisect_left(self._last, start)
        while index < len(self._first) and start <= stop:
            if start < self._first[index]:
                yield start, min(stop, self._first[index] - 1)
            start = self._last[index] + 1
            index += 1
        if start <= stop:
            yield start, stop

    def last(self) -> int:
        """The highest number; 0 for an empty set."""
        return self._last[-1] if self._last else 0

    def __contains__(self, number: int) -> bool:
        index = bisect_left(self._last, number)
        return index < len(self._first) and self._first[index] <= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._first, self._last, strict=True))
