"""The receiver kit without a broker: whatever is lost, doubled, reordered or killed, each message is handled once."""

from __future__ import annotations

import ast
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lineside.subscriber
from lineside.subscriber import Missing, Receiver, Signer, canonical
from lineside.subscriber.asker import Asker
from lineside.subscriber.clerk import Clerk
from lineside.subscriber.spans import Spans

STATUS = "lineside/plant/l1/box/status"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # an fsync costs nothing there
RESEND = "lineside/plant/l1/box/resend"


def row(seq: int, epoch: str = "e1", station: str = "gate", **fields: Any) -> dict[str, Any]:
    return {"kind": "decision", "station": station, "epoch": epoch, "seq": seq, "backfill": False, **fields}


def status(last_seq: int, epoch: str = "e1", **fields: Any) -> dict[str, Any]:
    head = {"kind": "status", "state": "online", "epoch": epoch, "last_seq": {"gate": last_seq}, "pending": 0}
    return {**head, "resend_topic": RESEND, "command_topic": None, **fields}


class Works:
    """A handler that books what it is given; booking one twice is an error of the database."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now_s = 0.0
        self.state = folder / "state.db"
        self.told: list[Missing] = []
        self._options = options
        with closing(sqlite3.connect(self.state)) as db:
            db.execute("CREATE TABLE booked (n INTEGER PRIMARY KEY, epoch TEXT, seq INTEGER, UNIQUE (epoch, seq))")
        self.open()

    def open(self) -> None:
        asker = Asker(grace_s=1.0, answer_s=5.0, backoff_min_s=0.5, backoff_max_s=4.0, chance=random.Random(1))
        self.clerk = Clerk(self.state, "mes", asker=asker, clock_s=lambda: self.now_s, **self._options)

    def kill(self) -> None:
        """What is in memory is gone."""
        self.clerk.close()
        self.open()

    def take(self, *messages: dict[str, Any]) -> None:
        self.clerk.take([(STATUS, json.dumps(message).encode()) for message in messages], self.book, self.miss)

    @staticmethod
    def book(message: dict[str, Any], db: sqlite3.Connection) -> None:
        db.execute(
            "CREATE TABLE IF NOT EXISTS booked (n INTEGER PRIMARY KEY, epoch TEXT, seq INTEGER, UNIQUE (epoch, seq))"
        )
        db.execute("INSERT INTO booked (epoch, seq) VALUES (?, ?)", (message["epoch"], message["seq"]))

    def miss(self, missing: Missing, db: sqlite3.Connection) -> None:
        self.told.append(missing)

    def asks_after(self, wait_s: float) -> list[dict[str, Any]]:
        """What is asked for once a hole is so old."""
        assert self.clerk.asks() == []
        self.now_s += wait_s
        return [json.loads(ask.payload) for ask in self.clerk.asks()]

    def booked(self, epoch: str = "e1") -> list[int]:
        with closing(sqlite3.connect(self.state)) as db:
            return [seq for (seq,) in db.execute("SELECT seq FROM booked WHERE epoch = ? ORDER BY n", (epoch,))]


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    made = Works(tmp_path)
    yield made
    made.clerk.close()


class Plant:
    """A box with a journal, and a network that does what chance says."""

    def __init__(self, pruned: set[int]) -> None:
        self.last_seq = 0
        self.pruned = pruned  # from the journal, before anybody asks
        self.way: deque[dict[str, Any]] = deque()  # what the broker has and may deliver

    def decide(self, copies: int) -> None:
        self.last_seq += 1
        self.way.extend(row(self.last_seq) for _ in range(copies))

    def answer(self, payload: bytes, chance: random.Random, losses: int) -> list[dict[str, Any]]:
        """What arrives of an answer from which `losses` messages are lost on the way."""
        asked = json.loads(payload)
        last = min(asked["to"], self.last_seq)
        there = [seq for seq in range(asked["from"], last + 1) if seq not in self.pruned]
        runs = [
            {"first_seq": seq, "last_seq": seq, "reason": "pruned"}
            for seq in range(asked["from"], last + 1)
            if seq in self.pruned
        ]
        reply = {"kind": "reply", "ok": True, "correlation": asked["correlation"], "reason": ""}
        result = {"missing": runs, "next": None, "count": len(there)}
        messages = [row(seq, backfill=True) for seq in there] + [{**reply, "result": result}]
        for _ in range(min(losses, len(messages))):
            messages.pop(chance.randrange(len(messages)))
        return messages


holes = st.sets(st.integers(1, 40), max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("decide"), st.integers(0, 3)),  # lost, sent, sent twice or three times
        st.tuples(st.just("arrive"), st.integers(0, 9)),  # one of those on the way, in any order
        st.tuples(st.just("status"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("kill in the middle"), st.integers(1, 4)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps, holes, st.booleans(), st.randoms(use_true_random=False), st.integers(0, 6))
def test_whatever_happens_on_the_way_each_message_is_handled_once_and_what_is_missing_is_told(
    script: list[tuple[str, int]], pruned: set[int], in_order: bool, chance: random.Random, losses: int
) -> None:
    with TemporaryDirectory(dir=MEMORY) as folder:
        works, plant = Works(Path(folder), in_order=in_order, from_start=True), Plant(pruned)
        for what, count in script:
            if what == "decide":
                plant.decide(count)
            elif what == "arrive" and plant.way:
                plant.way.rotate(-count)
                works.take(plant.way.popleft())
            elif what == "status":
                works.take(status(plant.last_seq))
            elif what == "kill":
                works.kill()
            elif plant.way:
                die_in_the_middle(works, list(plant.way)[:count])
        drive(works, plant, chance, losses)
        booked = works.booked()
        gone = {seq for run in works.clerk.missing() for seq in range(run.first_seq, run.last_seq + 1)}
        assert sorted(booked) == sorted(set(booked)), "handled twice"
        assert set(booked) | gone == set(range(1, plant.last_seq + 1)), "neither handled nor told as missing"
        assert not set(booked) & gone
        assert gone <= pruned, "told as missing, but the box has it"
        if in_order:
            assert booked == sorted(booked)
        assert works.clerk.status()["holes"] == works.clerk.status()["held"] == 0
        works.clerk.close()


def die_in_the_middle(works: Works, messages: list[dict[str, Any]]) -> None:
    """The handler ends the process while a batch is open: its transaction is rolled back, nothing is acknowledged."""

    def die(message: dict[str, Any], db: sqlite3.Connection) -> None:
        works.book(message, db)
        raise KeyboardInterrupt

    packets = [(STATUS, json.dumps(message).encode()) for message in messages]
    try:
        works.clerk.take(packets, die, works.miss)
    except KeyboardInterrupt:
        works.kill()


def drive(works: Works, plant: Plant, chance: random.Random, losses: int) -> None:
    """The line rests: the box goes on saying how far it is, and answers what it is asked."""
    for _ in range(400):
        works.take(status(plant.last_seq))
        works.now_s += 0.7
        for ask in works.clerk.asks():
            lost = min(losses, chance.randrange(3))
            losses -= lost
            works.take(*plant.answer(ask.payload, chance, lost))
        if not works.clerk.status()["holes"]:
            return
    raise AssertionError(f"holes remain: {works.clerk.status()}")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=40), st.integers(1, 60), st.integers(0, 70))
def test_spans_are_a_set(runs: list[tuple[int, int]], start: int, length: int) -> None:
    spans, members = Spans(), set()
    for first, more in runs:
        spans.add(first, first + more)
        members |= set(range(first, first + more + 1))
    holes = {seq for first, last in spans.holes(start, start + length) for seq in range(first, last + 1)}
    assert holes == set(range(start, start + length + 1)) - members
    assert spans.last() == max(members, default=0)
    assert all(seq in spans for seq in members)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(spans))


def test_a_new_subscriber_wants_what_comes_from_now_on_and_takes_what_comes_late(works: Works) -> None:
    works.take(status(100))
    works.take(row(102), row(99, backfill=True))
    (asked,) = works.asks_after(1.1)
    assert (asked["from"], asked["to"]) == (101, 101)
    assert asked["response_topic"] == f"{RESEND}/mes"
    assert works.booked() == [102, 99]


def test_a_young_hole_is_not_asked_for(works: Works) -> None:
    works.take(status(10))
    works.take(row(11), row(13))
    assert works.clerk.asks() == []
    works.now_s = 0.9
    assert works.clerk.asks() == []
    works.take(row(12))
    works.now_s = 9.0
    assert works.clerk.asks() == []


def test_an_answer_that_does_not_come_is_asked_for_again_with_backoff(works: Works) -> None:
    works.take(status(10))
    works.take(row(12))
    times = []
    while works.now_s < 60:
        works.now_s += 0.1
        times += [works.now_s for _ in works.clerk.asks()]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert 5 < len(times) < 12
    assert waits[0] < 6.0 < max(waits) < 9.2
    assert "no answer" in str(works.clerk.status()["refusals"])


def test_a_refusal_is_counted_told_and_tried_again(works: Works) -> None:
    works.take(status(10))
    works.take(row(12))
    (asked,) = works.asks_after(1.1)
    works.take({"kind": "reply", "correlation": asked["correlation"], "ok": False, "reason": "busy", "result": {}})
    assert works.clerk.status()["refused"] == 1
    assert works.clerk.status()["refusals"] == {"gate": "busy"}
    assert len(works.asks_after(1.0)) == 1


def test_a_box_that_works_off_its_backlog_is_left_alone(works: Works) -> None:
    works.take(status(10, pending=9000))
    works.take(row(12))
    for pending in range(9000, 1000, -1000):
        works.take(status(9000, pending=pending))
        works.now_s += 5.0
        if pending < 9000:
            assert works.clerk.asks() == []
    works.take(status(9000, pending=2000))
    assert len(works.clerk.asks()) == 1, "its number does not fall any more"


def test_a_declared_gap_is_told_and_not_asked_for(works: Works) -> None:
    works.take(status(0))
    works.take(row(1), row(5), row(6, kind="gap", first_seq=2, last_seq=4, lost=3, cause="the journal was full"))
    works.now_s = 10.0
    assert works.clerk.asks() == []
    assert works.told == works.clerk.missing() == [Missing("gate", "e1", 2, 4, "the journal was full")]
    works.take(row(3, backfill=True))
    assert works.booked() == [1, 5, 6, 3], "the broker had it, after all"
    assert [(run.first_seq, run.last_seq) for run in works.clerk.missing()] == [(2, 2), (4, 4)]
    works.take(row(3, backfill=True))
    assert works.booked() == [1, 5, 6, 3]


def test_an_epoch_that_ended_is_missed_to_its_known_end_and_the_next_is_ours_from_its_first(
    works: Works,
) -> None:
    works.take(status(10))
    works.take(row(11))
    works.take(row(3, epoch="e2"))
    works.take(status(3, epoch="e2", previous={"epoch": "e1", "last_seq": {"gate": 13}}))
    (asked,) = works.asks_after(1.1)
    assert (asked["epoch"], asked["from"], asked["to"]) == ("e1", 12, 13)
    run = {"first_seq": 12, "last_seq": 13, "reason": "epoch lost"}
    reply = {"kind": "reply", "ok": True, "reason": "", "result": {"missing": [run], "next": None}}
    works.take({**reply, "correlation": asked["correlation"]})
    assert works.told == [Missing("gate", "e1", 12, 13, "epoch lost")]
    asked = json.loads(works.clerk.asks()[0].payload)
    assert (asked["epoch"], asked["from"], asked["to"]) == ("e2", 1, 2)


def test_what_is_only_not_yet_written_is_not_given_up(works: Works) -> None:
    works.take(status(10))
    works.take(row(2**40))
    (asked,) = works.asks_after(1.1)
    run = {"first_seq": 11, "last_seq": 5010, "reason": "not written"}
    reply = {"kind": "reply", "ok": True, "reason": "", "result": {"missing": [run], "next": None}}
    works.take({**reply, "correlation": asked["correlation"]})
    assert works.told == []
    assert works.clerk.status()["holes"] == 2**40 - 11


def test_a_long_loss_is_asked_for_piece_by_piece_without_a_pause(works: Works) -> None:
    works.take(status(0))
    works.take(status(20_000))
    asked = []
    asks = works.asks_after(1.1)
    while asks:
        question = asks[0]
        asked.append((question["from"], question["to"]))
        reply = {"kind": "reply", "ok": True, "reason": "", "result": {"missing": [], "next": None}}
        rows = [row(seq, backfill=True) for seq in range(question["from"], question["to"] + 1)]
        works.take(*rows, {**reply, "correlation": question["correlation"]})
        works.now_s += 0.01
        asks = [json.loads(ask.payload) for ask in works.clerk.asks()]
    assert asked == [(1, 5000), (5001, 10_000), (10_001, 15_000), (15_001, 20_000)]
    assert len(works.booked()) == 20_000


def test_in_order_waits_for_what_is_missing_and_no_longer_than_told(tmp_path: Path) -> None:
    works = Works(tmp_path, in_order=True, patience_s=30.0)
    works.take(status(10))
    works.take(row(13), row(11), row(14))
    assert works.booked() == [11]
    works.kill()
    works.take(row(16))
    assert works.booked() == [11]
    assert works.clerk.status()["held"] == 3
    works.now_s += 31.0
    works.take()
    assert works.booked() == [11, 13, 14]
    works.take(row(12, backfill=True))
    assert works.booked() == [11, 13, 14, 12], "late is better than never"
    works.take(row(15))
    assert works.booked() == [11, 13, 14, 12, 15, 16]
    works.clerk.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff{",
        b"[1]",
        b"null",
        b"[" * 100_000,
        b'{"kind": "decision"}',
        b'{"kind": "decision", "station": "gate", "epoch": "e1", "seq": true}',
        b'{"kind": "decision", "station": "gate", "epoch": "e1", "seq": -1}',
        b'{"kind": "decision", "station": "gate", "epoch": "e1", "seq": 1e300}',
        b'{"kind": "decision", "station": ["gate"], "epoch": "e1", "seq": 1}',
        b'{"kind": "gap", "station": "gate", "epoch": "e1", "seq": 1, "first_seq": 9, "last_seq": 3, "cause": ""}',
    ],
)
def test_what_is_no_message_is_counted_and_the_rest_goes_on(works: Works, payload: bytes) -> None:
    works.clerk.take([("lineside/x", payload)], works.book, works.miss)
    assert works.clerk.status()["invalid"] == 1
    works.take(row(1))
    assert works.booked() == [1]


def test_what_others_ask_a_box_is_no_message_and_no_fault(works: Works) -> None:
    works.take(status(0))
    works.clerk.take([(RESEND, b'{"station": "gate"}')], works.book, works.miss)
    assert works.clerk.status()["invalid"] == 0


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": "status"},
        {"kind": "status", "state": "online", "epoch": 3, "last_seq": [], "resend_topic": 7},
        {"kind": "status", "state": "online", "epoch": "e1", "last_seq": {"gate": "x"}, "previous": 3},
        {"kind": "reply", "correlation": None},
        {"kind": "reply", "correlation": ["x"], "ok": True, "result": {"missing": 3}},
    ],
)
def test_an_odd_status_or_reply_changes_nothing(works: Works, odd: dict[str, Any]) -> None:
    works.take(odd)
    works.take(row(1))
    assert works.booked() == [1]


def test_a_handler_that_raises_leaves_nothing_behind(works: Works) -> None:
    works.take(row(1))

    def fail(message: dict[str, Any], db: sqlite3.Connection) -> None:
        works.book(message, db)
        raise ValueError("the disk of the MES")

    with pytest.raises(ValueError, match="of the MES"):
        works.clerk.take([("t", json.dumps(row(2)).encode())], fail, works.miss)
    assert works.booked() == [1]
    works.take(row(2))
    assert works.booked() == [1, 2]


def test_a_state_that_cannot_be_used_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        Receiver("127.0.0.1", state=tmp_path / "absent" / "state.db", client_id="mes")
    (tmp_path / "junk.db").write_bytes(b"no database " * 1000)
    with pytest.raises(sqlite3.Error):
        Receiver("127.0.0.1", state=tmp_path / "junk.db", client_id="mes")
    with pytest.raises(ValueError, match="client_id"):
        Receiver("127.0.0.1", state=tmp_path / "state.db", client_id="")


def test_a_signer_keeps_its_key_in_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    first = Signer.of_file("mes", tmp_path / "mes.key")
    assert (tmp_path / "mes.key").stat().st_mode & 0o777 == 0o600
    assert Signer.of_file("mes", tmp_path / "mes.key").public_key == first.public_key
    (tmp_path / "mes.key").write_text("c2hvcnQ=\n")
    with pytest.raises(ValueError, match="32 bytes"):
        Signer.of_file("mes", tmp_path / "mes.key")


def test_the_bytes_that_are_signed_are_those_of_the_documents() -> None:
    fields = {"to": "l/box", "args": {"b": 1, "a": "ä"}, "signature": "x"}
    assert canonical(fields) == b'lineside command 1\n{"args":{"a":"\\u00e4","b":1},"to":"l/box"}'


def test_the_folder_can_be_copied_and_needs_only_paho(tmp_path: Path) -> None:
    folder = Path(lineside.subscriber.__file__).parent
    modules = {
        node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) == {"paho"}
    shutil.copytree(folder, tmp_path / "copied")
    program = "import sys, copied; assert not [name for name in sys.modules if name.startswith('lineside')]"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
