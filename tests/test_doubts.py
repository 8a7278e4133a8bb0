"""What a run left open is told once at the next start, whatever happened in between."""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deliveries import decision, journal
from lineside.clock import SystemClock
from lineside.deliver.doubts import Doubts
from lineside.deliver.journal import Journal
from lineside.deliver.openparts import HEADER_BYTES, OpenParts
from lineside.records import Decision

Eventually = Callable[..., None]


def about(part_id: str, **fields: Any) -> Decision:
    made = decision(1, **fields)
    return replace(made, id=f"d-{part_id}", part=replace(made.part, id=part_id))


def told(folder: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True) as store:
        found = store.execute("SELECT body FROM row WHERE kind = 'in_doubt' ORDER BY id").fetchall()
    return [json.loads(body) for (body,) in found]


def killed(folder: Path, *ids: str, committed: tuple[str, ...] = (), boot: str | None = None) -> Path:
    """A run that opened parts and vanished; `committed` have a decision and their mark. The file that it left."""
    opened = journal(folder, boot=boot)
    book = Doubts(opened, SystemClock()).open_parts("gate", "top")
    now_ns = SystemClock.monotonic_ns()
    for number, part_id in enumerate(ids, 1):
        book.open(part_id, number, now_ns, SystemClock.wall_ns())
    for part_id in committed:
        book.decided(part_id)  # and what it returns is never called
        opened.put(about(part_id))
    assert opened.flush(10)
    opened.stop()
    release(book)
    (path,) = (folder / "journal.db.open").glob("*.parts")
    return path


def release(book: OpenParts) -> None:
    """The lock goes with the process."""
    assert book._file is not None
    fcntl.flock(book._file, fcntl.LOCK_UN)


def start(folder: Path, **options: Any) -> tuple[Journal, Doubts]:
    opened = journal(folder, **options)
    doubts = Doubts(opened, SystemClock())
    doubts.settle()
    assert opened.flush(10)
    return opened, doubts


def test_what_a_killed_run_left_open_is_told_once_before_anything_new(tmp_path: Path) -> None:
    path = killed(tmp_path, "a", "b", "c", committed=("b",))
    opened, doubts = start(tmp_path)
    opened.put(about("new"))
    opened.stop()
    assert not path.exists()
    assert (doubts.status()["told_in_doubt"], doubts.status()["settled"]) == (2, 1)
    first, second = told(tmp_path)
    assert (first["part"], second["part"]) == ({"id": "a", "number": 1}, {"id": "c", "number": 3})
    assert (first["camera"], first["parts"], first["boot"]) == ("top", 1, opened.boot)
    assert first["cause"] == "the daemon ended before it was decided"
    assert first["run"] in path.name
    with sqlite3.connect(tmp_path / "journal.db") as store:
        kinds = [kind for (kind,) in store.execute("SELECT kind FROM row ORDER BY id")]
    assert kinds == ["decision", "in_doubt", "in_doubt", "decision"]
    opened, doubts = start(tmp_path)
    opened.stop()
    assert len(told(tmp_path)) == 2
    assert doubts.status()["told_in_doubt"] == 0


def test_a_start_that_died_between_the_commit_and_the_marks_does_not_tell_twice(tmp_path: Path) -> None:
    path = killed(tmp_path, *(f"p{number}" for number in range(20)))
    copy = shutil.copy(path, tmp_path / "copy")
    for _ in range(3):
        opened, doubts = start(tmp_path)
        opened.stop()
        assert len(told(tmp_path)) == 20
        shutil.copy(copy, path)
    assert doubts.status()["settled"] == 20


def test_a_start_that_died_before_the_commit_tells_again(tmp_path: Path) -> None:
    path = killed(tmp_path, "a", "b")
    unborn = Journal(tmp_path / "journal.db", SystemClock())  # never started: nothing it takes is committed
    Doubts(unborn, SystemClock()).settle()
    assert path.exists()
    assert told(tmp_path) == []
    opened, _ = start(tmp_path)
    opened.stop()
    assert [made["part"]["id"] for made in told(tmp_path)] == ["a", "b"]


def test_a_part_of_an_earlier_boot_is_told_with_that_boot_and_its_decision_is_found(tmp_path: Path) -> None:
    killed(tmp_path, "a", "b", committed=("b",), boot="before")
    opened, _ = start(tmp_path, boot="after")
    opened.stop()
    (made,) = told(tmp_path)
    assert (made["part"]["id"], made["boot"]) == ("a", "before")
    assert "the box restarted" in made["cause"]


