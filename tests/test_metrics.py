"""Latency histograms: right within one bucket, and never growing."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lineside.metrics import Latency, quantile

BUCKET = 10 ** (1 / 240)  # neighbours differ by so much


@given(st.lists(st.integers(1_000, 50_000_000_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_right_within_one_bucket_and_never_too_small(values_ns: list[int], share: float) -> None:
    latency = Latency()
    for value_ns in values_ns:
        latency.add(value_ns)
    exact_ms = sorted(values_ns)[math.ceil(len(values_ns) * share) - 1] / 1e6
    found_ms = latency.quantile_ms(share)
    assert exact_ms / 1.001 - 0.0001 <= found_ms <= exact_ms * BUCKET * 1.001 + 0.0001
    assert latency.summary()["max_ms"] == round(max(values_ns) / 1e6, 4)


@given(st.lists(st.integers(-(10**12), 10**15), max_size=50))
def test_any_time_is_taken_and_counted(values_ns: list[int]) -> None:
    latency = Latency()
    for value_ns in values_ns:
        latency.add(value_ns)
    summary = latency.summary()
    assert summary["count"] == len(values_ns)
    assert 0 <= summary["p50_ms"] <= summary["p90_ms"] <= summary["p99_ms"] <= max(summary["max_ms"], 1e5)


def test_an_empty_histogram_says_nothing() -> None:
    assert Latency().summary() == {"count": 0, "p50_ms": 0.0, "p90_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}


@given(st.lists(st.integers(1_000, 10**10), max_size=50), st.lists(st.integers(1_000, 10**10), min_size=1, max_size=50))
def test_two_looks_tell_what_came_between(earlier_ns: list[int], later_ns: list[int]) -> None:
    both, alone = Latency(), Latency()
    for value_ns in earlier_ns:
        both.add(value_ns)
    before = Counter(both.counts())
    for value_ns in later_ns:
        both.add(value_ns)
        alone.add(value_ns)
    between = Counter(both.counts())
    between.subtract(before)
    assert quantile(between, 0.5) == quantile(alone.counts(), 0.5)
    assert between.total() == len(later_ns)


EDGES_S = (0.0001, 0.001, 0.02, 0.5, 10.0)


@given(st.lists(st.integers(1_000, 50_000_000_000), max_size=100))
def test_counts_below_an_edge_are_right_within_one_bucket(values_ns: list[int]) -> None:
    latency = Latency()
    for value_ns in values_ns:
        latency.add(value_ns)
    for edge_s, count in zip(EDGES_S, latency.below(EDGES_S), strict=True):
        surely = sum(value_ns <= edge_s * 1e9 / BUCKET / 1.001 for value_ns in values_ns)
        assert surely <= count <= sum(value_ns <= edge_s * 1e9 * 1.001 for value_ns in values_ns)
    assert latency.sum_ns == sum(values_ns)
