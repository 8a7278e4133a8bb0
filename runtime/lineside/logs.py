"""Log lines on standard error: with a priority prefix for journald when systemd runs us, else with the time.

Written by a thread of its own, so that no frame waits for a log that nobody reads.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
from logging.handlers import QueueHandler, QueueListener

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_MOST_WAITING = 10_000  # lines; more are dropped and counted


class _JournaldLine(logging.Formatter):
    """`<6>text`: systemd reads the level from the prefix (sd-daemon(3)); each line of a longer text gets it."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _Bounded(QueueHandler):
    """Never waits: what the reader is too slow for is dropped and counted."""

    def __init__(self, lines: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


_handler: _Bounded | None = None


def start(level: str) -> None:
    """Send the log of the whole process to standard error."""
    global _handler
    out = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        out.setFormatter(_JournaldLine("%(message)s"))
    else:
        out.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_MOST_WAITING)
    _handler = _Bounded(lines)
    listener = QueueListener(lines, out)
    listener.start()
    atexit.register(listener.stop)
    root = logging.getLogger()
    root.handlers[:] = [_handler]
    root.setLevel(level.upper())


def dropped() -> int:
    """Lines that were dropped because nobody read the log."""
    return _handler.dropped if _handler else 0
