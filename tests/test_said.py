"""What shares the connection of the MQTT sink: kept documents, subscriptions and answers; with a real mosquitto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker import Mosquitto, SilentBroker
from deliveries import Subscriber, decision, journal, sink
from lineside.deliver.journal import Journal
from lineside.deliver.link import Incoming
from lineside.deliver.mqtt import MqttSink
from lineside.deliver.said import Answers, Outgoing

Eventually = Callable[..., None]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Journal]:
    made = journal(tmp_path / "state", durable=False)
    yield made
    made.stop()


def ask(port: int, topic: str, payload: bytes, answer_to: str = "", correlation: bytes = b"") -> None:
    """Publish a request, as another client."""
    asker = Subscriber(port, "nothing")
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if answer_to:
        properties.ResponseTopic, properties.CorrelationData = answer_to, correlation
    asker._client.publish(topic, payload, 1, properties=properties).wait_for_publish(10)
    asker.close()


def unstarted(opened: Journal, port: int, **options: object) -> MqttSink:
    names = {"site": "plant", "line": "l1", "version": "0", "box": "box", "host": "127.0.0.1"}
    return MqttSink(opened, port=port, reconnect_min_s=0.05, reconnect_max_s=0.2, **{**names, **options})  # type: ignore[arg-type]


def test_a_kept_document_is_retained_sent_when_it_changed_and_again_on_each_connection(
    broker: Mosquitto, opened: Journal, eventually: Eventually
) -> None:
    made = unstarted(opened, broker.port)
    state = {"text": b'{"n":1}'}
    made.keep("plant/checkpoint", lambda: state["text"], every_s=3600)
    made.keep("plant/nothing", lambda: None, every_s=3600)
    made.start()
    eventually(lambda: made.status()["connected"])
    subscriber = Subscriber(broker.port, "plant/#")
    eventually(lambda: ("plant/checkpoint", {"n": 1}) in subscriber.retained + subscriber.got)
    state["text"] = b'{"n":2}'
    made.changed("plant/checkpoint")
    eventually(lambda: ("plant/checkpoint", {"n": 2}) in subscriber.got)
    broker.kill()  # without persistence: it forgets what it had kept
    broker.start()
    eventually(lambda: made.status()["connects"] == 2)
    late = Subscriber(broker.port, "plant/#")
    eventually(lambda: ("plant/checkpoint", {"n": 2}) in late.retained + late.got)
    assert all(topic == "plant/checkpoint" for topic, _ in late.retained + late.got)
    made.stop(1.0)
    subscriber.close()
    late.close()


def test_a_request_is_heard_on_every_connection_and_answered_to_its_end(
    broker: Mosquitto, opened: Journal, eventually: Eventually
) -> None:
    made = unstarted(opened, broker.port)
    heard: list[Incoming] = []

    def handler(message: Incoming) -> None:
        heard.append(message)
        topic = message.response_topic
        assert topic is not None
        made.answer(Outgoing(topic, b'{"n":%d}' % n, correlation=message.correlation) for n in range(500))

    made.listen("plant/ask", handler)
    made.start()
    for connection in (1, 2):
        eventually(lambda: (link := made.caller.link) is not None and link.granted == {"plant/ask": 1})
        subscriber = Subscriber(broker.port, "answers/#")
        opened.put(decision(connection))
        ask(broker.port, "plant/ask", b"please", f"answers/{connection}", b"id")
        eventually(lambda subscriber=subscriber: len(subscriber.got) == 500)
        assert [message["n"] for _, message in subscriber.got] == list(range(500))
        assert (heard[-1].payload, heard[-1].correlation, heard[-1].retain) == (b"please", b"id", False)
        subscriber.close()
        link = made.caller.link
        assert link is not None
        link.close("cut")
        made.caller.wake()
        eventually(lambda connection=connection: made.status()["connects"] == connection + 1)
    assert made.answering == 0
    made.stop(1.0)


def test_an_endless_answer_holds_up_no_decision_and_no_stop(
    broker: Mosquitto, opened: Journal, eventually: Eventually
) -> None:
    made = unstarted(opened, broker.port)

    def endless() -> Iterator[Outgoing]:
        while True:
            yield Outgoing("answers/endless", b"{}")

    made.listen("plant/ask", lambda _: made.answer(endless()))
    made.start()
    eventually(lambda: (link := made.caller.link) is not None and link.granted)
    subscriber = Subscriber(broker.port, "lineside/#")
    ask(broker.port, "plant/ask", b"")
    eventually(lambda: made.answering == 1)
    for number in range(50):
        opened.put(decision(number))
    eventually(lambda: len(subscriber.records()) == 50)
    made.stop(2.0)
    assert not made.caller.is_running
    subscriber.close()


def test_answers_take_turns_and_make_no_message_without_room() -> None:
    made: list[str] = []

    def words(*texts: str) -> Iterator[Outgoing]:
        for text in texts:
            made.append(text)
            yield Outgoing("t", text.encode())

    said: list[bytes] = []
    answers = Answers()
    answers.add(words("a1", "a2", "a3"))
    answers.add(words("b1"))

    def publish(message: Outgoing) -> bool:
        said.append(message.payload)
        return True

    assert answers.send(0.0, 0, 0.0, publish) == 1.0
    assert made == []
    answers.send(0.0, 2, 0.0, publish)
    assert said == [b"a1", b"b1"]
    assert answers.send(0.0, 8, 0.5, publish) == 1.0
    assert said == [b"a1", b"b1", b"a2", b"a3"]
    assert len(answers) == 0
    answers.add(words("c1"))
    assert answers.send(0.1, 8, 0.5, publish) == pytest.approx(0.4), "it rests between two slices"


def test_a_forbidden_document_is_counted_and_said(tmp_path: Path, opened: Journal, eventually: Eventually) -> None:
    acl = tmp_path / "acl"
    acl.write_text("user box\ntopic readwrite lineside/#\n")
    acl.chmod(0o600)
    with Mosquitto(tmp_path / "broker", "allow_anonymous true", f"acl_file {acl}") as broker:
        made = sink(opened, broker.port, username="box", status_topic="elsewhere/status")
        eventually(lambda: "135" in made.status()["refused"])  # type: ignore[operator]
        assert "refused elsewhere/status" in str(made.status()["last_error"])
        made.stop(1.0)


def test_a_forbidden_subscription_is_said(opened: Journal, eventually: Eventually) -> None:
    not_authorized = b"\x90\x04\x00\x01\x00\x87"
    server = SilentBroker({0x10: SilentBroker.CONNACK_5, 0x80: not_authorized})
    made = unstarted(opened, server.port)
    made.listen("plant/ask", lambda _: None)
    made.start()
    eventually(lambda: "subscribe to plant/ask (reason code 135)" in str(made.status()["last_error"]))
    made.stop(0.5)
    server.close()
