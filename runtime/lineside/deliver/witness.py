"""Checkpoints as evidence: those in the store, beside it, and those that somebody kept outside."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lineside.deliver import seals
from lineside.deliver.identity import key_id
from lineside.deliver.ledger import document_hash, is_signed_by
from lineside.deliver.report import Report
from lineside.deliver.validate import faults


@dataclass(frozen=True, slots=True, order=True)
class Witness:
    """A checkpoint whose signature holds: at this row, in this run, the chain had this value."""

    row: int
    run: int
    number: int
    chain: bytes
    name: str
    epoch: str
    hash: str
    at: str
    origin: str  # "store", "side file", "outside"


def read(text: str | bytes) -> dict[str, Any] | str:
    """A checkpoint message, or what is wrong with it."""
    try:
        document = json.loads(text)
    except ValueError as error:
        return f"is not JSON ({error})"
    if not isinstance(document, dict) or document.get("kind") != "checkpoint":
        return "is no checkpoint message"
    wrong = faults(document)
    return wrong[0] if wrong else document


def witness(document: Mapping[str, Any], keys: Sequence[bytes], name: str, origin: str) -> Witness | str:
    """The checkpoint as evidence, or why it is none."""
    if not any(is_signed_by(document, key) for key in keys):
        known = ", ".join(map(key_id, keys))
        return f"is not signed by a known key (it names {document['key']}; known: {known}): it was edited or forged"
    place = (document["row"], document["run"], document["number"], bytes.fromhex(document["chain"]))
    return Witness(*place, name, document["epoch"], document_hash(document), document["at"], origin)


def stored(connection: sqlite3.Connection, keys: Sequence[bytes], report: Report) -> tuple[list[Witness], Any]:
    """What the store holds, checked one against the next; and the newest document."""
    found: list[Witness] = []
    newest: dict[str, Any] | None = None
    for number, text in seals.documents(connection):
        name = f"checkpoint {number}"
        report.checkpoints += 1
        document = read(text) if isinstance(text, bytes) else "is no text"
        seen = document if isinstance(document, str) else witness(document, keys, name, "store")
        if isinstance(seen, str) or isinstance(document, str):
            report.fault(f"{name} {seen}")
            newest = None
            continue
        if seen.number != number:
            report.fault(f"{name} is in the place of checkpoint {seen.number}")
        if newest is not None:
            _follows(newest, document, report)
        if document["doubt"]:
            report.fault(f"{name}: the box itself found at {seen.at}: {document['doubt']}")
        newest = document
        found.append(seen)
    return found, newest


def _follows(before: Mapping[str, Any], document: Mapping[str, Any], report: Report) -> None:
    number = document["number"]
    if number != before["number"] + 1:
        report.fault(f"checkpoints {before['number'] + 1} to {number - 1} are gone from the store")
    elif document["previous"] != document_hash(before):
        report.fault(f"checkpoint {number} does not follow the checkpoint {number - 1} that is here: one was replaced")
    if (document["row"], document["run"]) < (before["row"], before["run"]):
        report.fault(f"checkpoint {number} covers less than the one before it")


def outside(lines: Iterable[str], keys: Sequence[bytes], report: Report) -> Iterator[Witness]:
    """Checkpoints from JSON lines, as a subscriber got them; other messages of lineside among them are passed over."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"line {number} of the checkpoints from outside"
        document = read(line)
        if isinstance(document, str):
            if '"kind"' in line and "checkpoint" not in line:
                continue
            report.fault(f"{name} {document}")
            continue
        seen = witness(document, keys, f"checkpoint {document['number']} from outside", "outside")
        if isinstance(seen, str):
            report.fault(f"{name}: checkpoint {document['number']} {seen}")
        else:
            yield seen
