"""Moves the journal's log into its main file in a thread of its own, so that no commit waits for it."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

EVERY_BYTES = 2 << 20  # of records written
LONG_LOG_PAGES = 8192  # 32 MiB: on a line that never rests the writer has to let the log start over


class Checkpointer:
    """`opened`, `wrote` and `closed` are called by the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due = threading.Event()
        self._lock = threading.Lock()  # held while a checkpoint runs: the store may not be moved away under it
        self._open = False
        self._stopping = False
        self._bytes = 0
        self._log_pages = 0
        self._thread = threading.Thread(target=self._run, name="journal-checkpoint", daemon=True)
        self.failures = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def opened(self) -> None:
        self._open = True

    def closed(self) -> None:
        with self._lock:
            self._open = False

    def wrote(self, count_bytes: int) -> None:
        self._bytes += count_bytes
        if self._bytes >= EVERY_BYTES:
            self._bytes = 0
            self._due.set()

    def log_is_long(self) -> bool:
        """True once after a checkpoint that found a long log."""
        is_long = self._log_pages > LONG_LOG_PAGES
        if is_long:
            self._log_pages = 0
        return is_long

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopping:
                return
            with self._lock:
                if self._open:
                    self._checkpoint()

    def _checkpoint(self) -> None:
        try:
            connection = sqlite3.connect(f"file:{self._path}?mode=rw", uri=True, timeout=0.0, isolation_level=None)
            try:
                _, self._log_pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                connection.close()
        except sqlite3.Error:
            self.failures += 1  # the writer meets the same disk and reports it
