"""The MQTT sink against a real mosquitto, and against servers that misbehave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from broker import Mosquitto, SilentBroker, free_port
from chaos.proxy import Proxy
from deliveries import Subscriber, decision, event, journal, sink
from lineside.checked import Unfit, checked
from lineside.config.delivery import JournalConfig, MqttConfig, problems
from lineside.deliver.journal import Journal
from lineside.deliver.mqtt import MqttSink
from lineside.deliver.validate import faults

Eventually = Callable[..., None]
TOPIC = "lineside/plant/l1/gate/decision"
STATUS = "lineside/plant/l1/box/status"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Journal]:
    made = journal(tmp_path / "state", durable=False)
    yield made
    made.stop()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_decisions_events_and_status_arrive_on_their_topics(
    broker: Mosquitto, opened: Journal, eventually: Eventually, protocol: str
) -> None:
    subscriber = Subscriber(broker.port)
    made = sink(opened, broker.port, protocol=protocol)
    for number in range(20):
        opened.put(decision(number))
    opened.put(event(1))
    eventually(lambda: opened.last_id == 21 and made.status()["pending"] == 0)
    eventually(lambda: len(subscriber.records()) == 20 and subscriber.records("yard/event"))
    assert {topic for topic, _ in subscriber.got} == {TOPIC, "lineside/plant/l1/yard/event", STATUS}
    assert [message["seq"] for message in subscriber.records()] == list(range(1, 21))
    assert [message["id"] for message in subscriber.records()] == [f"gate-{number}" for number in range(20)]
    assert not any(message["late"] or message["backfill"] for message in subscriber.records())
    assert [fault for _, message in subscriber.got for fault in faults(message)] == []
    assert made.status()["acked"] == 21
    made.stop(1.0)
    eventually(lambda: subscriber.records("status")[-1]["state"] == "offline")
    assert subscriber.records("status")[-1]["reason"] == "stopped"
    assert subscriber.records("status")[-1]["last_seq"] == {"gate": 20, "yard": 1}
    subscriber.close()
    late = Subscriber(broker.port)
    eventually(lambda: late.retained)
    assert [topic for topic, _ in late.retained] == [STATUS], "only the status is retained"
    late.close()


def test_the_last_will_says_offline_when_the_box_vanishes(
    broker: Mosquitto, opened: Journal, eventually: Eventually
) -> None:
    subscriber = Subscriber(broker.port)
    made = sink(opened, broker.port)
    eventually(lambda: subscriber.records("status"))
    link = made.caller.link
    assert link is not None
    made.caller._stop_at = 0.0  # its thread ends ...
    link.close("cut")  # ... and the connection breaks without a goodbye
    eventually(lambda: subscriber.records("status")[-1]["state"] == "offline")
    assert subscriber.records("status")[-1]["reason"] == "connection lost"
    assert faults(subscriber.records("status")[-1]) == []
    subscriber.close()


def test_rows_of_an_earlier_boot_go_to_backfill_marked_late_and_live_ones_overtake(
    broker: Mosquitto, tmp_path: Path, eventually: Eventually
) -> None:
    earlier = journal(tmp_path, durable=False, boot="earlier")
    for number in range(3000):
        earlier.put(decision(number))
    earlier.stop(10)
    subscriber = Subscriber(broker.port)
    opened = journal(tmp_path, durable=False)
    made = sink(opened, broker.port)
    eventually(lambda: len(subscriber.records("backfill")) > 10)
    for number in range(3000, 3020):
        opened.put(decision(number))
    eventually(lambda: len(subscriber.records("decision")) == 20)
    eventually(lambda: made.status()["pending"] == 0, within_s=30)
    eventually(lambda: len(subscriber.records("backfill")) == 3000)
    order = [(topic.endswith("backfill"), message["seq"]) for topic, message in subscriber.got if "status" not in topic]
    assert order[-1] != (False, 3020), "live decisions waited for the backlog"
    assert [seq for is_backfill, seq in order if is_backfill] == list(range(1, 3001))
    assert [seq for is_backfill, seq in order if not is_backfill] == list(range(3001, 3021))
    assert all(message["late"] and message["backfill"] for message in subscriber.records("backfill"))
    assert not any(message["late"] for message in subscriber.records("decision"))
    made.stop(1.0)
    opened.stop()
    subscriber.close()


def test_a_row_too_old_to_act_on_goes_to_backfill(broker: Mosquitto, opened: Journal, eventually: Eventually) -> None:
    subscriber = Subscriber(broker.port)
    made = sink(opened, broker.port, live_max_age_ms=1000)
    fresh = decision(1)
    opened.put(decision(1, decided_ns=fresh.decided_ns - 2_000_000_000))
    eventually(lambda: subscriber.records("decision/backfill"))
    (message,) = subscriber.records("decision/backfill")
    assert message["late"]
    assert not message["decided_late"]
    assert message["age_ms"] >= 2000
    made.stop(1.0)
    subscriber.close()


def test_a_restart_sends_nothing_twice(broker: Mosquitto, tmp_path: Path, eventually: Eventually) -> None:
    subscriber = Subscriber(broker.port)
    for round_ in range(3):
        opened = journal(tmp_path, durable=False)
        made = sink(opened, broker.port)
        for number in range(10):
            opened.put(decision(round_ * 10 + number))
        assert opened.flush(10)
        eventually(lambda made=made: made.status()["pending"] == 0 and made.status()["acked"])
        made.stop(1.0)
        opened.stop()
    eventually(lambda: len(subscriber.records()) >= 30)
    assert [message["seq"] for message in subscriber.records()] == list(range(1, 31))
    subscriber.close()


@pytest.mark.parametrize("stops", [False, True])
def test_a_stalled_link_settles_nothing_however_long(
    tmp_path: Path, opened: Journal, eventually: Eventually, stops: bool
) -> None:
    broker = Mosquitto(tmp_path / "broker", crash_safe=False)
    with broker, Proxy(broker.port) as proxy:
        made = sink(opened, proxy.port, settle_s=0.2, reconnect_min_s=0.05)
        opened.put(decision(1))
        eventually(lambda: made.status()["acked"] == 1)
        proxy.stall()
        stalled_at = time.monotonic()
        eventually(lambda: made.caller.wake() or time.monotonic() > stalled_at + 0.4, what="the sink looks again")
        if stops:
            made.stop(0.6)
            opened.stop(10)
        broker.kill()  # and with it all that it acknowledged
        broker.start()
        subscriber = Subscriber(broker.port)
        proxy.cut()
        proxy.heal()
        if stops:
            opened = journal(tmp_path / "state", durable=False)
            made = sink(opened, proxy.port)
        eventually(lambda: [message["seq"] for message in subscriber.records()] == [1])
        made.stop(0.5)
        opened.stop(10)
        subscriber.close()


def test_a_stop_publishes_what_was_just_decided(broker: Mosquitto, opened: Journal, eventually: Eventually) -> None:
    subscriber = Subscriber(broker.port)
    made = sink(opened, broker.port)
    eventually(lambda: made.status()["connected"])
    for number in range(50):
        opened.put(decision(number))
    assert opened.flush(10)
    made.stop(1.0)
    eventually(lambda: len(subscriber.records()) == 50)
    assert made.status()["pending"] == 0
    subscriber.close()


def test_without_a_broker_records_wait_and_a_stop_does_not(tmp_path: Path, opened: Journal) -> None:
    made = sink(opened, free_port())
    opened.put(decision(1))
    assert opened.flush(10)
    started = time.monotonic()
    made.stop(5.0)
    assert not made.caller.is_running
    assert time.monotonic() - started < 4.0, "nothing could be flushed, yet it waited the whole time"
    assert made.status()["pending"] == 1


def test_wrong_password_is_said_and_tried_again_until_it_is_right(
    tmp_path: Path, opened: Journal, eventually: Eventually
) -> None:
    users, password = tmp_path / "users", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "box", "right"], check=True, capture_output=True)
    users.chmod(0o600)
    password.write_text("wrong\n")
    with Mosquitto(tmp_path / "broker", "allow_anonymous false", f"password_file {users}") as broker:
        made = sink(opened, broker.port, username="box", password_file=password)
        opened.put(decision(1))
        eventually(lambda: "refused: Not authorized" in str(made.status()["last_error"]))
        assert not made.status()["connected"]
        password.write_text("right\n")
        eventually(lambda: made.status()["acked"] == 1)
        assert made.status()["connected"]
        made.stop(1.0)


@pytest.mark.parametrize("first_packet", [0x10, 0x30])
def test_a_server_that_closes_loses_nothing(opened: Journal, eventually: Eventually, first_packet: int) -> None:
    """0x10: closes at CONNECT; 0x30: closes at the first PUBLISH."""
    server = SilentBroker({0x10: SilentBroker.CONNACK_5, first_packet: None})
    made = sink(opened, server.port)
    opened.put(decision(1))
    eventually(lambda: server.connections >= 3, what="a third attempt")
    assert made.status()["acked"] == 0
    eventually(lambda: made.status()["pending"] == 1)
    assert made.status()["last_error"]
    made.stop(1.0)
    server.close()


@pytest.mark.parametrize(("protocol", "connack"), [("5", SilentBroker.CONNACK_5), ("3.1.1", SilentBroker.CONNACK_311)])
def test_a_server_that_never_acknowledges_is_left_and_the_rows_are_sent_again(
    opened: Journal, eventually: Eventually, protocol: str, connack: bytes
) -> None:
    server = SilentBroker({0x10: connack})
    made = sink(opened, server.port, protocol=protocol, ack_timeout_s=0.5)
    for number in range(100):
        opened.put(decision(number))
    eventually(lambda: made.status()["ack_timeouts"] >= 2 and server.connections >= 3, what="a second timeout")
    assert made.status()["acked"] == 0
    assert made.status()["pending"] == 100
    assert "no acknowledgement within 0.5 s" in str(made.status()["last_error"])
    assert sum(packet & 0xF0 == 0x30 for packet in list(server.packets)) <= server.connections * 33, "a window of 32"
    made.stop(1.0)
    server.close()


def test_a_server_that_never_greets_does_not_hold_up_a_stop(opened: Journal, eventually: Eventually) -> None:
    server = SilentBroker({})
    made = sink(opened, server.port)
    eventually(lambda: server.packets)
    made.stop(5.0)
    assert not made.caller.is_running
    server.close()


ACL = "user box\ntopic write lineside/plant/l1/yard/#\ntopic write lineside/plant/l1/box/status\n"


def test_a_forbidden_topic_is_refused_with_135_and_the_rest_goes_on(
    tmp_path: Path, opened: Journal, eventually: Eventually
) -> None:
    acl = tmp_path / "acl"
    acl.write_text(ACL + "\nuser all\ntopic readwrite #\n")
    acl.chmod(0o600)
    with Mosquitto(tmp_path / "broker", "allow_anonymous true", f"acl_file {acl}") as broker:
        subscriber = Subscriber(broker.port, username_pw_set="all")
        made = sink(opened, broker.port, username="box")
        for number in range(10):
            opened.put(decision(number))
            opened.put(event(number))
        eventually(lambda: len({message["seq"] for message in subscriber.records("yard/event")}) == 10)
        eventually(lambda: made.status()["refused"] and made.status()["pending"] == 10)
        assert "let its ACL allow" in str(made.status()["last_error"])
        assert subscriber.records() == []
        refused = made.status()["refused"]["135"]  # type: ignore[index]
        eventually(lambda: made.status()["refused"]["135"] > refused, what="another attempt")  # type: ignore[index]
        acl.write_text(ACL + "topic write lineside/plant/l1/gate/#\n\nuser all\ntopic readwrite #\n")
        broker.reload()
        eventually(lambda: made.status()["pending"] == 0, within_s=20, what="delivery once it is allowed")
        eventually(lambda: {message["seq"] for message in subscriber.records()} == set(range(1, 11)))
        made.stop(1.0)
        subscriber.close()


def test_a_message_above_the_brokers_limit_is_counted_and_the_rest_goes_on(
    tmp_path: Path, opened: Journal, eventually: Eventually
) -> None:
    with Mosquitto(tmp_path / "broker", "allow_anonymous true", "max_packet_size 2000") as broker:
        made = sink(opened, broker.port)
        opened.put(decision(1, cause="x" * 3000))
        opened.put(decision(2))
        eventually(lambda: made.status()["acked"] == 1 and made.status()["refused"])
        assert set(made.status()["refused"]) == {"149"}  # type: ignore[call-overload]
        assert made.status()["disconnects"] == 0
        made.stop(1.0)


def test_another_client_with_our_id_is_named(opened: Journal, eventually: Eventually) -> None:
    taken_over = b"\xe0\x02\x8e\x00"
    server = SilentBroker({0x10: SilentBroker.CONNACK_5 + taken_over})
    made = sink(opened, server.port, client_id="same")
    eventually(lambda: "another client uses client_id 'same'" in str(made.status()["last_error"]))
    made.stop(0.5)
    server.close()


def test_message_expiry_is_set_where_it_is_configured(
    broker: Mosquitto, opened: Journal, eventually: Eventually
) -> None:
    seen: list[Any] = []
    subscriber = Subscriber(broker.port, TOPIC)
    subscriber._client.on_message = lambda _c, _u, message: seen.append(message.properties)
    made = sink(opened, broker.port, live_expiry_s=7)
    opened.put(decision(1))
    eventually(lambda: seen)
    assert seen[0].MessageExpiryInterval in (6, 7)
    made.stop(1.0)
    subscriber.close()


def test_a_store_that_is_replaced_under_the_sink_goes_on_in_a_new_epoch(
    broker: Mosquitto, opened: Journal, eventually: Eventually
) -> None:
    subscriber = Subscriber(broker.port)
    made = sink(opened, broker.port)
    for number in range(10):
        opened.put(decision(number))
    eventually(lambda: len(subscriber.records()) == 10 and made.status()["pending"] == 0)
    opened._broken = opened.generation  # what a reader says when it meets a corrupt page
    for number in range(10, 20):
        opened.put(decision(number))
    eventually(lambda: len({m["id"] for m in subscriber.records() + subscriber.records("backfill")}) == 20)
    epochs = {message["epoch"] for message in subscriber.records()}
    assert len(epochs) == 2
    new = [m for m in subscriber.records() if m["epoch"] == opened.epoch]
    assert sorted({m["seq"] for m in new}) == list(range(1, 11))
    made.stop(1.0)
    subscriber.close()


# --- TLS


def certificate(folder: Path, name: str, ca: str | None = None, days: int = 2, san: str = "IP:127.0.0.1") -> None:
    """NAME.crt and NAME.key by the openssl command; self-signed without `ca`."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}")
    if ca is None:
        openssl("req", "-x509", *key, "-days", str(days), "-keyout", f"{name}.key", "-out", f"{name}.crt")
        return
    (folder / "ext").write_text(f"subjectAltName={san}\n")
    openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr")
    signed = ("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-extfile", "ext", "-days", str(days))
    openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    certificate(folder, "ca")
    certificate(folder, "stranger")
    certificate(folder, "server", "ca")
    certificate(folder, "elsewhere", "ca", san="DNS:other.example")
    certificate(folder, "box", "ca")
    certificate(folder, "old", "ca", days=-1)
    return folder


