"""What an edge node says, in order: births, data and deaths with their sequence numbers and aliases. No network.

Rule names are those of the Sparkplug 3.0 specification; docs/sparkplug.md has them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

from lineside.deliver.sparkplug.metrics import DEVICE
from lineside.deliver.sparkplug.payload import BOOLEAN, INT64, STRING, Datatype, Metric, Value, birth, update

NAMESPACE = "spBv1.0"
REBIRTH = "Node Control/Rebirth"
NODE: dict[str, Datatype] = {  # beside bdSeq and Rebirth
    "Properties/Software": STRING,
    "Properties/Version": STRING,
    "Journal/Epoch": STRING,
    "Journal/Pending": INT64,
}


class Birthdays:
    """bdSeq: which CONNECT an NDEATH belongs to. On disk before it is used, so that a restart goes on behind it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last: int | None = self._read()

    def next(self) -> int:
        """The number of the next CONNECT (topics-nbirth-bdseq-increment). Raises OSError when it can't be kept; the
        number counts all the same."""
        self.last = 0 if self.last is None else (self.last + 1) % 256
        self._write(self.last)
        return self.last

    def _read(self) -> int | None:
        try:
            kept = int(self._path.read_text())
        except (OSError, ValueError):  # absent, or damaged: it starts at zero
            return None
        return kept if 0 <= kept <= 255 else None

    def _write(self, number: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


class Topics:
    """The topics of one edge node."""

    def __init__(self, group: str, node: str) -> None:
        self._group, self._node = group, node
        self.command = self.of("NCMD")

    def of(self, verb: str, device: str | None = None) -> str:
        below = f"/{device}" if device is not None else ""
        return f"{NAMESPACE}/{self._group}/{verb}/{self._node}{below}"


class Session:
    """One edge node over all its connections. `connect` begins a new one; every message has the next `seq`."""

    def __init__(self, birthdays: Birthdays, version: str, typed: bool = False) -> None:
        """`typed`: data messages repeat the datatypes of the births."""
        self._typed = typed
        self._birthdays = birthdays
        self._version = version
        self._seq = 0
        self._aliases: dict[tuple[str | None, str], int] = {}
        self._free_alias = count(1)
        self._devices: dict[str, dict[str, tuple[Value, int]]] = {}  # device -> metric -> (present value, since)
        self._node: dict[str, tuple[Value, int]] = {}
        self.born: set[str] = set()  # devices that have had their DBIRTH since the last NBIRTH
        self.bdseq = 0

    def connect(self) -> None:
        """A CONNECT will be sent: a bdSeq of its own. Raises OSError when it can't be kept; it counts all the same."""
        self.born.clear()
        try:
            self._birthdays.next()
        finally:
            self.bdseq = self._birthdays.last or 0

    def ndeath(self, now_ms: int) -> bytes:
        """The will of a connection, and what is said before leaving: bdSeq alone, no seq."""
        return birth([Metric("bdSeq", INT64, self.bdseq, now_ms)], now_ms=now_ms, seq=None)

    def nbirth(self, state: Mapping[str, Value], now_ms: int) -> bytes:
        """Everything begins anew: seq 0, all devices unborn. `state` has values for NODE."""
        self._seq = 0
        self.born.clear()
        self._node = {name: (value, now_ms) for name, value in self._full(state).items()}
        metrics = [
            Metric("bdSeq", INT64, self.bdseq, now_ms, self._alias(None, "bdSeq")),
            Metric(
                REBIRTH, BOOLEAN, False, now_ms
            ),  # no alias: operational-behavior-data-commands-rebirth-name-aliases
            *(Metric(name, NODE[name], *value, self._alias(None, name)) for name, value in self._node.items()),
        ]
        return birth(metrics, now_ms=now_ms, seq=0)

    def dbirth(self, device: str, now_ms: int) -> bytes:
        """Every metric of a device with its present value, null while there has been none."""
        self.born.add(device)
        known = self._devices.setdefault(device, {})
        metrics = [
            Metric(name, datatype, *known.get(name, (None, now_ms)), self._alias(device, name))
            for name, datatype in DEVICE.items()
        ]
        return birth(metrics, now_ms=now_ms, seq=self._next_seq())

    def ddata(self, device: str, values: Mapping[str, Value], at_ms: int, now_ms: int, historical: bool) -> bytes:
        """What one row changes. A historical one leaves the present values as they are."""
        if not historical:
            self._devices[device].update({name: (value, at_ms) for name, value in values.items()})
        metrics = [
            Metric(name, DEVICE[name], value, at_ms, self._alias(device, name)) for name, value in values.items()
        ]
        return update(metrics, now_ms=now_ms, seq=self._next_seq(), historical=historical, typed=self._typed)

    def unsay(self) -> None:
        """The message that was just made is not sent: the next one has its `seq`."""
        self._seq = (self._seq - 1) % 256

    def ndata(self, state: Mapping[str, Value], now_ms: int) -> bytes | None:
        """What has changed of NODE; None when nothing has."""
        changed = {name: value for name, value in self._full(state).items() if self._node[name][0] != value}
        if not changed:
            return None
        self._node.update({name: (value, now_ms) for name, value in changed.items()})
        metrics = [Metric(name, NODE[name], value, now_ms, self._alias(None, name)) for name, value in changed.items()]
        return update(metrics, now_ms=now_ms, seq=self._next_seq(), historical=False, typed=self._typed)

    def ddeath(self, device: str, now_ms: int) -> bytes:
        self.born.discard(device)
        return birth([], now_ms=now_ms, seq=self._next_seq())

    def _full(self, state: Mapping[str, Value]) -> dict[str, Value]:
        own: dict[str, Value] = {"Properties/Software": "lineside", "Properties/Version": self._version}
        return {**own, **state}

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) % 256
        return self._seq

    def _alias(self, device: str | None, name: str) -> int:
        """Unique over the node and the same in every session (payloads-alias-uniqueness)."""
        alias = self._aliases.get((device, name))
        if alias is None:
            alias = self._aliases[device, name] = next(self._free_alias)
        return alias


class Standing(NamedTuple):
    """What the primary host last said of itself."""

    online: bool
    timestamp: int


class PrimaryHost:
    """The STATE of the host application that a node waits for."""

    def __init__(self, host_id: str) -> None:
        self.topic = f"{NAMESPACE}/STATE/{host_id}"
        self.standing: Standing | None = None

    @property
    def is_online(self) -> bool:
        return self.standing is not None and self.standing.online

    def hear(self, payload: bytes) -> bool:
        """Take a STATE message; False when it is older than the last. Raises ValueError when it is none."""
        said = json.loads(payload)  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        online = said.get("online") if isinstance(said, dict) else None
        timestamp = said.get("timestamp") if isinstance(said, dict) else None
        if not isinstance(online, bool) or not isinstance(timestamp, int) or isinstance(timestamp, bool):
            raise ValueError("a STATE has `online` (true or false) and `timestamp` (ms since 1970)")
        if self.standing is not None and timestamp < self.standing.timestamp:
            return False
        self.standing = Standing(online, timestamp)
        return True

    def forget(self) -> None:
        """A new connection: the broker tells the retained STATE again, and its timestamp must not be older."""
        if self.standing is not None:
            self.standing = self.standing._replace(online=False)
