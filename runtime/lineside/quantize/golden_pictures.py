"""Which of the pictures are to be a bundle's golden ones: every decision is among them, the surest first, and first of
all those that a processor gets wrong which adds INT8 products in 16 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.errors import LinesideError
from lineside.hal.processor import saturates_int8
from lineside.quantize.measure import Reading, Runner, drift_of, outcome_of
from lineside.quantize.pictures import Shot
from lineside.records import Artefact, Classification, Detections, Seen

_FAR = 0.15  # of all scores: a picture that moves so far shows the fault
_NOTHING_EVERY = 4  # of a detector's pictures one in so many may have nothing on it


def in_order(shots: Sequence[Shot], seen: Sequence[Seen], reading: Reading, faulty: Sequence[float]) -> list[Shot]:
    """The best first. `seen` is what the model sees on them, `faulty` how far that moves where sums saturate."""
    groups: dict[int | bool, list[int]] = {}
    for number in sorted(range(len(shots)), key=lambda at: (faulty[at] < _FAR, -_worth(seen[at], reading))):
        groups.setdefault(outcome_of(seen[number], reading), []).append(number)
    nothing = groups.pop(False, []) if isinstance(seen[0], Detections) else []
    order: list[int] = []
    queues = list(groups.values())
    while any(queues) or nothing:
        order += [queue.pop(0) for queue in queues if queue]
        if nothing and (len(order) % _NOTHING_EVERY == _NOTHING_EVERY - 1 or not any(queues)):
            order.append(nothing.pop(0))
    return [shots[number] for number in order]


def faults(artefacts: Sequence[tuple[Artefact, str]], reading: Reading, shots: Sequence[Shot]) -> list[float]:
    """How far the answers to each picture move, 0 to 1, once these files run on this processor's kernels that saturate;
    0 where it has none."""
    far = [0.0] * len(shots)
    for artefact, backend in artefacts if saturates_int8() else ():
        if backend not in ("onnxruntime", "openvino"):
            continue
        try:
            right, wrong = (_see(artefact, backend, reading, shots, exact) for exact in (True, False))
        except LinesideError:
            continue  # golden pictures are chosen by the others
        far = [max(before, drift_of([one], [other])) for before, one, other in zip(far, right, wrong, strict=True)]
    return far


def _see(artefact: Artefact, backend: str, reading: Reading, shots: Sequence[Shot], exact: bool) -> list[Seen]:
    runner = Runner(artefact, reading, backend, {"exact_int8": exact})
    try:
        return runner.see(shots)
    finally:
        runner.close()


def _worth(seen: Seen, reading: Reading) -> float:
    """How much an answer says: the lead of the first class, what was found for sure, the way to the threshold."""
    match seen:
        case Classification():
            second, first = np.sort(seen.scores)[-2:] if seen.scores.size > 1 else (0.0, seen.scores.max(initial=0.0))
            return float(first - second)
        case Detections():
            return float(np.maximum(seen.scores - reading.settings.min_score, 0).sum())
        case _:
            return abs(seen.score - reading.threshold)
