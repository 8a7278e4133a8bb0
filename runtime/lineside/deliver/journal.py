"""The append-only store between the pipeline and everything that leaves the box. The frame path ends at `put`.

One thread writes: it encodes what was put, gives every record its seq and commits whatever has gathered as one
transaction, so the disk sets the size of the groups. While the disk refuses, records wait in memory and nothing is
lost. A second thread checkpoints the log, so that no commit waits for it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from lineside.contracts import Beat, Clock, Committed, Status
from lineside.deliver import aside
from lineside.deliver.checkpoint import Checkpointer
from lineside.deliver.cursor import Cursor
from lineside.deliver.drafts import Drafts, Mark
from lineside.deliver.ledger import Ledger, document_hash
from lineside.deliver.prune import Pruner, remove
from lineside.deliver.recent import Recent
from lineside.deliver.tables import Row, Store
from lineside.metrics import Latency
from lineside.records import Record

BATCH = 256  # records in one transaction at most
LAZY_S = 0.25  # what was delivered is written with the next records, or after this time without any
RETRY_MAX_S = 5.0
SIGN_S = 0.5  # a stop waits so long for the device key
_COUNTS = ("commits", "failures", "pruned", "pruned_undelivered", "bytes")

log = logging.getLogger(__name__)


class Journal:
    """Every decision and event, numbered and on disk, for sinks that read it through a Cursor each.

    `durable` fsyncs every commit. `put` may be called from any thread, before `start` too.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        durable: bool = True,
        cap_bytes: int = 1 << 30,
        waiting_max: int = 200_000,
        linger_s: float = 0.0,
        boot: str | None = None,
        ledger: Ledger | None = None,
        beat: Beat = lambda: None,
    ) -> None:
        self.path = path
        self.clock = clock
        self.boot = boot or aside.boot_id()
        self.generation = 0  # counts the stores that were opened or replaced; 0 before the first
        self.last_id = 0  # of the newest committed row
        self._durable = durable
        self._cap_bytes = cap_bytes
        self._waiting_max = waiting_max  # records in memory; about 1 KB each
        self._linger_s = linger_s  # a commit waits so long for more records: for work on which nobody waits
        self._hurry = threading.Event()  # somebody waits after all
        self._beat = beat
        self._inbox: SimpleQueue[tuple[Record, Committed | None] | Mark | None] = SimpleQueue()
        self.commit_times = Latency()
        self._drafts = Drafts(clock)
        self._waiting = self._drafts.waiting  # encoded, not yet committed
        self._marks: list[tuple[int, Mark]] = []  # (taken from the inbox when it came, mark)
        self._taken = self._committed = 0
        self._store: Store | None = None
        self._cursors: tuple[Cursor, ...] = ()
        self._recent = Recent()
        self._lock = threading.Lock()  # _cursors
        self._counts: Counter[str] = Counter()
        self._error = ""
        self._is_new_store = True  # the next store that opens is not the one that readers know
        self._over_cap = False
        self._broken: int | None = None  # the generation in which a reader met a corrupt page
        self._set_aside: list[str] = []
        self._retry_s, self._retry_at = 0.1, 0.0
        self._acked_at = self._pruned_at = time.monotonic()
        self._ledger = ledger
        self._pruner = Pruner()
        self._stop_at: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._checkpointer = Checkpointer(path)

    # --- for the pipeline and the daemon

    def start(self) -> None:
        """Start writing. Never raises: a disk that refuses is in `status()` and tried again."""
        self._thread.start()
        self._checkpointer.start()
        if self._ledger is not None:
            self._ledger.start()

    def put(self, record: Record, committed: Committed | None = None) -> None:
        """As RecordStore.put. Past `waiting_max` a record is lost: counted, told by a gap record, never `committed`."""
        if self._inbox.qsize() + len(self._waiting) >= self._waiting_max:
            self._drafts.lose(record.station, "too many records waited for the disk")
            return
        self._inbox.put((record, committed))

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was put before is committed; False when that took longer."""
        return self._reach(Mark(sealed=False), timeout_s)

    def seal(self, timeout_s: float) -> bool:
        """As `flush`, and sign a checkpoint of it, so that the sinks can still publish that before they stop."""
        return self._reach(Mark(sealed=True), timeout_s)

    def _reach(self, mark: Mark, timeout_s: float) -> bool:
        self._inbox.put(mark)
        self._hurry.set()
        return mark.done.wait(timeout_s)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Commit what waits, then close. Stop the sinks first: what they deliver is written here."""
        self._stop_at = time.monotonic() + timeout_s
        self._inbox.put(None)
        self._hurry.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s + 0.5)
        self._checkpointer.stop()
        if self._ledger is not None:
            self._ledger.stop()

    def cursor(self, sink: str, wake: Callable[[], None] = lambda: None) -> Cursor:
        """Register a sink. Rows are kept for it until it has delivered them (or the cap is reached)."""
        cursor = Cursor(self, sink, wake)
        with self._lock:
            self._cursors = (*self._cursors, cursor)
        return cursor

    @property
    def epoch(self) -> str | None:
        """The name of this store's life; None until the store is open."""
        return store.epoch if (store := self._store) else None

    def last_seq(self) -> dict[str, int]:
        """Per station, the newest committed seq of this epoch."""
        return dict(store.last_seq) if (store := self._store) else {}

    def previous(self) -> dict[str, object] | None:
        """The epoch before this one and its last known seqs, where a store was lost."""
        return store.previous if (store := self._store) else None

    def documents(self) -> dict[str, bytes]:
        """What a sink keeps published (retained) beside the rows, by name; published again when it changes."""
        return self._ledger.documents() if self._ledger else {}

    def status(self) -> Status:
        store = self._store
        return {
            "state": "refusing" if self._error else "ok" if store else "opening",
            "last_error": self._error,
            "path": str(self.path),
            "durable": self._durable,
            "epoch": self.epoch,
            "previous": self.previous(),
            "last_seq": self.last_seq(),
            "waiting": self._inbox.qsize() + len(self._waiting),
            "committed": self._committed,
            "set_aside": list(self._set_aside),
            "pending": {cursor.sink: cursor.pending() for cursor in self._cursors},
            **{name: self._counts[name] for name in _COUNTS},
            "lost": self._drafts.lost_total,
            "ledger": dict(self._ledger.status()) if self._ledger else None,
            "checkpoint_failures": self._checkpointer.failures,
        }

    # --- for cursors

    def recent(self, first: int, last: int, limit: int) -> list[Row] | None:
        """Rows from memory; None if `first` is older than what is kept there."""
        return self._recent.rows(first, last, limit)

    def reading_failed(self, error: sqlite3.Error, generation: int) -> None:
        """A reader met an error; a corrupt store is set aside by the writer."""
        if aside.is_corrupt(error):
            self._broken = generation

    # --- the writer's thread

    def _write(self) -> None:
        while not self._done():
            self._beat()
            self._gather()
            if time.monotonic() < self._retry_at:
                continue
            try:
                self._work()
                if self._error:
                    log.warning("journal %s: works again", self.path)
                self._error, self._retry_s = "", 0.1
            except (sqlite3.Error, OSError) as error:
                self._refused(error)
        self._close()

    def _done(self) -> bool:
        if self._stop_at is None or not self._stopping:
            return False
        return not (self._waiting or self._drafts.has_lost or self._marks) or time.monotonic() > self._stop_at

    def _gather(self) -> None:
        """Take what was put: the first after waiting for it, then what else is there."""
        try:
            self._take(self._inbox.get(timeout=self._patience_s()))
            if self._linger_s:
                self._hurry.wait(self._linger_s)
                self._hurry.clear()
            for _ in range(min(BATCH, self._inbox.qsize())):
                self._take(self._inbox.get_nowait())
        except Empty:
            pass

    def _patience_s(self) -> float:
        retry_s = self._retry_at - time.monotonic()
        if retry_s > 0:
            return min(retry_s, 0.25)
        if self._store is None or self._waiting or self._stopping or self._over_cap:
            return 0.001
        return LAZY_S if any(cursor.has_changes() for cursor in self._cursors) else 1.0

    def _take(self, item: tuple[Record, Committed | None] | Mark | None) -> None:
        if item is None:
            self._stopping = True
        elif isinstance(item, Mark):
            self._marks.append((self._taken, item))
        else:
            self._taken += 1
            self._committed += not self._drafts.add(*item)

    def _work(self) -> None:
        """Everything that touches the disk. Raises sqlite3.Error or OSError."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            if broken == self.generation and self._store is not None:
                corrupt = sqlite3.DatabaseError("a reader met a corrupt page")
                corrupt.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise corrupt
        store = self._store or self._open()
        now = time.monotonic()
        if self._waiting or self._drafts.has_lost or (now - self._acked_at >= LAZY_S):
            self._commit(store)
            self._acked_at = now
        if now - self._pruned_at >= 1.0 or self._over_cap:
            self._keep_house(store)
            self._pruned_at = now
        self._tell_marks(store)

    def _seal(self, store: Store) -> None:
        if self._ledger is not None:
            self._ledger.seal_now(store, SIGN_S)
            self._remember(store)

    def _remember(self, store: Store, at_most_every_s: float = 0.0) -> None:
        """Outside the store, for the day on which it is lost."""
        known = self._ledger.known() if self._ledger else None
        aside.write_known(self.path, store.epoch, store.last_seq, known, at_most_every_s)

    def _open(self) -> Store:
        known = aside.read_known(self.path)
        signed = known.get("checkpoint") if known else None
        if known and isinstance(signed, dict):
            known = {**known, "checkpoint": document_hash(signed)}
        store = Store(self.path, self.boot, self.clock.wall_ns(), self._durable, known)
        if not self._is_new_store and store.last_id > self.last_id:  # a commit that seemed to fail is there after all
            rows = store.rows(self.last_id + 1, store.last_id)
            self._drafts.settle(len(rows))
            self._announce(rows)
        self.last_id = store.last_id
        self._store = store
        self.generation += self._is_new_store
        self._is_new_store = False
        self._pruner = Pruner()
        if self._ledger is not None:
            self._ledger.opened(store, signed if isinstance(signed, dict) else None)
        self._remember(store)
        self._checkpointer.opened()
        for cursor in self._cursors:
            cursor.wake()
        return store

    def _commit(self, store: Store) -> None:
        gaps = self._drafts.gaps()
        drafts = [*gaps, *(self._waiting[index] for index in range(min(BATCH, len(self._waiting))))]
        generation = self.generation
        changes = {cursor: cursor.take_changes(generation) for cursor in self._cursors}
        if not drafts and not any(changes.values()):
            return
        try:
            with self.commit_times.timing():
                rows = store.commit(drafts, {cursor.sink: changed for cursor, changed in changes.items()})
        except sqlite3.Error:
            for cursor, changed in changes.items():
                cursor.restore(changed, generation)
            for gap in gaps:
                self._waiting.appendleft(gap)
            raise
        self._drafts.settle(len(drafts) - len(gaps))
        self._counts["commits"] += 1
        self._announce(rows)
        self._checkpointer.wrote(sum(len(row.body) + 200 for row in rows))

    def _announce(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self._recent.add(rows)
        self.last_id = rows[-1].id
        self._committed += sum(row.kind != "gap" for row in rows)
        for cursor in self._cursors:
            cursor.wake()

    def _keep_house(self, store: Store) -> None:
        """Once a second: remember the seqs outside the store, keep it within its cap and its log short."""
        store.note()
        self._remember(store, at_most_every_s=10.0)
        self._counts["bytes"] = store.size_bytes()
        if self._checkpointer.log_is_long():
            store.restart_wal()
        if self._ledger is not None and self._ledger.is_due():
            self._ledger.seal(store)
        was_over_cap = self._over_cap  # a little below the cap, so that not every commit has to prune
        self._over_cap = self._counts["bytes"] > self._cap_bytes * (0.97 if was_over_cap else 1.0)
        if self._over_cap and (self._ledger is None or self._ledger.may_prune()):
            if not was_over_cap:
                self._pruner.begin()
            self._prune(store)

    def _prune(self, store: Store) -> None:
        pick = self._pruner.pick(store, self._cursors, self.generation, self.clock.wall_ns())
        if pick is None:
            self._over_cap = False
            return
        remove(pick, store, self._cursors, self._ledger)
        self._counts["pruned"] += len(pick.rows) - pick.undelivered
        self._counts["pruned_undelivered"] += pick.undelivered
        for station, body in pick.gaps:
            self._waiting.append(self._drafts.gap(station, body))

    def _tell_marks(self, store: Store) -> None:
        while self._marks and self._marks[0][0] <= self._committed:
            if self._marks[0][1].sealed:
                self._seal(store)
            self._marks.pop(0)[1].done.set()

    def _refused(self, error: sqlite3.Error | OSError) -> None:
        """Keep what waits and try again later, with the file opened anew; set a corrupt store aside."""
        self._counts["failures"] += 1
        if str(error) != self._error:
            log.error("journal %s: %s; records wait in memory", self.path, error)
        self._error = str(error) or type(error).__name__
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
        self._checkpointer.closed()
        store, self._store = self._store, None
        if store is not None:
            aside.quietly(lambda: store.close(clean=False))
        if aside.is_corrupt(error) or (store is None and aside.contradicts_itself(error)):
            aside.quietly(lambda: self._replace(store))

    def _replace(self, store: Store | None) -> None:
        if store is not None:
            self._remember(store)
        moved = aside.set_aside(self.path, self.clock.wall_ns())
        log.error("journal: the store was corrupt and is now %s; a new epoch begins", moved)
        self._set_aside.append(str(moved))
        self._recent.clear()
        self.last_id = 0
        self._is_new_store = True
        self._retry_at = 0.0

    def _close(self) -> None:
        if self._waiting:
            log.error("journal %s: %d records could not be written before the stop", self.path, len(self._waiting))
        self._checkpointer.closed()
        if self._store is None:
            return
        try:
            self._commit(self._store)
            self._seal(self._store)
            self._remember(self._store)
            self._store.close(clean=not self._waiting)
        except (sqlite3.Error, OSError) as error:
            log.error("journal %s: %s while closing", self.path, error)


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
