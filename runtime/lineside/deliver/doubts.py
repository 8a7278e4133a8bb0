"""Parts that a run left open are told as `in_doubt` at the next start, each once, before anything new is decided.

Which are open stands in the files of openparts.py. A part that the journal has a decision or an `in_doubt` of is
settled: the run was killed after a commit and before the mark was cleared, or a start while it told of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lineside.contracts import Clock, Status
from lineside.deliver.journal import Journal
from lineside.deliver.openparts import SUFFIX, Left, OpenParts, Origin, doubt_note, in_doubt, read
from lineside.deliver.tables import reader
from lineside.records import Note

_log = logging.getLogger(__name__)

_ROUND_S = 1.0  # how old the marks on the disk are at most, if the power is cut
_OPEN_S = 2.0  # how long a start waits for the journal's store, to look decisions up in
_SLACK_NS = 60_000_000_000  # a row may be this much older than one before it: stations share the journal
_ABOUT = re.compile(rb'"part":\{"id":"([^"\\]*)"')  # of a decision, in the bytes of its message
_ID = re.compile(rb'^\{"id":"([^"\\]*)"')


class Doubts:
    """Gives every station its OpenParts, and settles what earlier runs left. A thread of its own syncs and retries.

    Nothing here stops a line: what the disk refuses is said, counted and tried again.
    """

    def __init__(self, journal: Journal, clock: Clock, durable: bool = True) -> None:
        self._journal = journal
        self._clock = clock
        self._durable = durable
        self._folder = journal.path.with_name(journal.path.name + ".open")
        self._boot = journal.boot
        started = datetime.fromtimestamp(max(clock.wall_ns(), 0) // 10**9, UTC)
        self.run = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self._books: list[OpenParts] = []
        self._left: list[Path] = []  # files that are still to be settled
        self._counts: Counter[str] = Counter()
        self._set_aside: list[str] = []
        self._error = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="open-parts", daemon=True)

    def settle(self) -> None:
        """Put an `in_doubt` of each part that earlier runs left open, as far as the disk lets read them."""
        with self._said(self._folder):
            self._left = sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder.is_dir() else []
            for unborn in self._folder.glob("*.new"):  # of a start that was killed
                unborn.unlink(missing_ok=True)
        if self._left:
            self._settle_left(_OPEN_S)

    def open_parts(self, station: str, camera: str) -> OpenParts:
        """The marks of a station that makes parts."""
        book = OpenParts(Origin(station, self.run, camera, self._boot))
        with self._said(self._folder):
            book.keep(self._folder)
        self._books.append(book)
        return book

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 0.5) -> None:
        """After the journal's: leave what is still open to the next start, and nothing where all is settled."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        for book in self._books:
            with self._said(self._folder):
                book.leave()

    def status(self) -> Status:
        return {
            "run": self.run,
            "told_in_doubt": self._counts["told"],  # of earlier runs
            "settled": self._counts["settled"],  # left marked, but the journal has them
            "unknown": self._counts["unknown"],  # marks that could not be read, or parts that had found no slot
            "unsettled_files": len(self._left),
            "set_aside": list(self._set_aside),
            "failures": self._counts["failures"],
            "last_error": self._error,
        }

    # --- the thread

    def _work(self) -> None:
        while not self._stopping.wait(_ROUND_S):
            if self._left:
                self._settle_left(0.0)
            for book in self._books:
                with self._said(self._folder):
                    if not book.is_kept:
                        book.keep(self._folder)
                    elif self._durable:
                        book.sync()

    def _settle_left(self, wait_s: float) -> None:
        if not self._journal.flush(wait_s or 0.01):
            self._fault("the journal is not open: parts in doubt are told once it is")
            return
        for path in list(self._left):
            with self._said(path):
                self._settle_one(path)
                self._left.remove(path)

    def _settle_one(self, path: Path) -> None:
        """Raises OSError or sqlite3.Error; then nothing was put."""
        lock = _locked(path)
        if lock is None:
            return  # of a daemon that runs
        left = read(path)
        notes = list(self._notes(left, path))
        told = settled(self._journal, left, {note.id for note in notes})
        new = [note for note in notes if note.id not in told]
        self._counts["settled"] += len(notes) - len(new)
        self._counts["told"] += len(new)
        self._counts["unknown"] += left.unknown or 0
        if left.fault:
            _log.error("%s: %s; it is set aside", path, left.fault)
        if new:
            _log.warning("station %s: %d parts of run %s are in doubt", left.origin.station, len(new), left.origin.run)
        waiting = len(new)

        def committed() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting <= 0:  # not before: a start that is killed here must find the marks again
                with self._said(path):
                    self._put_away(path, left)
                os.close(lock)

        for note in new:
            self._journal.put(note, committed)
        if not new:
            committed()

    def _put_away(self, path: Path, left: Left) -> None:
        if not left.fault:
            path.unlink(missing_ok=True)
            return
        moved = path.with_suffix(".damaged")
        os.replace(path, moved)
        self._set_aside.append(str(moved))

    def _notes(self, left: Left, path: Path) -> Iterable[Note]:
        origin = left.origin
        restarted = "" if origin.boot in (None, self._boot) else ", and the box restarted,"
        cause = f"the daemon ended{restarted} before it was decided"
        for mark in left.marks:
            yield in_doubt(origin, mark, cause, self._clock)
        if left.unknown != 0:
            cause = "more parts were open than could be marked when the daemon ended"
            if left.fault:
                cause = f"the file of open parts was damaged ({left.fault}), see {path.with_suffix('.damaged')}"
            name = f"in-doubt-{origin.station}-{origin.run}"
            yield doubt_note(origin, name, None, left.unknown, None, cause, self._clock)

    def _said(self, path: Path) -> _Said:
        return _Said(self, path)

    def _fault(self, text: str) -> None:
        self._counts["failures"] += 1
        if text != self._error:
            _log.error("%s", text)
        self._error = text


