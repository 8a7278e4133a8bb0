"""`lineside subscribe`: what a subscriber sees, checked against the schema, doubles and gaps reported."""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paho.mqtt.client import Client

    from lineside.deliver.tally import Tally


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="of the broker (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: 1883, with TLS 8883")
    parser.add_argument("--topic", default="lineside/#", help="what to subscribe to (default: lineside/#)")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5")
    parser.add_argument("--username")
    parser.add_argument("--password-file", type=Path, help="file whose first line is the password")
    parser.add_argument("--tls", action="store_true", help="TLS with the authorities that this machine trusts")
    parser.add_argument("--ca-file", type=Path, help="TLS with this authority (PEM)")
    parser.add_argument("--cert-file", type=Path, help="our certificate (PEM)")
    parser.add_argument("--key-file", type=Path, help="its key (PEM)")
    parser.add_argument("--client-id", help="with --session-expiry-s: the broker keeps what comes while we are away")
    parser.add_argument("--session-expiry-s", type=int, default=0, help="how long it keeps it (default: 0)")
    parser.add_argument("--count", type=int, help="stop after so many new decisions, events and gaps")
    parser.add_argument("--timeout-s", type=float, help="stop after so long")
    parser.add_argument("--json", action="store_true", help="the messages as they came, one a line")


def run(args: argparse.Namespace) -> int:
    """0 when every message was valid and none is missing, else 1. Raises ConfigError, RemoteError."""
    from lineside.deliver.tally import Tally
    from lineside.errors import ConfigError

    if args.session_expiry_s and not args.client_id:
        raise ConfigError("--session-expiry-s needs --client-id: the broker keeps a session by its name")
    arrived: queue.SimpleQueue[tuple[str, bytes] | str] = queue.SimpleQueue()
    client = _connect(args, arrived)
    tally = Tally()
    deadline = time.monotonic() + args.timeout_s if args.timeout_s else None
    client.loop_start()
    try:
        with contextlib.suppress(KeyboardInterrupt, queue.Empty):
            while args.count is None or _news(tally) < args.count:
                _take(arrived.get(timeout=_left_s(deadline)), tally, args)
    finally:
        client.disconnect()
        client.loop_stop()
        missing = _report(tally)
    return 1 if tally.counts["invalid"] or missing else 0


def _take(item: tuple[str, bytes] | str, tally: Tally, args: argparse.Namespace) -> None:
    from lineside.deliver.validate import faults
    from lineside.errors import RemoteError

    if isinstance(item, str):
        raise RemoteError(item)
    topic, payload = item
    try:
        message: dict[str, Any] = json.loads(payload)
        found = faults(message)
    except ValueError as error:
        message, found = {}, [f"is not JSON ({error})"]
    if found:
        tally.counts["invalid"] += 1
        for fault in found:
            print(f"{topic}: {fault}", file=sys.stderr, flush=True)
        return
    is_new = tally.is_new(message)
    if args.json:
        print(payload.decode(), flush=True)
    else:
        print(_line(message, is_new), flush=True)


