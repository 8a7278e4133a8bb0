"""The journal on a real disk: numbering, crashes, full and failing disks, lost stores, pruning."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveries import SteppedClock, decision, event, journal
from lineside.deliver.cursor import Cursor
from lineside.deliver.journal import Journal
from lineside.deliver.spans import Spans, common
from lineside.deliver.tables import SCHEMA_VERSION, Row
from lineside.errors import DeviceError

Eventually = Callable[..., None]


def rows_of(opened: Journal) -> list[Row]:
    """Everything that is committed."""
    assert opened.flush(10)
    cursor = opened.cursor("reader")
    cursor.refresh()
    with closing(cursor):
        return cursor.rows(1, opened.last_id, 1_000_000)


def numbered(rows: list[Row], station: str) -> list[int]:
    return [row.seq for row in rows if row.station == station]


def test_seq_counts_per_station_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = journal(tmp_path)
    for number in range(5):
        first.put(decision(number, "left"))
        first.put(event(number, "right"))
    first.stop()
    second = journal(tmp_path)
    second.put(decision(9, "left"))
    rows = rows_of(second)
    assert numbered(rows, "left") == [1, 2, 3, 4, 5, 6]
    assert numbered(rows, "right") == [1, 2, 3, 4, 5]
    assert [row.id for row in rows] == list(range(1, 12))
    assert len({row.epoch for row in rows}) == 1
    second.stop()


def test_records_that_were_put_before_the_start_are_committed_too(tmp_path: Path) -> None:
    from lineside.clock import SystemClock

    early = Journal(tmp_path / "journal.db", SystemClock())
    early.put(decision(1))
    early.start()
    assert numbered(rows_of(early), "gate") == [1]
    early.stop()


def test_a_commit_that_lingers_gathers_records_and_hurries_when_somebody_waits(
    tmp_path: Path, eventually: Eventually
) -> None:
    opened = journal(tmp_path, linger_s=60.0)
    opened.put(decision(1))
    eventually(lambda: opened._taken == 1, within_s=10, what="the first is taken")
    for number in range(2, 6):
        opened.put(decision(number))
    assert opened.status()["committed"] == 0
    assert opened.flush(10), "it lingered although somebody waits"
    assert (opened.status()["committed"], opened.status()["commits"]) == (5, 1)
    opened.put(decision(6))
    opened.stop(10)
    assert opened.status()["committed"] == 6


def test_many_threads_put_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    opened = journal(tmp_path, durable=False)

    def put(station: str) -> None:
        for number in range(300):
            opened.put(decision(number, station))

    threads = [threading.Thread(target=put, args=(f"s{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_of(opened)
    for index in range(4):
        mine = [row for row in rows if row.station == f"s{index}"]
        assert [row.seq for row in mine] == list(range(1, 301))
        assert [json.loads(row.body)["id"] for row in mine] == [f"s{index}-{n}" for n in range(300)]
    assert opened.status()["commits"] < 1200, "commits are grouped"
    opened.stop()


def test_what_a_sink_delivered_survives_a_restart_as_intervals(tmp_path: Path) -> None:
    first = journal(tmp_path)
    cursor = first.cursor("mqtt")
    for number in range(100):
        first.put(decision(number))
    assert first.flush(10)
    cursor.refresh()
    for row_id in (*range(1, 21), *range(60, 101)):  # live ones first, then some of the backlog
        cursor.deliver(row_id)
    assert cursor.pending() == 39
    cursor.close()
    first.stop()
    second = journal(tmp_path)
    again = second.cursor("mqtt")
    assert second.flush(10)
    again.refresh()
    rows, following = again.backlog(1, second.last_id + 1, 1000)
    assert [row.id for row in rows] == list(range(21, 60))
    assert again.backlog(following, second.last_id + 1, 1000) == ([], 101)
    again.close()
    second.stop()


def test_only_rows_of_this_boot_and_age_are_live(tmp_path: Path) -> None:
    earlier = journal(tmp_path, boot="earlier")
    earlier.put(decision(1))
    earlier.stop()
    opened = journal(tmp_path, boot="now")
    cursor = opened.cursor("mqtt")
    old = decision(2)
    opened.put(decision(2, decided_ns=old.decided_ns - 60_000_000_000))
    opened.put(decision(3))
    opened.put(decision(4))
    assert opened.flush(10)
    cursor.refresh()
    assert cursor.first_live(5_000_000_000) == 3
    assert cursor.first_live(3_600_000_000_000) == 2
    cursor.close()
    opened.stop()


def test_a_clock_stepped_back_changes_neither_order_nor_age(tmp_path: Path) -> None:
    clock = SteppedClock()
    opened = journal(tmp_path, clock=clock)
    cursor = opened.cursor("mqtt")
    opened.put(decision(1))
    clock.step_s = -365 * 86400
    late = decision(2)
    opened.put(decision(2, decided_wall_ns=late.decided_wall_ns - 365 * 86400 * 10**9))
    rows = rows_of(opened)
    cursor.refresh()
    assert [row.seq for row in rows] == [1, 2]
    assert rows[1].made_wall_ns < rows[0].made_wall_ns
    assert all(0 <= (cursor.age_ms(row) or 0) < 60_000 for row in rows)
    assert cursor.first_live(60_000_000_000) == 1
    cursor.close()
    opened.stop()
    again = journal(tmp_path, clock=clock, boot="later")
    reader = again.cursor("mqtt")
    assert [row.seq for row in rows_of(again)] == [1, 2]
    assert reader.age_ms(rows[0]) is None, "of an earlier boot, and in the future: nobody can say"
    again.stop()


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from deliveries import decision, journal
opened = journal(Path({folder!r}), durable={durable})
cursor = opened.cursor("out")
cursor.wake = lambda: None
told = 0
number = 0
while True:
    opened.put(decision(number))
    number += 1
    if number % 7 == 0:
        opened.flush(10)
        cursor.refresh()
        for row in cursor.rows(told + 1, opened.last_id, 1000):  # "published": it may never be used again
            told = row.id
            sys.stdout.write(f"{{row.epoch}} {{row.seq}} {{row.body.decode()}}\\n")
        sys.stdout.flush()
"""


