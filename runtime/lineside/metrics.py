"""Latency histograms that cost under a microsecond to feed and never grow."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PER_DECADE = 240  # neighbours differ by 0.96 %: exact enough to compare medians by
_FIRST_NS = 1_000.0  # 1 us
_BUCKETS = _PER_DECADE * 8  # up to 100 s


class Latency:
    """A histogram over logarithmic buckets, 1 us to 100 s, plus the exact maximum. One writer; any reader."""

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self.count = 0
        self.sum_ns = 0
        self.max_ns = 0

    def add(self, value_ns: int) -> None:
        place = int(math.log10(max(value_ns, 1) / _FIRST_NS) * _PER_DECADE) if value_ns > _FIRST_NS else 0
        self._counts[min(place, _BUCKETS)] += 1
        self.count += 1
        self.sum_ns += value_ns
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def counts(self) -> dict[float, int]:
        """Upper edge in ms -> how many, of each bucket in use, rising; two looks differ by what came between."""
        counts = enumerate(self._counts)
        return {_FIRST_NS / 1e6 * 10 ** ((place + 1) / _PER_DECADE): count for place, count in counts if count}

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Adds the time that a `with` block takes, unless it raises."""
        began_ns = time.monotonic_ns()
        yield
        self.add(time.monotonic_ns() - began_ns)

    def below(self, edges_s: Sequence[float]) -> list[int]:
        """How many were at most each edge, edges rising; a value within 1 % of an edge may count as above it."""
        found, start, sofar = [], 0, 0
        for edge_s in edges_s:
            stop = max(start, min(int(math.log10(edge_s * 1e9 / _FIRST_NS) * _PER_DECADE + 1e-6), _BUCKETS))
            sofar += sum(self._counts[start:stop])
            found.append(sofar)
            start = stop
        return found

    def quantile_ms(self, share: float) -> float:
        """Upper edge of the bucket that holds the given share of all values, in ms; 0 when empty."""
        return round(min(quantile(self.counts(), share), self.max_ns / 1e6), 4)

    def summary(self) -> dict[str, float | int]:
        return {
            "count": self.count,
            "p50_ms": self.quantile_ms(0.5),
            "p90_ms": self.quantile_ms(0.9),
            "p99_ms": self.quantile_ms(0.99),
            "max_ms": round(self.max_ns / 1e6, 4),
        }


class Stages:
    """A Latency per stage of a path on which several threads may be."""

    def __init__(self, *names: str) -> None:
        self.latencies = {name: Latency() for name in names}
        self._lock = threading.Lock()

    def add(self, name: str, value_ns: int) -> None:
        with self._lock:
            self.latencies[name].add(value_ns)

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """The same function, each call of it measured; what it raises is measured, too."""

        def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            began_ns = time.monotonic_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(name, time.monotonic_ns() - began_ns)

        return measured


def quantile(counts: Mapping[float, int], share: float) -> float:
    """The key at which the given share of all counts is reached, keys rising; 0 when there are none."""
    need = math.ceil(sum(counts.values()) * share)
    seen = 0
    for edge, count in counts.items():
        seen += count
        if seen >= need > 0:
            return edge
    return 0.0