def test_a_decision_is_found_behind_thousands_of_others(tmp_path: Path) -> None:
    """Only a power cut leaves such a mark: the file on the disk was older than the journal."""
    path = killed(tmp_path, "a", "b", committed=("a",))
    copy = shutil.copy(path, tmp_path / "copy")
    opened, _ = start(tmp_path)
    for number in range(3000):
        opened.put(about(f"later-{number}"))
    assert opened.flush(20)
    opened.stop()
    shutil.copy(copy, path)
    opened, doubts = start(tmp_path)
    opened.stop()
    assert doubts.status()["settled"] == 2
    assert [made["part"]["id"] for made in told(tmp_path)] == ["b"]


@pytest.mark.parametrize("at", [0, 20, HEADER_BYTES + 30])
def test_a_damaged_file_is_set_aside_and_told_once(tmp_path: Path, at: int) -> None:
    path = killed(tmp_path, "a", "b")
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    opened, doubts = start(tmp_path)
    opened.stop()
    assert not path.exists()
    shown = doubts.status()
    assert shown["set_aside"] == [str(path.with_suffix(".damaged"))]
    assert path.with_suffix(".damaged").read_bytes() == content
    *named, unnamed = told(tmp_path)
    assert unnamed["part"] is None
    if at > HEADER_BYTES:
        assert ([made["part"]["id"] for made in named], unnamed["parts"], shown["unknown"]) == (["b"], 1, 1)
    else:
        assert (named, unnamed["parts"]) == ([], None)
    assert "damaged" in unnamed["cause"]
    path.write_bytes(content)  # as if the start had died before it was set aside
    opened, doubts = start(tmp_path)
    opened.stop()
    assert len(told(tmp_path)) == len(named) + 1


def test_files_of_a_daemon_that_runs_are_left_alone(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    book = Doubts(opened, SystemClock()).open_parts("gate", "top")
    book.open("a", 1, 1, 1)
    other, doubts = start(tmp_path / "other")
    other.stop()
    doubts = Doubts(opened, SystemClock())
    doubts.settle()
    assert opened.flush(10)
    opened.stop()
    assert told(tmp_path) == []
    assert len(list((tmp_path / "journal.db.open").iterdir())) == 1
    assert doubts.status()["unsettled_files"] == 0


def test_while_the_journal_refuses_a_start_goes_on_and_tells_later(tmp_path: Path, eventually: Eventually) -> None:
    killed(tmp_path, "a")
    kept = (tmp_path / "journal.db").rename(tmp_path / "kept.db")
    (tmp_path / "journal.db").mkdir()  # SQLite cannot open a folder
    opened = journal(tmp_path)
    doubts = Doubts(opened, SystemClock())
    doubts.settle()
    assert doubts.status()["unsettled_files"] == 1
    assert "the journal is not open" in str(doubts.status()["last_error"])
    doubts.start()
    (tmp_path / "journal.db").rmdir()
    kept.rename(tmp_path / "journal.db")
    eventually(lambda: doubts.status()["told_in_doubt"] == 1, within_s=20)
    assert opened.flush(10)
    opened.stop()
    doubts.stop()
    assert [made["part"]["id"] for made in told(tmp_path)] == ["a"]
    assert list((tmp_path / "journal.db.open").iterdir()) == []


def test_a_store_that_was_lost_takes_no_knowledge_of_open_parts_with_it(tmp_path: Path) -> None:
    killed(tmp_path, "a", "b")
    (tmp_path / "journal.db").write_bytes(b"not a database" * 1000)
    opened, doubts = start(tmp_path)
    opened.stop()
    assert [made["part"]["id"] for made in told(tmp_path)] == ["a", "b"]
    assert doubts.status()["unsettled_files"] == 0


def test_a_station_that_is_no_longer_configured_is_settled_all_the_same_and_scraps_are_removed(tmp_path: Path) -> None:
    path = killed(tmp_path, "a")
    path.with_name("gate~dead.new").write_bytes(b"half a header")
    opened, doubts = start(tmp_path)
    doubts.open_parts("another", "cam")
    opened.stop()
    doubts.stop()
    assert len(told(tmp_path)) == 1
    assert list(path.parent.iterdir()) == []
