"""Where a decision's evidence is, what the journal says of it, and which bundle decided."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineside.deliver.evidence import folder
from lineside.deliver.evidence.folder import Kept
from lineside.deliver.evidence.keeper import pieces
from lineside.deliver.tables import reader
from lineside.errors import ConfigError
from lineside.resources import shipped
from lineside.store.bundle import MANIFEST, Bundle, find, read_bundle, verify

_SHORT = 4  # so many characters of an id are enough, if only one begins with them


@dataclass(frozen=True, slots=True)
class Places:
    """Where a box keeps what replay reads. `journal` may be absent: then nothing vouches for the evidence."""

    state: Path
    evidence: Path
    journal: Path | None


def places(state: Path | None, config: Path | None) -> Places:
    """From a state directory, or from a configuration; by default where the service has it. Raises ConfigError."""
    base = state or Path(os.environ.get("STATE_DIRECTORY") or "/var/lib/lineside")
    evidence = journal = None
    if config is not None:
        from lineside.config import load

        told = load(config)
        base = state or told.daemon.state_dir or base
        evidence, journal = told.evidence and told.evidence.path, told.journal.path
    if not base.is_dir():
        raise ConfigError(f"{base}: no such folder: give the daemon's state folder with --state, or --config CONFIG")
    journal = journal or base / "journal.db"
    return Places(base, evidence or base / "evidence", journal if journal.is_file() else None)


def piece(asked: str, where: Places | None) -> Kept:
    """The evidence of an id, of the beginning of one, or in a folder. Raises ConfigError: why there is none."""
    path = Path(asked)
    if (path / folder.MANIFEST).is_file():
        return folder.read(path)
    if path.is_dir():
        raise ConfigError(f"{path}: holds no {folder.MANIFEST}: name the folder of one piece of evidence")
    assert where is not None
    found = [piece.path for piece in pieces(where.evidence) if len(asked) >= _SHORT and piece.id.startswith(asked)]
    if len(found) == 1:
        return folder.read(found[0])
    if found:
        raise ConfigError(f"{asked}: {len(found)} pieces of evidence begin so: give more of the id")
    raise ConfigError(_why_none(asked, where))


def _why_none(asked: str, where: Places) -> str:
    """What the journal knows of a decision without evidence."""
    absent = f"{asked}: no evidence of it in {where.evidence}"
    if where.journal is None:
        return f"{absent}, and no journal beside it: name the box's state folder with --state"
    rows = _rows(where.journal, asked)
    for kind, told in reversed(rows):
        if kind == "evidence" and asked in map(str, told["removed"]):
            return f"{absent}: it was removed to make room ({told['decided_at']})"
        if kind == "evidence" and told["state"] == "kept":
            return f"{absent}: the journal says it was kept in {told['folder']}, and it is not there: somebody took it"
    for kind, told in rows:
        if kind in ("decision", "event") and told["id"] == asked:
            said = told.get("verdict") or told["phase"]
            return f"{absent}: the journal has it ({said}: {told['cause']}), but none was kept: not asked for, or lost"
    return f"{absent}, and no such decision in {where.journal}"


def note_of(kept: Kept, journal: Path) -> Mapping[str, Any] | None:
    """The journal's record of a piece; None where there is none."""
    for kind, told in _rows(journal, kept.id):
        if kind == "evidence" and told["state"] == "kept" and kept.id in (told["decision"], _id_of(told["folder"])):
            return told
    return None


def record_of(kept: Kept, journal: Path) -> Mapping[str, Any] | None:
    """The decision or event itself as the journal has it; None where there is none."""
    rows = _rows(journal, kept.id)
    return next((told for kind, told in rows if kind in ("decision", "event") and told["id"] == kept.id), None)


def _id_of(name: str) -> str:
    return name.rpartition("/")[2].split("-", 2)[-1]


def _rows(journal: Path, words: str) -> list[tuple[str, dict[str, Any]]]:
    """(kind, body) of every row in which these words stand. Raises ConfigError where the journal cannot be read."""
    query = "SELECT kind, body FROM row WHERE instr(body, ?) > 0 ORDER BY id"
    try:
        connection = reader(journal)
        try:
            return [(kind, json.loads(body)) for kind, body in connection.execute(query, (words.encode(),))]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ConfigError(f"journal {journal}: cannot be read ({error})") from error


def bundle_of(model: Mapping[str, str], artefact: Mapping[str, str], was: str, models: Sequence[Path]) -> Bundle:
    """The bundle with this digest: where it was, among the shipped ones, or in one of the folders `models`.

    Raises ConfigError where none has the digest, or the file that decided was changed.
    """
    tried = []
    for place in _candidates(was, model["name"], models):
        try:
            bundle = read_bundle(place)
        except ConfigError as error:
            tried.append(str(error))
            continue
        if bundle.digest == model["digest"]:
            for file in bundle.artefacts:
                if file.sha256 == artefact["sha256"]:
                    verify(bundle, file)
            return bundle
        tried.append(f"{bundle.folder} is {bundle.name} {bundle.version}, {bundle.digest[:19]}...")
    raise ConfigError(
        f"bundle {model['name']} {model['version']}, {model['digest'][:19]}...: not found, so what it decided "
        f"cannot be replayed: give the folder where it is with --models ({'; '.join(dict.fromkeys(tried))})"
    )


def _candidates(was: str, name: str, models: Sequence[Path]) -> list[Path]:
    found = [Path(was), *(path for path in (shipped("models") / name,) if path.is_dir())]
    for place in models:
        if not place.is_dir():
            raise ConfigError(f"--models {place}: no such folder")
        found += (
            [place] if (place / MANIFEST).is_file() else [file.parent for file in sorted(place.glob(f"*/{MANIFEST}"))]
        )
    return found


def bundle_at(path: str) -> Bundle:
    """A bundle by folder or shipped name, every file verified. Raises ConfigError."""
    bundle = read_bundle(find(path))
    for file in bundle.artefacts:
        verify(bundle, file)
    return bundle
