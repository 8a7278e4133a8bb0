"""Notices another daemon that publishes as this box, or for one of its stations, by the status it publishes. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

TWINS_MAX = 16
INSTANCES_MAX = 256  # of those that once published as this box
FORGET_BEATS = 6  # heartbeats of the other without which the conflict is over


@dataclass
class Twin:
    """Another daemon, and what it shares with us."""

    box: str
    instance: str
    shares: str
    seen_s: float
    heartbeat_s: float


class Twins:
    """Feed it every status on the topics of this line's boxes. Times are monotonic seconds.

    Each daemon has an `instance` of its own and numbers its connections; both stand in its status and its last will.
    A predecessor's late will is no twin: its instance does not connect again.
    """

    def __init__(self, own_topic: str, box: str, stations: Collection[str]) -> None:
        self.instance = secrets.token_hex(8)
        self._own_topic, self._box, self._stations = own_topic, box, frozenset(stations)
        self._connections: dict[str, int] = {}  # foreign instance -> the highest connection known of it
        self._twins: dict[str, Twin] = {}
        self._was_published = False

    def heard(self, topic: str, status: Mapping[str, Any], retained: bool, now_s: float) -> Twin | None:
        """The twin that a status gives away, if it was not yet known."""
        instance = str(status.get("instance") or status.get("box") or "?")
        if instance == self.instance:
            self._was_published = True
            return None
        shares = self._shared(topic, status)
        if not shares or not self._lives(instance, status, retained, is_own_topic=topic == self._own_topic):
            return None
        heartbeat_s = status.get("heartbeat_s")
        beat_s = float(heartbeat_s) if isinstance(heartbeat_s, int | float) else 10.0
        is_new = instance not in self._twins
        if is_new and len(self._twins) >= TWINS_MAX:
            return None  # those that are told of are enough to look for the rest
        twin = Twin(str(status.get("box")), instance, shares, now_s, beat_s)
        self._twins[instance] = twin
        return twin if is_new else None

    def present(self, now_s: float) -> list[Twin]:
        """Those that were seen not long ago."""
        for instance, twin in list(self._twins.items()):
            if now_s - twin.seen_s > max(FORGET_BEATS * twin.heartbeat_s, 30.0):
                del self._twins[instance]
        return list(self._twins.values())

    def _shared(self, topic: str, status: Mapping[str, Any]) -> str:
        if topic == self._own_topic:
            return f"the box name {self._box!r}"
        theirs = status.get("stations")
        both = sorted(self._stations.intersection(map(str, theirs))) if isinstance(theirs, list) else []
        return f"station {', '.join(map(repr, both))}" if both else ""

    def _lives(self, instance: str, status: Mapping[str, Any], retained: bool, is_own_topic: bool) -> bool:
        if status.get("state") == "online" and not retained:
            return True
        if not is_own_topic:
            return False  # what is retained of another box may be years old
        number = status.get("connection")
        number = number if isinstance(number, int) else 0
        known = self._connections.pop(instance, None)
        self._connections[instance] = max(number, known or 0)
        if len(self._connections) > INSTANCES_MAX:
            del self._connections[next(iter(self._connections))]
        if known is not None:
            return number > known  # it connected again since
        return self._was_published and status.get("state") == "online"  # it overwrote ours
