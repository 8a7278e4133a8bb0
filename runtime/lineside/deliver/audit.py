"""What was asked of this box and by whom, as audit notes in its journal: bounded, whoever asks however often."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping

from lineside.contracts import Clock
from lineside.records import Note

BURST = 20  # refusals in a row that are told one by one,
EVERY_S = 1.0  # then one in this time, with the number of those in between
RESEND_S = 60.0  # resends to one asker are told together so often
ASKERS_MAX = 256

log = logging.getLogger(__name__)

Put = Callable[[Note], None]


class Audit:
    """Notes of the box's own stream. Any thread may call; `put` is the journal's."""

    def __init__(self, box: str, clock: Clock, put: Put) -> None:
        self._box, self._clock, self._put = box, clock, put
        self._lock = threading.Lock()
        self._credit, self._credit_at = float(BURST), time.monotonic()
        self._untold = 0  # refusals since the last that was told
        self._resends: dict[tuple[str, str], tuple[int, float]] = {}  # (asker, station) -> (untold, told at)

    def done(self, told: Mapping[str, str | None], args: Mapping[str, object]) -> None:
        """A command that was carried out."""
        self._note(told, "done", "carried out", args)

    def refused(self, told: Mapping[str, str | None], why: str, is_signed: bool = False) -> None:
        """A command that was not; strangers may send many of them."""
        with self._lock:
            now = time.monotonic()
            self._credit = min(self._credit + (now - self._credit_at) / EVERY_S, BURST)
            self._credit_at = now
            if self._credit < 1 and not is_signed:
                self._untold += 1
                return
            self._credit -= not is_signed
            count, self._untold = self._untold + 1, 0
        self._note(told, "refused", why, {}, count)

    def resent(self, asker: str, station: str, told: Mapping[str, str | None]) -> None:
        """A request for messages again: the first is told at once, those of the next minute together."""
        key = (asker[:256], station)
        with self._lock:
            untold, told_at = self._resends.get(key, (0, float("-inf")))
            now = time.monotonic()
            if now - told_at < RESEND_S or (key not in self._resends and len(self._resends) >= ASKERS_MAX):
                if key in self._resends:
                    self._resends[key] = (untold + 1, told_at)
                else:
                    self._untold += 1
                return
            self._resends[key] = (0, now)
        self._note(told, "done", "messages sent again", {"to": asker, "of": station}, untold + 1)

    def noticed(self, what: str, why: str) -> None:
        """Something that nobody asked for, but that whoever looks into this journal must know."""
        self._note({"command": what}, "noticed", why, {})

    def tick(self) -> None:
        """Tell of resends whose minute is over."""
        now = time.monotonic()
        with self._lock:
            over = {key: untold for key, (untold, at) in self._resends.items() if now - at >= RESEND_S}
            for key in over:
                del self._resends[key]
        for (asker, station), untold in over.items():
            if untold:
                args = {"to": asker, "of": station}
                self._note({"command": "resend"}, "done", "messages sent again", args, untold)

    def _note(
        self, told: Mapping[str, str | None], outcome: str, cause: str, args: Mapping[str, object], count: int = 1
    ) -> None:
        fields = {
            "command": told.get("command") or "",
            "client": told.get("client"),
            "nonce": told.get("nonce"),
            "issued_at": told.get("issued_at"),
            "args": dict(args),
            "outcome": outcome,
            "cause": cause,
            "count": count,
        }
        if outcome == "refused":
            log.warning(
                "%s of %s: refused: %s", fields["command"] or "command", fields["client"] or "a stranger", cause
            )
        now_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
        self._put(Note(f"{self._box}-a{secrets.token_hex(6)}", "audit", self._box, fields, now_ns, wall_ns))
