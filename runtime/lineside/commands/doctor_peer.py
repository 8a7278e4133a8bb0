"""One MQTT client of `lineside doctor broker`, called step by step: every wait has a limit, nothing reconnects."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lineside.deliver.link import TAKEN_OVER, Broker, identify

WAIT_S = 5.0  # for one answer of the broker


class Refused(Exception):
    """The connection did not come about; `code` is the broker's reason code, None where it gave none."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a broker says of itself in its CONNACK; on MQTT 3.1.1 nothing but `session_present`."""

    session_present: bool = False
    qos_max: int = 2
    retain_available: bool = True
    receive_max: int = 65535
    packet_max_bytes: int | None = None
    session_expiry_s: int | None = None  # None: as asked
    keepalive_s: int | None = None


@dataclass(frozen=True, slots=True)
class Got:
    """A message that came."""

    topic: str
    payload: bytes
    retained: bool


class Peer:
    """`connect` first; `close` says goodbye, `vanish` breaks the connection so that the last will is due."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        session_s: int = 0,
        clean: bool = True,
        will: tuple[str, bytes, bool] | None = None,  # topic, payload, retain
    ) -> None:
        from paho.mqtt.client import Client, MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        self.broker = replace(broker, client_id=client_id)
        self.greeting = Greeting()
        self.got: list[Got] = []
        self.fault = ""  # why it is down
        self.taken_over = False
        self._session_s, self._clean = session_s, clean
        self._is_5 = broker.protocol == "5"
        self._codes: dict[int, list[int]] = {}  # packet id -> reason codes
        self._news = threading.Condition()
        self._refused: Refused | None = None
        self._is_up = False
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTv5 if self._is_5 else MQTTv311,
            clean_session=None if self._is_5 else clean and not session_s,
            reconnect_on_failure=False,
        )
        if will is not None:
            self._client.will_set(will[0], will[1], qos=1, retain=will[2])
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_publish = lambda _c, _u, mid, code, _p: self._answered(mid, [code.value])
        self._client.on_subscribe = lambda _c, _u, mid, codes, _p: self._answered(mid, [c.value for c in codes])
        self._client.on_message = lambda _c, _u, m: self._note(Got(m.topic, bytes(m.payload), bool(m.retain)))

    @property
    def is_up(self) -> bool:
        return self._is_up

    def connect(self) -> Greeting:
        """Raises Refused."""
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        options: dict[str, Any] = {}
        if self._is_5:
            options = {"clean_start": self._clean, "properties": Properties(PacketTypes.CONNECT)}  # type: ignore[no-untyped-call]
            options["properties"].SessionExpiryInterval = self._session_s
        self._client.connect_timeout = WAIT_S
        try:
            identify(self._client, self.broker)
            self._client.connect(self.broker.host, self.broker.port, self.broker.keepalive_s, **options)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise Refused(f"cannot connect ({error})") from error
        self._client.loop_start()
        self._until(lambda: self._is_up or self._refused is not None or self.fault)
        if not self._is_up:
            why = self._refused or Refused(self.fault or f"no CONNACK within {WAIT_S:g} s")
            self.vanish()
            raise why
        return self.greeting

    def subscribe(self, topics: Iterable[str]) -> dict[str, int | None]:
        """Topic -> granted QoS, a failure code from 0x80 on, or None without an answer."""
        asked = list(topics)
        _, mid = self._client.subscribe([(topic, 1) for topic in asked])
        found = self._answer(mid)
        codes: Sequence[int | None] = [None] * len(asked) if found is None else found
        return dict(zip(asked, codes, strict=True))

    def unsubscribe(self, topics: Iterable[str]) -> None:
        self._client.unsubscribe(list(topics))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = 60) -> int | None:
        """With QoS 1; the reason code of its acknowledgement, None when there was none."""
        codes = self._answer(self.send(topic, payload, retain=retain, expiry_s=expiry_s))
        return codes[0] if codes else None

    def send(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = 60) -> int:
        """Its packet id; does not wait."""
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = None
        if self._is_5 and expiry_s is not None:  # a probe must not lie about in somebody's session
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid

    def answers(self, packets: Iterable[int], within_s: float) -> list[int]:
        """Reason codes of those that were acknowledged in time, or until the connection broke."""
        mids = list(packets)
        self._until(lambda: all(mid in self._codes for mid in mids) or not self._is_up, within_s)
        return [self._codes[mid][0] for mid in mids if mid in self._codes]

    def wait_for(self, condition: Callable[[list[Got]], object], within_s: float = WAIT_S) -> bool:
        """Until what came fulfils the condition."""
        self._until(lambda: condition(self.got), within_s)
        with self._news:
            return bool(condition(self.got))

    def watch(self, for_s: float) -> None:
        """Stay connected for so long, or until the connection breaks."""
        self._until(lambda: not self._is_up, for_s)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def vanish(self) -> None:
        """Without a goodbye."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self._client.loop_stop()

    # --- in paho's thread

    def _connected(self, _client: object, _user: object, flags: Any, code: Any, properties: Any) -> None:
        with self._news:
            if code.is_failure:
                self._refused = Refused(f"refused: {code}", code.value)
            else:
                self.greeting = Greeting(
                    session_present=bool(flags.session_present),
                    qos_max=getattr(properties, "MaximumQoS", 2),
                    retain_available=bool(getattr(properties, "RetainAvailable", 1)),
                    receive_max=getattr(properties, "ReceiveMaximum", 65535),
                    packet_max_bytes=getattr(properties, "MaximumPacketSize", None),
                    session_expiry_s=getattr(properties, "SessionExpiryInterval", None),
                    keepalive_s=getattr(properties, "ServerKeepAlive", None),
                )
                self._is_up = True
            self._news.notify_all()

    def _disconnected(self, _client: object, _user: object, flags: Any, code: Any, _properties: object) -> None:
        with self._news:
            self._is_up = False
            by_broker = flags.is_disconnect_packet_from_server
            self.taken_over = by_broker and code.value == TAKEN_OVER
            self.fault = f"the broker disconnected us: {code}" if by_broker else "the broker closed the connection"
            self._news.notify_all()

    def _answered(self, mid: int, codes: list[int]) -> None:
        with self._news:
            self._codes[mid] = codes
            self._news.notify_all()

    def _note(self, message: Got) -> None:
        with self._news:
            self.got.append(message)
            self._news.notify_all()

    # --- waiting

    def _answer(self, mid: int | None) -> list[int] | None:
        if mid is None:
            return None
        self._until(lambda: mid in self._codes or not self._is_up)
        return self._codes.get(mid)

    def _until(self, condition: Callable[[], object], within_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + within_s
        with self._news:
            while not condition() and (left_s := deadline - time.monotonic()) > 0:
                self._news.wait(left_s)