@pytest.mark.parametrize("durable", [True, False])
def test_kill_9_at_random_instants_never_reuses_or_loses_a_published_seq(tmp_path: Path, durable: bool) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    published: dict[tuple[str, int], str] = {}
    program = WRITER.format(tests=str(Path(__file__).parent), folder=str(tmp_path), durable=durable)
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        stop_after = chance.randrange(1, 200)
        lines: list[str] = []
        for line in writer.stdout:
            lines.append(line)
            if len(lines) == stop_after:
                os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
        for line in lines:
            if not line.endswith("\n"):
                continue
            epoch, seq, body = line.split(" ", 2)
            assert published.setdefault((epoch, int(seq)), body) == body, f"seed {seed}: seq {seq} used twice"
    opened = journal(tmp_path)
    rows = rows_of(opened)
    kept = {(row.epoch, row.seq): row.body.decode() for row in rows}
    assert len({row.epoch for row in rows}) == 1
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1)), f"seed {seed}"
    assert all(kept[key] == body.rstrip("\n") for key, body in published.items()), f"seed {seed}: published, not kept"
    opened.stop()


def test_without_fsync_a_power_cut_begins_a_new_epoch(tmp_path: Path) -> None:
    first = journal(tmp_path, durable=False, boot="one")
    first.put(decision(1))
    assert first.flush(10)
    lost = tmp_path / "after-the-cut"
    lost.mkdir()
    for file in tmp_path.glob("journal.db*"):  # as the disk is while the journal still runs
        shutil.copy(file, lost)
    epoch = first.epoch
    first.stop()
    clean = journal(tmp_path, durable=False, boot="two")
    assert clean.flush(10)
    assert clean.epoch == epoch, "a clean stop is fsynced"
    clean.stop()
    cut = journal(lost, durable=False, boot="two")
    cut.put(decision(2))
    assert cut.flush(10)
    assert cut.epoch != epoch
    assert cut.previous() == {"epoch": epoch, "last_seq": {"gate": 1}}
    assert cut.last_seq() == {"gate": 1}
    cut.stop()


