"""`lineside evidence`: list and verify what is kept, and make the keys that frames with faces are sealed to."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | verify | label | keys")
    for verb, words in (("list", "what is kept, oldest first"), ("verify", "is every file what was written?")):
        one = verbs.add_parser(verb, help=words)
        where = one.add_mutually_exclusive_group()
        where.add_argument("--state", type=Path, metavar="DIR", help="the daemon's state folder")
        where.add_argument("--config", type=Path, metavar="CONFIG", help="its lineside.toml, to find that")
        if verb == "verify":
            one.add_argument("pieces", nargs="*", metavar="ID", help="ids or folders (default: all)")
        one.add_argument("--json", action="store_true", help="one JSON object a line")
    label = verbs.add_parser("label", help="say what a piece shows: it is then kept longest")
    where = label.add_mutually_exclusive_group()
    where.add_argument("--state", type=Path, metavar="DIR", help="the daemon's state folder")
    where.add_argument("--config", type=Path, metavar="CONFIG", help="its lineside.toml, to find that")
    label.add_argument("id", metavar="ID", help="of a decision that has evidence, or how it begins")
    label.add_argument("text", metavar="TEXT", help='such as "good", or "scratch"')
    keys = verbs.add_parser("keys", help="make a key pair; keep the private one off the box")
    keys.add_argument("-o", "--output", type=Path, required=True, metavar="NAME", help="writes NAME.key and NAME.pub")


def run(args: argparse.Namespace) -> int:
    """0 when all is well, 1 when a piece is not what was written. Raises ConfigError."""
    if args.verb == "keys":
        return _keys(args.output)
    return {"list": _list, "verify": _verify, "label": _label}[args.verb](args)


def _list(args: argparse.Namespace) -> int:
    from lineside.deliver.evidence.keeper import labelled, pieces
    from lineside.replay.find import places

    where = places(args.state, args.config)
    labels = labelled(where.evidence)
    for piece in sorted(pieces(where.evidence), key=lambda piece: piece.stamp):
        told = {"id": piece.id, "station": piece.path.parent.name, "why": piece.why, "at": piece.stamp}
        told |= {"label": _label_of(where.evidence, piece.id)} if piece.id in labels else {}
        if args.json:
            print(json.dumps({**told, "folder": str(piece.path)}))
        else:
            print(f"{piece.stamp}  {told['station']:<12} {piece.why:<9} {piece.id}  {told.get('label', '')}".rstrip())
    return 0


def _label_of(evidence: Path, id_: str) -> str:
    from lineside.deliver.evidence.keeper import LABELS

    try:
        return str(json.loads((evidence / LABELS / f"{id_}.json").read_text())["label"])
    except (OSError, ValueError, KeyError, TypeError):
        return "?"


def _label(args: argparse.Namespace) -> int:
    from lineside.deliver.evidence.keeper import LABELS
    from lineside.errors import ConfigError
    from lineside.replay.find import piece, places

    where = places(args.state, args.config)
    kept = piece(args.id, where)
    path = where.evidence / LABELS / f"{kept.id}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"label": args.text}) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"{kept.id}: labelled {args.text!r}; it is kept longest")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from lineside.deliver.evidence.folder import read
    from lineside.deliver.evidence.keeper import pieces
    from lineside.errors import ConfigError
    from lineside.replay.again import verify
    from lineside.replay.find import piece, places

    in_box = args.state is not None or args.config is not None or not args.pieces
    where = places(args.state, args.config) if in_box else None
    asked = args.pieces or [str(found.path) for found in pieces(where.evidence)] if where else args.pieces
    bad = 0
    for name in asked:
        try:
            kept = piece(name, where) if args.pieces else read(Path(name))
            found, notes = verify(kept, where.journal if where else None)
        except ConfigError as error:
            found, notes = list(error.lines), []
        bad += bool(found)
        if args.json:
            print(json.dumps({"piece": name, "faults": found, "notes": notes}))
            continue
        print(f"{name}: {'is NOT what was written' if found else 'as it was written'}")
        for line in (*found, *notes):
            print(f"  {line}")
    if not args.json:
        print(f"{len(asked)} pieces, {bad} not as they were written")
    return 1 if bad else 0


def _keys(name: Path) -> int:
    from lineside.deliver.evidence.sealed import new_pair
    from lineside.errors import ConfigError

    private, public = new_pair()
    for path, key, mode in ((Path(f"{name}.key"), private, 0o600), (Path(f"{name}.pub"), public, 0o644)):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
                file.write(key + "\n")
        except FileExistsError as error:
            raise ConfigError(f"{path}: is there already, and may be needed: give another name") from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"{name}.pub goes to the box (evidence.public_key); keep {name}.key off it: nothing else opens what it seals")
    return 0
