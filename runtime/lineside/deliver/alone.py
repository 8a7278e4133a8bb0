"""One journal, one daemon: two that write the same file would take each other's rows for their own."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from lineside.errors import ConfigError

log = logging.getLogger(__name__)


class Alone:
    """Holds the journal for this process until it ends, however it ends. Raises ConfigError if another one has it."""

    def __init__(self, journal: Path) -> None:
        path = journal.with_name(journal.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:  # a disk that refuses must not keep the line from deciding
            log.warning("journal %s: cannot be locked against a second daemon (%s)", journal, error)
            return
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise ConfigError(
                f"journal.path = {str(journal)!r}: another lineside daemon writes it: stop that one, or give each a "
                "path of its own"
            ) from error
