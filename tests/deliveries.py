"""Records, clocks, sinks and a subscriber for the tests of delivery."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from lineside.clock import SystemClock
from lineside.deliver.journal import Journal
from lineside.deliver.mqtt import MqttSink
from lineside.records import Decision, Event, Finding, ModelRef, Part

MODEL = ModelRef("caps", "3", "sha256:" + "ab" * 32)
FINDING = Finding("scratch", 3, 0.91, (1.5, 2.0, 30.25, 40.0))


class SteppedClock(SystemClock):
    """The machine's clock, but somebody sets its wall time."""

    def __init__(self) -> None:
        self.step_s = 0.0

    def wall_ns(self) -> int:  # type: ignore[override]
        return time.time_ns() + round(self.step_s * 1e9)


def decision(number: int = 1, station: str = "gate", **fields: Any) -> Decision:
    """A reject that was decided just now."""
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    made = Decision(
        id=f"{station}-{number}",
        station=station,
        part=Part(f"part-{number}", station, number, now_ns, wall_ns, serial="S1"),
        verdict="reject",
        output="reject",
        cause="defect: scratch 0.91",
        late=False,
        score=0.91,
        findings=(FINDING,),
        model=MODEL,
        backend="onnxruntime:cpu",
        captured_ns=now_ns - 5_000_000,
        captured_wall_ns=wall_ns - 5_000_000,
        decided_ns=now_ns,
        decided_wall_ns=wall_ns,
    )
    return replace(made, **fields)


def event(number: int = 1, station: str = "yard", **fields: Any) -> Event:
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    made = Event(
        id=f"{station}-e{number}",
        event_id=f"{station}-present",
        station=station,
        phase="start",
        cause="person in zone dock",
        count=1,
        score=0.8,
        findings=(Finding("person", 0, 0.8, None),),
        model=MODEL,
        backend="onnxruntime:cpu",
        started_ns=now_ns - 10_000_000,
        started_wall_ns=wall_ns - 10_000_000,
        captured_ns=now_ns - 5_000_000,
        captured_wall_ns=wall_ns - 5_000_000,
        decided_ns=now_ns,
        decided_wall_ns=wall_ns,
    )
    return replace(made, **fields)


def journal(folder: Path, **options: Any) -> Journal:
    """A started journal; stop it."""
    clock = options.pop("clock", None) or SystemClock()
    opened = Journal(folder / "journal.db", clock, **options)
    opened.start()
    return opened


def sink(opened: Journal, port: int, kind: type[MqttSink] = MqttSink, **options: Any) -> MqttSink:
    """A started sink with short waits; stop it before the journal."""
    chosen = {
        "site": "plant",
        "line": "l1",
        "version": "0",
        "box": "box",
        "host": "127.0.0.1",
        "reconnect_min_s": 0.05,
        "reconnect_max_s": 0.2,
        **options,
    }
    made = kind(opened, port=port, **chosen)
    made.start()
    return made


class Subscriber:
    """An independent paho client that notes everything it gets: (topic, message)."""

    def __init__(self, port: int, topic: str = "#", client_id: str = "", **options: Any) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.retained: list[tuple[str, dict[str, Any]]] = []
        self._ready = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5)
        for name, value in options.items():
            getattr(self._client, name)(value)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._note
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600 if client_id else 0
        self._client.connect("127.0.0.1", port, clean_start=not client_id, properties=properties)
        self._client.loop_start()
        assert self._ready.wait(10), "no SUBACK"

    def _note(self, _client: Client, _user: object, message: MQTTMessage) -> None:
        into = self.retained if message.retain else self.got
        into.append((message.topic, json.loads(message.payload)))

    def records(self, end: str = "decision") -> list[dict[str, Any]]:
        """Messages whose topic ends so, in the order of arrival."""
        return [message for topic, message in list(self.got) if topic.endswith(end)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
