"""What a box answers when it is asked for messages again, over a real broker."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker import Mosquitto
from deliveries import Subscriber, decision
from desks import RESEND, Asking, Box, Mes
from lineside.deliver.resend import RUNS_MAX, Address, Refused, Resends
from lineside.deliver.validate import faults, schema

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker"), crash_safe=False) as running:
        yield running


@pytest.fixture
def box(tmp_path: Path, broker: Mosquitto) -> Iterator[Box]:
    with Box(tmp_path / "box", broker.port) as made:
        yield made.listening()


@pytest.fixture
def asking(broker: Mosquitto) -> Iterator[Asking]:
    made = Asking(broker.port)
    yield made
    made.close()


def request(box: Box, first: int, last: int, **fields: Any) -> dict[str, Any]:
    return {"station": "gate", "epoch": box.epoch, "from": first, "to": last, **fields}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_is_asked_for_comes_again_as_backfill_with_a_reply_at_its_end(
    box: Box, broker: Mosquitto, eventually: Eventually, protocol: str
) -> None:
    asking = Asking(broker.port, protocol)
    box.decide(1, 50)
    fields = {} if protocol == "5" else {"response_topic": f"{RESEND}/asking", "correlation": "c1"}
    asking.ask(request(box, 11, 30, **fields))
    eventually(asking.replies)
    assert [message["seq"] for message in asking.rows()] == list(range(11, 31))
    assert asking.answers[-1]["kind"] == "reply"
    assert all(message["backfill"] and message["late"] for message in asking.rows())
    assert {message["topic"] for message in asking.answers} == {f"{RESEND}/asking"}
    (reply,) = asking.replies()
    assert (reply["ok"], reply["reason"], reply["correlation"], reply["box"]) == (True, "", "c1", "box")
    result = {"station": "gate", "epoch": box.epoch, "from": 11, "to": 30, "count": 20, "missing": [], "next": None}
    assert reply["result"] == result
    assert set(asking.data) == ({b"c1"} if protocol == "5" else {None})
    for message in asking.answers:
        del message["topic"]
        assert faults(message) == []
    jsonschema.validate(reply, schema("reply"), jsonschema.Draft202012Validator)
    asking.close()


def test_a_billion_messages_are_answered_with_what_exists(box: Box, asking: Asking, eventually: Eventually) -> None:
    box.decide(1, 200)
    asking.ask(request(box, 1, 10**9))
    eventually(asking.replies)
    result = asking.replies()[0]["result"]
    assert (result["count"], result["to"], result["next"]) == (200, 10**9, None)
    assert result["missing"] == [{"first_seq": 201, "last_seq": 10**9, "reason": "not written"}]
    assert len(asking.rows()) == 200


def test_a_long_answer_ends_and_says_where_to_go_on(
    box: Box, asking: Asking, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.deliver.resend.ROWS_MAX", 150)
    box.decide(1, 400)
    asking.ask(request(box, 1, 400))
    eventually(asking.replies)
    assert asking.replies()[0]["result"]["next"] == 151
    asking.ask(request(box, 151, 400))
    eventually(lambda: len(asking.replies()) == 2)
    assert [message["seq"] for message in asking.rows()] == list(range(1, 301))


def test_what_was_pruned_is_named_in_runs_and_too_many_runs_in_pieces(
    box: Box, asking: Asking, eventually: Eventually
) -> None:
    box.decide(1, 1000)
    taken = [*range(1, 101), *range(301, 701, 2)]
    with closing(sqlite3.connect(box.journal.path, timeout=10)) as hand:
        hand.executemany("DELETE FROM row WHERE seq = ?", [(seq,) for seq in taken])
        hand.commit()
    at, runs = 1, []
    while at is not None:
        asking.ask(request(box, at, 1000))
        count = len(asking.replies())
        eventually(lambda count=count: len(asking.replies()) > count)
        result = asking.replies()[-1]["result"]
        assert len(result["missing"]) <= RUNS_MAX
        runs += result["missing"]
        at = result["next"]
    assert len(asking.replies()) > 1
    gone = [seq for run in runs for seq in range(run["first_seq"], run["last_seq"] + 1)]
    assert gone == taken
    assert {run["reason"] for run in runs} == {"pruned"}
    assert runs[0] == {"first_seq": 1, "last_seq": 100, "reason": "pruned"}
    assert [message["seq"] for message in asking.rows()] == sorted(set(range(1, 1001)) - set(taken))


def test_another_epoch_is_told_from_one_that_was_lost_and_one_that_never_was(
    tmp_path: Path, broker: Mosquitto, asking: Asking, eventually: Eventually
) -> None:
    folder = tmp_path / "box"
    with Box(folder, broker.port, journal_options={"boot": "one"}) as first:
        first.decide(1, 30)
        old = first.epoch
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)  # as the disk is at a power cut: without fsync a new epoch must begin
    with Box(copy, broker.port, journal_options={"boot": "two"}) as second:
        second.listening().decide(1, 10)
        assert second.epoch != old
        asking.ask(request(second, 21, 40, epoch=old))
        eventually(asking.replies, within_s=20)
        assert [message["seq"] for message in asking.rows()] == list(range(21, 31))
        assert asking.replies()[0]["result"]["missing"] == [{"first_seq": 31, "last_seq": 40, "reason": "not written"}]
        asking.ask(request(second, 1, 5, epoch="never"))
        eventually(lambda: len(asking.replies()) == 2)
        assert asking.replies()[1]["result"]["missing"][0]["reason"] == "unknown epoch"
        newer = second.epoch
        second.journal._broken = second.journal.generation  # what a reader says when it meets a corrupt page
        second.decide(11, 20)
        eventually(lambda: second.epoch != newer)
        asking.ask(request(second, 1, 5, epoch=newer))
        eventually(lambda: len(asking.replies()) == 3)
        assert asking.replies()[2]["result"]["missing"] == [{"first_seq": 1, "last_seq": 5, "reason": "epoch lost"}]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "malformed: not JSON"),
        (b"\xff\xfe", "malformed: not JSON"),
        (b"[" * 10_000, "malformed: not JSON"),
        (b"[]", "malformed: not a JSON object"),
        (b"{}", "malformed: station must be"),
        ({"station": "gate", "epoch": "e", "from": 0, "to": 5}, "malformed: from must be"),
        ({"station": "gate", "epoch": "e", "from": 1, "to": 2.5}, "malformed: to must be"),
        ({"station": "gate", "epoch": "e", "from": True, "to": 5}, "malformed: from must be"),
        ({"station": "gate", "epoch": "e", "from": 1, "to": 2**60}, "malformed: to must be"),
        ({"station": "gate", "epoch": "e", "from": 9, "to": 5}, "malformed: to must not be below from"),
        ({"station": "x" * 200, "epoch": "e", "from": 1, "to": 5}, "malformed: station must be"),
        ({"station": "gate", "epoch": "e", "from": 1, "to": 5, "response_topic": 7}, "response topic: must be"),
        ({"station": "gate", "epoch": "e", "from": 1, "to": 5, "correlation": ["x"]}, "correlation: must be"),
        (b'{"station": "' + b"x" * 60_000 + b'"}', "oversized: 60015 bytes"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_a_reply_that_says_why(
    box: Box, asking: Asking, eventually: Eventually, payload: object, why: str
) -> None:
    asking.ask(payload)
    eventually(asking.replies)
    (reply,) = asking.replies()
    assert not reply["ok"]
    assert why in reply["reason"]
    assert (reply["correlation"], asking.data) == ("c1", [b"c1"])
    assert box.desk.status()["refused"] == 1
    eventually(lambda: box.journal.last_seq().get("box") == 1, what="the audit")


def test_a_message_of_megabytes_does_not_reach_the_box(box: Box, asking: Asking, eventually: Eventually) -> None:
    asking.ask(b" " * 3_000_000)
    asking.ask(b"{}")
    eventually(asking.replies)
    assert "malformed: station" in asking.replies()[0]["reason"], "the broker kept the long one back"
    assert box.desk.status()["refused"] == 1


@pytest.mark.parametrize("topic", ["plc/gate/open", "lineside/plant/l1/box/command", f"{RESEND}", f"{RESEND}x/a"])
def test_a_box_writes_its_answer_to_no_other_topic(
    box: Box, broker: Mosquitto, asking: Asking, eventually: Eventually, topic: str
) -> None:
    victim = Subscriber(broker.port, "plc/#")
    box.decide(1, 5)
    asking.ask(request(box, 1, 5), answer_to=topic)
    eventually(asking.replies)
    assert "response topic: must be a topic that begins with" in asking.replies()[0]["reason"]
    assert asking.replies()[0]["topic"] == f"{RESEND}/reply"
    assert asking.rows() == victim.got == []
    victim.close()


def test_requests_are_answered_in_turn_and_too_many_are_told_to_come_again(
    box: Box, asking: Asking, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.decide(1, 300)
    for number in range(8):
        asking.ask(request(box, 1, 300), correlation=b"r%d" % number)
    eventually(lambda: len(asking.replies()) == 8, within_s=30)
    assert sum(reply["ok"] for reply in asking.replies()) == 8
    assert len(asking.rows()) == 2400
    monkeypatch.setattr("lineside.deliver.desk.ANSWERS_MAX", 1)
    for number in range(3):
        asking.ask(request(box, 1, 300), correlation=b"s%d" % number)
    eventually(lambda: len(asking.replies()) == 11)
    assert any("busy" in reply["reason"] for reply in asking.replies()[8:])


def test_a_flood_of_bad_requests_leaves_a_bounded_audit_and_live_decisions_go_on(
    box: Box, broker: Mosquitto, asking: Asking, eventually: Eventually
) -> None:
    watching = Subscriber(broker.port, "lineside/plant/l1/gate/decision")
    for _ in range(2000):
        asking.client.publish(RESEND, b"nonsense", 1)
    box.decide(1, 100)
    eventually(lambda: len(watching.records()) == 100)
    eventually(lambda: box.desk.status()["refused"] == 2000, within_s=30)
    assert not any(message["backfill"] for message in watching.records())
    assert box.journal.last_seq()["box"] < 40
    watching.close()


def test_an_asker_that_never_reads_costs_nothing(box: Box, broker: Mosquitto, eventually: Eventually) -> None:
    """Raw MQTT 3.1.1: subscribe to the answer, ask for everything, and read no byte of it."""
    box.decide(1, 3000)
    watching = Subscriber(broker.port, "lineside/plant/l1/gate/decision")

    def text(words: str) -> bytes:
        return struct.pack(">H", len(words)) + words.encode()

    def packet(kind: int, body: bytes) -> bytes:
        length, head = len(body), bytes([kind])
        while length > 127:
            head, length = head + bytes([length % 128 | 0x80]), length // 128
        return head + bytes([length]) + body

    asked = json.dumps(request(box, 1, 3000, response_topic=f"{RESEND}/deaf", correlation="d")).encode()
    with socket.create_connection(("127.0.0.1", broker.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text("deaf")))
        deaf.sendall(packet(0x82, b"\x00\x01" + text(f"{RESEND}/deaf") + b"\x01"))
        deaf.sendall(packet(0x32, text(RESEND) + b"\x00\x02" + asked))
        eventually(lambda: box.desk.status()["resent"] == 3000, within_s=30)
        box.decide(3001, 3010)
        eventually(lambda: len(watching.records()) >= 10)
        assert box.desk.status()["answering"] == 0
    watching.close()


def test_the_answer_of_a_lost_connection_is_dropped_and_asked_for_again(tmp_path: Path, eventually: Eventually) -> None:
    with Mosquitto(tmp_path / "own", crash_safe=False) as broker, Box(tmp_path / "box", broker.port) as box:
        box.decide(1, 2000)
        eventually(lambda: box.sink.status()["acked"] == 2000, within_s=30)
        mes = Mes(tmp_path, broker.port)
        eventually(lambda: mes.booked()[:1], within_s=20, what="the first of the answer")
        broker.kill()
        broker.start()
        eventually(lambda: len(mes.booked()) == 2000, within_s=40)
        assert mes.told == []
        mes.stop()


def test_a_disk_that_cannot_be_read_is_the_replys_reason(tmp_path: Path, box: Box) -> None:
    resends = Resends(box.journal, "box")
    box.journal.path = tmp_path / "absent.db"
    answer = resends.answer(request(box, 1, 5), Address("t"))
    assert "cannot be read" in json.loads(next(answer).payload)["reason"]
    assert next(answer, None) is None
    with pytest.raises(Refused, match="to must not be below from"):
        resends.answer({"station": "gate", "epoch": "e", "from": 2, "to": 1}, Address("t"))


@pytest.mark.parametrize(("ours", "theirs"), [("5", "5"), ("5", "3.1.1"), ("3.1.1", "5"), ("3.1.1", "3.1.1")])
def test_a_receiver_gets_what_the_broker_never_had_for_it(
    tmp_path: Path, broker: Mosquitto, eventually: Eventually, ours: Any, theirs: Any
) -> None:
    box = Box(tmp_path / "box", broker.port, protocol=ours).listening()
    box.decide(1, 500)
    eventually(lambda: box.sink.status()["acked"] == 500)
    mes = Mes(tmp_path, broker.port, protocol=theirs, client_id=f"mes-{ours}-{theirs}", in_order=True)
    eventually(lambda: len(mes.booked()) == 500, within_s=30, what=str(mes.receiver.status()))
    box.decide(501, 520)
    eventually(lambda: len(mes.booked()) == 520, within_s=30)
    assert mes.booked() == list(range(1, 521))
    eventually(lambda: mes.receiver.status()["holes"] == 0)
    status = mes.receiver.status()
    assert (status["connected"], status["missing"], status["held"]) == (True, 0, 0)
    assert box.journal.last_seq()["box"] == 1, "one audit for all of it"
    mes.stop()
    box.stop()


def test_a_wildcard_is_no_name_of_a_station_or_box() -> None:
    from lineside.checked import Unfit, checked
    from lineside.config import Config
    from lineside.config.delivery import MqttConfig

    for name in ("gate/#", "+", "ga#te", "a/b", "$SYS"):
        with pytest.raises(Unfit, match="stations"):
            checked(Config, {"cameras": {"c": {"driver": "clip", "path": "x"}}, "stations": {name: {"camera": "c"}}})
    for box in ("+", "#", "a/b", "\n"):
        with pytest.raises(Unfit, match="topic level"):
            checked(MqttConfig, {"host": "x", "box": box})


def test_live_decisions_overtake_an_answer(box: Box, broker: Mosquitto, asking: Asking, eventually: Eventually) -> None:
    box.decide(1, 4000)
    eventually(lambda: box.sink.status()["acked"] == 4000, within_s=30)
    order: list[int] = []
    watching = Subscriber(broker.port, "lineside/plant/l1/gate/decision")
    begun = threading.Event()
    asking.client.on_message = lambda *_: (order.append(0), begun.set())
    asking.ask(request(box, 1, 4000))
    assert begun.wait(10)
    box.journal.put(decision(4001))
    eventually(lambda: watching.records())
    assert len(order) < 4000, "the live decision waited for the whole answer"
    eventually(lambda: len(order) > 4000, within_s=30)
    watching.close()
