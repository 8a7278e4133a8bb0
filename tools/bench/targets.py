"""What was promised, computed pair by pair from the two sides' results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

BARE_FROM_MS = 15.0  # the promise against the bare loop holds where that takes so long


@dataclass(frozen=True)
class Target:
    """One promise on one case: the middle of the repeats against its limit."""

    name: str
    value: float  # median over the pairs
    low: float
    high: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def targets_of(result: Mapping[str, Any]) -> list[Target]:
    """The promises that hold for one case's result, as bench_path.py keeps it."""
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [(p["product"], p["tuned"]) for p in result["pairs"]]
    bare_ms = median(run["p50"] for run in result["bare"])
    found = [_of("p50 over the tuned loop, ms", [a["p50_ms"] - b["path_ms"]["p50"] for a, b in pairs], 0.5)]
    if bare_ms >= BARE_FROM_MS:
        ratios = [p["product"]["p50_ms"] / bare["p50"] for p, bare in zip(result["pairs"], result["bare"], strict=True)]
        found.append(_of("p50 / bare loop", ratios, 1.10))
    tails = [(a["p99_ms"] / a["p50_ms"]) / b["p99_over_p50"] for a, b in pairs]
    found.append(_of("p99/p50 of the tuned loop's", tails, 1.5))
    found.append(_of("CPU a frame / tuned", [a["cpu_ms_per_frame"] / b["cpu_ms_per_frame"] for a, b in pairs], 1.1))
    found.append(_of("PSS / tuned", [a["pss_mb"] / b["pss_mb"] for a, b in pairs], 1.25))
    over_s = [a["first_decision_s"] - 1.5 * b["first_result_s"] for a, b in pairs]
    found.append(_of("first decision - 1.5 x tuned first result, s", over_s, 0.2))
    if result["engine"] == "openvino":
        found.append(_of("first decision with the cache, s", [a["first_decision_s"] for a, _ in pairs], 1.5))
    if result["throughput"]:
        ratios = [run["product_fps"] / run["loops_best_fps"] for run in result["throughput"]]
        found.append(_of("decisions/s / best loops", ratios, 0.95, at_least=True))
    return found


def targets_of_rest(rest: Mapping[str, Any]) -> list[Target]:
    """The promises that hold once: delivery, help, installed size."""
    found = []
    if "mqtt" in rest:
        found.append(_of("decision -> subscriber p50 / bare paho", [rest["mqtt"]["ratio_p50"]["durable_true"]], 1.5))
    if "help_s" in rest:
        found.append(_of("lineside --help, s", rest["help_s"], 0.15))
    if "core_install_mb" in rest:
        found.append(_of("core install, MB", [rest["core_install_mb"]], 300))
    return found


def _of(name: str, values: list[float], limit: float, *, at_least: bool = False) -> Target:
    low, middle, high = (round(number, 3) for number in (min(values), median(values), max(values)))
    return Target(name, middle, low, high, limit, at_least)
