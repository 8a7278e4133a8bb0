"""One connection to an MQTT broker, from dialling to closing; never used twice.

A fresh paho client each time: what is to be sent again is the journal's business, not that of paho's own store.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

RECEIVE_MAX_BYTES = 1 << 20
GREETING_S = 10.0  # from the TCP connection to the broker's CONNACK
WITH_WILL = 0x04  # MQTT 5 DISCONNECT: publish the will all the same
TAKEN_OVER = 0x8E  # MQTT 5 DISCONNECT: another client connected with our client_id

TOO_LARGE = 0x95  # MQTT 5 "packet too large"
OF_THE_MESSAGE = (TOO_LARGE, 0x99)  # reason codes that say nothing of other messages on the topic (0x99: bad payload)
REMEDY = {
    0x87: "let its ACL allow this client to write there",
    0x90: "it takes no such topic: change mqtt.topic",
    0x95: "raise its packet size limit",
    0x97: "raise its quota",
}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and how it knows us."""

    host: str
    port: int = 1883
    protocol: Literal["5", "3.1.1"] = "5"
    client_id: str = ""
    username: str | None = None
    password_file: Path | None = None  # read at each connection, as are the certificates: they may be renewed
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 15
    dial_timeout_s: float = 5.0

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class Will(NamedTuple):
    """What the broker publishes when we vanish; `always`: on MQTT 5 also when we say goodbye."""

    topic: str
    payload: bytes
    retain: bool = True
    always: bool = False


class Incoming(NamedTuple):
    """A message on a topic that was subscribed to. An answer goes to `response_topic`, with `correlation` (MQTT 5)."""

    topic: str
    payload: bytes
    retain: bool  # the broker had kept it
    response_topic: str | None = None
    correlation: bytes | None = None


