"""One pass over a journal: each run, row and span of pruned rows in turn, held against the chain's value before it."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from lineside.deliver import chain
from lineside.deliver.report import Report
from lineside.deliver.tables import RUN
from lineside.deliver.witness import Witness

_ROWS = "SELECT id, run, station, seq, kind, late, keep, made_ns, made_wall_ns, body, chain FROM row ORDER BY id"
_UNFIT = (struct.error, TypeError, AttributeError, ValueError)  # what a row that is none raises when it is hashed


class Walk:
    """Takes entries up in the order in which the chain did, and meets the checkpoints on its way (`witnesses`, sorted).

    After a fault it goes on from the value that is written there, so that one edit is one fault.
    """

    def __init__(
        self, connection: sqlite3.Connection, witnesses: Sequence[Witness], allow_unchained: bool, report: Report
    ) -> None:
        self._connection, self._report, self._allow_unchained = connection, report, allow_unchained
        self._witnesses = iter(witnesses)
        self._next = next(self._witnesses, None)
        self._chain: bytes | None = None  # None: it cannot be known here
        self._begun = False  # an entry with a place in the chain was seen
        self._at = self._run = 0  # the row that was last, the run that it is in
        self._unchained_runs: set[int] = set()
        self._unchained: list[int] = []  # first and last of the present stretch of rows without a chain
        self._holes = 0  # stretches of missing rows so far
        self._was_clean: tuple[int, object] | None = None  # the run before, and whether it says that it ended clean
        self._epoch: object = None
        self.last_seq: dict[object, tuple[object, int]] = {}  # station of the newest epoch -> (seq, holes before it)
        self.spans, self.pruned = chain.SpanSet(), 0

    def run(self) -> None:
        runs = self._runs()
        spans = iter(self._connection.execute("SELECT first, last, run, before, chain FROM pruned ORDER BY first"))
        begins, span = next(runs, None), next(spans, None)
        for row in self._connection.execute(_ROWS):
            while (span is not None and span[0] <= row[0]) or (begins is not None and begins["after_row"] < row[0]):
                if span is None or (begins is not None and begins["after_row"] < span[0]):
                    assert begins is not None
                    self._take_run(begins)
                    begins = next(runs, None)
                else:
                    self._take_span(*span)
                    span = next(spans, None)
            self._take_row(*row)
        while span is not None or begins is not None:
            if span is None or (begins is not None and begins["after_row"] < span[0]):
                assert begins is not None
                self._take_run(begins)
                begins = next(runs, None)
            else:
                self._take_span(*span)
                span = next(spans, None)
        self._end_unchained()
        while (seen := self._next) is not None:
            self._report.fault(
                f"the store ends at row {self._at} of run {self._run}, but {seen.name} of {seen.at} covers row "
                f"{seen.row} of run {seen.run}: its end was cut off"
            )
            self._next = next(self._witnesses, None)

    def _runs(self) -> Iterator[dict[str, Any]]:
        """Runs that have a place in the chain."""
        columns = (*RUN, "clean", "chain")
        last = -1
        for values in self._connection.execute(f"SELECT {', '.join(columns)} FROM run ORDER BY id"):
            run = dict(zip(columns, values, strict=True))
            self._report.runs += 1
            after = run["after_row"]
            if run["chain"] is None:
                self._unchained_runs.add(run["id"])
                self._was_clean = None
            elif not isinstance(after, int) or after < last:
                self._report.fault(f"run {run['id']} says that it began after row {after!r}, which cannot be")
            else:
                last = after
                yield run

    def _take_run(self, run: dict[str, Any]) -> None:
        value, is_clean = run.pop("chain"), run.pop("clean")
        number = run["id"]
        self._end_unchained()
        self._reach(run["after_row"], f"before run {number}")
        before = self._chain
        if run["breaks"] is not None or not self._begun:
            before = chain.genesis(str(run["epoch"]))
            self._look_at_break(run)
        if before is not None and _hash_of_run(before, run) != value:
            self._report.fault(f"run {number}, begun after row {self._at}, was changed, or the chain before it was")
        if self._was_clean is not None and run["was_clean"] != self._was_clean[1]:
            self._report.fault(f"run {self._was_clean[0]}: whether it ended clean was changed")
        if run["epoch"] != self._epoch:
            self._epoch, self.last_seq = run["epoch"], {}
        self._was_clean = (number, is_clean)
        self._chain, self._run, self._begun = value if isinstance(value, bytes) else None, number, True
        self._meet()

    def _look_at_break(self, run: dict[str, Any]) -> None:
        """What an older version wrote is declared by the first run after it."""
        if run["breaks"] is not None:
            self._report.note(f"run {run['id']} begins the chain anew after an older version ran: {run['breaks']}")
        elif self._at or self._unchained_runs:
            self._report.fault(f"run {run['id']} begins the chain anew and does not say why")

    def _take_span(self, first: object, last: object, run: object, before: object, value: object) -> None:
        if not (isinstance(before, bytes | None) and isinstance(value, bytes | None)):
            self._report.fault(f"the list of pruned rows has no hash for {first!r} to {last!r}")
            return
        if not (isinstance(first, int) and isinstance(last, int) and last >= first):
            self._report.fault(f"the list of pruned rows holds {first!r} to {last!r}, which is no span")
            return
        if first <= self._at:
            self._report.fault(f"rows {first} to {last} are listed as pruned, but some of them are there")
            return
        self._reach(first - 1, f"before the pruned rows {first} to {last}")
        self._end_unchained()
        if before is not None and self._chain is not None and before != self._chain:
            self._report.fault(f"what stands before the pruned rows {first} to {last} was changed")
        self.spans.add(first, last, before, value)
        self.pruned += last - first + 1
        if value is not None and run != self._run:
            self._report.fault(f"the pruned rows {first} to {last} are listed for run {run!r}, and are in {self._run}")
        self._holes += 1
        self._at, self._chain = last, value
        self._meet()

    def _take_row(
        self,
        row_id: int,
        run: int,
        station: str,
        seq: int,
        kind: str,
        late: int,
        keep: int,
        made_ns: int,
        made_wall_ns: int,
        body: bytes,
        value: bytes | None,
    ) -> None:
        report = self._report
        if report.first_row is None:
            report.first_row = row_id
        report.rows, report.last_row = report.rows + 1, row_id
        if row_id != self._at + 1:
            if row_id <= self._at:
                report.fault(f"row {row_id} is there, although it is listed as pruned")
                return
            self._reach(row_id - 1, f"before row {row_id}")
        self._at = row_id
        if value is None:
            self._take_unchained(row_id, run)
            self.last_seq[station] = (seq, self._holes)
            return
        if self._unchained:
            self._end_unchained()
        before, self._chain = self._chain, value if isinstance(value, bytes) else None
        if before is not None:
            fields = (row_id, run, station, seq, kind, late, keep, made_ns, made_wall_ns, body)
            if _hash_of_row(before, fields) != value or run != self._run:
                report.fault(f"row {row_id} (station {station!r}, seq {seq}) was changed, moved or put in")
        last = self.last_seq.get(station)
        if last is not None and not _may_follow(seq, last[0], self._holes > last[1]):
            report.fault(f"row {row_id}: station {station!r} goes from seq {last[0]} to {seq}")
        self.last_seq[station] = (seq, self._holes)
        if self._next is not None and self._next.row <= row_id:
            self._meet()

    def _take_unchained(self, row_id: int, run: int) -> None:
        if run not in self._unchained_runs:
            self._report.fault(f"row {row_id} has lost its place in the chain")
        self._report.unchained += 1
        self._unchained = [self._unchained[0] if self._unchained else row_id, row_id]
        self._chain = None

    def _end_unchained(self) -> None:
        if not self._unchained:
            return
        first, last = self._unchained
        self._unchained = []
        text = f"rows {first} to {last} have no place in the chain, as an older version of lineside writes them"
        if self._begun and not self._allow_unchained:
            remedy = "if an older version ran here, say so with --allow-unchained"
            self._report.fault(f"{text}, but rows before them have one: {remedy}")
        else:
            self._report.note(f"{text}: nothing of them is proved")

    def _reach(self, row_id: int, where: str) -> None:
        """Every id up to this one must have been seen."""
        if self._at >= row_id:
            if self._at > row_id:
                self._report.fault(f"{where}: row {self._at} is out of its order")
            return
        text = f"rows {self._at + 1} to {row_id} are gone ({where})"
        if not self._begun or (self._allow_unchained and self._unchained_runs):
            self._report.note(f"{text}: an older version of lineside pruned them, or somebody removed them")
        else:
            self._report.fault(f"{text} and are not in the list of pruned rows")
        self._holes += 1
        self._at, self._chain = row_id, None

    def _meet(self) -> None:
        """Compare the chain with every checkpoint that was signed here."""
        while (seen := self._next) is not None and (seen.row, seen.run) <= (self._at, self._run):
            if (seen.row, seen.run) == (self._at, self._run) and self._chain not in (None, seen.chain):
                self._report.fault(
                    f"the chain at row {seen.row} is not the one that {seen.name} of {seen.at} signs: "
                    "rows up to there were rewritten"
                )
            self._next = next(self._witnesses, None)


def _hash_of_row(before: bytes, fields: tuple[Any, ...]) -> bytes | None:
    try:
        return chain.after_row(before, *fields)
    except _UNFIT:
        return None


def _hash_of_run(before: bytes, run: dict[str, Any]) -> bytes | None:
    try:
        return chain.after_run(before, run)
    except _UNFIT:
        return None


def _may_follow(seq: object, last: object, has_hole: bool) -> bool:
    """Whether a station's seq may come after another; rows that are gone may have had those between."""
    if not (isinstance(seq, int) and isinstance(last, int)):
        return False
    return seq > last if has_hole else seq == last + 1
