"""Exactly once from journal to subscriber, whoever is killed; and two daemons that take each other's name."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Mosquitto
from deliveries import Subscriber, decision
from desks import STATUS, Box, Mes, booked
from lineside.deliver.twin import Twins
from lineside.deliver.validate import faults
from rig import Daemon, fake_bundle, fake_profile, pictures

Eventually = Callable[..., None]


def test_what_a_broker_with_default_settings_lost_is_found_and_sent_again(
    tmp_path: Path, eventually: Eventually
) -> None:
    """mosquitto keeps sessions in memory by default: killed, it has lost what it acknowledged for an absent one."""
    broker = Mosquitto(tmp_path / "broker", crash_safe=False)
    broker.start()
    with Box(tmp_path / "box", broker.port, settle_s=0.0) as box:
        box.listening().decide(1, 50)
        mes = Mes(tmp_path, broker.port, in_order=True)
        eventually(lambda: len(mes.booked()) == 50, within_s=20)
        for last in (150, 250):
            mes.stop()
            asked = mes.receiver._clerk.counts["asked"]
            box.decide(last - 99, last)
            eventually(lambda last=last: box.sink.status()["acked"] >= last, what="acknowledged by the broker")
            broker.kill()
            broker.start()
            mes = Mes(tmp_path, broker.port, in_order=True)
            eventually(lambda last=last, mes=mes: len(mes.booked()) == last, within_s=30, what="what the broker lost")
            assert mes.receiver._clerk.counts["asked"], f"nothing was lost, so this proves nothing ({asked})"
        assert mes.booked() == list(range(1, 251))
        assert mes.told == []
        eventually(lambda: mes.receiver.status()["holes"] == 0)
        mes.stop()
    broker.close()


MES = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from desks import book
from lineside.subscriber import Receiver
from lineside.subscriber.asker import Asker
asker = Asker(grace_s=0.3, answer_s=2.0, backoff_min_s=0.2, backoff_max_s=1.0)
receiver = Receiver("127.0.0.1", port={port}, state={state!r}, client_id="mes", from_start=True, asker=asker)
receiver.run(book)
"""


def test_a_subscriber_that_is_killed_at_random_instants_books_each_message_once(
    tmp_path: Path, eventually: Eventually
) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    state = tmp_path / "mes.db"
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker, Box(tmp_path / "box", broker.port) as box:
        box.listening()
        Mes(tmp_path, broker.port).stop()  # makes the table; its session is there from now on
        leave, put = threading.Event(), [0]

        def line() -> None:
            while not leave.wait(0.004):
                put[0] += 1
                box.journal.put(decision(put[0]))

        thread = threading.Thread(target=line, daemon=True)
        thread.start()
        program = MES.format(tests=str(Path(__file__).parents[1]), port=broker.port, state=str(state))
        for _ in range(6):
            before = len(booked(state))
            child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
            wanted = before + chance.randrange(3, 150)
            eventually(lambda wanted=wanted: len(booked(state)) > wanted, within_s=20, what=f"seed {seed}")
            os.kill(child.pid, signal.SIGKILL)
            _, errors = child.communicate(timeout=10)
            assert errors == b"", errors.decode()
        leave.set()
        thread.join(5)
        mes = Mes(tmp_path, broker.port)
        eventually(lambda: len(booked(state)) == put[0], within_s=30, what=f"seed {seed}: all {put[0]}")
        assert sorted(booked(state)) == list(range(1, put[0] + 1))
        assert mes.told == []
        mes.stop()


# --- two daemons


def toml(folder: Path, port: int, *, mqtt: str) -> str:
    profile, clip = folder / "fake.toml", folder / "clip"
    if not profile.exists():
        fake_profile(profile)
        pictures(clip, 10)
    return f"""
site = "plant"
line = "l1"
[daemon]
profile = "{profile}"
[cameras.cam]
driver = "clip"
path = "{clip}"
loop = true
fps = 10
[stations.gate]
camera = "cam"
bundle = "{fake_bundle()}"
[mqtt]
host = "127.0.0.1"
port = {port}
heartbeat_s = 1
reconnect_min_s = 0.1
reconnect_max_s = 0.4
{mqtt}
"""


