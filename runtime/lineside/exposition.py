"""Metric families as text: Prometheus' format 0.0.4, or OpenMetrics 1.0.0 where the scraper asks for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lineside.metrics import Latency

Labels: TypeAlias = Mapping[str, str]
Form: TypeAlias = Literal["prometheus", "openmetrics"]

CONTENT_TYPE: Mapping[Form, str] = {
    "prometheus": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
EDGES_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

QUANTILES = (0.5, 0.99)


@dataclass(slots=True)
class Family:
    """One metric with all its label sets. A counter's `name` ends in _total; a histogram is fed from Latencies."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    words: str  # its HELP line
    values: list[tuple[Labels, float]] = field(default_factory=list)
    latencies: list[tuple[Labels, Latency]] = field(default_factory=list)

    def add(self, value: object, **labels: str) -> None:
        """What is no number, such as an age that nobody knows, is left out."""
        if isinstance(value, int | float):
            self.values.append((labels, float(value)))

    def samples(self) -> Iterator[tuple[str, float]]:
        """Each line's name with labels, and its value."""
        for labels, value in self.values:
            yield self.name + _braces(labels), value
        for labels, latency in self.latencies:
            below, count = latency.below(EDGES_S), latency.count
            for edge_s, number in zip(EDGES_S, below, strict=True):
                yield f"{self.name}_bucket{_braces({**labels, 'le': repr(edge_s)})}", min(number, count)
            yield f"{self.name}_bucket{_braces({**labels, 'le': '+Inf'})}", count
            yield f"{self.name}_sum{_braces(labels)}", latency.sum_ns / 1e9
            yield f"{self.name}_count{_braces(labels)}", count

    def brief(self) -> Iterator[tuple[str, float]]:
        """The same with quantiles instead of buckets; they are upper edges, within 1 %."""
        for labels, value in self.values:
            yield self.name + _braces(labels), value
        for labels, latency in self.latencies:
            for share in QUANTILES:
                quantile_s = latency.quantile_ms(share) / 1e3
                yield self.name + _braces({**labels, "quantile": str(share)}), quantile_s
            yield f"{self.name}_sum{_braces(labels)}", latency.sum_ns / 1e9
            yield f"{self.name}_count{_braces(labels)}", latency.count


def wanted(accept: str) -> Form:
    """What an Accept header asks for."""
    return "openmetrics" if "application/openmetrics-text" in accept.lower() else "prometheus"


def text(families: Iterable[Family], form: Form) -> Iterator[str]:
    """A piece for each family that has a value, so that a writer can pause between two."""
    for family in families:
        lines = [f"{name} {_number(value)}\n" for name, value in family.samples()]
        if not lines:
            continue
        name = family.name.removesuffix("_total") if form == "openmetrics" else family.name
        head = f"# HELP {name} {_escaped(family.words)}\n# TYPE {name} {family.kind}\n"
        yield head + "".join(lines)
    if form == "openmetrics":
        yield "# EOF\n"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items()) + "}"


def _escaped(words: str) -> str:
    return words.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
