"""A box's delivery with its desk, and a receiver that runs in a thread, for tests."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from deliveries import decision, journal
from lineside.clock import SystemClock
from lineside.deliver.audit import Audit
from lineside.deliver.commands import Client as Known
from lineside.deliver.commands import Commands
from lineside.deliver.desk import Desk
from lineside.deliver.mqtt import MqttSink
from lineside.subscriber import Missing, Receiver
from lineside.subscriber.asker import Asker

STATUS = "lineside/plant/l1/box/status"
RESEND = "lineside/plant/l1/box/resend"
COMMAND = "lineside/plant/l1/box/command"


class Box:
    """Journal, sink and desk of one box, started. A context that stops them."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        clients: Mapping[str, Known] = {},
        resend: Any = "anyone",
        name: str = "box",
        stations: tuple[str, ...] = ("gate",),
        journal_options: Mapping[str, Any] = {},
        clock: SystemClock | None = None,
        **options: Any,
    ) -> None:
        self.journal = journal(folder, durable=False, clock=clock, **journal_options)
        chosen = {"heartbeat_s": 0.3, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2, **options}
        where = {"site": "plant", "line": "l1", "version": "0", "box": name, "host": "127.0.0.1"}
        self.sink = MqttSink(self.journal, port=port, **where, **chosen)
        audit = Audit(name, self.journal.clock, self.journal.put)
        self.commands = Commands("", clients, audit, self.journal.clock)
        self.desk = Desk(self.sink, self.journal, self.commands, stations=stations, resend=resend)
        self.desk.start()
        self.sink.start()

    def listening(self) -> Box:
        """Wait until the broker has granted what the desk subscribes to."""
        assert self.journal.flush(10)
        deadline = time.monotonic() + 10
        while (link := self.sink.caller.link) is None or len(link.granted) < len(self.sink.caller.topics):
            assert time.monotonic() < deadline, self.sink.status()
            time.sleep(0.01)
        return self

    def decide(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.journal.put(decision(number))
        assert self.journal.flush(20)

    @property
    def epoch(self) -> str:
        return str(self.journal.epoch)

    def stop(self) -> None:
        self.desk.stop()
        self.sink.stop(1.0)
        self.journal.stop()

    def __enter__(self) -> Box:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Asking:
    """A plain MQTT client that asks a box and notes what it answers; not the receiver kit."""

    def __init__(self, port: int, protocol: str = "5", **options: Any) -> None:
        self.answers: list[dict[str, Any]] = []
        self.data: list[bytes | None] = []  # correlation data of each
        self._ready = threading.Event()
        self._is_5 = protocol == "5"
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5 if self._is_5 else MQTTv311)
        for name, value in options.items():
            getattr(self.client, name)(value)
        self.client.on_connect = lambda client, *_: client.subscribe([(f"{RESEND}/#", 1), (f"{COMMAND}/#", 1)])
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._note
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(10), "no SUBACK"

    def ask(
        self, payload: object, topic: str = RESEND, answer_to: str | None = None, correlation: bytes | None = b"c1"
    ) -> None:
        properties = None
        if self._is_5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = f"{topic}/asking" if answer_to is None else answer_to
            if correlation is not None:
                properties.CorrelationData = correlation
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.client.publish(topic, text, 1, properties=properties).wait_for_publish(10)

    def replies(self) -> list[dict[str, Any]]:
        return [message for message in list(self.answers) if message["kind"] == "reply"]

    def rows(self) -> list[dict[str, Any]]:
        return [message for message in list(self.answers) if message["kind"] != "reply"]

    def _note(self, _client: Client, _user: object, message: MQTTMessage) -> None:
        if message.topic in (RESEND, COMMAND):  # what was asked: a/# takes in a
            return
        self.answers.append({**json.loads(message.payload), "topic": message.topic})
        self.data.append(getattr(message.properties, "CorrelationData", None))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Mes:
    """A Receiver in a thread whose handler books each message in the receiver's own database."""

    def __init__(self, folder: Path, port: int, **options: Any) -> None:
        self.state = folder / "mes.db"
        with closing(sqlite3.connect(self.state)) as db:
            columns = "n INTEGER PRIMARY KEY, kind TEXT, station TEXT, epoch TEXT, seq INTEGER"
            db.execute(f"CREATE TABLE IF NOT EXISTS booked ({columns}, UNIQUE (station, epoch, seq))")
        asker = Asker(grace_s=0.3, answer_s=2.0, backoff_min_s=0.2, backoff_max_s=1.0)
        chosen = {"client_id": "mes", "asker": asker, "from_start": True, **options}
        self.receiver = Receiver("127.0.0.1", port=port, state=self.state, **chosen)
        self.told: list[Missing] = []
        self.died: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.receiver.run(book, lambda missing, _db: self.told.append(missing))
        except BaseException as error:
            self.died.append(error)
            raise

    def booked(self, station: str = "gate") -> list[int]:
        return booked(self.state, station)

    def stop(self) -> None:
        self.receiver.stop()
        self._thread.join(10)
        self.receiver.close()
        assert not self.died, self.died


def book(message: dict[str, Any], db: sqlite3.Connection) -> None:
    """A second booking of the same message is an error of the database."""
    values = tuple(message[name] for name in ("kind", "station", "epoch", "seq"))
    db.execute("INSERT INTO booked (kind, station, epoch, seq) VALUES (?, ?, ?, ?)", values)


def booked(state: Path, station: str = "gate") -> list[int]:
    with closing(sqlite3.connect(state, timeout=10.0)) as db:
        rows = db.execute("SELECT seq FROM booked WHERE station = ? ORDER BY n", (station,))
        return [seq for (seq,) in rows]
