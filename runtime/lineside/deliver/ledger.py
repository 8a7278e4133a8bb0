"""Signed checkpoints: what the journal's chain had come to, said by the box's key, for whoever keeps a copy.

The journal's thread asks once a second whether one is due and writes it; the key is opened in a thread of its own,
since that imports PyNaCl. Without a key the line goes on: no checkpoint is made, and that is counted.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.contracts import Clock, Status
from lineside.deliver import messages
from lineside.deliver.chain import canonical
from lineside.deliver.identity import DeviceKey, device_key, is_signed
from lineside.deliver.seals import Pruning
from lineside.errors import DeviceError

if TYPE_CHECKING:
    from lineside.deliver.tables import Sealed, Store

FIRST_S = 5.0  # the first checkpoint comes so soon: the start has other work to do
RETRY_S = 60.0  # a key that could not be opened is tried again

log = logging.getLogger(__name__)


def is_signed_by(document: Mapping[str, Any], public: bytes) -> bool:
    """Whether the key's owner signed this checkpoint, whatever the order of its fields."""
    fields = dict(document)
    try:
        signature = base64.b64decode(str(fields.pop("signature", "")), validate=True)
        return is_signed(canonical(fields), signature, public)
    except (binascii.Error, TypeError, ValueError):
        return False


def document_hash(document: Mapping[str, Any]) -> str:
    """How the next checkpoint names this one. Raises TypeError or ValueError for what is no JSON."""
    return "sha256:" + sha256(canonical(document)).hexdigest()


