"""The range of every activation on the calibration pictures, by min-max, percentile and entropy, from two passes.

ONNX Runtime's own histogram calibration keeps every activation of every picture in memory at once (80 MB a picture for
a YOLO nano); here a picture's are gone before the next one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.registry import vendor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float32]

Method = Literal["min-max", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("min-max", "percentile", "entropy")
Limits: TypeAlias = dict[str, tuple[float, float]]  # tensor -> lowest, highest

_BINS = 2048
_LEVELS = 256
_SAMPLED = 1 << 15  # values of one tensor and picture that enter its histogram
_PERCENTILE = 99.99


class Ranges:
    """What `collect` saw of each tensor."""

    def __init__(
        self, input: str, lowest: dict[str, float], highest: dict[str, float], counts: dict[str, NDArray[np.int64]]
    ) -> None:
        self._input, self._lowest, self._highest, self._counts = input, lowest, highest, counts

    def limits(self, method: Method) -> Limits:
        """The range that each tensor's 256 steps cover. Min-max: all that was seen. Percentile: 99.99 % of it, half of
        the rest cut on each side. Entropy: see `entropy_limits`. The picture itself is never clipped."""
        found = {}
        for name, counts in self._counts.items():
            low, high = self._lowest[name], self._highest[name]
            edges = np.linspace(low, high, _BINS + 1)
            if high <= low or name == self._input:
                pass
            elif method == "percentile":
                low, high = _percentile(counts, edges)
            elif method == "entropy":
                low, high = entropy_limits(counts, edges)
            found[name] = (float(low), float(high))
        return found


def collect(model: Path, feeds: Sequence[Callable[[], Array]], input: str, step: Callable[[], None]) -> Ranges:
    """Run the model on every feed twice: once for the extremes, once for the histograms. `step` after each run."""
    session, names = _observed(model)
    lowest = dict.fromkeys(names, np.inf)
    highest = dict.fromkeys(names, -np.inf)
    for feed in feeds:
        for name, value in zip(names, session.run(names, {input: feed()}), strict=True):
            value = _finite(value)
            lowest[name] = min(lowest[name], float(value.min(initial=0.0)))
            highest[name] = max(highest[name], float(value.max(initial=0.0)))
        step()
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for feed in feeds:
        for name, value in zip(names, session.run(names, {input: feed()}), strict=True):
            flat = _finite(value)
            sample = flat[:: max(1, flat.size // _SAMPLED)]
            counts[name] += np.histogram(sample, _BINS, (lowest[name], highest[name] or 1e-9))[0]
        step()
    return Ranges(input, lowest, highest, counts)


def _finite(value: Array) -> Array:
    """Flat, and without the infinities that masks are made of: no step of INT8 could hold them."""
    flat = value.reshape(-1)
    return flat if np.isfinite(flat.sum(dtype=np.float64)) else flat[np.isfinite(flat)]


def _observed(path: Path) -> tuple[Any, list[str]]:
    """A session that gives every float activation, and their names."""
    onnx, ort = vendor("onnx"), vendor("onnxruntime")
    model = onnx.load(str(path))
    graph = model.graph
    held = {tensor.name for tensor in graph.initializer}
    known = {each.name: each for each in (*graph.input, *graph.value_info, *graph.output)}
    outputs = {each.name for each in graph.output}
    names = [
        name
        for name in dict.fromkeys([graph.input[0].name, *(name for node in graph.node for name in node.output)])
        if name in known and name not in held and known[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    inputs = {each.name for each in graph.input}
    for name in names:
        if name not in outputs and name not in inputs:
            graph.output.append(known[name])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else the activations are fused away
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its error classes share no base
        raise ConfigError(f"{path.name}: its activations cannot be looked at ({first_line(error)})") from error
    return _WithInput(session, inputs), names


class _WithInput:
    """ONNX Runtime gives no input back as an output."""

    def __init__(self, session: Any, inputs: set[str]) -> None:
        self._session, self._inputs = session, inputs

    def run(self, names: Sequence[str], feed: dict[str, Array]) -> list[Array]:
        asked = [name for name in names if name not in self._inputs]
        made = dict(zip(asked, self._session.run(asked, feed), strict=True)) | feed
        return [made[name] for name in names]


def _percentile(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[float, float]:
    share = np.cumsum(counts) / max(1, counts.sum())
    cut = (100.0 - _PERCENTILE) / 200.0
    low, high = np.searchsorted(share, [cut, 1.0 - cut])
    return min(float(edges[low]), 0.0), max(float(edges[min(high + 1, _BINS)]), 0.0)


def entropy_limits(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """The clipping, the same on both sides of 0, whose 8-bit distribution diverges least from the true one. The side
    that reaches farther has its share of the 256 steps: all, where the tensor has one sign.

    Kullback-Leibler over magnitudes, as in Migacz, "8-bit inference with TensorRT", GTC 2017.
    """
    centres = (edges[1:] + edges[:-1]) / 2
    reach = max(abs(float(edges[0])), abs(float(edges[-1])))
    levels = round(_LEVELS * min(1.0, reach / float(edges[-1] - edges[0])))
    width = float(edges[1] - edges[0])
    cells = (np.abs(centres) / width).astype(int)
    magnitudes = np.bincount(cells, counts).astype(np.float64)
    magnitudes[0] = 0.0  # zeros are exact in any range
    best, kept = np.inf, len(magnitudes)
    for bins in range(levels, len(magnitudes) + 1, 16):
        clipped = magnitudes[:bins].copy()
        true = clipped.copy()
        true[-1] += magnitudes[bins:].sum()
        if true.sum() == 0:
            continue
        group = np.arange(bins) * levels // bins
        filled = clipped > 0
        total = np.bincount(group, clipped, levels)
        share = np.bincount(group, filled, levels)
        coarse = np.where(filled, (total / np.maximum(share, 1))[group], 0.0)
        divergence = _divergence(true, coarse)
        if divergence < best:
            best, kept = divergence, bins
    limit = kept * width
    return max(float(edges[0]), -limit), min(float(edges[-1]), limit)


def _divergence(true: NDArray[np.float64], coarse: NDArray[np.float64]) -> float:
    if coarse.sum() == 0:
        return float("inf")
    p, q = true / true.sum(), coarse / coarse.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))))
