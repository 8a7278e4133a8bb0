"""Latency histograms that cost under a microsecond to feed and never grow."""

from __future__ import annotations

import math

_PER_DECADE = 240  # neighbours differ by 0.96 %: exact enough to compare medians by
_FIRST_NS = 1_000.0  # 1 us
_BUCKETS = _PER_DECADE * 8  # up to 100 s


class Latency:
    """A histogram over logarithmic buckets, 1 us to 100 s, plus the exact maximum. One writer; any reader."""

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self.count = 0
        self.max_ns = 0

    def add(self, value_ns: int) -> None:
        place = int(math.log10(max(value_ns, 1) / _FIRST_NS) * _PER_DECADE) if value_ns > _FIRST_NS else 0
        self._counts[min(place, _BUCKETS)] += 1
        self.count += 1
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def quantile_ms(self, share: float) -> float:
        """Upper edge of the bucket that holds the given share of all values, in ms; 0 when empty."""
        need = math.ceil(self.count * share)
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if seen >= need > 0:
                edge_ns = _FIRST_NS * 10 ** ((place + 1) / _PER_DECADE)
                return round(min(edge_ns, self.max_ns) / 1e6, 4)
        return 0.0

    def summary(self) -> dict[str, float | int]:
        return {
            "count": self.count,
            "p50_ms": self.quantile_ms(0.5),
            "p90_ms": self.quantile_ms(0.9),
            "p99_ms": self.quantile_ms(0.99),
            "max_ms": round(self.max_ns / 1e6, 4),
        }