class Link:
    """`state` goes dialling -> greeting -> up -> down; `fault` says why it is down.

    One thread alternates `wait` and `handle`, which calls `on_ack(mid, reason code)` and `on_message`. Callers keep
    all methods but `wait` and `wants_write` from running at the same time. `topics` are subscribed to as soon as the
    link is up; `granted` has the broker's reason code for each that it has answered.
    """

    def __init__(
        self,
        broker: Broker,
        will: Will,
        on_ack: Callable[[int, int], None],
        topics: Sequence[str] = (),
        on_message: Callable[[Incoming], None] = lambda message: None,
    ) -> None:
        self.broker = broker
        self.state: Literal["dialling", "greeting", "up", "down"] = "dialling"
        self.fault = ""
        self.was_reached = False  # a CONNECT may have got to the broker
        self.heard_at = float("-inf")  # when something last came from the broker (time.monotonic)
        self.receive_max = 65535  # messages in flight that the broker allows
        self.packet_max_bytes: int | None = None
        self.topics = topics
        self.granted: dict[str, int] = {}
        self._asked: dict[int | None, str] = {}  # packet id -> topic
        self._client = _client(broker)
        self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        self._will_always = will.always
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = lambda _client, _user, mid, code, _properties: on_ack(mid, code.value)
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda _client, _user, message: _hand_over(message, on_message)
        self._lock = threading.Lock()  # `state` while the dialling thread lives
        self._since = time.monotonic()
        self._misc_at = 0.0

    def dial(self, wake: Callable[[], None]) -> None:
        """Connect in a thread of its own (names are looked up with no limit of time); `wake` tells that it is done."""
        threading.Thread(target=self._dial, args=(wake,), name="mqtt-dial", daemon=True).start()

    def publish(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
        qos: Literal[0, 1] = 1,
    ) -> int | None:
        """Send; the packet id that its acknowledgement will carry, or None when the link went down.

        `expiry_s` and `correlation` are told where MQTT 5 is spoken. With QoS 0 the acknowledgement is paho's own:
        the bytes were handed to the network.
        """
        properties = None
        if (expiry_s is not None or correlation is not None) and self.broker.protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if expiry_s is not None:
                properties.MessageExpiryInterval = expiry_s
            if correlation is not None:
                properties.CorrelationData = correlation
        sent = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.close(self.fault or "connection lost while sending")
            return None
        return sent.mid

    def wait(self, wake_fd: int, timeout_s: float) -> int:
        """Wait for the network, for `wake_fd`, or until the timeout; what `handle` is then to be told."""
        sock = self._client.socket() if self.state in ("greeting", "up") else None
        if sock is None:
            return wait(wake_fd, 0.0 if self.state == "down" else timeout_s)
        if isinstance(sock, ssl.SSLSocket) and sock.pending():  # decrypted, but not yet read by us
            return wait(wake_fd, 0.0, sock.fileno(), select.POLLIN) | select.POLLIN
        writes = select.POLLOUT if self._client.want_write() else 0
        return wait(wake_fd, timeout_s, sock.fileno(), select.POLLIN | writes)

    def handle(self, events: int) -> None:
        """Read and write what there is, keep the connection alive."""
        if events & ~select.POLLOUT and self._is_open():
            self._check(self._client.loop_read())
            if events & select.POLLIN and self._is_open():
                self.heard_at = time.monotonic()  # after the read: what it acknowledged was there before
        if events & select.POLLOUT and self._is_open():
            self._check(self._client.loop_write())
        now = time.monotonic()
        if now - self._misc_at > 0.5 and self._is_open():
            self._misc_at = now
            self._check(self._client.loop_misc())
            if self.state == "greeting" and now - self._since > GREETING_S:
                self.close(f"no CONNACK within {GREETING_S:g} s")

    def _is_open(self) -> bool:
        return self.state in ("greeting", "up")

    def wants_write(self) -> bool:
        """Whether bytes wait for room in the socket, so that the thread in `wait` must look again."""
        return self._client.want_write()

    def disconnect(self, why: str = "closed by us") -> None:
        """Say goodbye, so that the broker does not publish the last will (unless that says `always`)."""
        if self.state == "up" and self._will_always and self.broker.protocol == "5":
            self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=WITH_WILL))
        elif self.state == "up":
            self._client.disconnect()
        self.close(why)

    def close(self, fault: str) -> None:
        """Down, whatever it was; a dialling thread closes its own socket when it comes to it."""
        with self._lock:
            was, self.state = self.state, "down"
        self.fault = self.fault or fault
        sock = self._client.socket() if was != "dialling" else None
        if sock is not None:
            sock.close()

    def _dial(self, wake: Callable[[], None]) -> None:
        fault = ""
        try:
            identify(self._client, self.broker)
            self._client.connect(
                self.broker.host, self.broker.port, self.broker.keepalive_s, properties=_limits(self.broker)
            )
        except ssl.SSLCertVerificationError as error:
            fault = f"the broker's certificate is not trusted ({error.verify_message})"
        except (OSError, ValueError) as error:
            fault = f"cannot connect ({error})"
        sock = self._client.socket()
        with self._lock:
            self.was_reached = not fault  # paho's connect has sent it
            if self.state == "dialling" and not fault and sock is not None:
                self.state, self._since = "greeting", time.monotonic()
                _without_delay(sock)
            else:
                self.state, self.fault = "down", self.fault or fault or "connection lost while greeting"
                if sock is not None:
                    sock.close()
        wake()

    def _check(self, code: MQTTErrorCode) -> None:
        if self.state == "greeting" and self.fault:
            self.close(self.fault)
        elif code != MQTTErrorCode.MQTT_ERR_SUCCESS or self._client.socket() is None:
            self.close("the broker closed the connection" if code == MQTTErrorCode.MQTT_ERR_CONN_LOST else str(code))

    def _on_connect(
        self, client: Client, user: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self.fault = f"refused: {code} (reason code {code.value})"
            return  # the broker closes
        self.receive_max = getattr(properties, "ReceiveMaximum", 65535)
        self.packet_max_bytes = getattr(properties, "MaximumPacketSize", None)
        if getattr(properties, "MaximumQoS", 2) < 1:
            self.fault = "the broker takes no QoS 1: allow it there, decisions need an acknowledgement"
            return
        self.state = "up"
        self._asked = {client.subscribe(topic, 1)[1]: topic for topic in self.topics}

    def _on_subscribe(
        self, client: Client, user: object, mid: int, codes: list[ReasonCode], properties: Properties | None
    ) -> None:
        if mid in self._asked:
            self.granted[self._asked[mid]] = codes[0].value

    def _on_disconnect(
        self, client: Client, user: object, flags: DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if not flags.is_disconnect_packet_from_server or self.fault:
            return
        self.fault = f"the broker disconnected us: {code} (reason code {code.value})"
        if code.value == TAKEN_OVER:
            self.fault += f"; another client uses client_id {self.broker.client_id!r}: give each box its own"


def wait(wake_fd: int, timeout_s: float, sock_fd: int = -1, events: int = 0) -> int:
    """Wait for `wake_fd`, a socket or the timeout; what the socket is ready for."""
    poll = select.poll()
    poll.register(wake_fd, select.POLLIN)
    if sock_fd >= 0:
        poll.register(sock_fd, events)
    ready = dict(poll.poll(max(timeout_s, 0.0) * 1000))
    if wake_fd in ready:
        os.eventfd_read(wake_fd)
    return ready.get(sock_fd, 0)


def _hand_over(message: MQTTMessage, on_message: Callable[[Incoming], None]) -> None:
    try:
        topic = message.topic
    except UnicodeDecodeError:  # no topic of ours
        return
    asked = message.properties
    answer_to = (getattr(asked, "ResponseTopic", None), getattr(asked, "CorrelationData", None))
    on_message(Incoming(topic, bytes(message.payload), message.retain, *answer_to))


def _limits(broker: Broker) -> Properties | None:
    """What the broker may send us (MQTT 5): nobody gets more than that into our memory."""
    if broker.protocol != "5":
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = RECEIVE_MAX_BYTES
    return properties


def _without_delay(sock: object) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _client(broker: Broker) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=broker.client_id,
        protocol=MQTTv5 if broker.protocol == "5" else MQTTv311,
        reconnect_on_failure=False,
    )
    client.max_inflight_messages_set(0)  # the sink keeps the window
    client.connect_timeout = broker.dial_timeout_s
    return client


def identify(client: Client, broker: Broker) -> None:
    """Password and certificates, from their files. Raises OSError or ValueError (ssl.SSLError is an OSError)."""
    if broker.username is not None:
        password = broker.password_file.read_text().split("\n")[0].strip() if broker.password_file else None
        client.username_pw_set(broker.username, password)
    if broker.tls:
        context = ssl.create_default_context(cafile=str(broker.ca_file) if broker.ca_file else None)
        if broker.cert_file and broker.key_file:
            context.load_cert_chain(broker.cert_file, broker.key_file, password="")
        client.tls_set_context(context)
