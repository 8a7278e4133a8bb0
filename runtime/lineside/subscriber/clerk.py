"""Books in what came, hands it over, and says what to ask for: all of a receiver but the connection."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from .asker import Asker, Request
from .inbox import Inbox, Key, Message, Missing, is_message
from .signer import Signer

log = logging.getLogger(__name__)

Handle: TypeAlias = Callable[[Message, sqlite3.Connection], object]
OnMissing: TypeAlias = Callable[[Missing, sqlite3.Connection], object]


class Ask(NamedTuple):
    """A request to publish; the answer's topic and correlation stand in the payload, too, for MQTT 3.1.1."""

    topic: str
    payload: bytes
    response_topic: str
    correlation: bytes


class Clerk:
    """One subscriber's state in an SQLite file. `take` and `asks` are called by one thread, the rest by any.

    Raises sqlite3.Error where the file cannot be used.
    """

    def __init__(
        self,
        state: Path | str,
        client_id: str,
        *,
        in_order: bool = False,
        patience_s: float | None = None,
        from_start: bool = False,
        signer: Signer | None = None,
        asker: Asker | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client_id, self._signer = client_id, signer
        self._patience_s = patience_s if in_order else None
        self._asker, self._clock_s = asker or Asker(), clock_s
        self._asker.signs = signer is not None
        self._waits: dict[Key, tuple[int, float]] = {}  # in order: for which seq, since when
        self._lock = threading.RLock()  # the database and what was read from it
        self._asked_topics: set[str] = set()  # where boxes are asked: others' requests come to us under a/#
        self.answer_topics: set[str] = set()  # where answers come that we ask for
        self.counts: Counter[str] = Counter()
        self._db = sqlite3.connect(state, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._inbox = Inbox(self._db, in_order=in_order, from_start=from_start)

    def take(self, packets: Sequence[tuple[str, bytes]], handle: Handle, on_missing: OnMissing) -> None:
        """Hand over what is new of (topic, payload), in one transaction. Raises what the functions raise; then nothing
        of it has happened."""
        if not packets and self._patience_s is None:
            return
        with self._transaction():
            for topic, payload in packets:
                self._take(topic, payload, handle, on_missing)
            if self._patience_s is not None:
                self._pass_over(self._patience_s, handle)

    def asks(self) -> list[Ask]:
        """What to ask for now; each counts as sent."""
        with self._lock:
            return [self._ask(request) for request in self._asker.due(self._inbox.holes(), self._clock_s())]

    def lost_connection(self) -> None:
        with self._lock:
            self._asker.lost_connection()

    def status(self) -> dict[str, object]:
        with self._lock:
            holes, held, refusals = self._inbox.holes(), self._inbox.held(), self._asker.refusals()
        names = ("handled", "duplicates", "invalid", "other", "asked", "refused", "missing")
        return {
            **{name: self.counts[name] for name in names},
            "holes": sum(last - first + 1 for runs in holes.values() for first, last in runs),
            "held": held,
            "refusals": refusals,
        }

    def missing(self) -> list[Missing]:
        with self._lock:
            return self._inbox.missing()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- what comes

    def _take(self, topic: str, payload: bytes, handle: Handle, on_missing: OnMissing) -> None:
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            message = None
        kind = message.get("kind") if isinstance(message, dict) else None
        if kind == "status":
            self._heard(topic, message)
        elif kind == "reply":
            self._answered(message, handle, on_missing)
        elif is_message(message):
            self._numbered(message, handle, on_missing)
        elif kind in ("health", "doctor", "checkpoint"):
            self.counts["other"] += 1  # of no station, such as the health of a box
        elif topic not in self._asked_topics:
            self.counts["invalid"] += 1
            log.warning("%s: not a message of lineside: %.100r", topic, payload)

    def _numbered(self, message: Message, handle: Handle, on_missing: OnMissing) -> None:
        key = (message["station"], message["epoch"])
        if message.get("backfill"):
            self._asker.came(key, self._clock_s())
        ready = self._inbox.take(message)
        if ready is None:
            self.counts["duplicates"] += 1
            return
        self._hand_over(ready, handle)
        if message["kind"] == "gap":
            missing, ready = self._inbox.declared(message)
            self._tell_missing(missing, on_missing)
            self._hand_over(ready, handle)

    def _heard(self, topic: str, status: Mapping[str, Any]) -> None:
        self._inbox.heard(status)
        box = self._asker.heard(topic, status)
        if box is not None:
            topics = set(filter(None, (box.resend_topic, box.command_topic)))
            self._asked_topics |= topics
            self.answer_topics |= {f"{asked}/{self._client_id}" for asked in topics}

    def _answered(self, reply: Mapping[str, Any], handle: Handle, on_missing: OnMissing) -> None:
        answer = self._asker.answered(reply, self._clock_s())
        if answer is None:
            return
        request, gone = answer
        if reply.get("ok") is not True:
            self.counts["refused"] += 1
            log.warning("%s: refused: %s", request.topic, reply.get("reason"))
        for first, last, reason in gone:
            missing, ready = self._inbox.gone(request.key, first, last, reason)
            self._tell_missing(missing, on_missing)
            self._hand_over(ready, handle)

    def _hand_over(self, messages: Sequence[Message], handle: Handle) -> None:
        for message in messages:
            self.counts["handled"] += 1
            handle(message, self._db)

    def _tell_missing(self, missing: Sequence[Missing], on_missing: OnMissing) -> None:
        for each in missing:
            self.counts["missing"] += each.last_seq - each.first_seq + 1
            log.error("%s: messages %d to %d are lost: %s", each.station, each.first_seq, each.last_seq, each.reason)
            on_missing(each, self._db)

    def _pass_over(self, patience_s: float, handle: Handle) -> None:
        now_s = self._clock_s()
        for key, seq in self._inbox.waited_for().items():
            if self._waits.get(key, (0, 0.0))[0] != seq:
                self._waits[key] = (seq, now_s)
            if now_s - self._waits[key][1] >= patience_s:
                log.warning("%s: message %d did not come within %g s; going on", key[0], seq, patience_s)
                self._hand_over(self._inbox.passed(key), handle)

    # --- what is asked

    def _ask(self, request: Request) -> Ask:
        station, epoch = request.key
        args = {"station": station, "epoch": epoch, "from": request.first_seq, "to": request.last_seq}
        topic = request.topic
        where = {"response_topic": f"{topic}/{self._client_id}", "correlation": request.correlation}
        if request.is_command and self._signer is not None:
            payload = self._signer.command(topic, "resend", args, **where)
        else:
            payload = json.dumps({**args, **where}).encode()
        self.counts["asked"] += 1
        log.info("%s: asking for messages %d to %d", station, request.first_seq, request.last_seq)
        return Ask(topic, payload, where["response_topic"], request.correlation.encode())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._inbox.save()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._inbox.forget()
                raise
