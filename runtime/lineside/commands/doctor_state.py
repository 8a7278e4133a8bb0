"""`lineside doctor broker`: what a broker keeps. Status, last will, and messages for a subscriber that is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from lineside.clock import SystemClock
from lineside.commands.doctor_case import FAILED, Case, Finding, again
from lineside.commands.doctor_peer import Greeting, Peer, Refused
from lineside.deliver import messages

_UNPROVEN = "that it arrives is not proven"
_LISTEN = "name a user who may with --subscriber-username or --subscriber-cert-file"


def retained(case: Case, watcher: Peer, greeting: Greeting, readable: bool) -> Iterator[Finding]:
    if not greeting.retain_available:
        return
    status = case.topics.status
    kept = _last(watcher, status)
    if case.running:
        if kept is None:
            yield Finding(
                "retain",
                "loses",
                f"{status}: the daemon runs, and nothing is retained there",
                "a subscriber that comes later does not learn whether the box lives",
                "allow retained messages and this topic",
            )
        else:
            yield Finding("retain", "ok", f"{status} is retained")
        return
    if kept is not None and _state(kept) == "online":
        yield Finding(
            "retain",
            "loses",
            f"{status} says that the box is online, and no daemon runs here",
            "another box has this name, or the last will was lost",
            "give each box a mqtt.box of its own",
        )
        return
    peer = again(case)
    code = peer.publish(status, messages.offline(case.box, "stopped"), retain=True, expiry_s=None) if peer else None
    late = Peer(case.subscriber, f"{case.broker.client_id}-doctor-late")
    found = False
    try:
        late.connect()
        late.subscribe([status])
        found = late.wait_for(
            lambda got: any(m.retained and m.topic == status for m in got),
            case.patience_s if code == 0 and readable else 0.5,
        )
        late.close()
    except Refused:
        found = False
    if peer is not None:
        peer.close()
    if found:
        yield Finding("retain", "ok", f"{status} is kept for who comes later")
    elif code == 0 and not readable:
        yield Finding("retain", "unknown", f"{status}: accepted, but this user may not read it", _UNPROVEN, _LISTEN)
    else:
        told = "no acknowledgement" if code is None else f"reason code {code}"
        yield Finding(
            "retain",
            "loses",
            f"{status}: a retained message does not come back ({told})",
            "a subscriber that comes later does not learn whether the box lives",
            f"retain_available true; in the acl_file: topic readwrite {status}",
        )


def last_will(case: Case, watcher: Peer, place: str | None, readable: bool) -> Iterator[Finding]:
    """Break a connection and see whether the broker says so."""
    number = 30_000
    status = case.topics.status
    kept = _last(watcher, status)
    if case.running or (kept is not None and _state(kept) == "online"):
        if place is None:
            return
        topic, will = place, (place, case.probe(number), False)
    else:
        topic, will = status, (status, messages.offline(case.box, "connection lost"), True)
    before = len(watcher.got)
    peer = Peer(case.broker, f"{case.broker.client_id}-doctor-will", will=will)
    try:
        peer.connect()
    except Refused as refused:
        yield Finding(
            "will",
            "loses",
            f"with a last will, a connection does not come about ({refused})",
            "lineside cannot connect at all",
            "retain_available true in mosquitto.conf, and let this user write its status topic",
        )
        return
    peer.vanish()
    patience_s = 2 * case.patience_s if readable else 0.5
    if watcher.wait_for(lambda got: any(m.topic == topic and m.payload == will[1] for m in got[before:]), patience_s):
        yield Finding("will", "ok", "when a connection breaks, the broker publishes the last will")
    elif not readable:
        yield Finding("will", "unknown", f"{topic}: this user may not read it", _UNPROVEN, _LISTEN)
    else:
        yield Finding(
            "will",
            "loses",
            f"the last will did not come on {topic}",
            "subscribers take a box that died for one that lives, for three heartbeats",
            f"in the acl_file: topic readwrite {topic}",
        )


def clock(watcher: Peer) -> Iterator[Finding]:
    if not SystemClock().synchronized():
        yield Finding(
            "clock",
            "note",
            "no NTP or PTP keeps this box's clock",
            "times in messages mislead, and a certificate counts as expired too early or too late",
            "enable systemd-timesyncd or chrony",
        )
    told = [m.payload.decode(errors="replace") for m in watcher.got if m.topic.endswith("/datetime")]
    try:
        theirs = datetime.fromisoformat(told[-1]) if told else None
    except ValueError:
        theirs = None
    if theirs is None:
        yield Finding("clock", "unknown", "the broker does not tell its time")
        return
    theirs = theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)
    apart_s = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart_s > 60:
        yield Finding(
            "clock",
            "loses",
            f"the broker's clock is {apart_s:.0f} s from ours",
            "certificates fail and messages seem old",
            "keep both by NTP",
        )
    else:
        yield Finding("clock", "ok", f"the broker's clock is within {apart_s:.0f} s of ours")


def _last(watcher: Peer, topic: str) -> bytes | None:
    found = [message.payload for message in watcher.got if message.topic == topic and message.payload]
    return found[-1] if found else None


def _state(status: bytes) -> object:
    try:
        read = json.loads(status)
    except ValueError:
        return None
    return read.get("state") if isinstance(read, dict) else None


# --- subscribers that are away


def absent(case: Case, topic: str | None) -> Iterator[Finding]:
    """A subscriber with a persistent session goes away, comes back and counts."""
    if not case.queue or topic is None:
        what = "what the broker keeps for an absent subscriber was not tried"
        if case.queue:
            yield Finding("queue", "unknown", what, "no message came through")
        else:
            why = "other subscribers would get the probes, too"
            yield Finding("queue", "unknown", what, why, "stop the daemon, or ask for it with --queue 1500")
        return
    who = f"{case.broker.client_id}-doctor-absent"
    try:
        first = Peer(case.subscriber, who, session_s=case.absent_s)
        expiry_s = first.connect().session_expiry_s
        first.subscribe([topic])
        first.close()
        yield from _session(case, expiry_s)
        accepted = _flood(case, topic)
        back = Peer(case.subscriber, who, session_s=case.absent_s, clean=False)
        present = back.connect().session_present
        kept = _count(case, topic, back)
        back.close()
    except Refused as refused:
        yield Finding("queue", "unknown", f"a subscriber of our own was {refused}")
        return
    finally:
        _forget(case, who)
    if not present:
        yield Finding(
            "session",
            "loses",
            "the broker forgot the session of an absent subscriber",
            "what is published while it is away never reaches it",
            "allow persistent sessions on the broker",
        )
    elif kept < case.queue:
        told = f"{accepted} of them acknowledged" if accepted < case.queue else "though it acknowledged each"
        yield Finding(
            "queue",
            "loses",
            f"for an absent subscriber it kept {kept} of {case.queue} messages, {told}",
            "a subscriber that was away, or is slow, misses the rest; lineside cannot know",
            "max_queued_messages 0 in mosquitto.conf (its default is 1000), max_queued_bytes 0",
        )
    else:
        yield Finding("queue", "ok", f"for an absent subscriber it kept all {kept} messages")


def _session(case: Case, expiry_s: int | None) -> Iterator[Finding]:
    if expiry_s is not None and expiry_s < case.absent_s:
        yield Finding(
            "session",
            "loses",
            f"sessions last {expiry_s} s, asked for {case.absent_s} s",
            "a subscriber that is away for longer misses what came meanwhile",
            "raise the broker's limit of the session expiry",
        )
    elif case.subscriber.protocol == "5":
        yield Finding("session", "ok", f"a session outlives {case.absent_s} s, says the broker")


def _count(case: Case, topic: str, back: Peer) -> int:
    """How many of the flood came: what was kept comes before a marker that is published now.

    A queue that is still full drops the marker like any other, so it is repeated.
    """
    peer = again(case)
    markers = range(200_000, 200_020)
    for number in markers:
        if peer is not None:
            peer.publish(topic, case.probe(number))
        if back.wait_for(lambda got: any(case.is_probe(got[-1], n) for n in markers if got), case.patience_s):
            break
    if peer is not None:
        peer.close()
    return sum(not any(case.is_probe(message, number) for number in markers) for message in list(back.got))


def _flood(case: Case, topic: str) -> int:
    """Publish the queue's messages; how many were acknowledged with success."""
    peer = again(case)
    if peer is None:
        return 0
    packets = [peer.send(topic, case.probe(100_000 + number)) for number in range(case.queue)]
    codes = peer.answers(packets, 30.0)
    peer.close()
    return sum(code < FAILED for code in codes)


def _forget(case: Case, who: str) -> None:
    last = Peer(case.subscriber, who)
    try:
        last.connect()
    except Refused:
        return
    last.close()
