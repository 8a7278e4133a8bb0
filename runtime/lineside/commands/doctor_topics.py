"""`lineside doctor broker`: do messages come through, on each topic and at their full size?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from lineside.commands.doctor_case import FAILED, Case, Finding, again
from lineside.commands.doctor_peer import Got, Greeting, Peer, Refused
from lineside.deliver import messages
from lineside.deliver.link import REMEDY
from lineside.records import Decision, ModelRef, Part
from lineside.records import Finding as Seen

MOST_FINDINGS = 100  # of a model unless its bundle says otherwise


def echo(case: Case, watcher: Peer, wanted: Sequence[str]) -> Generator[Finding, None, list[str]]:
    """Publish on each topic and see what comes back; returns the topics that work."""
    codes = _publish_each(case, wanted)
    taken = [number for number, (code, _) in enumerate(codes) if code is not None and code < FAILED]
    watcher.wait_for(lambda got: all(_brings(case, number)(got) for number in taken), case.patience_s)
    came = [number for number in taken if _brings(case, number)(watcher.got)]
    faults: dict[tuple[str, str, str], list[str]] = {}
    for number, (code, fault) in enumerate(codes):
        if number not in came:
            faults.setdefault(_why_not(case, wanted[number], code, fault), []).append(wanted[number])
    if came:
        what = f"{len(came)} of {len(wanted)} topics: QoS 1 acknowledged, and each message came back"
        yield Finding("echo", "ok", what)
    for (kind, what, remedy), topics in faults.items():
        shown = ", ".join(topics[:3]) + (f" and {len(topics) - 3} more" if len(topics) > 3 else "")
        if kind == "unread":
            yield Finding("echo", "unknown", f"{shown}: {what}", "that they arrive is not proven", remedy)
            continue
        why = (
            "decisions are acknowledged and lost"
            if kind == "silent"
            else "decisions wait in the journal until it is full"
        )
        yield Finding("echo", "loses", f"{shown}: {what}", why, remedy)
    return [wanted[number] for number in came]


def _publish_each(case: Case, wanted: Sequence[str]) -> list[tuple[int | None, str]]:
    """(reason code, or None; what became of the connection) of each; mosquitto 2.0.11 closes after a refusal."""
    peer: Peer | None = None
    codes: list[tuple[int | None, str]] = []
    for number, topic in enumerate(wanted):
        for _ in range(2):  # the connection may be about to close because of the topic before
            peer = peer if peer is not None and peer.is_up else again(case)
            code = peer.publish(topic, case.probe(number)) if peer else None
            if code is not None:
                break
        codes.append((code, peer.fault if peer else "the broker does not let us in again"))
    if peer is not None:
        peer.close()
    return codes


def _brings(case: Case, number: int) -> Callable[[list[Got]], bool]:
    return lambda got: any(case.is_probe(message, number) for message in got)


def _why_not(case: Case, topic: str, code: int | None, fault: str) -> tuple[str, str, str]:
    """(kind, what, remedy) of a probe that did not come back."""
    allow = f"in mosquitto's acl_file, below this box's user: topic readwrite {_root(topic)}/#"
    if code is None:
        return (
            "refused",
            f"no acknowledgement ({fault or 'and no answer'})",
            "allow QoS 1 and the topic; see the broker's log",
        )
    if code >= FAILED:
        remedy = allow if code == 0x87 else REMEDY.get(code, "see the broker's log")
        return "refused", f"refused with reason code {code}", remedy
    told = code if case.broker.protocol == "5" else _told_by_5(case, topic)
    if told is None:
        return "silent", "acknowledged, and it never came: an access rule may drop it silently", allow
    if told >= FAILED:
        return (
            "silent",
            "acknowledged, and dropped by an access rule, as MQTT 5 tells",
            f'{allow}; and set mqtt.protocol = "5"',
        )
    remedy = (
        "let this user read its own topics, or name one who may with --subscriber-username or --subscriber-cert-file"
    )
    return "unread", "accepted, but this user may not read them", remedy


def _told_by_5(case: Case, topic: str) -> int | None:
    """What MQTT 5 says to the same message; access rules are the same for both."""
    peer = Peer(replace(case.broker, protocol="5"), f"{case.broker.client_id}-doctor-5")
    try:
        peer.connect()
    except Refused:
        return None
    code = peer.publish(topic, case.probe(99_999))
    peer.close()
    return code


def _root(topic: str) -> str:
    return topic.removesuffix("/backfill").rpartition("/")[0]


def is_echoed(case: Case, watcher: Peer, topic: str, number: int, size_bytes: int = 0) -> bool:
    peer = again(case)
    if peer is None:
        return False
    code = peer.publish(topic, case.probe(number, size_bytes))
    peer.close()
    return (
        code is not None
        and code < FAILED
        and watcher.wait_for(_brings(case, number), case.patience_s if code == 0 else 0.3)
    )


def documents(case: Case, watcher: Peer) -> Finding:
    """Checkpoint and health: no decision is lost without them, but what they are for is."""
    absent = [
        topic for number, topic in enumerate(case.documents) if not is_echoed(case, watcher, topic, 30_000 + number)
    ]
    if not absent:
        return Finding("documents", "ok", f"{' and '.join(case.documents)} come through")
    why = "a ledger that was cut off looks whole to who has no checkpoint; without health nobody sees a fault coming"
    remedy = f"in mosquitto's acl_file, below this box's user: topic readwrite {_root(absent[0])}/#"
    return Finding("documents", "note", f"{' and '.join(absent)} did not come through", why, remedy)


def size(case: Case, watcher: Peer, topic: str, greeting: Greeting) -> Iterator[Finding]:
    need = largest_bytes()
    limit = greeting.packet_max_bytes
    why = "such a decision is refused each time it is tried, and stays in the journal"
    remedy = f"max_packet_size 0 and message_size_limit 0 in mosquitto.conf, or at least {2 * need}"
    if limit is not None and limit < need + 1024:
        yield Finding(
            "size",
            "loses",
            f"packets of {limit} bytes at most; a decision of {MOST_FINDINGS} findings has {need}",
            why,
            remedy,
        )
    elif not is_echoed(case, watcher, topic, 20_000, need):
        silent = "acknowledged or not, a message of that size does not arrive"
        yield Finding(
            "size",
            "loses",
            f"{need} bytes, a decision of {MOST_FINDINGS} findings, did not come through",
            silent,
            remedy,
        )
    else:
        yield Finding("size", "ok", f"{need} bytes, a decision of {MOST_FINDINGS} findings, come through")


def largest_bytes() -> int:
    """Size of a message with as many findings as a model gives unless its bundle says otherwise."""
    seen = Seen("l" * 32, 99, 0.123456, (1234.56, 1234.56, 1234.56, 1234.56))
    digest = "sha256:" + "0" * 64
    part = Part("0" * 36, "s" * 32, 10**9, 0, 0, serial="0" * 40, lot="0" * 40, product="0" * 40)
    decision = Decision(
        "0" * 36, part.station, part, "reject", "reject", "c" * 200, True, 0.123456, (seen,) * MOST_FINDINGS,
        ModelRef("m" * 32, "1" * 16, digest), "onnxruntime:tensorrt", 0, 0, 0, 0, recipe=digest,
    )  # fmt: skip
    return len(messages.body(decision, True)) + 256