class Ledger:
    """Makes the checkpoints of one box. `documents` may be asked by any thread; all else is the journal's business."""

    def __init__(self, identity: Path, box: str, clock: Clock, every_s: float = 60.0) -> None:
        self._identity, self._box, self._clock, self._every_s = identity, box, clock, every_s
        self._key: DeviceKey | None = None
        self._error = ""
        self._wanted, self._tried = threading.Event(), threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._open_key, name="ledger", daemon=True)
        self._due_at = time.monotonic() + min(FIRST_S, every_s)
        self._number, self._hash = 0, ""  # of the newest checkpoint
        self._sealed: tuple[int, int] = (0, 0)  # run and row that it covers
        self._document: bytes | None = None
        self._unproved: Mapping[str, Any] | None = None  # the checkpoint that was found here, not yet looked at
        self._doubt: str | None = None
        self._unsigned = False  # rows were pruned of which no checkpoint tells yet
        self._made = self._missed = 0

    # --- for the journal

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wanted.set()

    def opened(self, store: Store, known: Mapping[str, Any] | None) -> None:
        """A store was opened; `known` is the checkpoint that the side file has, for a store that was lost."""
        newest = store.newest_checkpoint()
        if newest is None and known is not None:
            self._number, self._hash, self._sealed = _number(known), document_hash(known), (0, 0)
            return
        self._document = newest
        document = _parsed(newest)
        self._number, self._sealed = _number(document), (_whole(document, "run"), _whole(document, "row"))
        self._hash = document_hash(document) if document else ""
        self._unproved = document or None
        self._doubt = self._doubt or doubt(store, document)
        if self._doubt:
            log.error("ledger: %s; every checkpoint from now on says so", self._doubt)

    def is_due(self) -> bool:
        now = time.monotonic()
        if now >= self._due_at - 1.0:
            self._wanted.set()
        return now >= self._due_at and self._tried.is_set()

    def seal(self, store: Store) -> None:
        """Write a checkpoint if anything was added since the last. Raises sqlite3.Error."""
        self._due_at = time.monotonic() + self._every_s
        if self._sealed == (store.run, store.last_id) and not self._unsigned:
            return
        sealed = self.sign(store, store.pruning)
        if sealed is not None:
            store.seal(*sealed)
            self.written(store, sealed)

    def seal_now(self, store: Store, timeout_s: float) -> None:
        """As `seal`, for a stop: waits for the key to be opened."""
        self._wanted.set()
        if self._thread.ident is not None:
            self._tried.wait(timeout_s)
        self.seal(store)

    def may_prune(self) -> bool:
        """Whether the key is open, or known not to open: then rows are pruned without a checkpoint, and it is told."""
        self._wanted.set()
        return self._tried.is_set()

    def sign(self, store: Store, pruning: Pruning) -> Sealed | None:
        """The next checkpoint, of the chain as it stands; None without a key, which is counted."""
        key = self._key
        if key is None:
            self._missed += 1
            return None
        if self._unproved is not None:
            if not is_signed_by(self._unproved, key.public):
                self._doubt = self._doubt or f"checkpoint {self._number} is not signed by this box's key, {key.id}"
            self._unproved = None
        if self._unsigned:
            self._doubt = self._doubt or "rows were pruned while no checkpoint could be signed"
        fields = {
            "lineside": messages.VERSION,
            "kind": "checkpoint",
            "box": self._box,
            "number": self._number + 1,
            "epoch": store.epoch,
            "run": store.run,
            "row": store.last_id,
            "chain": store.chain.hex(),
            "last_seq": dict(store.last_seq),
            "pruned": {
                "rows": pruning.rows,
                "undelivered": pruning.undelivered,
                "through": pruning.through,
                "chain": pruning.chain.hex() if pruning.chain else None,
                "spans": pruning.digest(),
            },
            "previous": self._hash or None,
            "doubt": self._doubt,
            "at": messages.rfc3339(self._clock.wall_ns()),
            "clock_synchronized": self._clock.synchronized(),
            "key": key.id,
        }
        fields["signature"] = base64.b64encode(key.sign(canonical(fields))).decode()
        return self._number + 1, canonical(fields)

    def written(self, store: Store, sealed: Sealed | None) -> None:
        """It is on disk; None: rows were pruned without one."""
        if sealed is None:
            self._unsigned = True
            return
        self._number, self._document = sealed
        self._hash = "sha256:" + sha256(sealed[1]).hexdigest()
        self._sealed, self._unsigned = (store.run, store.last_id), False
        self._made += 1

    # --- for others

    def documents(self) -> dict[str, bytes]:
        """What a sink keeps published, by name."""
        return {"checkpoint": self._document} if self._document else {}

    def known(self) -> Mapping[str, Any] | None:
        """The newest checkpoint, for the side file."""
        return _parsed(self._document) or None

    def status(self) -> Status:
        return {
            "key": self._key.id if self._key else None,
            "checkpoint": self._number,
            "row": self._sealed[1],
            "made": self._made,
            "missed": self._missed,
            "doubt": self._doubt,
            "last_error": self._error,
        }

    def _open_key(self) -> None:
        while not self._stopping or not self._tried.is_set():
            self._wanted.wait()
            try:
                self._key, self._error = device_key(self._identity), ""
            except (DeviceError, ImportError) as error:
                if str(error) != self._error:
                    log.error("ledger: %s; decisions go on without checkpoints", error)
                self._error = str(error)
            self._tried.set()
            if self._key is not None or self._stopping:
                return
            threading.Event().wait(RETRY_S)


def doubt(store: Store, document: Mapping[str, Any]) -> str | None:
    """What of a store contradicts its newest checkpoint at first sight; a checkpoint must not cover that up."""
    pruned = document.get("pruned")
    signed = pruned.get("spans") if isinstance(pruned, Mapping) else Pruning().digest()
    if signed != store.pruning.digest():
        return "the list of pruned rows is not the one that the newest checkpoint signs"
    if not document:
        return None
    row, run = _whole(document, "row"), _whole(document, "run")
    if row > store.last_id or run > store.run:
        return f"the store ends before row {row}, which the newest checkpoint signs"
    there = store.chain_of(run, row)
    if there is not None and there.hex() != document.get("chain"):
        return f"the chain at row {row} is not the one that the newest checkpoint signs"
    return None


def _parsed(document: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(document or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _whole(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    return value if isinstance(value, int) else 0


def _number(document: Mapping[str, Any]) -> int:
    return _whole(document, "number")
