"""Answers requests for messages again, from the journal: one more cursor over it, that never asks for a row to be kept.

A request is bounded by what is there, by ROWS_MAX rows and RUNS_MAX missing runs; the answer says where to go on.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lineside.deliver import messages
from lineside.deliver.cursor import age_ms
from lineside.deliver.journal import Journal
from lineside.deliver.said import Outgoing
from lineside.deliver.tables import Row, ended_epochs, next_seq, read_seqs, reader
from lineside.errors import DeviceError

SLICE = 64  # rows that are read at a time
ROWS_MAX = 10_000  # in one answer
RUNS_MAX = 100  # missing runs in one answer
SPAN = 1024  # seqs that one look into the journal covers
SEQ_MAX = 2**53 - 1
FIELDS = ("station", "epoch", "from", "to")


class Refused(Exception):
    """A request or command that is not carried out; the words go into the reply and into the audit."""


class Address(NamedTuple):
    """Where an answer goes, and by what the asker knows it."""

    topic: str
    correlation: str = ""  # in the payload
    data: bytes | None = None  # as MQTT 5's correlation data


@dataclass
class _Request:
    """seqs `at`..`last` still have to be looked at; `known` is the last that was ever written."""

    station: str
    epoch: str
    first: int
    last: int
    address: Address
    at: int
    known: int | None = None
    why: str = "not written"  # of what is above `known`
    count: int = 0
    missing: list[dict[str, object]] = field(default_factory=list)


class Resends:
    """Makes answers out of the journal. The iterators run in the sink's thread, which decides when there is room."""

    def __init__(self, journal: Journal, box: str) -> None:
        self._journal = journal
        self._box = box
        self.counts: Counter[str] = Counter()

    def answer(self, args: Mapping[str, object], address: Address) -> Iterator[Outgoing]:
        """The messages that {station, epoch, from, to} asks for, then the reply. Raises Refused at once."""
        return self._answer(_request(args, address))

    def _answer(self, request: _Request) -> Iterator[Outgoing]:
        self.counts["requests"] += 1
        try:
            while request.at <= request.last and request.count < ROWS_MAX and len(request.missing) < RUNS_MAX:
                for row in self._slice(request):
                    yield self._again(row, request.address)
                    self.counts["resent"] += 1
        except DeviceError as error:
            yield reply(self._box, "resend", request.address, reason=str(error))
            return
        yield self._reply(request)

    def _slice(self, request: _Request) -> list[Row]:
        """The next rows. Opened for each slice: an answer may be dropped at any point. Raises DeviceError."""
        generation = self._journal.generation
        try:
            with closing(reader(self._journal.path)) as connection:
                if request.known is None:
                    self._look_up(request, connection)
                return _next(request, connection, min(SLICE, ROWS_MAX - request.count))
        except sqlite3.Error as error:
            self._journal.reading_failed(error, generation)
            raise DeviceError(f"{self._journal.path}: cannot be read ({error})") from error

    def _look_up(self, request: _Request, connection: sqlite3.Connection) -> None:
        """How far the epoch came, by what the store says of it."""
        if request.epoch == self._journal.epoch:
            request.known = self._journal.last_seq().get(request.station, 0)
            return
        ended, is_here = ended_epochs(connection, request.epoch)
        if is_here:
            request.known = ended.get(request.station, 0)
        else:
            request.known, request.why = 0, "epoch lost" if ended else "unknown epoch"

    def _again(self, row: Row, address: Address) -> Outgoing:
        payload = messages.message(
            row.body,
            kind=row.kind,
            station=row.station,
            epoch=row.epoch,
            seq=row.seq,
            decided_late=row.late,
            backfill=True,
            age_ms=age_ms(self._journal, row),
        )
        return Outgoing(address.topic, payload, correlation=address.data)

    def _reply(self, request: _Request) -> Outgoing:
        result = {
            "station": request.station,
            "epoch": request.epoch,
            "from": request.first,
            "to": request.at - 1,
            "count": request.count,
            "missing": request.missing,
            "next": request.at if request.at <= request.last else None,
        }
        return reply(self._box, "resend", request.address, result=result)


def reply(
    box: str, command: str, address: Address, *, reason: str = "", result: Mapping[str, object] | None = None
) -> Outgoing:
    """The end of an answer; with a `reason` it is a refusal."""
    payload = messages.reply(box, command, address.correlation, reason, result or {})
    return Outgoing(address.topic, payload, correlation=address.data)


def parsed(payload: bytes, limit_bytes: int) -> dict[str, Any]:
    """The JSON object of a request. Raises Refused."""
    if len(payload) > limit_bytes:
        raise Refused(f"oversized: {len(payload)} bytes; at most {limit_bytes} are read")
    try:
        request = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Refused(f"malformed: not JSON ({error})") from error
    if not isinstance(request, dict):
        raise Refused("malformed: not a JSON object")
    return request


def _next(request: _Request, connection: sqlite3.Connection, limit: int) -> list[Row]:
    """The next rows, and into `request` what is not there between them."""
    assert request.known is not None
    stop = min(request.last, request.known)
    rows: list[Row] = []
    if request.at <= stop and limit > 0:
        there = next_seq(connection, request.station, request.at)
        start = min(there or stop + 1, stop + 1)
        _is_missing(request, start - 1, "pruned")
        last = min(stop, start + SPAN - 1)
        rows = read_seqs(connection, request.station, request.epoch, start, last, limit)
        for row in rows:
            _is_missing(request, row.seq - 1, "pruned")
            if len(request.missing) >= RUNS_MAX:
                return rows[: rows.index(row)]
            request.at = row.seq + 1
            request.count += 1
        if len(rows) < limit:
            _is_missing(request, last, "pruned")
    if request.at > stop and request.at <= request.last:
        _is_missing(request, request.last, request.why)
    return rows


def _is_missing(request: _Request, last: int, reason: str) -> None:
    """request.at..last is not there."""
    if last < request.at:
        return
    before = request.missing[-1] if request.missing else {}
    if before.get("last_seq") == request.at - 1 and before["reason"] == reason:
        before["last_seq"] = last
    else:
        request.missing.append({"first_seq": request.at, "last_seq": last, "reason": reason})
    request.at = last + 1


def _request(args: Mapping[str, object], address: Address) -> _Request:
    station, epoch, first, last = (args.get(name) for name in FIELDS)
    for name, value in (("station", station), ("epoch", epoch)):
        if not isinstance(value, str) or not 0 < len(value) <= 128:
            raise Refused(f"malformed: {name} must be a text of 1 to 128 characters")
    for name, value in (("from", first), ("to", last)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= SEQ_MAX:
            raise Refused(f"malformed: {name} must be a whole number, 1 to 2^53 - 1")
    assert isinstance(first, int)
    assert isinstance(last, int)
    if last < first:
        raise Refused("malformed: to must not be below from")
    return _Request(str(station), str(epoch), first, last, address, at=first)