def test_a_corrupt_store_is_set_aside_and_a_new_epoch_says_what_was_known(
    tmp_path: Path, eventually: Eventually
) -> None:
    first = journal(tmp_path)
    for number in range(20):
        first.put(decision(number))
    assert first.flush(10)
    epoch = first.epoch
    first.stop()
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database " * 400)
    second = journal(tmp_path)
    second.put(decision(21))
    assert second.flush(10)
    assert second.epoch != epoch
    assert second.last_seq() == {"gate": 1}
    assert second.previous() == {"epoch": epoch, "last_seq": {"gate": 20}}
    (aside,) = second.status()["set_aside"]  # type: ignore[misc]
    assert Path(aside).read_bytes().startswith(b"not a database")
    second.stop()


def test_a_store_that_contradicts_itself_is_set_aside_too(tmp_path: Path) -> None:
    """A power cut without fsync may leave tables that cannot be: refused for good, it would serve nobody."""
    first = journal(tmp_path)
    first.put(decision(1))
    assert first.flush(10)
    first.stop()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.execute("PRAGMA writable_schema = ON")
        loose = "replace(sql, 'station TEXT NOT NULL', 'station TEXT')"
        db.execute(f"UPDATE sqlite_schema SET sql = {loose} WHERE name = 'row'")
        db.commit()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.execute("UPDATE row SET station = NULL")
        db.execute("DELETE FROM noted")
        db.commit()
    second = journal(tmp_path)
    second.put(decision(2))
    assert second.flush(10)
    assert second.status()["set_aside"]
    assert second.last_seq() == {"gate": 1}
    second.stop()


def test_a_page_that_rots_while_we_run_is_noticed_by_the_reader(tmp_path: Path, eventually: Eventually) -> None:
    opened = journal(tmp_path)
    for number in range(2000):
        opened.put(decision(number))
    assert opened.flush(20)
    opened.stop()
    again = journal(tmp_path)
    cursor = again.cursor("mqtt")
    assert again.flush(10)
    cursor.refresh()
    epoch, path = again.epoch, tmp_path / "journal.db"
    with path.open("r+b") as file:  # under our feet
        file.seek(8 * 4096)
        file.write(os.urandom(path.stat().st_size - 8 * 4096))

    def is_replaced() -> bool:
        with contextlib.suppress(DeviceError):
            cursor.refresh()
            cursor.rows(1, again.last_id, 1000)
        return cursor.generation == 2

    eventually(is_replaced, what="the corrupt store being set aside")
    again.put(decision(1))
    assert again.flush(10)
    assert len(again.status()["set_aside"]) == 1  # type: ignore[arg-type]
    assert again.epoch != epoch
    assert again.previous() == {"epoch": epoch, "last_seq": {"gate": 2000}}
    assert again.last_seq() == {"gate": 1}
    cursor.close()
    again.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_loses_nothing_and_needs_no_hand(small_disk: Path, eventually: Eventually) -> None:
    ballast = small_disk / "ballast"
    opened = journal(small_disk)
    opened.put(decision(0))
    assert opened.flush(10)
    fill(ballast)
    for number in range(1, 101):
        opened.put(decision(number))
    eventually(lambda: opened.status()["state"] == "refusing", what="the full disk being noticed")
    assert "full" in str(opened.status()["last_error"]) or "I/O" in str(opened.status()["last_error"])
    assert not opened.flush(0.2)
    assert opened.status()["waiting"] != 0
    ballast.unlink()
    assert opened.flush(20), opened.status()
    rows = rows_of(opened)
    assert [json.loads(row.body)["id"] for row in rows] == [f"gate-{number}" for number in range(101)]
    assert [row.seq for row in rows] == list(range(1, 102))
    eventually(lambda: opened.status()["state"] == "ok")
    opened.stop()


def test_a_disk_that_is_read_only_at_the_start_is_waited_for(small_disk: Path, eventually: Eventually) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    opened = journal(small_disk / "state")
    opened.put(decision(1))
    eventually(lambda: opened.status()["state"] == "refusing")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert opened.flush(20), opened.status()
    assert numbered(rows_of(opened), "gate") == [1]
    opened.stop()


def test_more_than_memory_holds_is_counted_and_told_by_a_gap(tmp_path: Path, eventually: Eventually) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    opened = journal(blocked, waiting_max=10)
    eventually(lambda: opened.status()["state"] == "refusing")
    for number in range(25):
        opened.put(decision(number))
    assert opened.status()["lost"] == 15
    blocked.unlink()
    assert opened.flush(20), opened.status()
    rows = rows_of(opened)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert sum(row.kind == "decision" for row in rows) == 10
    assert sum(json.loads(row.body)["lost"] for row in rows if row.kind == "gap") == 15
    opened.stop()


