"""The receiver kit under test, a process of its own that may be killed: lineside.subscriber.Receiver with a handler.

    python -m chaos.kit PORT FILE

FILE is the kit's SQLite state. The handler writes each message that it is given into the table `handled` of the same
transaction; what the kit tells of itself at its end goes into the table `told`.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.receiver import line_of
from lineside.subscriber import Receiver

_TABLES = """
CREATE TABLE IF NOT EXISTS handled (station TEXT, epoch TEXT, seq INTEGER, line TEXT);
CREATE TABLE IF NOT EXISTS told (status TEXT);
"""


def handle(message: dict[str, Any], db: sqlite3.Connection) -> None:
    topic = "/backfill" if message["backfill"] else ""  # a resent message comes on the topic that was asked for
    line = json.dumps(line_of(topic, message, True, time.time_ns()))
    db.execute("INSERT INTO handled VALUES (?, ?, ?, ?)", (message["station"], message["epoch"], message["seq"], line))


def handled(file: Path) -> list[dict[str, Any]]:
    """Every line of the table, in the order of handling."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10) as db:
        return [json.loads(line) for (line,) in db.execute("SELECT line FROM handled ORDER BY rowid")]


def count(file: Path, epoch: str, last_seq: Mapping[str, int]) -> int:
    """Different records of an epoch that were handled so far, up to these seqs."""
    query = "SELECT count(DISTINCT seq) FROM handled WHERE epoch = ? AND station = ? AND seq <= ?"
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10) as db:
        return sum(int(db.execute(query, (epoch, *of)).fetchone()[0]) for of in last_seq.items())


def told(file: Path) -> dict[str, int]:
    """The kit's own counts, summed over its runs that were not killed."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10) as db:
        runs = [json.loads(status) for (status,) in db.execute("SELECT status FROM told")]
    return {name: sum(int(run[name]) for run in runs) for name in ("duplicates", "asked", "refused", "missing")}


def main() -> None:
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    with sqlite3.connect(file, timeout=10) as db:
        db.executescript(_TABLES)
    receiver = Receiver("127.0.0.1", port=port, state=file, client_id="kit", from_start=True)
    signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
    receiver.run(handle)
    status = json.dumps(receiver.status())
    receiver.close()
    with sqlite3.connect(file, timeout=10) as db:
        db.execute("INSERT INTO told VALUES (?)", (status,))


if __name__ == "__main__":
    main()
