"""Reads a journal from its first row to its last and says where it contradicts its chain or its checkpoints.

Read-only, offline, in constant memory but for the checkpoints; beside a running daemon it sees one moment of the store.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lineside.deliver import aside, seals, witness
from lineside.deliver.report import Report
from lineside.deliver.seals import Pruning
from lineside.deliver.walk import Walk
from lineside.deliver.witness import Witness
from lineside.errors import ConfigError

_TABLES = ("run", "row", "pruned", "pruning", "checkpoint", "station", "noted", "delivered")


def verify(
    journal: Path, keys: Sequence[bytes], against: Iterable[str] | None = None, allow_unchained: bool = False
) -> Report:
    """Look at a whole store. `against`: lines of checkpoint messages that were kept outside the box.

    Raises ConfigError for a file that is no journal, or when there are checkpoints and no key to check them with.
    """
    lines = None if against is None else list(against)
    report = _report(journal, keys, lines, allow_unchained)
    if report is None:  # a daemon began to write under us
        report = _report(journal, keys, lines, allow_unchained)
    assert report is not None
    return report


def _report(
    journal: Path, keys: Sequence[bytes], against: Sequence[str] | None, allow_unchained: bool
) -> Report | None:
    """None when the file was opened as one that nobody writes, and then somebody did."""
    report = Report(str(journal))
    known = aside.read_known(journal)  # first: the store is then at least as new
    was_alone = not _log(journal).exists()
    connection = opened(journal)
    try:
        connection.execute("BEGIN")
        columns = {row[1] for row in connection.execute("PRAGMA table_info(row)")}
        if not {"id", "seq", "body"} <= columns:
            raise ConfigError(f"journal {journal}: holds no journal of lineside")
        _look_at_schema(connection, report)
        if "chain" in columns:
            _verify(connection, keys, against, known, allow_unchained, report)
        else:
            report.rows = report.unchained = connection.execute("SELECT count(*) FROM row").fetchone()[0]
            report.note("an older version of lineside wrote this store: it has no chain, and nothing of it is proved")
            for seen in witness.outside(against or (), keys, report):
                report.fault(f"{seen.name} speaks of a chain, and the store has none")
        for (line,) in connection.execute("PRAGMA integrity_check(10)"):
            if line != "ok":
                report.fault(f"the file is damaged: {line}")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of SQLite's own words
        report.fault(f"the file is damaged, and cannot be read to its end: {error}")
    finally:
        connection.close()
    return None if was_alone and _log(journal).exists() else report


def opened(journal: Path) -> sqlite3.Connection:
    """Read-only. Without a log beside it nobody writes the file, and SQLite is told so: it then leaves no file behind.

    Raises ConfigError.
    """
    if not journal.is_file():
        raise ConfigError(f"journal {journal}: no such file: name it with --journal")
    options = "mode=ro" if _log(journal).exists() else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"file:{quote(str(journal))}?{options}", uri=True, timeout=5.0, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of SQLite's own words
        connection.close()
        remedy = "is it a journal.db, and may you read it?"
        raise ConfigError(f"journal {journal}: cannot be read ({error}): {remedy}") from error
    return connection


def _log(journal: Path) -> Path:
    return journal.with_name(journal.name + "-wal")


def _look_at_schema(connection: sqlite3.Connection, report: Report) -> None:
    for kind, name in connection.execute("SELECT type, name FROM sqlite_master"):
        if kind in ("trigger", "view") or (name in _TABLES and kind != "table"):
            report.fault(f"the file holds a {kind} {name!r}, which lineside never makes")


def _verify(
    connection: sqlite3.Connection,
    keys: Sequence[bytes],
    against: Iterable[str] | None,
    known: Mapping[str, Any] | None,
    allow_unchained: bool,
    report: Report,
) -> None:
    (signed,) = connection.execute("SELECT count(*) FROM checkpoint").fetchone()
    if (signed or against is not None) and not keys:
        raise ConfigError("checkpoints cannot be checked without the box's public key: give it with --key")
    report.epochs = [epoch for (epoch,) in connection.execute("SELECT epoch FROM run GROUP BY epoch ORDER BY min(id)")]
    witnesses, newest = witness.stored(connection, keys, report)
    if witnesses:
        report.signed_row, report.signed_at = witnesses[-1].row, witnesses[-1].at
    by_number = {seen.number: seen for seen in witnesses}
    others = [*_beside(known, keys, report), *witness.outside(against or (), keys, report)]
    witnesses += _that_speak_of_it(connection, others, by_number, report)
    walk = Walk(connection, sorted(witnesses), allow_unchained, report)
    walk.run()
    _look_at_pruning(walk, newest, seals.pruning(connection), report)
    _look_at_seqs(connection, walk, report)
    _say_what_is_proved(report, against is not None)


def _beside(known: Mapping[str, Any] | None, keys: Sequence[bytes], report: Report) -> Iterator[Witness]:
    """The checkpoint of the side file."""
    document = known.get("checkpoint") if known else None
    if document is None or not keys:
        return
    read = witness.read(json.dumps(document))
    seen = read if isinstance(read, str) else witness.witness(read, keys, "the side file's checkpoint", "side file")
    if isinstance(seen, str):
        report.fault(f"the checkpoint in the side file (.epoch.json) {seen}")
    else:
        yield seen


def _that_speak_of_it(
    connection: sqlite3.Connection, others: Sequence[Witness], by_number: Mapping[int, Witness], report: Report
) -> Iterator[Witness]:
    """Those of this store's epochs; what contradicts the stored ones is a fault at once."""
    lost = {
        json.loads(previous).get("epoch")
        for (previous,) in connection.execute("SELECT DISTINCT previous FROM run WHERE previous IS NOT NULL")
        if isinstance(previous, str) and previous.startswith("{")
    }
    elsewhere: dict[str, Witness] = {}
    newest = max(by_number, default=0)
    for seen in others:
        if seen.epoch not in report.epochs:
            if seen.origin == "outside":
                elsewhere[seen.epoch] = max(seen, elsewhere.get(seen.epoch, seen))
            continue
        mine = by_number.get(seen.number)
        if mine is not None and mine.hash != seen.hash:
            report.fault(f"{seen.name} is another one than checkpoint {seen.number} of the store: one was forged")
        if mine is None and seen.number > newest:
            report.fault(f"{seen.name} ({seen.number}) is newer than any in the store: checkpoints were cut off")
        if seen.origin == "outside":
            report.outside += 1
            if report.outside_row is None or seen.row >= report.outside_row:
                report.outside_row, report.outside_at = seen.row, seen.at
        yield seen
    for epoch, seen in elsewhere.items():
        text = f"{seen.name} covers epoch {epoch} up to row {seen.row}, which is not in this store"
        if epoch in lost:
            report.note(f"{text}: the store says that it was lost; verify the file that was set aside (.corrupt-...)")
        else:
            report.fault(f"{text}, and no run says that it was lost: the store was replaced, or is another box's")