def _line(message: dict[str, Any], is_new: bool) -> str:
    """One line for people."""
    if message["kind"] == "status":
        return f"{message['box']} is {message['state']}  {message.get('reason', '')}".rstrip()
    if message["kind"] == "reply":
        return f"{message['box']} answers {message['command']}  {message['reason'] or 'done'}"
    if message["kind"] == "checkpoint":
        return f"{message['at']}  {message['box']} signed checkpoint {message['number']} up to row {message['row']}"
    if message["kind"] == "health":
        well = f"{message['box']} is well, {len(message['metrics'])} numbers"
        return "  ".join([message["at"], "; ".join(message["problems"]) or well])
    if message["kind"] == "doctor":
        return f"{message['at']}  a probe of lineside doctor on {message['box']}"
    where = f"{message['station']} #{message['seq']}"
    marks = [mark for mark, is_so in (("LATE", message["late"]), ("again", not is_new)) if is_so]
    what = {
        "decision": lambda: f"{message['verdict']} -> {message['output']}  part {message['part']['id']}",
        "event": lambda: f"{message['phase']} of {message['event_id']}, {message['count']} present",
        "gap": lambda: f"{message['lost']} records lost",
        "recipe": lambda: f"recipe {message['digest'][:19]}",
        "evidence": lambda: f"evidence {message['state']}  {message['decision'] or message['folder'] or ''}".rstrip(),
        "in_doubt": lambda: f"in doubt: {_parts_of(message)}",
        "audit": lambda: f"{message['command']} {message['outcome']}  {message['client'] or 'anyone'}",
    }[message["kind"]]()
    return "  ".join([message["decided_at"], where, what, message["cause"], *marks])


def _parts_of(message: dict[str, Any]) -> str:
    if message["part"] is not None:
        return f"part {message['part']['id']}"
    return "parts that cannot be named" if message["parts"] is None else f"{message['parts']} parts"


def _report(tally: Tally) -> int:
    """Say on stderr what came; returns how many messages are missing."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(tally.counts.items())) or "nothing"
    print(f"received: {counts}", file=sys.stderr)
    lost = 0
    for (station, epoch), runs in tally.missing().items():
        lost += sum(last - first + 1 for first, last in runs)
        text = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)
        print(f"missing: station {station}, epoch {epoch}: seq {text}", file=sys.stderr)
    return lost


def _news(tally: Tally) -> int:
    return tally.counts["live"] + tally.counts["backfill"]


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _connect(args: argparse.Namespace, arrived: queue.SimpleQueue[tuple[str, bytes] | str]) -> Client:
    """A connected client that puts (topic, payload) into `arrived`, or the reason why it cannot go on."""
    import ssl

    from paho.mqtt.client import Client, MQTTv5, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    from lineside.errors import ConfigError, RemoteError

    keeps = bool(args.session_expiry_s)
    is_5 = args.protocol == "5"
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=args.client_id or "",
        protocol=MQTTv5 if is_5 else MQTTv311,
        clean_session=None if is_5 else not keeps,
    )
    uses_tls = args.tls or args.ca_file or args.cert_file
    try:
        if args.username:
            password = args.password_file.read_text().split("\n")[0].strip() if args.password_file else None
            client.username_pw_set(args.username, password)
        if uses_tls:
            context = ssl.create_default_context(cafile=args.ca_file)
            if args.cert_file:
                context.load_cert_chain(args.cert_file, args.key_file, password="")
            client.tls_set_context(context)
    except OSError as error:
        raise ConfigError(f"{error}: give readable PEM files and a readable password file") from error

    def connected(_client: Client, _user: object, _flags: object, code: Any, _properties: object) -> None:
        if code.is_failure:
            arrived.put(f"{args.host}: the broker refused: {code}")
        else:
            client.subscribe(args.topic, qos=1)

    def subscribed(_client: Client, _user: object, _mid: object, codes: Any, _properties: object) -> None:
        for code in codes:
            if code.is_failure:
                arrived.put(f"{args.host}: the broker refused the subscription to {args.topic!r}: {code}")

    client.on_connect = connected
    client.on_subscribe = subscribed
    client.on_message = lambda _client, _user, message: arrived.put((message.topic, bytes(message.payload)))
    client.reconnect_delay_set(1, 5)
    options: dict[str, Any] = {}
    if is_5:
        options["clean_start"] = not keeps
        options["properties"] = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        options["properties"].SessionExpiryInterval = args.session_expiry_s
    port = args.port or (8883 if uses_tls else 1883)
    try:
        client.connect(args.host, port, 15, **options)
    except (OSError, ValueError) as error:
        raise RemoteError(f"{args.host}:{port}: cannot connect ({error})") from error
    return client
