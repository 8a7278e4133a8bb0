"""Carries journal rows to an MQTT broker: live ones first, older ones to .../backfill, none forgotten.

What of the journal goes next is the feed's business, the connection the caller's; here are topics and messages.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from paho.mqtt.client import topic_matches_sub

from lineside.contracts import Beat, Status
from lineside.deliver import messages
from lineside.deliver.caller import Caller, Patience
from lineside.deliver.feed import Rules, TooLarge
from lineside.deliver.journal import Journal
from lineside.deliver.link import REMEDY, TOO_LARGE, Broker, Incoming, Will
from lineside.deliver.said import Answers, Document, Documents, Outgoing
from lineside.deliver.tables import Row
from lineside.deliver.topics import Topics

CHECKPOINT_S = 3600.0  # the retained checkpoint is sent so often, if it does not change


class MqttSink:
    """A contracts.Sink. `describe` adds fields to the retained status; options are those of config.delivery.

    Others may say and hear something on the same connection: `keep`, `listen` (before `start`) and `answer`.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        site: str,
        line: str,
        version: str,
        host: str,
        port: int = 1883,
        protocol: Literal["5", "3.1.1"] = "5",
        box: str | None = None,
        client_id: str | None = None,
        username: str | None = None,
        password_file: Path | None = None,
        tls: bool = False,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        topic: str = "lineside/{site}/{line}/{station}/{kind}",
        status_topic: str = "lineside/{site}/{line}/{box}/status",
        keepalive_s: int = 15,
        inflight: int = 32,
        live_max_age_ms: int = 5000,
        live_expiry_s: int | None = None,
        backfill_expiry_s: int | None = None,
        ack_timeout_s: float = 10.0,
        settle_s: float = 2.0,
        reconnect_min_s: float = 0.5,
        reconnect_max_s: float = 30.0,
        heartbeat_s: float = 10.0,
        beat: Beat = lambda: None,
        describe: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self.box = box or platform.node() or "box"
        self.topics = Topics(topic, status_topic, site, line, self.box)
        self._version, self._heartbeat_s = version, heartbeat_s
        self._expiry_s = {False: live_expiry_s, True: backfill_expiry_s}
        self._describe = describe
        self.introduce: Callable[[bool], Mapping[str, object]] = lambda dialling: {}  # fields of status and last will
        self._journal = journal
        self._clock = journal.clock
        self._handlers: dict[str, Callable[[Incoming], None]] = {}
        self._answers = Answers()
        self._documents = Documents()
        self._documents.add(Document(self.topics.status, self._status_document, heartbeat_s, retain=True))
        self._signed: bytes | None = None  # the checkpoint that was looked at last
        self._documents.add(Document(self.topics.document("checkpoint"), self._checkpoint, CHECKPOINT_S, retain=True))
        who = (client_id or f"lineside-{self.box}", username, password_file)
        self.caller = Caller(
            "mqtt",
            Broker(host, port, protocol, *who, tls, ca_file, cert_file, key_file, keepalive_s),
            journal,
            self,
            rules=Rules(inflight, live_max_age_ms, settle_s, reconnect_max_s),
            patience=Patience(ack_timeout_s, reconnect_min_s, reconnect_max_s),
            beat=beat,
        )
        self.feed = self.caller.feed

    # --- for the daemon

    def start(self) -> None:
        self.caller.start()

    def stop(self, flush_s: float) -> None:
        """Publish what is live and say offline, within `flush_s`; the backlog waits for the next start."""
        self.caller.stop(flush_s)

    def status(self) -> Status:
        return self.caller.status()

    # --- for whoever shares the connection

    def keep(self, topic: str, make: Callable[[], bytes | None], every_s: float, retain: bool = True) -> None:
        """Keep a document up to date at the broker: sent on each connection, every `every_s`, and when `changed`.

        `make` is called in the sink's thread and must return soon; None sends nothing this time. Before `start` only.
        """
        self._documents.add(Document(topic, make, every_s, retain))

    def changed(self, topic: str) -> None:
        """Send a kept document now; from any thread."""
        self._documents.changed(topic)
        self.caller.wake()

    def listen(self, topic: str, handler: Callable[[Incoming], None]) -> None:
        """Have `handler` called with what comes on a topic (it may be a filter with +), in the sink's thread: it must
        return soon, raise nothing, and may `answer`. Before `start` only."""
        self._handlers[topic] = handler
        self.caller.topics = tuple(self._handlers)

    def answer(self, messages: Iterator[Outgoing]) -> None:
        """Send messages behind live rows, beside the backlog, as there is room. From any thread.

        The iterator runs in the sink's thread; when the connection breaks, what it had left is dropped.
        """
        self._answers.add(messages)
        self.caller.wake()

    @property
    def answering(self) -> int:
        """Answers that are not yet sent to their end."""
        return len(self._answers)

    # --- a caller.Speaker, in the caller's thread

    def will(self) -> Will:
        return Will(self.topics.status, messages.offline(self.box, "connection lost", self.introduce(True)))

    def greet(self) -> None:
        self._documents.all_due()
        self._answers.clear()

    def speak(self, now: float) -> float:
        if (newest := self._checkpoint()) is not self._signed:
            self._signed = newest
            self._documents.changed(self.topics.document("checkpoint"))
        wait_s = self._documents.send(now, self._publish_document)
        if not self.feed.is_open:
            return wait_s
        self.feed.send_live()
        if self.caller.is_stopping:
            return wait_s
        wait_s = min(wait_s, self.feed.send_backlog(now))
        if self._answers:
            wait_s = min(wait_s, self._answers.send(now, self.feed.room_behind(), self.feed.pause_s(now), self._reply))
        return wait_s

    def hear(self, message: Incoming) -> None:
        for topic, handler in self._handlers.items():
            if topic_matches_sub(topic, message.topic):
                handler(message)

    def farewell(self) -> int | None:
        payload = messages.offline(self.box, "stopped", self._fields())
        return self._publish(self.topics.status, payload, retain=True)

    # --- a feed.Outlet, also in the journal's thread

    def window(self) -> int:
        link = self.caller.link
        return link.receive_max if link else 0

    def topic(self, row: Row) -> str:
        return self.topics.of(row.station, row.kind)

    def send(self, row: Row, backfill: bool, age_ms: int | None) -> int | None:
        link = self.caller.link
        if link is None:
            return None
        payload = messages.message(
            row.body,
            kind=row.kind,
            station=row.station,
            epoch=row.epoch,
            seq=row.seq,
            decided_late=row.late,
            backfill=backfill,
            age_ms=age_ms,
        )
        topic = self.topics.of(row.station, row.kind)
        if link.packet_max_bytes is not None and len(payload) + len(topic) + 64 > link.packet_max_bytes:
            raise TooLarge(TOO_LARGE)
        full = topic + "/backfill" if backfill else topic
        return link.publish(full, payload, expiry_s=self._expiry_s[backfill])

    def refused(self, topic: str, reason: int) -> None:
        self._documents.refused(topic, time.monotonic())
        remedy = REMEDY.get(reason, "see its log")
        self.caller.refused(f"the broker refused {topic} (reason code {reason}): {remedy}")

    # --- what is no row

    def _publish(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
    ) -> int | None:
        link = self.caller.link
        packet = link.publish(topic, payload, retain, expiry_s, correlation) if link else None
        if packet is not None:
            self.feed.inflight.sent(packet, topic)
        return packet

    def _publish_document(self, document: Document, payload: bytes) -> None:
        self._publish(document.topic, payload, document.retain)

    def _reply(self, message: Outgoing) -> bool:
        link = self.caller.link
        size_bytes = len(message.payload) + len(message.topic) + 64
        if link and link.packet_max_bytes is not None and size_bytes > link.packet_max_bytes:
            self.refused(message.topic, TOO_LARGE)  # who asked is told by what is missing
            return True
        sent = self._publish(message.topic, message.payload, False, message.expiry_s, message.correlation)
        return sent is not None

    def _status_document(self) -> bytes:
        return messages.online(self.box, self._version, {**self._fields(), **self._describe()})

    def _checkpoint(self) -> bytes | None:
        return self._journal.documents().get("checkpoint")

    def _fields(self) -> dict[str, object]:
        return {
            "at": messages.rfc3339(self._clock.wall_ns()),
            "clock_synchronized": self._clock.synchronized(),
            "heartbeat_s": self._heartbeat_s,
            "epoch": self._journal.epoch,
            "last_seq": self._journal.last_seq(),
            "previous": self._journal.previous(),
            "pending": self.feed.pending(),
            **self.introduce(False),
        }
