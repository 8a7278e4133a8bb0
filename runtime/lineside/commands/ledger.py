"""`lineside ledger verify | key | checkpoints`: proves that a journal is what was written, or says where it is not."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path

USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verify | key | checkpoints")
    verify = verbs.add_parser("verify", help="find edits, deletions, cuts; 0: clean, 1: tampered, 2: cannot say")
    _where(verify)
    verify.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="PUBLICKEY",
        help="of the box: text or file, as `lineside ledger key` prints it; again for an earlier one "
        "(default: identity/device.pub beside the journal)",
    )
    verify.add_argument(
        "--against", type=Path, metavar="FILE", help="checkpoint messages that were kept outside the box, one a line"
    )
    verify.add_argument(
        "--allow-unchained",
        action="store_true",
        help="an older lineside ran in between: don't call it a fault",
    )
    verify.add_argument("--json", action="store_true", help="the whole report as one JSON object")
    key = verbs.add_parser("key", help="print the box's public key and its id")
    _where(key)
    checkpoints = verbs.add_parser("checkpoints", help="print the signed checkpoints as JSON lines, to keep elsewhere")
    _where(checkpoints)


def _where(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--journal", type=Path, metavar="PATH", help="default: journal.db where the service has it")
    where.add_argument("--config", type=Path, help="the daemon's lineside.toml, to find its journal")


def run(args: argparse.Namespace) -> int:
    from lineside.errors import LinesideError

    try:
        journal, identity = _places(args)
        if args.verb == "verify":
            return _verify(args, journal, identity)
        return _key(identity) if args.verb == "key" else _checkpoints(journal)
    except (LinesideError, OSError) as error:
        print(f"lineside: {error}", file=sys.stderr)
        return USAGE


def _verify(args: argparse.Namespace, journal: Path, identity: Path) -> int:
    from lineside.deliver.identity import public_key
    from lineside.deliver.verify import verify

    default = identity / "device.pub"
    keys = [public_key(text) for text in args.key or ([str(default)] if default.is_file() else [])]
    with ExitStack() as stack:
        against = stack.enter_context(args.against.open(errors="replace")) if args.against else None
        report = verify(journal, keys, against, args.allow_unchained)
    print(json.dumps(report.fields(), indent=2) if args.json else "\n".join(report.lines()))
    return 0 if report.is_clean else 1


def _key(identity: Path) -> int:
    from lineside.deliver.identity import key_id, public_key, written
    from lineside.errors import ConfigError

    path = identity / "device.pub"
    if not path.is_file():
        raise ConfigError(f"device key {path}: none was made yet: the daemon makes it at its first start")
    public = public_key(str(path))
    print(f"{written(public)} {key_id(public)}")
    return 0


def _checkpoints(journal: Path) -> int:
    from lineside.deliver.seals import documents
    from lineside.deliver.verify import opened

    with closing(opened(journal)) as connection:
        for _, document in documents(connection):
            print(document.decode())
    return 0


def _places(args: argparse.Namespace) -> tuple[Path, Path]:
    """The journal and the folder of the device key."""
    state = Path(os.environ.get("STATE_DIRECTORY") or "/var/lib/lineside")
    if args.journal is not None:
        return args.journal, args.journal.parent / "identity"
    if args.config is None:
        return state / "journal.db", state / "identity"
    from lineside.config import load

    config = load(args.config)
    state = config.daemon.state_dir or state
    return config.journal.path or state / "journal.db", state / "identity"