def _look_at_pruning(walk: Walk, newest: Mapping[str, Any] | None, noted: Pruning, report: Report) -> None:
    """The list of pruned rows is the one that the newest checkpoint signs, and that the next pruning goes on from."""
    report.pruned = walk.pruned
    if (noted.rows, noted.spans) != (walk.pruned, bytes(walk.spans) if walk.pruned else b""):
        report.fault(f"{walk.pruned} rows are listed as pruned, and {noted.rows} are noted: one of the two was changed")
    if newest is None:
        if walk.pruned:
            report.fault(f"{walk.pruned} rows are listed as pruned, and no checkpoint signs that")
        return
    pruned = newest["pruned"]
    if (noted.undelivered, noted.through) != (pruned["undelivered"], pruned["through"]):
        report.fault(f"what is noted of pruned rows is not what checkpoint {newest['number']} signs")
    report.pruned_undelivered = pruned["undelivered"]
    if (pruned["rows"], pruned["spans"]) != (walk.pruned, walk.spans.digest()):
        report.fault(
            f"{walk.pruned} rows are listed as pruned, but checkpoint {newest['number']} signs another list, of "
            f"{pruned['rows']} rows: rows were removed or put back"
        )


def _look_at_seqs(connection: sqlite3.Connection, walk: Walk, report: Report) -> None:
    """The numbers that the next start would go on from."""
    noted = dict(connection.execute("SELECT name, last_seq FROM station"))
    for station, (seq, _) in walk.last_seq.items():
        last = noted.get(str(station))
        if isinstance(seq, int) and last is not None and (not isinstance(last, int) or last > seq):
            report.fault(f"station {station!r}: seq {last!r} is noted as used, but the newest row has {seq}")


def _say_what_is_proved(report: Report, has_outside: bool) -> None:
    if report.signed_row is None:
        report.note("no checkpoint was signed yet: whoever can write the file could have rewritten all of it")
    elif report.last_row is not None and report.last_row > report.signed_row:
        report.note(
            f"rows {report.signed_row + 1} to {report.last_row} came after the newest checkpoint: their chain is "
            "whole, but rows could have been cut off behind them, or rewritten"
        )
    if not has_outside:
        report.note(
            "no checkpoints from outside were given (--against): that the end of the store was cut off together with "
            "its checkpoints, or that somebody with the device key rewrote it, would not show"
        )
    elif report.outside_row is None:
        report.note("none of the checkpoints from outside speaks of this store: they prove nothing of it")
    elif report.is_clean:
        report.note(
            f"the checkpoints from outside prove that rows up to {report.outside_row} are what they were at "
            f"{report.outside_at}, even against somebody with the device key; of later rows they know nothing"
        )