def test_a_record_that_cannot_be_encoded_becomes_a_gap_and_the_rest_goes_on(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    opened.put(decision(1))
    opened.put(decision(2, cause=object()))
    opened.put(decision(3))
    kinds = sorted(row.kind for row in rows_of(opened))
    assert kinds == ["decision", "decision", "gap"]
    assert opened.status()["lost"] == 1
    opened.stop()


def filled(tmp_path: Path, count: int, **options: object) -> tuple[Journal, Cursor]:
    opened = journal(tmp_path, durable=False, **options)
    cursor = opened.cursor("mqtt")
    for number in range(count):
        opened.put(decision(number))
    assert opened.flush(20)
    cursor.refresh()
    return opened, cursor


def test_pruning_takes_delivered_rows_first_and_keeps_what_waits(tmp_path: Path, eventually: Eventually) -> None:
    opened, cursor = filled(tmp_path, 2000, cap_bytes=10**9)
    for row_id in range(500, 2001):  # the first 499 still wait
        cursor.deliver(row_id)
    opened._cap_bytes = 1_000_000
    eventually(lambda: int(str(opened.status()["pruned"])) > 0 and int(str(opened.status()["bytes"])) < 1_000_000)
    rows, _ = cursor.backlog(1, opened.last_id + 1, 5000)
    assert [row.id for row in rows] == list(range(1, 500))
    assert opened.status()["pruned_undelivered"] == 0
    cursor.close()
    opened.stop()


def test_undelivered_rows_go_last_and_a_gap_names_them(tmp_path: Path, eventually: Eventually) -> None:
    opened, cursor = filled(tmp_path, 2000, cap_bytes=1_000_000)
    eventually(lambda: int(str(opened.status()["bytes"])) < 1_000_000 and opened.status()["waiting"] == 0)
    assert opened.flush(10)
    rows, _ = cursor.backlog(1, opened.last_id + 1, 5000)
    gaps = [json.loads(row.body) for row in rows if row.kind == "gap"]
    kept = {row.seq for row in rows}
    gone = {seq for gap in gaps for seq in range(gap["first_seq"], gap["last_seq"] + 1)}
    assert kept | gone == set(range(1, opened.last_seq()["gate"] + 1))
    assert not kept & gone
    assert sum(gap["lost"] for gap in gaps) == opened.status()["pruned_undelivered"] == len(gone)
    cursor.close()
    opened.stop()


def test_a_later_schema_is_used_as_it_is(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.put(decision(1))
    assert first.flush(10)
    first.stop()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as later:  # what version N + 1 may have done
        later.execute("ALTER TABLE row ADD COLUMN digest BLOB")
        later.execute("CREATE TABLE witness (id INTEGER PRIMARY KEY)")
        later.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        later.commit()
    second = journal(tmp_path)
    second.put(decision(2))
    assert numbered(rows_of(second), "gate") == [1, 2]
    second.stop()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as later:
        assert later.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


numbers = st.lists(st.integers(1, 60), max_size=60)


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, st.integers(1, 60))
def test_spans_are_a_set_and_a_copy_that_hears_the_changes_is_equal(one: list[int], more: list[int], take: int) -> None:
    spans = Spans()
    copy: dict[int, int] = {}
    for index, number in enumerate(one + more):
        spans.add(number)
        if index % take == 0:
            apply(copy, spans)
    apply(copy, spans)
    members = set(one + more)
    assert {n for n in range(0, 62) if n in spans} == members
    assert spans.total == len(members)
    assert sorted(copy.items()) == list(spans)
    assert all(a[1] + 1 < b[0] for a, b in zip(list(spans), list(spans)[1:], strict=False))
    holes, start = set(), 1
    while (hole := spans.hole(start, 60)) is not None:
        holes |= set(range(hole[0], hole[1] + 1))
        start = hole[1] + 1
    assert holes == set(range(1, 61)) - members
    other = Spans((n, n) for n in more)
    both = common([spans, other], 60)
    assert {n for n in range(1, 61) if n in both} == members & set(more)


def apply(copy: dict[int, int], spans: Spans) -> None:
    for first, last in spans.take_changes().items():
        if last is None:
            copy.pop(first, None)
        else:
            copy[first] = last
