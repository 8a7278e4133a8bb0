"""Records as JSON values and back, exactly: what snapshots and evidence are written in. Floats keep every bit.

A record stands as an object with one key that no other object has: {"finding": [...]}, {"array": [...]}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lineside.records import Finding, Observation, Ruling


def pack(value: Any) -> Any:
    """JSON values for a tree of dicts, sequences, numbers, texts, arrays and the records of rules and triggers."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Finding():
            return {"finding": [value.label, value.class_id, value.score, value.box and list(value.box)]}
        case Observation():
            box = value.box and list(value.box)
            return {"observation": [value.captured_ns, value.frame_number, box, [pack(f) for f in value.findings]]}
        case Ruling():
            return {"ruling": [value.verdict, value.cause, value.score, [pack(f) for f in value.findings]]}
        case np.ndarray():
            return {"array": [value.dtype.name, list(value.shape), value.ravel().tolist()]}
        case Mapping():
            return {str(key): pack(item) for key, item in value.items()}
        case _:
            return [pack(item) for item in value]


def unpack(value: Any) -> Any:
    """What `pack` was given; sequences come back as tuples. Raises ValueError, TypeError or KeyError for other JSON."""
    if isinstance(value, list):
        return tuple(map(unpack, value))
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if key in _RECORDS and isinstance(item, list):
            return _RECORDS[key](item)
    return {key: unpack(item) for key, item in value.items()}


def _finding(item: list[Any]) -> Finding:
    label, class_id, score, box = item
    return Finding(label, class_id, score, box and (box[0], box[1], box[2], box[3]))


def _observation(item: list[Any]) -> Observation:
    captured_ns, number, box, findings = item
    return Observation(captured_ns, tuple(map(unpack, findings)), number, box and (box[0], box[1], box[2], box[3]))


def _ruling(item: list[Any]) -> Ruling:
    verdict, cause, score, findings = item
    return Ruling(verdict, cause, score, tuple(map(unpack, findings)))


def _array(item: list[Any]) -> Any:
    dtype, shape, values = item
    return np.array(values, np.dtype(dtype)).reshape(shape)


_RECORDS = {"finding": _finding, "observation": _observation, "ruling": _ruling, "array": _array}
