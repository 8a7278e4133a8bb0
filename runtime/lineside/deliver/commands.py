"""Who may tell this box what: signed commands, checked, carried out by whoever registered for them, and audited.

A command is good for one box (`to`), for a short time (`issued_at`) and once (`nonce`); docs/subscriber.md has the
bytes that are signed.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from lineside.contracts import Clock
from lineside.deliver.audit import Audit
from lineside.deliver.messages import rfc3339
from lineside.deliver.resend import Refused, parsed
from lineside.errors import LinesideError

PURPOSE = b"lineside command 1\n"
COMMAND_BYTES = 16_384
NONCES_MAX = 10_000  # of one client
WORDS_MAX = 128
TEXTS = {name: WORDS_MAX for name in ("command", "client", "issued_at", "nonce", "signature")} | {"to": 512}

Call: TypeAlias = Callable[[Mapping[str, object]], Mapping[str, object]]  # args -> what the reply says
Nonces: TypeAlias = OrderedDict[str, int]  # nonce -> issued_at, oldest first

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """Who may send what. `public_key` has the 32 bytes of an Ed25519 key."""

    public_key: bytes
    may: frozenset[str]


@dataclass(frozen=True, slots=True)
class Command:
    """One that may be carried out."""

    name: str
    args: Mapping[str, object]
    client: str
    nonce: str | None = None
    issued_at: str | None = None


@dataclass
class Commands:
    """Names and what carries them out. `admit` is called by one thread; one command is carried out at a time.

    `remembered` gives the fields of earlier audit notes, so that a restart forgets no nonce.
    """

    to: str  # this box, as commands name it
    clients: Mapping[str, Client]
    audit: Audit
    clock: Clock
    max_age_s: float = 60.0
    remembered: Callable[[], Iterable[Mapping[str, Any]]] = tuple
    counts: Counter[str] = field(default_factory=Counter)
    _calls: dict[str, Call] = field(default_factory=dict)
    _nonces: dict[str, Nonces] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(self, name: str, call: Call) -> None:
        """`call` is given a command's args and returns what the reply says; it raises Refused or a LinesideError."""
        self._calls[name] = call

    def admit(self, payload: bytes) -> Command:
        """The command in a message, if its client may give it. Raises Refused, which is counted and audited."""
        fields: Mapping[str, Any] = {}
        try:
            fields = parsed(payload, COMMAND_BYTES)
            try:
                return self._admitted(fields)
            except RecursionError as error:
                raise Refused("malformed: nested too deep") from error
        except Refused as error:
            self.counts["refused"] += 1
            words = {name: fields.get(name) for name in ("command", "client", "nonce", "issued_at")}
            self.audit.refused({name: _word(value) for name, value in words.items()}, str(error))
            raise

    def carry_out(self, command: Command) -> Mapping[str, object]:
        """Do it, and say so in the audit. Raises Refused."""
        call = self._calls.get(command.name)
        try:
            if call is None:
                known = ", ".join(sorted(self._calls)) or "none"
                raise Refused(f"unknown command {command.name!r}: this box carries out {known}")
            with self._lock:  # the control socket has a thread of its own
                result = call(command.args)
        except (Refused, LinesideError) as error:
            self._failed(command, str(error))
            raise Refused(str(error)) from error
        except Exception as error:  # a command ends here: it must not end the thread that carries out the next
            log.exception("command %s of %s", command.name, command.client)
            self._failed(command, f"failed: {error!r}")
            raise Refused(f"failed: {error!r}; the box's log says more") from error
        self.counts["done"] += 1
        self.audit.done(told(command), command.args)
        return result

    def tell(self, request: Mapping[str, object]) -> Mapping[str, object]:
        """A command {name, args} of the control socket, whose file says who may; the reply's fields."""
        name, args = request.get("name"), request.get("args")
        try:
            if not isinstance(name, str) or not isinstance(args, dict):
                raise Refused("malformed: needs a name and args")
            return {"ok": True, "reason": "", "result": self.carry_out(Command(name, args, "control socket"))}
        except Refused as error:
            return {"ok": False, "reason": str(error), "result": {}}

    def status(self) -> dict[str, object]:
        return {name: self.counts[name] for name in ("done", "failed", "refused")}

    def _failed(self, command: Command, why: str) -> None:
        self.counts["failed"] += 1
        self.audit.refused(told(command), why, is_signed=True)

    def _admitted(self, fields: Mapping[str, Any]) -> Command:
        for name, length_max in TEXTS.items():
            if not isinstance(fields.get(name), str) or not 0 < len(fields[name]) <= length_max:
                raise Refused(f"malformed: {name} must be a text of 1 to {length_max} characters")
        args = fields.get("args")
        if not isinstance(args, dict) or _has_float(args):
            raise Refused("malformed: args must be an object without fractions (write them as text)")
        name, client = fields["command"], self.clients.get(fields["client"])
        if client is None:
            raise Refused(f"unknown client {fields['client']!r}: add it to [commands.clients]")
        _verify(client.public_key, fields)
        if fields["to"] != self.to:
            raise Refused(f"is for {fields['to']!r}; this box takes commands for {self.to!r}")
        issued_ns = self._timely_ns(fields["issued_at"])
        self._never_seen(fields["client"], fields["nonce"], issued_ns)
        if name not in client.may:
            raise Refused(f"client {fields['client']!r} may not {name!r}: add it to its `may` in [commands.clients]")
        return Command(name, args, fields["client"], fields["nonce"], fields["issued_at"])

    def _timely_ns(self, issued_at: str) -> int:
        issued_ns = _wall_ns(issued_at)
        now_ns = self.clock.wall_ns()
        if issued_ns is None:
            raise Refused("malformed: issued_at must be an RFC 3339 time with its zone")
        if abs(now_ns - issued_ns) > self.max_age_s * 1e9:
            allowed = f"more than {self.max_age_s:g} s from this box's clock ({rfc3339(now_ns)})"
            raise Refused(f"stale: issued at {issued_at}, {allowed}: send it again, or set the clocks")
        return issued_ns

    def _never_seen(self, client: str, nonce: str, issued_ns: int) -> None:
        nonces = self._seen().setdefault(client, OrderedDict())
        if nonce in nonces:
            raise Refused("replayed: this nonce was used before")
        if len(nonces) >= NONCES_MAX:
            oldest, at_ns = next(iter(nonces.items()))
            if self.clock.wall_ns() - at_ns <= 2 * self.max_age_s * 1e9:
                raise Refused(f"too many: {NONCES_MAX} commands within {2 * self.max_age_s:g} s")
            del nonces[oldest]
        nonces[nonce] = issued_ns

    def _seen(self) -> dict[str, Nonces]:
        if self._nonces is None:
            remembered = self.remembered()
            self._nonces = {}
            for note in remembered:
                client, nonce, issued_ns = note.get("client"), note.get("nonce"), _wall_ns(note.get("issued_at"))
                if isinstance(client, str) and isinstance(nonce, str) and issued_ns is not None:
                    self._nonces.setdefault(client, OrderedDict())[nonce] = issued_ns
        return self._nonces


