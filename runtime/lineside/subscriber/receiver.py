"""Connects to the broker, hands every message over once, and asks the boxes for what did not come."""

from __future__ import annotations

import contextlib
import logging
import queue
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .asker import Asker
from .clerk import Ask, Clerk, Handle, OnMissing
from .inbox import Missing
from .signer import Signer

BATCH = 256  # messages in one transaction at most
WINDOW = 1000  # messages that the broker may send before we acknowledge (MQTT 5)
ROUND_S = 0.1

log = logging.getLogger(__name__)


class Receiver:
    """Hands every message to a function exactly once, whatever is lost, doubled, reordered or killed.

    `state` is an SQLite file: what has come is written there in the transaction in which `handle(message, db)` runs,
    and only then does the broker get its acknowledgement. So what `handle` writes through `db` happens exactly once;
    what else it does may happen a second time if the process dies before the commit.
    """

    def __init__(
        self,
        host: str,
        *,
        state: Path | str,
        client_id: str,
        topics: Sequence[str] = ("lineside/#",),
        port: int | None = None,
        protocol: Literal["5", "3.1.1"] = "5",
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        session_expiry_s: int = 7 * 86400,
        keepalive_s: int = 15,
        in_order: bool = False,
        patience_s: float | None = None,
        from_start: bool = False,
        signer: Signer | None = None,
        asker: Asker | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`in_order` hands over by seq, waiting up to `patience_s` (None: as long as it takes) for what is missing.

        `from_start` wants a station from its first message on, else from now on. `signer` is for boxes that resend
        only to clients they know. Raises sqlite3.Error where `state` cannot be used.
        """
        if not client_id:
            raise ValueError("client_id: give this subscriber a name of its own, by which the broker keeps its session")
        self._address = (host, port or (8883 if tls else 1883), keepalive_s)
        self._client_id, self._topics, self._signer = client_id, tuple(topics), signer
        self._is_5, self._session_expiry_s = protocol == "5", session_expiry_s
        self._clerk = Clerk(
            state,
            client_id,
            in_order=in_order,
            patience_s=patience_s,
            from_start=from_start,
            signer=signer,
            asker=asker,
            clock_s=clock_s,
        )
        self._came: queue.SimpleQueue[tuple[int, MQTTMessage] | None] = queue.SimpleQueue()
        self._connection = self._asked_on = 0  # counts; what was sent on an earlier connection means nothing
        self._is_connected = threading.Event()
        self._error = ""
        self._listens: set[str] = set()  # topics of answers that we have subscribed to
        self._stopping = threading.Event()
        self._client = self._new_client(username, password, tls)

    # --- for the user

    def run(self, handle: Handle, on_missing: OnMissing = lambda _missing, _db: None) -> None:
        """Hand messages over in this thread until `stop`. Broker down: goes on trying.

        Raises what `handle` or `on_missing` raises; of that batch nothing is committed or acknowledged, so that it
        comes again at the next start.
        """
        self._client.connect_async(*self._address, **self._session())
        self._client.loop_start()
        try:
            while not self._stopping.is_set():
                self._round(self._gather(), handle, on_missing)
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def stop(self) -> None:
        """From any thread or from a signal handler."""
        self._stopping.set()
        self._came.put(None)

    def close(self) -> None:
        self.stop()
        self._clerk.close()

    def status(self) -> dict[str, object]:
        """Connection and counts; `missing` is for good (since the start), `holes` may still come."""
        return {"connected": self._is_connected.is_set(), "last_error": self._error, **self._clerk.status()}

    def missing(self) -> list[Missing]:
        """Everything that is missing for good, earlier runs included."""
        return self._clerk.missing()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- one round

    def _round(self, batch: Sequence[tuple[int, MQTTMessage]], handle: Handle, on_missing: OnMissing) -> None:
        self._clerk.take([(message.topic, bytes(message.payload)) for _, message in batch], handle, on_missing)
        for connection, message in batch:
            if connection == self._connection:
                self._client.ack(message.mid, message.qos)
        if self._is_connected.is_set():
            if self._asked_on != self._connection:
                self._asked_on = self._connection
                self._clerk.lost_connection()
            self._listen_for_answers()
            for ask in self._clerk.asks():
                self._publish(ask)

    def _gather(self) -> list[tuple[int, MQTTMessage]]:
        batch = []
        with contextlib.suppress(queue.Empty):
            item = self._came.get(timeout=ROUND_S)
            while item is not None:
                batch.append(item)
                if len(batch) == BATCH:
                    break
                item = self._came.get_nowait()
        return batch

    def _listen_for_answers(self) -> None:
        for topic in self._clerk.answer_topics - self._listens:
            self._listens.add(topic)
            if not any(topic_matches_sub(already, topic) for already in self._topics):
                self._client.subscribe(topic, 1)

    def _publish(self, ask: Ask) -> None:
        properties = None
        if self._is_5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = ask.response_topic
            properties.CorrelationData = ask.correlation
        self._client.publish(ask.topic, ask.payload, qos=1, properties=properties)

    # --- paho's thread

    def _new_client(self, username: str | None, password: str | None, tls: ssl.SSLContext | None) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTv5 if self._is_5 else MQTTv311,
            clean_session=None if self._is_5 else False,
            manual_ack=True,
        )
        if username is not None:
            client.username_pw_set(username, password)
        if tls is not None:
            client.tls_set_context(tls)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _session(self) -> dict[str, Any]:
        if not self._is_5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_expiry_s
        properties.ReceiveMaximum = WINDOW
        return {"clean_start": False, "properties": properties}

    def _on_connect(self, client: Client, _user: object, _flags: object, code: Any, _properties: object) -> None:
        if code.is_failure:
            self._error = f"the broker refused the connection: {code}"
            log.error("%s:%d: %s", *self._address[:2], self._error)
            return
        self._connection += 1
        self._error = ""
        self._listens = set()
        client.subscribe([(topic, 1) for topic in self._topics])
        self._is_connected.set()

    def _on_disconnect(self, _client: Client, _user: object, _flags: object, code: Any, _properties: object) -> None:
        self._is_connected.clear()
        self._error = self._error or f"connection lost: {code}"

    def _on_subscribe(
        self, _client: Client, _user: object, _mid: int, codes: Sequence[Any], _properties: object
    ) -> None:
        for code in codes:
            if code.is_failure:
                self._error = f"the broker refused a subscription: {code}: let its ACL allow {', '.join(self._topics)}"
                log.error("%s:%d: %s", *self._address[:2], self._error)

    def _on_message(self, _client: Client, _user: object, message: MQTTMessage) -> None:
        self._came.put((self._connection, message))
