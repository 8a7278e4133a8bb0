"""The subscriber of the chaos suite, a process of its own: plain paho, a persistent session, dedupe by seq.

    python -m chaos.receiver PORT FILE

Each message that arrives becomes a line of JSON in FILE: `new` says that it is the first with its (station, epoch,
seq), `digest` stands for its content without the fields that say how it was delivered.
"""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_HEAD = ("lineside", "kind", "station", "epoch", "seq", "late", "backfill", "age_ms")  # docs/messages.md


def digest(body: Mapping[str, Any]) -> str:
    """Of what was decided: equal for a live message, its backfill and the journal's row."""
    fields = {name: value for name, value in body.items() if name not in _HEAD}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:24]


def line_of(topic: str, message: Mapping[str, Any], is_new: bool, at_ns: int) -> dict[str, Any]:
    """What is remembered of a message that carries a seq."""
    return {
        "at_ns": at_ns,
        "kind": message["kind"],
        "key": [message["station"], message["epoch"], message["seq"]],
        "new": is_new,
        "id": message.get("id"),
        "digest": digest(message),
        "backfill": topic.endswith("/backfill"),
        "says": [message["backfill"], message["late"], message["age_ms"]],
        "decided_at": message["decided_at"],
        "gap": [message["first_seq"], message["last_seq"]] if message["kind"] == "gap" else None,
    }


def main() -> None:
    with Path(sys.argv[2]).open("a", buffering=1) as file:
        receive(int(sys.argv[1]), file)


def receive(port: int, file: TextIO) -> None:
    """Until SIGTERM."""
    seen: set[tuple[str, str, int]] = set()
    stopping = threading.Event()

    def take(_client: Client, _user: object, message: MQTTMessage) -> None:
        at_ns = time.time_ns()
        body = json.loads(message.payload)
        if "/resend" in message.topic:  # what the kit asked for and is told
            return
        if "seq" in body:
            key = (body["station"], body["epoch"], body["seq"])
            file.write(json.dumps(line_of(message.topic, body, key not in seen, at_ns)) + "\n")
            seen.add(key)
        elif body["kind"] == "status":
            said = [body.get("epoch"), body.get("last_seq")]
            file.write(json.dumps({"at_ns": at_ns, "kind": "status", "state": body["state"], "said": said}) + "\n")

    client = Client(CallbackAPIVersion.VERSION2, client_id="receiver", protocol=MQTTv5)
    client.on_message = take
    client.on_socket_open = lambda _client, _user, sock: _without_delay(sock)
    client.on_connect = lambda *_: _subscribe(client)
    client.on_subscribe = lambda *_: _note(file, '{"kind": "subscribed"}\n')
    client.reconnect_delay_set(1, 1)
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = 86_400
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    client.connect("127.0.0.1", port, clean_start=False, properties=session)
    client.loop_start()
    stopping.wait()
    client.disconnect()
    client.loop_stop()


def _subscribe(client: Client) -> None:
    client.subscribe("lineside/#", 1)


def _note(file: TextIO, line: str) -> None:
    file.write(line)


def _without_delay(sock: object) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    main()