def twins(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.status()["desk"]["twins"]
    return found


@pytest.mark.parametrize(
    ("one", "two", "shares"),
    [
        ('box = "b1"', 'box = "b2"', "station 'gate'"),
        ('box = "b1"\nclient_id = "c1"', 'box = "b1"\nclient_id = "c2"', "the box name 'b1'"),
        ('box = "b1"', 'box = "b1"', "the box name 'b1'"),  # the same client_id: each throws the other out
        ('box = "b1"\nprotocol = "3.1.1"', 'box = "b1"\nprotocol = "3.1.1"', "the box name 'b1'"),
    ],
    ids=["station", "box", "client_id", "client_id on 3.1.1"],
)
def test_two_daemons_that_share_a_name_are_reported_by_both(
    tmp_path: Path, eventually: Eventually, one: str, two: str, shares: str
) -> None:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        watching = Subscriber(broker.port, "lineside/#")
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        configs = [toml(tmp_path, broker.port, mqtt=mqtt) for mqtt in (one, two)]
        with Daemon(folders[0], configs[0]) as first:
            first.ready()
            assert twins(first) == []
            with Daemon(folders[1], configs[1]) as second:
                second.ready()
                for daemon in (first, second):
                    eventually(lambda daemon=daemon: twins(daemon), within_s=30, what="the twin being noticed")
                    assert twins(daemon)[0]["shares"] == shares
                    said = lambda daemon=daemon: "stop one of them, or give each box" in daemon.log()  # noqa: E731
                    eventually(said, within_s=30, what="the log telling what to do")
                audits = lambda: {m["epoch"] for _, m in list(watching.got) if m.get("command") == "twin"}  # noqa: E731
                eventually(lambda: len(audits()) == 2, within_s=30, what="the audit of both")
                told = lambda: {m["instance"] for m in watching.records("status") if m.get("twins")}  # noqa: E731
                eventually(lambda: len(told()) == 2, within_s=30, what="the status of both")
        assert [fault for _, message in watching.got for fault in faults(message)] == []
        watching.close()


def test_a_restart_is_no_twin(tmp_path: Path, eventually: Eventually) -> None:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        config = toml(tmp_path, broker.port, mqtt='box = "b1"')
        (tmp_path / "one").mkdir()
        with Daemon(tmp_path / "one", config) as daemon:
            for start in range(1, 4):
                daemon.ready(start)
                eventually(lambda: daemon.status()["mqtt"]["acked"] > 10, within_s=20)
                assert twins(daemon) == []
                if start < 3:
                    daemon.kill()
                    daemon.start()


# --- the rules by which a twin is told, one status at a time


def status(instance: str, connection: int, state: str = "online", **fields: Any) -> dict[str, Any]:
    return {"kind": "status", "box": "box", "state": state, "instance": instance, "connection": connection, **fields}


def test_a_predecessor_is_no_twin_whenever_its_last_will_comes() -> None:
    twins = Twins(STATUS, "box", ["gate"])
    assert twins.heard(STATUS, status("before", 3), True, 0.0) is None
    assert twins.heard(STATUS, status(twins.instance, 1), False, 0.1) is None
    assert twins.heard(STATUS, status("before", 3, "offline"), False, 0.2) is None
    assert twins.present(0.3) == []
    again = Twins(STATUS, "box", ["gate"])
    assert again.heard(STATUS, status("before", 3, "offline"), False, 0.0) is None, "the broker had kept nothing"


def test_a_twin_is_told_once_and_forgotten_when_it_is_gone() -> None:
    twins = Twins(STATUS, "box", ["gate"])
    twins.heard(STATUS, status("other", 1), True, 0.0)
    found = twins.heard(STATUS, status("other", 2, "offline", heartbeat_s=10), True, 1.0)
    assert found is not None, "it has connected again, though only its last will is there"
    assert twins.heard(STATUS, status("other", 3, heartbeat_s=10), False, 2.0) is None, "told once"
    assert [twin.instance for twin in twins.present(61.0)] == ["other"]
    assert twins.present(63.0) == []


def test_another_box_is_a_twin_only_while_it_lives_and_shares_a_station() -> None:
    twins = Twins(STATUS, "box", ["gate"])
    other = "lineside/plant/l1/box-2/status"
    assert twins.heard(other, status("b2", 1, stations=["gate"]), True, 0.0) is None, "retained: maybe of last year"
    assert twins.heard(other, status("b2", 1, "offline", stations=["gate"]), False, 0.0) is None
    assert twins.heard(other, status("b2", 1, stations=["press"]), False, 0.0) is None
    assert twins.heard(other, status("b2", 1, stations="gate"), False, 0.0) is None
    assert twins.heard(other, status("b2", 1), False, 0.0) is None
    assert twins.heard(other, status("b2", 1, stations=["gate", "press"]), False, 0.0) is not None


def test_a_late_last_will_is_put_right(tmp_path: Path, eventually: Eventually) -> None:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        watching = Subscriber(broker.port, STATUS)
        with Box(tmp_path / "box", broker.port, heartbeat_s=3600) as box:
            box.listening()
            eventually(lambda: watching.records("status"))
            will = json.dumps(status("before", 1, "offline", lineside=1, reason="connection lost"))
            watching._client.publish(STATUS, will, 1, retain=True).wait_for_publish(10)
            eventually(lambda: [m["state"] for m in watching.records("status")][-2:] == ["offline", "online"])
            assert box.desk.status()["twins"] == []
        watching.close()
