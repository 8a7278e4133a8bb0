"""Log lines: with a priority prefix for journald when systemd runs us, else with the time, on standard error."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournaldLine(logging.Formatter):
    """`<6>text`: systemd reads the level from the prefix (sd-daemon(3)); each line of a longer text gets it."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def start(level: str) -> None:
    """Send the log of the whole process to standard error."""
    out = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        out.setFormatter(_JournaldLine("%(message)s"))
    else:
        out.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())
