"""Where a box is spoken to: requests for messages again, signed commands, and what boxes of the line say of themselves.

Beside an MqttSink, on its connection. Commands are checked and carried out in a thread of their own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Literal

from lineside.deliver.commands import COMMAND_BYTES, Command, Commands, told
from lineside.deliver.journal import Journal
from lineside.deliver.link import Incoming
from lineside.deliver.mqtt import MqttSink
from lineside.deliver.resend import Address, Refused, Resends, parsed, reply
from lineside.deliver.tables import newest, reader
from lineside.deliver.twin import Twin, Twins

ANSWERS_MAX = 16  # requests that are answered at the same time, a message of each in turn
COMMANDS_MAX = 64  # that wait to be carried out
REMEMBERED = 1000  # rows of the box's own stream that are looked through for nonces at the first command
CORRELATION_MAX = 128
TOPIC_MAX = 512

log = logging.getLogger(__name__)


class Desk:
    """Listens on a sink, before it starts. `resend` says who may ask: anyone, or only who signs it as a command."""

    def __init__(
        self,
        sink: MqttSink,
        journal: Journal,
        commands: Commands,
        *,
        stations: tuple[str, ...] = (),
        resend: Literal["anyone", "signed"] = "anyone",
    ) -> None:
        self._sink, self._journal, self._commands, self._audit = sink, journal, commands, commands.audit
        self._resends = Resends(journal, sink.box)
        self._resend = resend
        self._stations = stations
        self._twins = Twins(sink.topics.status, sink.box, stations)
        self._connection = 0  # how often the sink has dialled
        self._counts: Counter[str] = Counter()
        self._queue: queue.Queue[Incoming | None] = queue.Queue(COMMANDS_MAX)
        self._thread = threading.Thread(target=self._carry_out, name="commands", daemon=True)
        commands.to, commands.remembered = sink.topics.command, self._remembered
        sink.listen(sink.topics.statuses, self._status)
        sink.introduce = self._introduce
        if resend == "anyone":
            sink.listen(sink.topics.resend, self._asked)
        if commands.clients:
            sink.listen(sink.topics.command, self._commanded)

    def start(self) -> None:
        if self._commands.clients:
            self._thread.start()

    def stop(self) -> None:
        if self._thread.ident is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:  # it is a daemon thread, and what waits was not acknowledged by a reply
                return
            self._thread.join(1.0)

    def status(self) -> dict[str, object]:
        """What `lineside status` shows: requests, commands and daemons that share our name."""
        names = ("requests", "resent")
        return {
            **{name: self._resends.counts[name] for name in names},
            **{name: self._counts[name] for name in ("refused", "unanswered")},
            "answering": self._sink.answering,
            "commands": self._commands.status(),
            "twins": [_told(twin) for twin in self._twins.present(time.monotonic())],
        }

    def _introduce(self, dialling: bool) -> Mapping[str, object]:
        """Fields of the status and of the last will that tell this daemon from another."""
        self._connection += dialling
        return {
            "instance": self._twins.instance,
            "connection": self._connection,
            "stations": list(self._stations),
            "resend_topic": self._sink.topics.resend if self._resend == "anyone" else None,
            "command_topic": self._sink.topics.command if self._commands.clients else None,
            "twins": [_told(twin) for twin in self._twins.present(time.monotonic())],
        }

    # --- in the sink's thread

    def _asked(self, message: Incoming) -> None:
        self._audit.tick()
        address = _best_address(message)
        try:
            args = parsed(message.payload, COMMAND_BYTES)
            address = _address(message, args)
            self._send_again(args, address, {"command": "resend"})
        except Refused as error:
            self._refuse("resend", address, str(error))
            self._audit.refused({"command": "resend"}, str(error))

    def _send_again(self, args: Mapping[str, object], address: Address, told: Mapping[str, str | None]) -> None:
        if self._sink.answering >= ANSWERS_MAX:
            raise Refused(f"busy: {ANSWERS_MAX} requests are being answered: ask again in a few seconds")
        self._sink.answer(self._resends.answer(args, address))
        self._audit.resent(address.topic, str(args["station"]), told)

    def _commanded(self, message: Incoming) -> None:
        why = "retained: send commands without the retain flag"
        if not message.retain:  # else the broker kept it: whoever sent it did not send it now
            try:
                self._queue.put_nowait(message)
                return
            except queue.Full:
                why = f"busy: {COMMANDS_MAX} commands wait: send it again later"
        self._refuse("", _best_address(message), why)
        self._audit.refused({}, why)

    def _refuse(self, command: str, address: Address, why: str) -> None:
        self._counts["refused"] += 1
        if self._sink.answering >= 4 * ANSWERS_MAX:
            self._counts["unanswered"] += 1
            return
        self._sink.answer(iter([reply(self._sink.box, command, address, reason=why)]))

    def _status(self, message: Incoming) -> None:
        try:
            status = json.loads(message.payload)
        except (ValueError, RecursionError):
            return
        if not isinstance(status, dict) or status.get("kind") != "status":
            return
        twin = self._twins.heard(message.topic, status, message.retain, time.monotonic())
        if twin is not None:
            why = (
                f"another daemon (box {twin.box!r}, instance {twin.instance}) publishes as we do: it shares "
                f"{twin.shares}: stop one of them, or give each box and station a name of its own"
            )
            log.error("mqtt: %s", why)
            self._audit.noticed("twin", why)
        is_ours_no_more = message.topic == self._sink.topics.status and status.get("state") == "offline"
        if twin is not None or (is_ours_no_more and not message.retain):  # a late last will hides that we are here
            self._sink.changed(self._sink.topics.status)

    # --- in the commands' thread

    def _carry_out(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                command = self._commands.admit(message.payload)
            except Refused as error:
                self._refuse("", _best_address(message), str(error))
                continue
            if command.name == "resend":
                self._resend_by_command(command, message)
                continue
            try:
                result = self._commands.carry_out(command)
            except Refused as error:
                self._refuse(command.name, _best_address(message), str(error))
            else:
                self._sink.answer(iter([reply(self._sink.box, command.name, _best_address(message), result=result)]))

    def _resend_by_command(self, command: Command, message: Incoming) -> None:
        try:
            address = _address(message, parsed(message.payload, COMMAND_BYTES))
            self._send_again(command.args, address, told(command))
            self._commands.counts["done"] += 1
        except Refused as error:
            self._refuse(command.name, _best_address(message), str(error))
            self._audit.refused(told(command), str(error), is_signed=True)

    def _remembered(self) -> list[Mapping[str, object]]:
        """Fields of the newest audit notes: they hold the nonces that were used before a restart."""
        try:
            with closing(reader(self._journal.path)) as connection:
                return [json.loads(body) for body in newest(connection, self._sink.box, "audit", REMEMBERED)]
        except sqlite3.Error as error:
            raise Refused(f"the journal cannot be read ({error}), so a replay could not be told: try later") from error


def _address(message: Incoming, fields: Mapping[str, object]) -> Address:
    """Where the answer goes: MQTT 5's response topic, or fields of the payload; below the topic that was asked.

    So a box needs to write nowhere else, and nobody can have it write to a third. Raises Refused.
    """
    below = f"{message.topic}/"
    topic = fields.get("response_topic", message.response_topic) or f"{below}reply"
    correlation = fields.get("correlation", (message.correlation or b"").decode("utf-8", "replace"))
    if not isinstance(topic, str) or not topic.startswith(below) or len(topic) > TOPIC_MAX or set("+#\0") & set(topic):
        raise Refused(f"response topic: must be a topic that begins with {below}, without wildcards")
    if not isinstance(correlation, str) or len(correlation) > CORRELATION_MAX:
        raise Refused(f"correlation: must be a text of at most {CORRELATION_MAX} characters")
    return Address(topic, correlation, message.correlation)


def _best_address(message: Incoming) -> Address:
    """Where a refusal goes: as near to what was asked for as can be read."""
    fields: Mapping[str, object] = {}
    with contextlib.suppress(Refused):
        fields = parsed(message.payload, COMMAND_BYTES)
    for wished in (fields, {}):
        with contextlib.suppress(Refused):
            return _address(message, wished)
    return Address(f"{message.topic}/reply", "", message.correlation)


def _told(twin: Twin) -> dict[str, object]:
    return {"box": twin.box, "instance": twin.instance, "shares": twin.shares}