@dataclass(frozen=True, slots=True)
class _Said:
    """What the disk refuses is said and counted, and the line goes on."""

    doubts: Doubts
    path: Path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError | sqlite3.Error):
            self.doubts._fault(f"{self.path}: {error}; free or repair the disk, it is tried again")
            return True
        return False


def settled(journal: Journal, left: Left, note_ids: Collection[str]) -> set[str]:
    """Those ids of `in_doubt` notes that need not be told: they are committed, or their part's decision is.

    Looks from the newest row back to where the first of the parts was opened. Raises sqlite3.Error.
    """
    missing, found = set(note_ids), set[str]()
    oldest_ns = min((mark.opened_ns for mark in left.marks), default=0) - _SLACK_NS
    query = """
        SELECT row.run, boot, made_ns, kind, substr(body, 1, 400) FROM row JOIN run ON run.id = row.run
        WHERE station = ? AND kind IN ('decision', 'in_doubt') ORDER BY row.id DESC"""
    with contextlib.closing(reader(journal.path)) as connection:
        (first_run,) = connection.execute("SELECT min(id) FROM run WHERE boot = ?", (left.origin.boot,)).fetchone()
        for run, boot, made_ns, kind, body in connection.execute(query, (left.origin.station,)):
            if not missing or run < (first_run or 0) or (boot == left.origin.boot and made_ns < oldest_ns):
                break
            about = (_ID if kind == "in_doubt" else _ABOUT).search(body)
            if about is None:
                continue
            note_id = about[1].decode() if kind == "in_doubt" else f"in-doubt-{about[1].decode()}"
            if note_id in missing:
                missing.remove(note_id)
                found.add(note_id)
    return found


def _locked(path: Path) -> int | None:
    """The open file, locked; None if a running daemon holds it. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    return file