def tls_broker(folder: Path, pki: Path, server: str = "server") -> Mosquitto:
    lines = (f"cafile {pki}/ca.crt", f"certfile {pki}/{server}.crt", f"keyfile {pki}/{server}.key")
    return Mosquitto(folder, *lines, "require_certificate true", "use_identity_as_username true")


def test_mutual_tls_delivers(tmp_path: Path, pki: Path, opened: Journal, eventually: Eventually) -> None:
    with tls_broker(tmp_path / "broker", pki) as broker:
        files = {"ca_file": pki / "ca.crt", "cert_file": pki / "box.crt", "key_file": pki / "box.key"}
        made = sink(opened, broker.port, tls=True, **files)
        for number in range(200):
            opened.put(decision(number))
        eventually(lambda: made.status()["acked"] == 200)
        made.stop(1.0)
        assert "u'box'" in broker.log()


@pytest.mark.parametrize(
    ("server", "files", "said"),
    [
        ("server", {"ca_file": "stranger.crt", "cert_file": "box.crt", "key_file": "box.key"}, "is not trusted"),
        (
            "elsewhere",
            {"ca_file": "ca.crt", "cert_file": "box.crt", "key_file": "box.key"},
            "not valid for",
        ),
        ("old", {"ca_file": "ca.crt", "cert_file": "box.crt", "key_file": "box.key"}, "certificate has expired"),
        ("server", {"ca_file": "ca.crt"}, ""),  # no certificate: the broker closes, TLS 1.3 says no more
        ("server", {"ca_file": "ca.crt", "cert_file": "old.crt", "key_file": "old.key"}, ""),
        ("server", {"ca_file": "absent.crt"}, "No such file"),
        ("server", {"ca_file": "ca.crt", "cert_file": "box.crt", "key_file": "server.key"}, "KEY_VALUES_MISMATCH"),
    ],
)
def test_tls_that_cannot_work_is_said_and_nothing_is_lost(
    tmp_path: Path, pki: Path, opened: Journal, eventually: Eventually, server: str, files: dict[str, str], said: str
) -> None:
    with tls_broker(tmp_path / "broker", pki, server) as broker:
        made = sink(opened, broker.port, tls=True, **{key: pki / name for key, name in files.items()})
        opened.put(decision(1))
        assert opened.flush(10)
        eventually(lambda: made.status()["last_error"] and said.lower() in str(made.status()["last_error"]).lower())
        assert made.status()["acked"] == 0
        eventually(lambda: made.status()["pending"] == 1)
        made.stop(0.5)


