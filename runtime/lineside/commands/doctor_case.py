"""What `lineside doctor broker` examines, and what it says of it: one Finding a check."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lineside.commands.doctor_peer import Got, Peer, Refused
from lineside.deliver import messages
from lineside.deliver.link import Broker
from lineside.deliver.topics import Topics

FAILED = 0x80  # reason codes from here on
State: TypeAlias = Literal["ok", "loses", "note", "unknown"]  # loses: messages; note: costs something, but no message


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was found; unless it is ok, `why` that matters and the `remedy`."""

    check: str  # one word for programs: "reach", "tls", "queue"
    state: State
    what: str
    why: str = ""
    remedy: str = ""

    def lines(self) -> list[str]:
        """For people."""
        mark = {"ok": "ok", "loses": "LOSES", "note": "note", "unknown": "?"}[self.state]
        shown = [f"{mark:<6} {self.check}: {self.what}"]
        shown += [f"       {name}: {words}" for name, words in (("why", self.why), ("remedy", self.remedy)) if words]
        return shown


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is to be examined, and how hard."""

    broker: Broker  # as the daemon has it
    subscriber: Broker  # as whom the doctor listens
    topics: Topics
    stations: Sequence[str]
    documents: Sequence[str]  # topics of what is kept published of the box: checkpoint, health
    box: str
    inflight: int
    running: bool  # a daemon runs here with this client id
    queue: int  # messages for the absent subscriber; 0: not tried
    absent_s: int  # how long a subscriber may be away
    watch_s: float
    patience_s: float  # for a message to come back
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def own_id(self) -> str:
        return f"{self.broker.client_id}-doctor" if self.running else self.broker.client_id

    def probe(self, number: int = 0, size_bytes: int = 0) -> bytes:
        """A message that every subscriber ignores, by its kind."""
        name, wall_ns = f"{self.token}-{number}", time.time_ns()
        missing = size_bytes - len(messages.probe(self.box, wall_ns, name))
        return messages.probe(self.box, wall_ns, name, "x" * max(missing, 0))

    def is_probe(self, got: Got, number: int) -> bool:
        return f'"{self.token}-{number}"'.encode() in got.payload


def again(case: Case) -> Peer | None:
    peer = Peer(case.broker, case.own_id)
    try:
        peer.connect()
    except Refused:
        return None
    return peer