def canonical(fields: Mapping[str, object]) -> bytes:
    """What is signed: PURPOSE, then the fields but `signature` as JSON with sorted keys, no spaces, ASCII only."""
    signed = {name: value for name, value in fields.items() if name != "signature"}
    return PURPOSE + json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _verify(public_key: bytes, fields: Mapping[str, Any]) -> None:
    from nacl.exceptions import CryptoError
    from nacl.signing import VerifyKey

    try:
        signature = base64.b64decode(fields["signature"], validate=True)
        if base64.b64encode(signature).decode() != fields["signature"]:
            raise ValueError("bits that mean nothing are not 0")
        VerifyKey(public_key).verify(canonical(fields), signature)
    except (CryptoError, ValueError, TypeError) as error:
        raise Refused(f"bad signature: not that of client {fields['client']!r} over this command") from error


def _wall_ns(text: object) -> int | None:
    try:
        at = datetime.fromisoformat(str(text))
        return None if at.tzinfo is None else round(at.timestamp() * 1e9)
    except (ValueError, OverflowError):
        return None


def _has_float(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_float(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_float(item) for item in value)
    return isinstance(value, float)


def _word(value: object) -> str | None:
    """What a stranger wrote, short enough for the audit."""
    return value[:WORDS_MAX] if isinstance(value, str) else None


def told(command: Command) -> dict[str, str | None]:
    """What the audit keeps of it."""
    words = {"command": command.name, "client": command.client}
    return {**words, "nonce": command.nonce, "issued_at": command.issued_at}