# --- configuration


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"topic": "a/+/{station}/{kind}"}, "no + or #"),
        ({"topic": "#{station}/{kind}"}, "no + or #"),
        ({"topic": "a/{station}"}, "must name {station} and {kind}"),
        ({"topic": "a/{staton}/{kind}"}, "a topic may name"),
        ({"topic": "a/{station/{kind}"}, "is no template"),
        ({"topic": "/{station}/{kind}"}, "must not begin"),
        ({"topic": "$SYS/{station}/{kind}"}, "must not begin"),
        ({"status_topic": "a/{station}"}, "one per box"),
        ({"box": "a/b"}, "topic level"),
        ({"box": "a+"}, "topic level"),
        ({"live_max_age_s": 5}, "Extra inputs"),
        ({"live_max_age_ms": 5}, "greater than or equal to 100"),
        ({"port": 70000}, "less than or equal to 65535"),
        ({"protocol": "4"}, "'5' or '3.1.1'"),
        ({"reconnect_min_s": 10, "reconnect_max_s": 1}, "at least reconnect_min_s"),
        ({"password_file": "x"}, "needs a username"),
        ({"tls": {"cert_file": "x"}}, "give both or neither"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Unfit) as caught:
        checked(MqttConfig, {"host": "broker", **fields})
    assert said in str(caught.value)


