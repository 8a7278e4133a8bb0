"""Files beside the journal: what was last known of it, and a corrupt store under another name."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path


def boot_id() -> str:
    """Which boot of this machine this is: monotonic times of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def known_path(journal: Path) -> Path:
    return journal.with_name(journal.name + ".epoch.json")


def read_known(journal: Path) -> Mapping[str, object] | None:
    """The epoch and seqs that the side file remembers, for when the store itself is lost; None without one."""
    try:
        known = json.loads(known_path(journal).read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and {"epoch", "last_seq"} <= set(known) else None


def write_known(
    journal: Path,
    epoch: str,
    last_seq: Mapping[str, int],
    checkpoint: Mapping[str, object] | None = None,
    at_most_every_s: float = 0.0,
) -> None:
    """Remember them, and the newest checkpoint, replacing the file whole. Raises OSError."""
    path = known_path(journal)
    if at_most_every_s and path.exists() and 0 <= time.time() - path.stat().st_mtime < at_most_every_s:
        return
    known: dict[str, object] = {"epoch": epoch, "last_seq": dict(last_seq)}
    if checkpoint is not None:
        known["checkpoint"] = dict(checkpoint)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(known))
    os.replace(fresh, path)


def set_aside(journal: Path, wall_ns: int) -> Path:
    """Rename a store and its log, so that they can be looked into; returns the new name. Raises OSError."""
    stamp = f"{datetime.fromtimestamp(max(wall_ns, 0) // 10**9, UTC):%Y%m%dT%H%M%SZ}"
    moved = journal.with_name(f"{journal.name}.corrupt-{stamp}")
    number = 1
    while moved.exists():
        number += 1
        moved = journal.with_name(f"{journal.name}.corrupt-{stamp}-{number}")
    for suffix in ("-wal", "-shm", ""):
        source = journal.with_name(journal.name + suffix)
        if source.exists():
            os.replace(source, moved.with_name(moved.name + suffix))
    return moved


def is_corrupt(error: BaseException) -> bool:
    """Whether SQLite says that the file is no database, or no longer a whole one."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def contradicts_itself(error: BaseException) -> bool:
    """At an opening: what is in the tables cannot be (a row without a station). It would be refused for good."""
    return _code(error) in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def quietly(step: Callable[[], object]) -> None:
    """A last step on a disk that already failed and is already reported."""
    try:
        step()
    except (OSError, sqlite3.Error):
        return
