"""Records become the JSON that subscribers read: docs/messages.md in code. Pure.

The journal stores the body (what was decided); a head with `epoch`, `seq` and how it is delivered is put before it
when a sink sends it, so that a body is encoded once, whatever is sent how often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from lineside.records import Decision, Event, Finding, ModelRef, Note, Record

VERSION = 1  # of the message schema: fields are added without a new version, a changed meaning takes one
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
_BOOLEAN = {False: "false", True: "true"}
Kind = Literal["decision", "event", "gap", "recipe", "evidence", "in_doubt", "audit"]


def rfc3339(wall_ns: int) -> str:
    """Nanoseconds since 1970 as "2026-11-21T03:52:50.123456Z"; a time no calendar knows becomes the nearest it does."""
    seconds, micros = divmod(min(max(wall_ns // 1000, 0), 253402300799_999999), 1_000_000)
    return f"{_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def kind_of(record: Record) -> Kind:
    if isinstance(record, Note):
        return record.kind
    return "decision" if isinstance(record, Decision) else "event"


def body(record: Record, clock_synchronized: bool) -> bytes:
    """What was decided, as a JSON object without epoch, seq and delivery."""
    if isinstance(record, Note):
        fields = {"id": record.id, **record.fields, "decided_at": rfc3339(record.decided_wall_ns)}
    else:
        fields = _decision(record) if isinstance(record, Decision) else _event(record)
    fields["clock_synchronized"] = clock_synchronized
    return _json(fields)


def gap_body(lost: int, reason: str, first_seq: int | None, last_seq: int | None, noticed_wall_ns: int) -> bytes:
    """What a gap says: `lost` records will never come; with the seqs they had if they had got any."""
    fields = {"lost": lost, "first_seq": first_seq, "last_seq": last_seq, "cause": reason}
    return _json({**fields, "decided_at": rfc3339(noticed_wall_ns)})


def message(
    body: bytes,
    *,
    kind: str,
    station: str,
    epoch: str,
    seq: int,
    decided_late: bool,
    backfill: bool,
    age_ms: int | None,
) -> bytes:
    """A whole message: the head, then the stored body."""
    late, behind = _BOOLEAN[decided_late or backfill], _BOOLEAN[backfill]
    age = "null" if age_ms is None else age_ms
    head = f'{_origin(kind, station, epoch)}{seq},"late":{late},"backfill":{behind},"age_ms":{age},'
    return head.encode("ascii") + body[1:]


@lru_cache(maxsize=256)
def _origin(kind: str, station: str, epoch: str) -> str:
    """What the messages of a station begin with, up to the number."""
    origin = {"lineside": VERSION, "kind": kind, "station": station, "epoch": epoch, "seq": 0}
    return _encode(origin).removesuffix("0}")


def online(box: str, version: str, fields: Mapping[str, object]) -> bytes:
    """The retained status of a box that runs."""
    return _json({"lineside": VERSION, "kind": "status", "state": "online", "box": box, "version": version, **fields})


def offline(box: str, reason: str, fields: Mapping[str, object] | None = None) -> bytes:
    """The retained status of a box that stopped, and the last will of one that vanished."""
    head = {"lineside": VERSION, "kind": "status", "state": "offline", "box": box, "reason": reason}
    return _json({**head, **(fields or {})})


def reply(box: str, command: str, correlation: str, reason: str, result: Mapping[str, object]) -> bytes:
    """What became of a request or command: with a `reason` it was refused, or failed."""
    head = {"lineside": VERSION, "kind": "reply", "box": box, "command": command, "correlation": correlation}
    return _json({**head, "ok": not reason, "reason": reason, "result": result})


def health(
    box: str,
    version: str,
    at_wall_ns: int,
    clock_synchronized: bool,
    health_s: float,
    problems: Sequence[str],
    metrics: Mapping[str, float],
) -> bytes:
    """How a box is: what a person should look at, and every metric by its name with labels."""
    head = {"lineside": VERSION, "kind": "health", "box": box, "version": version, "at": rfc3339(at_wall_ns)}
    how = {"clock_synchronized": clock_synchronized, "health_s": health_s, "problems": list(problems)}
    return _json({**head, **how, "metrics": {name: _number(value, 9) for name, value in metrics.items()}})


def probe(box: str, at_wall_ns: int, name: str, padding: str = "") -> bytes:
    """What `lineside doctor` sends to see it come back; for nobody else."""
    head = {"lineside": VERSION, "kind": "doctor", "box": box, "at": rfc3339(at_wall_ns)}
    return _json({**head, "probe": name, "late": True, "padding": padding})


def _decision(record: Decision) -> dict[str, object]:
    return {
        "id": record.id,
        "part": {
            "id": record.part.id,
            "number": record.part.number,
            "serial": record.part.serial,
            "lot": record.part.lot,
            "product": record.part.product,
        },
        "verdict": record.verdict,
        "output": record.output,
        "cause": record.cause,
        "decided_late": record.late,
        "escalated": record.escalated,
        "revision": record.revision,
        "score": _number(record.score),
        "findings": [_finding(finding) for finding in record.findings],
        "model": _model(record.model),
        "backend": record.backend,
        "recipe": record.recipe,
        "captured_at": rfc3339(record.captured_wall_ns),
        "decided_at": rfc3339(record.decided_wall_ns),
        "latency_ms": _span_ms(record.captured_ns, record.decided_ns),
    }


def _event(record: Event) -> dict[str, object]:
    return {
        "id": record.id,
        "event_id": record.event_id,
        "phase": record.phase,
        "cause": record.cause,
        "count": int(record.count),
        "score": _number(record.score),
        "findings": [_finding(finding) for finding in record.findings],
        "model": _model(record.model),
        "backend": record.backend,
        "recipe": record.recipe,
        "started_at": rfc3339(record.started_wall_ns),
        "captured_at": rfc3339(record.captured_wall_ns),
        "decided_at": rfc3339(record.decided_wall_ns),
        "lasted_ms": _span_ms(record.started_ns, record.captured_ns),
        "latency_ms": _span_ms(record.captured_ns, record.decided_ns),
    }


def _finding(finding: Finding) -> dict[str, object]:
    box = None if finding.box is None else [_number(edge, 2) for edge in finding.box]
    return {
        "label": finding.label,
        "class_id": int(finding.class_id),
        "score": _number(finding.score),
        "box": box,
    }


def _model(model: ModelRef) -> dict[str, object]:
    return {"name": model.name, "version": model.version, "digest": model.digest}


def _number(value: float, digits: int = 6) -> float | None:
    """JSON has no NaN and no infinity: a score that is none becomes null."""
    return round(float(value), digits) if math.isfinite(value) else None


def _span_ms(start_ns: int, stop_ns: int) -> float:
    return round((stop_ns - start_ns) / 1e6, 3)


def _json(fields: Mapping[str, object]) -> bytes:
    return _encode(fields).encode("ascii")