def test_the_port_follows_tls_and_the_options_fit_the_sink(opened: Journal) -> None:
    assert MqttConfig(host="b").options()["port"] == 1883
    secure = checked(MqttConfig, {"host": "b", "tls": {}})
    assert secure.options()["port"] == 8883
    MqttSink(opened, site="s", line="l", version="0", **secure.options())
    assert JournalConfig(cap_mb=100).options() == {"durable": True, "cap_bytes": 100_000_000}


def test_files_that_cannot_be_used_are_named_with_a_remedy(tmp_path: Path, pki: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "text.crt").write_text("hello")

    def lines(**fields: Any) -> list[str]:
        return problems(JournalConfig(), checked(MqttConfig, {"host": "b", **fields}))

    good = {"ca_file": pki / "ca.crt", "cert_file": pki / "box.crt", "key_file": pki / "box.key"}
    assert lines(tls=good) == []
    (line,) = lines(username="u", password_file=tmp_path / "absent")
    assert line.startswith(f"mqtt.password_file = '{tmp_path}/absent': cannot be read (No such file")
    (line,) = lines(username="u", password_file=tmp_path / "empty")
    assert "first line is empty" in line
    (line,) = lines(tls={"ca_file": tmp_path / "text.crt"})
    assert "holds no PEM certificate" in line
    (line,) = lines(tls={**good, "cert_file": pki / "old.crt", "key_file": pki / "old.key"})
    assert "expired on" in line
    (line,) = lines(tls={**good, "key_file": pki / "server.key"})
    assert "its own PEM key" in line
    (line,) = problems(JournalConfig(path=tmp_path), None)
    assert "is not a file" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read_is_named(tmp_path: Path, pki: Path) -> None:
    key = tmp_path / "box.key"
    key.write_bytes((pki / "box.key").read_bytes())
    key.chmod(0)
    tls = {"cert_file": pki / "box.crt", "key_file": key}
    (line,) = problems(JournalConfig(), checked(MqttConfig, {"host": "b", "tls": tls}))
    assert "mqtt.tls.key_file" in line
    assert "let the user that lineside runs as read it" in line


def test_a_host_that_does_not_answer_holds_up_neither_heartbeat_nor_stop(opened: Journal) -> None:
    beats = threading.Semaphore(0)
    with socket.socket() as deaf:  # its backlog is full: a connection is neither taken nor refused
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        made = sink(opened, deaf.getsockname()[1], beat=beats.release)
        for _ in range(3):
            assert beats.acquire(timeout=10), "no heartbeat while dialling"
        assert made.status()["state"] == "dialling"
        made.stop(5.0)
        assert not made.caller.is_running
        for filler in fillers:
            filler.close()
