"""The Sparkplug sink with a real mosquitto and a host that is not ours (tests/js/sparkplug_host.mjs)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from broker import Mosquitto
from deliveries import decision, event, journal
from lineside.deliver.journal import Journal
from lineside.deliver.link import Incoming
from lineside.deliver.sparkplug.payload import BOOLEAN, Metric, birth
from lineside.deliver.sparkplug.session import REBIRTH, Birthdays, Session
from lineside.deliver.validate import faults
from sparkplug import Cuttable, Host, running, sparkplug_sink

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker"), crash_safe=False) as started:
        yield started


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Journal]:
    made = journal(tmp_path / "state", durable=False)
    yield made
    made.stop()


def publish(port: int, topic: str, payload: bytes, retain: bool = False) -> None:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(topic, payload, 1, retain).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize(("protocol", "typed"), [("5", False), ("3.1.1", True)])
def test_births_decisions_events_and_the_death_arrive_as_a_host_expects_them(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually, protocol: str, typed: bool
) -> None:
    devices = {"gate": "gate", "yard": "Yard camera"}
    options: dict[str, Any] = {"devices": devices, "protocol": protocol, "datatypes_in_data": typed}
    with Host(broker.port) as host:
        with running(sparkplug_sink(opened, broker.port, tmp_path, **options)) as made:
            eventually(lambda: len(host.of("DBIRTH")) == 2)
            for number in range(300):  # past the last sequence number
                opened.put(decision(number))
            opened.put(event(1))
            eventually(lambda: len(host.seqs()) == 300 and host.of("DDATA", "Yard camera"))
            eventually(lambda: made.status()["acked"] == 301 and made.status()["pending"] == 0)
        eventually(lambda: host.of("NDEATH"))
        assert host.broken == []
        assert [m["verb"] for m in host.heard[:3]] == ["NBIRTH", "DBIRTH", "DBIRTH"]
        (birth,) = host.of("NBIRTH")
        assert (birth["values"][REBIRTH], birth["values"]["Properties/Version"]) == (False, "1")
        assert birth["values"]["Journal/Epoch"] in (None, opened.epoch)
        assert {value for value in host.of("DBIRTH", "gate")[0]["values"].values()} == {None}, "nothing decided yet"
        assert host.seqs() == list(range(1, 301))
        assert host.of("NDEATH")[0]["bdSeq"] == birth["bdSeq"]
        data = host.of("DDATA", "gate")[7]
        assert (data["historical"], data["untyped"] == 0) == (0, typed)
        values = data["values"]
        message = json.loads(values["Record/JSON"])
        assert faults(message) == []
        assert (message["seq"], message["kind"], message["part"]["serial"]) == (8, "decision", "S1")
        assert {name: values[name] for name in values if name.startswith("Decision/")}.items() >= {
            "Decision/Id": "gate-7",
            "Decision/Verdict": "reject",
            "Decision/Output": "reject",
            "Decision/Cause": "defect: scratch 0.91",
            "Decision/Score": 0.91,
            "Decision/Decided late": False,
            "Decision/Escalated": False,
            "Decision/Revision": 1,
            "Decision/Latency ms": 5,
            "Decision/Model/Digest": message["model"]["digest"],
            "Decision/Part/Id": "part-7",
            "Decision/Part/Number": 7,
            "Decision/Part/Serial": "S1",
            "Decision/Part/Lot": None,
        }.items()
        assert values["Record/Epoch"] == opened.epoch
        assert abs(values["Decision/Decided at"] - data["at"]) < 60_000
        assert values["Decision/Decided at"] - values["Decision/Captured at"] == 5
        yard = host.of("DDATA", "Yard camera")[0]["values"]
        assert (yard["Event/Phase"], yard["Event/Count"], yard["Record/Kind"]) == ("start", 1, "event")


def test_fifty_reconnects_and_rebirths_without_an_error_of_seq_or_bdseq(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    link = Cuttable(broker.port)
    with Host(broker.port) as host, running(sparkplug_sink(opened, link.port, tmp_path)) as made:
        put = 0
        for connection in range(51):
            eventually(lambda connection=connection: host.of("NBIRTH") and host.of("NBIRTH")[-1]["bdSeq"] == connection)
            for _ in range(3):
                put += 1
                opened.put(decision(put))
            eventually(lambda put=put: put in host.seqs())
            births = len(host.of("DBIRTH"))
            host.say("rebirth plant box")
            eventually(lambda births=births: len(host.of("DBIRTH")) > births, what="the rebirth")
            if connection < 50:
                link.cut()
        eventually(lambda: made.status()["pending"] == 0)
        assert host.broken == []
        assert set(host.seqs()) == set(range(1, put + 1))
        assert {m["bdSeq"] for m in host.of("NDEATH")} == set(range(50)), "each broken connection had its own will"
        assert (made.status()["births"], made.status()["rebirths"]) == (102, 51)
    link.close()


class SameBirthday(Session):
    def connect(self) -> None:
        self.born.clear()


class AnotherBirthdayAtRebirth(Session):
    def nbirth(self, *args: Any) -> bytes:
        self.bdseq += bool(self.born)
        return super().nbirth(*args)


class SkipsSeq(Session):
    def ddata(self, *args: Any) -> bytes:
        self._seq += 1
        return super().ddata(*args)


class GoesOnCounting(Session):
    def nbirth(self, *args: Any) -> bytes:
        seq = self._seq
        made = super().nbirth(*args)
        self._seq = seq
        return made


class OneAliasForAll(Session):
    def _alias(self, device: str | None, name: str) -> int:
        return 1


class ForgetsDevices(Session):
    def dbirth(self, device: str, now_ms: int) -> bytes:
        super().dbirth(device, now_ms)
        self.unsay()
        return self.ndeath(now_ms)  # no such message


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (SameBirthday, "bdSeq"),
        (AnotherBirthdayAtRebirth, "bdSeq"),
        (SkipsSeq, "seq goes from"),
        (GoesOnCounting, "seq goes from"),
        (OneAliasForAll, "twice"),
        (ForgetsDevices, "which no birth gave"),
    ],
)
def test_the_host_notices_what_is_done_wrong_on_purpose(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually, kind: type[Session], said: str
) -> None:
    """Else the tests above would prove nothing."""
    link = Cuttable(broker.port)
    made = sparkplug_sink(opened, link.port, tmp_path)
    made._session = kind(Birthdays(tmp_path / "wrong"), "1")
    with Host(broker.port) as host, running(made):
        for number in range(2):
            opened.put(decision(number))
            eventually(lambda number=number: len(host.of("DDATA")) > number)
            births = len(host.of("NBIRTH"))
            host.say("rebirth plant box")
            eventually(lambda births=births: len(host.of("NBIRTH")) > births)
            link.cut()
            eventually(lambda births=births: len(host.of("NBIRTH")) > births + 1)
        eventually(lambda: any(said in rule for rule in host.broken), what=said)
    link.close()


def test_without_its_primary_host_nothing_is_born_and_all_is_kept_until_it_is_online(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    options: dict[str, Any] = {"primary_host": "scada", "live_max_age_ms": 200, "edge_node_id": "waits"}
    with Host(broker.port) as watcher, running(sparkplug_sink(opened, broker.port, tmp_path, **options)) as made:
        for number in range(20):
            opened.put(decision(number))
        eventually(lambda: made.status()["connected"] and made.status()["pending"] == 20)
        eventually(lambda: made.feed.cursor.oldest_pending_s() and made.feed.cursor.oldest_pending_s() > 0.3)
        assert made.status()["born"] is False
        assert watcher.heard == []
        host = Host(broker.port, "scada")
        host.say("online")
        eventually(lambda: len(host.seqs()) == 20)
        assert [m["verb"] for m in host.heard[:2]] == ["NBIRTH", "DBIRTH"]
        assert all(m["historical"] == m["metrics"] for m in host.of("DDATA")), "old ones are for the record only"
        assert [json.loads(m["values"]["Record/JSON"])["backfill"] for m in host.of("DDATA")] == [True] * 20
        opened.put(decision(20))
        eventually(lambda: 21 in host.seqs())
        assert host.of("DDATA")[-1]["historical"] == 0
        host.kill()  # its will says offline
        eventually(lambda: watcher.of("NDEATH"), what="the node leaving")
        eventually(lambda: made.status()["connects"] == 2 and not made.status()["born"])
        assert "the primary host is offline" in str(made.status()["last_error"])
        births = len(watcher.of("NBIRTH"))
        for number in range(21, 30):
            opened.put(decision(number))
        eventually(lambda: made.status()["pending"] >= 9)
        assert len(watcher.of("NBIRTH")) == births == 1
        host = Host(broker.port, "scada")
        host.say("online")
        eventually(lambda: set(host.seqs()) >= set(range(22, 31)))
        eventually(lambda: made.status()["pending"] == 0)
        assert watcher.broken == host.broken == []
        eventually(lambda: set(watcher.seqs()) == set(range(1, 31)))
        host.close()


def test_states_that_are_older_malformed_or_of_another_host_change_nothing(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    options: dict[str, Any] = {"primary_host": "mes", "edge_node_id": "picky"}
    with Host(broker.port) as host, running(sparkplug_sink(opened, broker.port, tmp_path, **options)) as made:
        eventually(lambda: made.caller.link and len(made.caller.link.granted) == len(made.caller.topics))
        publish(broker.port, "spBv1.0/STATE/other", b'{"online":true,"timestamp":5}')
        for count, wrong in enumerate(
            (b"ONLINE", b"\xff", b"[]", b'{"online":1,"timestamp":5}', b'{"online":true}'), 1
        ):
            publish(broker.port, "spBv1.0/STATE/mes", wrong)
            eventually(lambda count=count: made.status()["states_ignored"] == count)
        assert "online" in str(made.status()["last_error"])
        assert not made.status()["born"]
        publish(broker.port, "spBv1.0/STATE/mes", b'{"online":true,"timestamp":5}')
        eventually(lambda: host.of("DBIRTH"))
        publish(broker.port, "spBv1.0/STATE/mes", b'{"online":false,"timestamp":4}')
        eventually(lambda: made.status()["states_ignored"] == 6, what="the older STATE")
        assert made.status()["born"]
        publish(broker.port, "spBv1.0/STATE/mes", b'{"online":false,"timestamp":5}')
        eventually(lambda: made.status()["connects"] == 2)
        assert not made.status()["born"]
        assert host.broken == []


def test_commands_that_are_no_rebirth_are_counted_and_the_node_goes_on(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    topic = "spBv1.0/plant/NCMD/steady"

    def command(name: str, value: bool) -> bytes:
        return birth([Metric(name, BOOLEAN, value, 1)], now_ms=1, seq=None)

    publish(broker.port, topic, command(REBIRTH, True), retain=True)
    wrong = [b"\xff\xff", b"x" * 300_000, command("Node Control/Reboot", True), command(REBIRTH, False)]
    with Host(broker.port) as host:
        with running(sparkplug_sink(opened, broker.port, tmp_path, edge_node_id="steady")) as made:
            eventually(lambda: made.status()["commands_ignored"] == 1, what="the retained command")
            for count, payload in enumerate(wrong, 2):
                publish(broker.port, topic, payload)
                eventually(lambda count=count: made.status()["commands_ignored"] == count)
            opened.put(decision(1))
            eventually(lambda: host.seqs() == [1])
            assert (made.status()["births"], len(host.of("NBIRTH"))) == (1, 1)
            publish(broker.port, topic, command(REBIRTH, True))
            eventually(lambda: made.status()["rebirths"] == 1)
        publish(broker.port, topic, b"", retain=True)


def test_bdseq_goes_on_over_restarts_and_from_255_to_0(
    broker: Mosquitto, tmp_path: Path, eventually: Eventually
) -> None:
    kept = tmp_path / "sparkplug-bdseq"
    kept.write_text("253\n")
    with Host(broker.port) as host:
        for restart in range(4):
            opened = journal(tmp_path / "state", durable=False)
            with running(sparkplug_sink(opened, broker.port, tmp_path, edge_node_id="again")) as made:
                opened.put(decision(restart))
                eventually(
                    lambda restart=restart, made=made: made.status()["acked"] and len(host.seqs()) == restart + 1
                )
            opened.stop()
        assert [m["bdSeq"] for m in host.of("NBIRTH")] == [254, 255, 0, 1]
        assert host.broken == []
        assert host.seqs() == [1, 2, 3, 4], "a restart sends nothing twice"
    assert kept.read_text() == "1\n"


def test_a_connect_that_never_was_uses_no_bdseq_up(tmp_path: Path, opened: Journal, eventually: Eventually) -> None:
    broker = Mosquitto(tmp_path / "broker", crash_safe=False)
    with running(sparkplug_sink(opened, broker.port, tmp_path)) as made:
        eventually(lambda: "cannot connect" in str(made.status()["last_error"]))
        broker.start()
        eventually(lambda: made.status()["born"])
        assert made.status()["bdseq"] == 0
    broker.close()


def test_a_device_dies_when_its_camera_goes_and_is_born_again(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    gone: set[str] = set()
    options: dict[str, Any] = {
        "devices": {"gate": "gate", "yard": "yard"},
        "edge_node_id": "cameras",
        "is_alive": lambda station: station not in gone,
    }
    with Host(broker.port) as host, running(sparkplug_sink(opened, broker.port, tmp_path, **options)) as made:
        eventually(lambda: len(host.of("DBIRTH")) == 2)
        gone.add("yard")
        eventually(lambda: host.of("DDEATH", "yard"))
        opened.put(event(1))  # what it decided before it went
        eventually(lambda: host.of("DDATA", "yard") and len(host.of("DDEATH", "yard")) == 2)
        gone.clear()
        eventually(lambda: len(host.of("DBIRTH", "yard")) == 3)
        opened.put(decision(1, station="of an earlier configuration"))
        eventually(lambda: host.of("DDEATH", "of an earlier configuration"))
        assert host.of("DDATA", "of an earlier configuration")
        assert host.broken == []
        assert made.status()["pending"] == 0


def test_two_nodes_of_one_name_are_reported_by_both(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    other = journal(tmp_path / "other", durable=False)
    options = {"edge_node_id": "twin"}
    with running(sparkplug_sink(opened, broker.port, tmp_path, client_id="one", **options)) as first:
        eventually(lambda: first.status()["born"])
        with running(sparkplug_sink(other, broker.port, tmp_path / "other", client_id="two", **options)) as second:
            eventually(lambda: first.status()["conflicts"])
            assert "give each box its own edge_node_id" in str(first.status()["last_error"])
            first.caller.link.close("cut")  # type: ignore[union-attr]
            first.caller.wake()
            eventually(lambda: second.status()["conflicts"])
    other.stop()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize(
    ("may", "said"), [("write", "let its ACL allow this client"), ("read", "the broker closed the connection")]
)
def test_what_the_broker_does_not_hand_back_is_not_delivered(
    tmp_path: Path, opened: Journal, eventually: Eventually, protocol: str, may: str, said: str
) -> None:
    """mosquitto 2.0.11 closes when a topic may not be written, and says nothing when it may not be read."""
    acl = tmp_path / "acl"
    acl.write_text(f"topic readwrite spBv1.0/plant/NBIRTH/box\ntopic {may} spBv1.0/plant/+/box/gate\n")
    acl.chmod(0o600)
    with Mosquitto(tmp_path / "broker", "allow_anonymous true", f"acl_file {acl}", crash_safe=False) as broker:
        options: dict[str, Any] = {"ack_timeout_s": 0.5, "protocol": protocol}
        with running(sparkplug_sink(opened, broker.port, tmp_path, **options)) as made:
            opened.put(decision(1))
            eventually(lambda: said in str(made.status()["last_error"]))
            eventually(lambda: made.status()["pending"] == 1)
            assert made.status()["acked"] == 0
            acl.write_text("topic readwrite spBv1.0/#\n")
            broker.reload()
            eventually(lambda: made.status()["acked"] == 1)


def test_a_row_above_the_brokers_limit_waits_and_the_rest_goes_on_in_order(
    tmp_path: Path, opened: Journal, eventually: Eventually
) -> None:
    limited = Mosquitto(tmp_path / "broker", "allow_anonymous true", "max_packet_size 3500", crash_safe=False)
    with limited as broker, Host(broker.port) as host:
        with running(sparkplug_sink(opened, broker.port, tmp_path)) as made:
            opened.put(decision(1))
            opened.put(decision(2, cause="x" * 3000))
            opened.put(decision(3))
            eventually(lambda: host.seqs() == [1, 3])
            assert set(made.status()["refused"]) == {"149"}  # type: ignore[call-overload]
            assert "packet size limit" in str(made.status()["last_error"])
            assert made.status()["pending"] == 1
        assert host.broken == []


def test_a_bdseq_that_cannot_be_kept_is_counted_and_the_node_goes_on(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    (tmp_path / "file").write_text("")
    with running(sparkplug_sink(opened, broker.port, tmp_path / "file" / "below", edge_node_id="full")) as made:
        opened.put(decision(1))
        eventually(lambda: made.status()["acked"] == 1)
        assert made.status()["bdseq_unsaved"] == 1


def test_births_and_data_are_neither_retained_nor_above_qos_0(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    seen: list[MQTTMessage] = []
    subscribed = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_message = lambda _client, _user, message: seen.append(message)
    client.on_connect = lambda client, *_: client.subscribe("spBv1.0/plant/+/plain/#", 1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert subscribed.wait(10)
    with running(sparkplug_sink(opened, broker.port, tmp_path, edge_node_id="plain", heartbeat_s=1)):
        opened.put(decision(1))
        eventually(lambda: {m.topic.split("/")[2] for m in seen} >= {"NBIRTH", "DBIRTH", "DDATA", "NDATA"})
    eventually(lambda: seen[-1].topic == "spBv1.0/plant/NDEATH/plain")
    assert {message.qos for message in seen if "NDEATH" not in message.topic} == {0}
    assert not any(message.retain for message in seen)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize(("protocol", "goodbye"), [("5", b"\xe0\x01\x04"), ("3.1.1", b"\xe0\x00")])
def test_connect_subscribe_and_disconnect_are_as_the_specification_says(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually, protocol: str, goodbye: bytes
) -> None:
    link = Cuttable(broker.port)
    options: dict[str, Any] = {"protocol": protocol, "edge_node_id": "wire"}
    with running(sparkplug_sink(opened, link.port, tmp_path, **options)) as made:
        eventually(lambda: made.status()["born"])
        will = made._session.ndeath(0)
    (sent,) = link.sent
    eventually(lambda: sent.endswith(goodbye), what="NDEATH, then DISCONNECT (with the will, on MQTT 5)")
    flags = sent[sent.index(b"MQTT") + 5]
    assert flags & 0x02, "clean session, or clean start"
    assert (flags & 0x04, flags & 0x18, flags & 0x20) == (0x04, 0x08, 0), "a will with QoS 1 that is not retained"
    if protocol == "5":
        properties = sent[sent.index(b"MQTT") + 8 :]
        assert 0x11 not in properties[1 : 1 + properties[0]], "no session expiry interval, which means 0"
    connect = bytes(sent[: sent.index(b"/NCMD/")])
    assert b"spBv1.0/plant/NDEATH/wire" in connect
    assert will[-4:] in connect, "the metric bdSeq, an Int64"
    assert b"spBv1.0/plant/NCMD/wire\x01" in sent, "subscribed with QoS 1"
    death = sent.rindex(b"spBv1.0/plant/NDEATH/wire")
    assert death > sent.index(b"spBv1.0/plant/NBIRTH/wire", len(connect) + 60)
    assert sent[death:].endswith(goodbye)
    assert sent.index(b"spBv1.0/plant/NCMD/wire") < death
    link.close()


def test_a_rebirth_request_stops_data_at_once(broker: Mosquitto, opened: Journal, tmp_path: Path) -> None:
    made = sparkplug_sink(opened, broker.port, tmp_path)
    made._is_born = True
    assert made.window() > 0
    request = birth([Metric(REBIRTH, BOOLEAN, True, 1)], now_ms=1, seq=None)
    made.hear(Incoming("spBv1.0/plant/NCMD/box", request, False))
    assert made.window() == 0


def test_a_will_has_qos_1_and_is_not_retained(
    broker: Mosquitto, opened: Journal, tmp_path: Path, eventually: Eventually
) -> None:
    link = Cuttable(broker.port)
    seen: list[MQTTMessage] = []
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_message = lambda _client, _user, message: seen.append(message)
    client.connect("127.0.0.1", broker.port)
    client.subscribe("spBv1.0/plant/NDEATH/willing", 1)
    client.loop_start()
    with running(sparkplug_sink(opened, link.port, tmp_path, edge_node_id="willing")) as made:
        eventually(lambda: made.status()["born"])
        link.cut()
        eventually(lambda: seen)
        assert (seen[0].qos, seen[0].retain) == (1, False)
    client.disconnect()
    client.loop_stop()
    link.close()
