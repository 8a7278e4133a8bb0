"""The journal's hash chain: each entry's value covers the entry and the value before it. Pure.

An entry is a row or the beginning of a run of the daemon. SHA-256 of the value before, a letter that says which of the
two it is, and the entry in one fixed encoding (docs/ledger.md has it for other languages).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from hashlib import sha256

_ROW = struct.Struct(">cqqqqqqqII")  # R, id, run, seq, late, keep, made_ns, made_wall_ns, lengths of station and kind
_SET_BITS = 2048


def genesis(epoch: str) -> bytes:
    """What stands before the first entry of an epoch's chain."""
    return sha256(b"lineside ledger 1\n" + epoch.encode()).digest()


def after_row(
    before: bytes,
    row_id: int,
    run: int,
    station: str,
    seq: int,
    kind: str,
    late: int,
    keep: int,
    made_ns: int,
    made_wall_ns: int,
    body: bytes,
) -> bytes:
    """The value after a row. Raises struct.error, AttributeError or TypeError for what is no row."""
    place, what = station.encode(), kind.encode()
    head = _ROW.pack(b"R", row_id, run, seq, late, keep, made_ns, made_wall_ns, len(place), len(what))
    return sha256(b"".join((before, head, place, what, body))).digest()


def after_run(before: bytes, run: Mapping[str, object]) -> bytes:
    """The value after the beginning of a run; `run` is its row of the table, without `clean` and `chain`."""
    return sha256(before + b"N" + canonical(run)).digest()


def canonical(fields: Mapping[str, object]) -> bytes:
    """The one way to write a JSON object down: sorted keys, no spaces, ASCII."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


class SpanSet:
    """A number that stands for a set of (first, last, before, chain), and changes as members come and go in any order.

    The sum modulo 2**2048 of a SHAKE-256 of each member (AdHash: Bellare and Micciancio, "A New Paradigm for
    Collision-Free Hashing", 1997; so many bits that lists of sums find no second set).
    """

    def __init__(self, total: bytes = b"") -> None:
        self._total = int.from_bytes(total, "big")

    def add(self, first: int, last: int, before: bytes | None, chain: bytes | None) -> None:
        self._total = (self._total + _member(first, last, before, chain)) % (1 << _SET_BITS)

    def discard(self, first: int, last: int, before: bytes | None, chain: bytes | None) -> None:
        self._total = (self._total - _member(first, last, before, chain)) % (1 << _SET_BITS)

    def __bytes__(self) -> bytes:
        return self._total.to_bytes(_SET_BITS // 8, "big")

    def digest(self) -> str:
        return "sha256:" + sha256(bytes(self)).hexdigest()


def _member(first: int, last: int, before: bytes | None, chain: bytes | None) -> int:
    from hashlib import shake_256  # only where rows are pruned

    text = struct.pack(">qqB", first, last, len(before or b"")) + (before or b"") + (chain or b"")
    return int.from_bytes(shake_256(text).digest(_SET_BITS // 8), "big")
