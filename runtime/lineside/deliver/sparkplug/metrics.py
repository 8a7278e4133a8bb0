"""What a row of the journal is in metrics of its station's device. Pure; docs/sparkplug.md lists them for users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from lineside.deliver.sparkplug.payload import BOOLEAN, DATETIME, DOUBLE, INT32, INT64, STRING, Datatype, Value
from lineside.deliver.tables import Row


class Kind(NamedTuple):
    """Where in a message's body a metric's value is: keys from the outside in."""

    datatype: Datatype
    path: tuple[str, ...]


RECORD: dict[str, Datatype] = {  # of every row
    "Record/Kind": STRING,
    "Record/Epoch": STRING,
    "Record/Seq": INT64,
    "Record/Late": BOOLEAN,
    "Record/JSON": STRING,
}
DECISION = {
    "Decision/Id": Kind(STRING, ("id",)),
    "Decision/Verdict": Kind(STRING, ("verdict",)),
    "Decision/Output": Kind(STRING, ("output",)),
    "Decision/Cause": Kind(STRING, ("cause",)),
    "Decision/Score": Kind(DOUBLE, ("score",)),
    "Decision/Decided late": Kind(BOOLEAN, ("decided_late",)),
    "Decision/Escalated": Kind(BOOLEAN, ("escalated",)),
    "Decision/Revision": Kind(INT32, ("revision",)),
    "Decision/Latency ms": Kind(DOUBLE, ("latency_ms",)),
    "Decision/Captured at": Kind(DATETIME, ("captured_at",)),
    "Decision/Decided at": Kind(DATETIME, ("decided_at",)),
    "Decision/Backend": Kind(STRING, ("backend",)),
    "Decision/Recipe": Kind(STRING, ("recipe",)),
    "Decision/Model/Name": Kind(STRING, ("model", "name")),
    "Decision/Model/Version": Kind(STRING, ("model", "version")),
    "Decision/Model/Digest": Kind(STRING, ("model", "digest")),
    "Decision/Part/Id": Kind(STRING, ("part", "id")),
    "Decision/Part/Number": Kind(INT64, ("part", "number")),
    "Decision/Part/Serial": Kind(STRING, ("part", "serial")),
    "Decision/Part/Lot": Kind(STRING, ("part", "lot")),
    "Decision/Part/Product": Kind(STRING, ("part", "product")),
}
EVENT = {
    "Event/Id": Kind(STRING, ("event_id",)),
    "Event/Phase": Kind(STRING, ("phase",)),
    "Event/Cause": Kind(STRING, ("cause",)),
    "Event/Count": Kind(INT32, ("count",)),
    "Event/Score": Kind(DOUBLE, ("score",)),
    "Event/Lasted ms": Kind(DOUBLE, ("lasted_ms",)),
    "Event/Decided at": Kind(DATETIME, ("decided_at",)),
}
GAP = {
    "Gap/Lost": Kind(INT64, ("lost",)),
    "Gap/First seq": Kind(INT64, ("first_seq",)),
    "Gap/Last seq": Kind(INT64, ("last_seq",)),
    "Gap/Cause": Kind(STRING, ("cause",)),
}
_TYPES: dict[Datatype, type | tuple[type, ...]] = {
    STRING: str,
    INT32: int,
    INT64: int,
    DOUBLE: (int, float),
    BOOLEAN: bool,
    DATETIME: (),
}
OF_KIND: dict[str, dict[str, Kind]] = {"decision": DECISION, "event": EVENT, "gap": GAP}
DEVICE: dict[str, Datatype] = {  # every metric that a device will ever report
    **RECORD,
    **{name: kind.datatype for group in OF_KIND.values() for name, kind in group.items()},
}


def values(row: Row, message: bytes, late: bool) -> dict[str, Value]:
    """The metrics that a row changes. `message` is the whole JSON message, as MQTT subscribers get it.

    Never raises: what a body lacks, or has of another type (somebody edited the file, or a later version wrote it), is
    null.
    """
    record: dict[str, Value] = {
        "Record/Kind": row.kind,
        "Record/Epoch": row.epoch,
        "Record/Seq": row.seq,
        "Record/Late": late,
        "Record/JSON": message.decode(errors="replace"),
    }
    body = _parsed(row.body)
    return {**record, **{name: _value(body, kind) for name, kind in OF_KIND.get(row.kind, {}).items()}}


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _value(body: object, kind: Kind) -> Value:
    found: Any = body
    for key in kind.path:
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, str) and kind.datatype == DATETIME:
        return _since_1970_ms(found)
    fits = isinstance(found, _TYPES[kind.datatype]) and (kind.datatype == BOOLEAN or not isinstance(found, bool))
    return found if fits else None


def _since_1970_ms(text: str) -> int | None:
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
