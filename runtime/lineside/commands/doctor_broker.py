"""`lineside doctor broker`: each way in which a broker loses messages, tried out with the station's configuration.

Probes are messages of kind "doctor", which subscribers ignore. While the daemon runs here, nothing is done under its
client id and to its status. docs/brokers.md says the same in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lineside.commands.doctor_case import Case, Finding
from lineside.commands.doctor_peer import Greeting, Peer, Refused
from lineside.commands.doctor_state import absent, clock, last_will, retained
from lineside.commands.doctor_topics import documents, echo, is_echoed, size
from lineside.deliver.link import Broker

KINDS = ("decision", "event", "gap", "recipe", "evidence", "in_doubt")  # on the topics of a station
DATETIME = "$SYS/brokers/+/datetime"  # EMQX tells its time there
_PROBES = {0x84: "set mqtt.protocol to the version that it speaks", 0x01: 'set mqtt.protocol = "5"'}


def examine(case: Case) -> Iterator[Finding]:
    """Every finding, in the order in which they are made; ends early where nothing else can be told."""
    main = Peer(case.broker, case.own_id)
    try:
        greeting = main.connect()
    except Refused as refused:
        yield _refused(case.broker, refused)
        return
    yield Finding("reach", "ok", f"connected as {case.own_id}, MQTT {case.broker.protocol}")
    yield from _protocol(case)
    yield from _greeting(case, greeting)
    yield from _alone(case, main)
    main.close()
    if greeting.qos_max < 1:
        return
    watcher = Peer(case.subscriber, f"{case.broker.client_id}-doctor-watch")
    try:
        watcher.connect()
    except Refused as refused:
        yield replace(_refused(case.subscriber, refused), check="watch", state="unknown")
        return
    try:
        yield from _watched(case, watcher, greeting)
    finally:
        watcher.close()


def _watched(case: Case, watcher: Peer, greeting: Greeting) -> Iterator[Finding]:
    spare = f"lineside-doctor/{case.broker.client_id}"
    own = {case.topics.of(station, "doctor"): "" for station in case.stations}
    kinds = [(station, kind) for station in case.stations for kind in KINDS] + [(case.box, "audit")]
    wanted = [case.topics.of(*of) + end for of in kinds for end in ("", "/backfill")]
    granted = watcher.subscribe([*wanted, *own, *case.documents, spare, case.topics.status, DATETIME])
    if any(granted[topic] == 0 for topic in wanted):
        yield Finding(
            "qos",
            "loses",
            "the broker grants subscribers QoS 0 only",
            "a message that is lost on the way is not sent again",
            "max_qos 2 in mosquitto.conf",
        )
    came = yield from echo(case, watcher, wanted)
    if came:
        yield documents(case, watcher)
    extra = [topic for topic in (spare, *own) if came and is_echoed(case, watcher, topic, 10_000 + len(topic))]
    place = next(iter([*extra, *came]), None)
    if place is not None:
        yield from size(case, watcher, place, greeting)
    yield from retained(case, watcher, greeting, bool(came))
    yield from last_will(case, watcher, place, bool(came))
    yield from clock(watcher)
    watcher.unsubscribe([*wanted, *own, *case.documents, spare, case.topics.status])
    yield from absent(case, place)


# --- the connection


def _refused(broker: Broker, refused: Refused) -> Finding:
    remedies = {
        0x85: "give this box a client id of its own (mqtt.client_id) that the broker allows",
        0x86: "check mqtt.username and mqtt.password_file",
        0x87: "allow this user on the broker, or check mqtt.username, mqtt.password_file and certificate",
        0x9A: "retain_available true in mosquitto.conf",
        **_PROBES,
    }
    remedy = remedies.get(refused.code or 0, "check mqtt.host, mqtt.port and that the broker runs")
    if refused.code is None and broker.tls and broker.cert_file is None and "closed" in str(refused):
        remedy = "it may ask for our certificate: set mqtt.tls.cert_file and key_file"
    why = "nothing is published; decisions wait in the journal until it is full"
    return Finding("reach", "loses", f"{broker} as {broker.username or 'nobody'}: {refused}", why, remedy)


def _protocol(case: Case) -> Iterator[Finding]:
    if case.broker.protocol == "5":
        return
    speaks_5 = _speaks_5(case)
    what = "MQTT 3.1.1, and the broker speaks MQTT 5, too" if speaks_5 else "the broker speaks MQTT 3.1.1 only"
    why = "on 3.1.1 it acknowledges a message that its access rules make it drop, and tells none of its limits"
    yield Finding("protocol", "note", what, why, 'set mqtt.protocol = "5"' if speaks_5 else "use a broker with MQTT 5")


def _speaks_5(case: Case) -> bool:
    peer = Peer(replace(case.broker, protocol="5"), f"{case.broker.client_id}-doctor-5")
    try:
        peer.connect()
    except Refused:
        return False
    peer.close()
    return True


def _greeting(case: Case, greeting: Greeting) -> Iterator[Finding]:
    if greeting.qos_max < 1:
        yield Finding(
            "qos",
            "loses",
            "the broker takes no QoS 1",
            "without acknowledgements lineside sends nothing",
            "max_qos 2 in mosquitto.conf (1 is enough)",
        )
    if not greeting.retain_available:
        yield Finding(
            "retain",
            "loses",
            "the broker keeps no retained messages",
            "the status and its last will are retained: it refuses lineside's connection",
            "retain_available true in mosquitto.conf",
        )
    if greeting.receive_max < case.inflight:
        yield Finding(
            "receive_maximum",
            "note",
            f"{greeting.receive_max} messages in flight, mqtt.inflight asks for {case.inflight}",
            "a backlog drains more slowly",
            "max_inflight_messages in mosquitto.conf",
        )


def _alone(case: Case, main: Peer) -> Iterator[Finding]:
    """Whether someone else keeps coming back under our client id."""
    who = case.broker.client_id
    if case.running:
        yield Finding(
            "client_id",
            "unknown",
            f"the daemon runs here as {who!r}",
            remedy="`lineside status` says if another client takes its place; stop the daemon to have it tried",
        )
        return
    main.watch(case.watch_s)
    if main.is_up:
        yield Finding("client_id", "ok", f"nobody else came as {who!r} within {case.watch_s:g} s")
        return
    yield Finding(
        "client_id",
        "loses",
        f"another client connected as {who!r} ({main.fault})",
        "the broker lets one in and throws the other out, in turn: both deliver late or never",
        "give each box a mqtt.client_id (or mqtt.box) of its own",
    )
