"""Carries journal rows to Sparkplug B hosts: an edge node with a device for each station.

Sparkplug publishes with QoS 0, for which no broker sends a reason code. So the node subscribes to its own data: a row
is delivered when the broker, which granted that subscription, has handed it back. That it was allowed and routed is
more than an acknowledgement says. What is not handed back goes again after the next birth, as history.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Literal

from lineside.contracts import Beat, Status
from lineside.deliver import messages
from lineside.deliver.caller import Caller, Patience
from lineside.deliver.feed import Rules, TooLarge
from lineside.deliver.journal import Journal
from lineside.deliver.link import TOO_LARGE, Broker, Incoming, Will
from lineside.deliver.sparkplug.metrics import values
from lineside.deliver.sparkplug.payload import Value, parse
from lineside.deliver.sparkplug.session import REBIRTH, Birthdays, PrimaryHost, Session, Topics
from lineside.deliver.tables import Row

UNANSWERED = "the broker did not hand back what was published: let its ACL allow this client to write and read there;"


class SparkplugSink:
    """A contracts.Sink. `devices` are stations and their device ids, `is_alive` says whether a station can see.

    Other options are those of config.sparkplug. Raises ConfigError where the protobuf package is absent.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        group_id: str,
        edge_node_id: str,
        devices: Mapping[str, str],
        version: str,
        state_dir: Path,
        host: str,
        port: int = 1883,
        protocol: Literal["5", "3.1.1"] = "5",
        client_id: str | None = None,
        primary_host: str | None = None,
        username: str | None = None,
        password_file: Path | None = None,
        tls: bool = False,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        keepalive_s: int = 15,
        inflight: int = 32,
        live_max_age_ms: int = 5000,
        ack_timeout_s: float = 10.0,
        settle_s: float = 2.0,
        reconnect_min_s: float = 0.5,
        reconnect_max_s: float = 30.0,
        heartbeat_s: float = 10.0,
        datatypes_in_data: bool = False,
        is_alive: Callable[[str], bool] = lambda station: True,
        beat: Beat = lambda: None,
    ) -> None:
        parse(b"")  # the package is there
        self._journal = journal
        self._clock = journal.clock
        self._devices = dict(devices)
        self._is_alive = is_alive
        self._topics = Topics(group_id, edge_node_id)
        self._session = Session(Birthdays(state_dir / "sparkplug-bdseq"), version, datatypes_in_data)
        self._host = PrimaryHost(primary_host) if primary_host is not None else None
        self._heartbeat_s = heartbeat_s
        self._counts: Counter[str] = Counter()
        self._is_born = False
        self._births_due = 0  # rebirths that were asked for
        self._leaving = ""  # why the node is about to disconnect
        self._report_at = self._ndata_at = 0.0
        self._sent_at: dict[str, float] = {}  # device -> its last row
        self._sent: dict[bytes, int] = {}  # payload -> the feed's name for it, until the broker hands it back
        self._births: set[bytes] = set()
        self._names = count(-1, -1)  # below zero, where no packet id is
        echo = (self._topics.of("DDATA", "+"), self._topics.of("NBIRTH"))
        who = (client_id or f"lineside-{platform.node() or 'box'}-sparkplug", username, password_file)
        self.caller = Caller(
            "sparkplug",
            Broker(host, port, protocol, *who, tls, ca_file, cert_file, key_file, keepalive_s),
            journal,
            self,
            rules=Rules(inflight, live_max_age_ms, settle_s, reconnect_max_s),
            patience=Patience(ack_timeout_s, reconnect_min_s, reconnect_max_s),
            topics=(self._topics.command, *echo, *((self._host.topic,) if self._host else ())),
            unanswered=UNANSWERED,
            beat=beat,
        )
        self.feed = self.caller.feed

    # --- for the daemon

    def start(self) -> None:
        self.caller.start()

    def stop(self, flush_s: float) -> None:
        """Publish what is live and die in good order, within `flush_s`; the backlog waits for the next start."""
        self.caller.stop(flush_s)

    def status(self) -> Status:
        names = ("births", "rebirths", "commands_ignored", "states_ignored", "conflicts", "bdseq_unsaved")
        host = {"primary_host_online": self._host.is_online} if self._host else {}
        return {
            **self.caller.status(),
            "born": self._is_born and self.caller.up_since is not None,
            "bdseq": self._session.bdseq,
            **host,
            **{name: self._counts[name] for name in names},
        }

    # --- a caller.Speaker, in the caller's thread

    def will(self) -> Will:
        if self.caller.was_reached:  # else that CONNECT never was, and its number is still free
            try:
                self._session.connect()
            except OSError as error:
                self._counts["bdseq_unsaved"] += 1
                self.caller.failed(f"bdSeq cannot be kept ({error}): after a restart hosts may mix up two connections")
        return Will(self._topics.of("NDEATH"), self._session.ndeath(self._now_ms()), retain=False, always=True)

    def greet(self) -> None:
        self._is_born, self._births_due, self._leaving = False, 0, ""
        self._sent.clear()
        self._births.clear()
        if self._host:
            self._host.forget()

    def speak(self, now: float) -> float:
        link = self.caller.link
        if link is None or not self._is_heard():
            return 1.0  # the broker's answer will wake us
        if self._leaving:
            self._publish("NDEATH", self._session.ndeath(self._now_ms()), qos=1)
            link.disconnect(self._leaving)
            return 0.0
        if not self._is_born and self._host and not self._host.is_online:
            return 1.0
        if not self._is_born or self._births_due:
            self._give_birth(now)
        if now >= self._report_at:
            self._report(now)
        if not self.feed.is_open:
            return self._report_at - now
        self.feed.send_live()
        if self.caller.is_stopping:
            return 1.0
        return min(self.feed.send_backlog(now), self._report_at - now)

    def hear(self, message: Incoming) -> None:
        if message.topic == self._topics.command:
            self._command(message)
        elif self._host and message.topic == self._host.topic:
            self._state(self._host, message.payload)
        elif message.topic == self._topics.of("NBIRTH"):
            self._look_for_twin(message.payload)
        elif (name := self._sent.pop(message.payload, None)) is not None:
            self.feed.answered(name, 0)

    def farewell(self) -> int | None:
        packet = self._publish("NDEATH", self._session.ndeath(self._now_ms()), qos=1)
        if packet is not None:
            self.feed.inflight.sent(packet, self._topics.of("NDEATH"))
        self._is_born = False
        return packet

    # --- a feed.Outlet, also in the journal's thread

    def window(self) -> int:
        is_ready = self._is_born and not self._births_due and not self._leaving
        return 128 if is_ready else 0  # fewer than there are sequence numbers

    def topic(self, row: Row) -> str:
        return self._topics.of("DDATA", self._device(row.station))

    def send(self, row: Row, backfill: bool, age_ms: int | None) -> int | None:
        device = self._device(row.station)
        if device not in self._session.born and self._bear(device) is None:
            return None  # its camera is away, or it is a station of an earlier configuration
        message = messages.message(
            row.body,
            kind=row.kind,
            station=row.station,
            epoch=row.epoch,
            seq=row.seq,
            decided_late=row.late,
            backfill=backfill,
            age_ms=age_ms,
        )
        at_ms = max(row.made_wall_ns, 0) // 1_000_000
        changed = values(row, message, row.late or backfill)
        payload = self._session.ddata(device, changed, at_ms, self._now_ms(), backfill)
        if self._is_too_large(device, payload):
            self._session.unsay()
            raise TooLarge(TOO_LARGE)
        if self._publish("DDATA", payload, device) is None:
            return None
        name = self._sent[payload] = next(self._names)
        self._sent_at[device] = time.monotonic()
        return name

    def refused(self, topic: str, reason: int) -> None:
        self.caller.refused(
            f"a row for {topic} is above the broker's packet size limit (reason code {reason}): raise it"
        )

    # --- births and deaths

    def _give_birth(self, now: float) -> None:
        """NBIRTH and every DBIRTH, with nothing between them."""
        self._counts["rebirths"] += self._is_born
        self._counts["births"] += 1
        self._is_born, self._births_due = True, 0
        self._report_at, self._ndata_at = now + 1.0, now + self._heartbeat_s
        payload = self._session.nbirth(self._node_state(), self._now_ms())
        self._births.add(payload)
        self._publish("NBIRTH", payload)
        for station, device in self._devices.items():
            if self._is_alive(station):
                self._bear(device)

    def _bear(self, device: str) -> int | None:
        return self._publish("DBIRTH", self._session.dbirth(device, self._now_ms()), device)

    def _report(self, now: float) -> None:
        """Once a second: devices that came or went; with the heartbeat, what has changed of the node."""
        self._report_at = now + 1.0
        alive = {device for station, device in self._devices.items() if self._is_alive(station)}
        for device in sorted(self._session.born - alive):
            if now - self._sent_at.get(device, 0.0) > 1.0:  # not between two rows of its backlog
                self._publish("DDEATH", self._session.ddeath(device, self._now_ms()), device)
        for device in sorted(alive - self._session.born):
            self._bear(device)
        if now >= self._ndata_at:
            self._ndata_at = now + self._heartbeat_s
            if (changed := self._session.ndata(self._node_state(), self._now_ms())) is not None:
                self._publish("NDATA", changed)

    def _node_state(self) -> dict[str, Value]:
        return {"Journal/Epoch": self._journal.epoch, "Journal/Pending": self.feed.pending()}

    # --- what others say

    def _command(self, message: Incoming) -> None:
        """Node Control/Rebirth is all that a host may write; a kept command is no command."""
        try:
            heard = parse(message.payload)
        except ValueError as error:
            self._counts["commands_ignored"] += 1
            self.caller.failed(f"a command on {message.topic} cannot be read: {error}")
            return
        self._counts["commands_ignored"] += not heard
        for metric in heard:
            if metric.name == REBIRTH and metric.value is True and not message.retain:
                self._births_due += self._is_born
            else:
                self._counts["commands_ignored"] += 1

    def _state(self, host: PrimaryHost, payload: bytes) -> None:
        try:
            is_news = host.hear(payload)
        except ValueError as error:
            self._counts["states_ignored"] += 1
            self.caller.failed(f"STATE of the primary host cannot be read: {error}")
            return
        if not is_news:
            self._counts["states_ignored"] += 1
        elif not host.is_online and self._is_born:
            self._leaving = "the primary host is offline"

    def _look_for_twin(self, payload: bytes) -> None:
        if payload not in self._births:
            self._counts["conflicts"] += 1
            topic = self._topics.of("NBIRTH")
            self.caller.failed(f"another edge node publishes on {topic}: give each box its own edge_node_id")

    # --- small things

    def _is_heard(self) -> bool:
        """The broker has granted every subscription."""
        link = self.caller.link
        return link is not None and all(link.granted.get(topic, 0x80) < 0x80 for topic in link.topics)

    def _device(self, station: str) -> str:
        return self._devices.get(station, station)

    def _is_too_large(self, device: str, payload: bytes) -> bool:
        most = self.caller.link.packet_max_bytes if self.caller.link else None
        return most is not None and len(payload) + len(self._topics.of("DDATA", device)) + 64 > most

    def _publish(self, verb: str, payload: bytes, device: str | None = None, qos: Literal[0, 1] = 0) -> int | None:
        link = self.caller.link
        return link.publish(self._topics.of(verb, device), payload, qos=qos) if link else None

    def _now_ms(self) -> int:
        return max(self._clock.wall_ns(), 0) // 1_000_000
