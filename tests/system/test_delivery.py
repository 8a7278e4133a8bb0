"""Nothing is lost and nothing doubled between the journal and a subscriber, whatever is killed in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Mosquitto
from deliveries import Subscriber, decision, journal, sink
from lineside.deliver.mqtt import MqttSink
from lineside.deliver.tables import Row
from lineside.deliver.tally import Tally
from lineside.deliver.validate import faults

Eventually = Callable[..., None]


class HastySink(MqttSink):
    """Deliberately broken: takes sending for delivery, so the cursor moves before the acknowledgement."""

    def send(self, row: Row, backfill: bool, age_ms: int | None) -> int | None:
        packet = super().send(row, backfill, age_ms)
        self.feed.cursor.deliver(row.id)
        return packet


def tally(messages: list[tuple[str, dict[str, Any]]]) -> Tally:
    counted = Tally()
    for topic, message in messages:
        assert faults(message) == []
        if "station" in message:
            assert message["backfill"] == topic.endswith("/backfill")
            assert message["late"] == message["backfill"]
        counted.is_new(message)
    return counted


@pytest.mark.parametrize("kind", [MqttSink, HastySink])
def test_a_broker_that_is_killed_loses_nothing_and_live_is_told_from_backfill(
    tmp_path: Path, eventually: Eventually, kind: type[MqttSink]
) -> None:
    """The broken sink must fail: else this test would not see a loss."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    subscriber = Subscriber(broker.port, "lineside/#", client_id="mes")
    opened = journal(tmp_path / "state", durable=False)
    made = sink(opened, broker.port, kind, live_max_age_ms=300)
    line = Line(opened.put)
    line.start()
    try:
        for _ in range(3):
            mark = made.status()["acked"]
            eventually(lambda mark=mark: made.status()["acked"] > mark + chance.randrange(20, 60), what="deliveries")  # type: ignore[operator]
            broker.kill()
            waiting = opened.last_id
            eventually(lambda waiting=waiting: opened.last_id > waiting + 100, what="the line going on")
            broker.start()
            eventually(lambda: made.status()["connected"])
    finally:
        line.stop()
    assert opened.flush(10)
    eventually(lambda: made.status()["pending"] == 0, within_s=30, what="the backlog")

    def has_all() -> bool:
        seen = tally(subscriber.got)
        return not seen.missing() and seen.counts["decision"] == line.put

    if kind is HastySink:
        made.stop(1.0)
        opened.stop()
        time_to_arrive(subscriber)
        assert not has_all(), f"seed {seed}: the broken sink lost nothing, so this test proves nothing"
    else:
        eventually(has_all, within_s=40, what=f"seed {seed}: all decisions at the subscriber")
        counts = tally(subscriber.got).counts
        assert counts["backfill"] > 0
        assert counts["live"] > 0
        assert opened.last_seq() == {"gate": line.put}
        made.stop(1.0)
        opened.stop()
    subscriber.close()
    broker.close()


def time_to_arrive(subscriber: Subscriber) -> None:
    """Until nothing more comes for half a second."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        if len(subscriber.got) != count:
            count, since = len(subscriber.got), time.monotonic()
        threading.Event().wait(0.02)


class Line:
    """Decides 200 parts a second until it is stopped."""

    def __init__(self, put: Callable[[Any], None]) -> None:
        self.put = 0
        self._hand_over = put
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.wait(0.005):
            self._hand_over(decision(self.put))
            self.put += 1


BOX = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from deliveries import decision, journal, sink
opened = journal(Path({folder!r}), durable=False)
sink(opened, {port})
number = 0
while True:
    opened.put(decision(number))
    number += 1
    time.sleep(0.003)
"""


def test_a_box_that_is_killed_leaves_no_gap_and_uses_no_seq_twice(tmp_path: Path, eventually: Eventually) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        subscriber = Subscriber(broker.port, "lineside/#")
        program = BOX.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "state"), port=broker.port)
        for _ in range(5):
            before = len(subscriber.got)
            box = subprocess.Popen([sys.executable, "-c", program])
            wanted = before + chance.randrange(5, 120)
            eventually(lambda wanted=wanted: len(subscriber.got) > wanted, within_s=20)
            os.kill(box.pid, signal.SIGKILL)
            box.wait(10)
        opened = journal(tmp_path / "state", durable=False)
        made = sink(opened, broker.port)
        opened.put(decision(0))
        assert opened.flush(10)
        eventually(lambda: made.status()["acked"] and made.status()["pending"] == 0)
        last = opened.last_seq()["gate"]
        eventually(lambda: tally(subscriber.got).counts["decision"] == last, what=f"seed {seed}: all {last}")
        assert tally(subscriber.got).missing() == {}
        contents: dict[int, str] = {}
        for message in subscriber.records("decision") + subscriber.records("backfill"):
            decided = message["id"] + message["decided_at"]
            assert contents.setdefault(message["seq"], decided) == decided, f"seed {seed}: a seq was used twice"

        def wills() -> int:
            return [message["state"] for message in subscriber.records("status")].count("offline")

        eventually(lambda: wills() >= 5, what="the last will of each killed box")
        made.stop(1.0)
        opened.stop()
        subscriber.close()


def test_lineside_subscribe_prints_checks_and_counts(tmp_path: Path, eventually: Eventually) -> None:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        opened = journal(tmp_path / "state", durable=False)
        made = sink(opened, broker.port)
        command = [sys.executable, "-m", "lineside.cli", "subscribe", "--port", str(broker.port), "--count", "20"]
        watching = Subscriber(broker.port, "$SYS/broker/subscriptions/count")
        commands = [
            subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for more in ([], ["--json"])
        ]
        eventually(lambda: broker.log().count("New client connected") >= 4)
        stop = threading.Event()
        number = 0
        while any(each.poll() is None for each in commands) and number < 3000:  # until both have their twenty
            opened.put(decision(number))
            number += 1
            stop.wait(0.01)
        (plain, plain_errors), (lines, errors) = (each.communicate(timeout=10) for each in commands)
        assert [each.returncode for each in commands] == [0, 0], plain_errors + errors
        assert "reject -> reject  part part-" in plain
        assert "received: 20 decision" in plain_errors
        assert len([line for line in lines.splitlines() if '"kind":"decision"' in line]) == 20
        made.stop(1.0)
        opened.stop()
        watching.close()


def test_lineside_subscribe_names_what_is_wrong_with_a_message(tmp_path: Path, eventually: Eventually) -> None:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        publisher = Subscriber(broker.port, "nothing")
        publisher._client.publish("lineside/x", b'{"kind":"decision"}', 1, retain=True)
        publisher._client.publish("lineside/y", b"\xff{", 1, retain=True).wait_for_publish(10)
        command = [sys.executable, "-m", "lineside.cli", "subscribe", "--port", str(broker.port), "--timeout-s", "2"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert ended.returncode == 1
        assert "lineside/x: station: missing" in ended.stderr
        assert "lineside/y: is not JSON" in ended.stderr
        assert "Traceback" not in ended.stderr
        publisher.close()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--port", "1"], 1, "127.0.0.1:1: cannot connect"),
        (["--session-expiry-s", "5"], 78, "needs --client-id"),
        (["--ca-file", "/absent.pem"], 78, "give readable PEM files"),
    ],
)
def test_lineside_subscribe_says_why_it_cannot(words: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "lineside.cli", "subscribe", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
