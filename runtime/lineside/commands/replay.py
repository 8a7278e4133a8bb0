"""`lineside replay`: a decision again from its evidence, or what another bundle would have decided."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lineside.replay.again import Report
    from lineside.replay.trial import Trial

_MOST_LINES = 20
_SPAN_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("one decision")
    what.add_argument(
        "id", nargs="*", metavar="ID", help="of a decision or event (its beginning is enough), or a folder"
    )
    what.add_argument("--all", action="store_true", help="everything that has evidence")
    other = parser.add_argument_group("another model")
    other.add_argument("--bundle", metavar="NEW", help="what would this bundle have decided?")
    other.add_argument("--since", metavar="T", help="2026-11-21T06:00, or how long ago: 90m, 8h, 2d (default: all)")
    other.add_argument("--station", metavar="NAME", help="of one station only")
    other.add_argument("--sheet", type=Path, metavar="OUT.png", help="contact sheet of the parts that changed")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--state", type=Path, metavar="DIR", help="the daemon's state folder (default: the service's)")
    where.add_argument("--config", type=Path, metavar="CONFIG", help="its lineside.toml, to find that")
    parser.add_argument("--models", type=Path, action="append", default=[], metavar="DIR", help="bundles are here, too")
    parser.add_argument("--backend", metavar="NAME", help="NAME or NAME:DEVICE instead of the one of then")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key, for frames that are sealed")
    parser.add_argument("--unproven", action="store_true", help="do not prove first that the answers are right here")
    parser.add_argument("--json", action="store_true", help="JSON instead of words; of decisions one object a line")


def run(args: argparse.Namespace) -> int:
    """0: identical or within bounds; 1: differs, or the evidence was changed. Raises ConfigError, DeviceError."""
    from lineside.errors import ConfigError

    if bool(args.bundle) == bool(args.id or args.all):
        raise ConfigError("replay: give the ID of a decision (or --all), or --bundle NEW to try another model")
    return _try_bundle(args) if args.bundle else _again(args)


def _again(args: argparse.Namespace) -> int:
    from lineside.commands import measuring
    from lineside.deliver.evidence.keeper import pieces
    from lineside.deliver.evidence.sealed import Opener
    from lineside.recipe import Recipe
    from lineside.replay.again import again
    from lineside.replay.find import piece, places

    is_copy = bool(args.id) and all(Path(name).is_dir() for name in args.id)
    where = None if is_copy and args.state is None and args.config is None else places(args.state, args.config)
    asked = args.id or [str(found.path) for found in pieces(where.evidence)] if where else args.id
    opener = Opener(args.key) if args.key else None
    opened: dict[str, Recipe] = {}
    prover = None if args.unproven else measuring.prover(where.state if where else None)
    bad = 0
    for name in asked:
        kept = piece(name, where)
        report = again(
            kept,
            where.journal if where else None,
            models=args.models,
            backend=args.backend,
            opener=opener,
            opened=opened,
            prover=prover,
        )
        bad += not report.good
        print(json.dumps(_plain(report)) if args.json else _words(report), flush=True)
    if args.all and not args.json:
        print(f"{len(asked)} replayed, {bad} differ")
    return 1 if bad else 0


def _plain(report: Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def _words(report: Report) -> str:
    lines = [f"{report.id}  {report.then}{' (unproven)' if report.unproven else ''}"]
    if report.outcome == "tampered":
        lines.append("  the evidence is NOT what was written:")
    else:
        lines.append(f"  now: {report.now}")
        on = f"{report.frames} frames on {report.backend_now}"
        on += "" if report.backend_now == report.backend_then else f", then on {report.backend_then}"
        if report.bounds is None:
            lines.append(f"  {report.outcome}: {on}{', bit for bit' if report.outcome == 'identical' else ''}")
        else:
            lines.append(
                f"  {report.outcome}: {on}; of what a rule looks at, "
                f"scores differ by {report.score_off:.3f} at most (allowed {report.bounds.score:g}), "
                f"boxes overlap by {report.overlap:.2f} at least (allowed {report.bounds.overlap:g})"
            )
    told = report.differences if report.outcome in ("differs", "tampered") else []
    lines += [f"  {line}" for line in told[:_MOST_LINES]]
    if len(told) > _MOST_LINES:
        lines.append(f"  ... and {len(told) - _MOST_LINES} more (--json has all)")
    notes = [*report.notes, *([f"the model {report.unproven}"] if report.unproven else [])]
    return "\n".join([*lines, *(f"  note: {note}" for note in notes)])


def _try_bundle(args: argparse.Namespace) -> int:
    from lineside.commands import measuring
    from lineside.deliver.evidence.folder import read
    from lineside.deliver.evidence.keeper import pieces
    from lineside.deliver.evidence.sealed import Opener
    from lineside.errors import ConfigError
    from lineside.replay.find import bundle_at, places
    from lineside.replay.trial import try_bundle, write_sheet

    where, since = places(args.state, args.config), _since(args.since)
    found = [piece for piece in pieces(where.evidence) if piece.stamp >= since]
    found = [piece for piece in found if args.station in (None, piece.path.parent.name)]
    if not found:
        raise ConfigError(
            f"{where.evidence}: no evidence{f' since {args.since}' if args.since else ''}: nothing to try"
        )
    kept = (read(piece.path) for piece in sorted(found, key=lambda piece: piece.stamp))
    prover = None if args.unproven else measuring.prover(where.state)
    opener = Opener(args.key) if args.key else None
    trial = try_bundle(kept, bundle_at(args.bundle), args.backend, opener, prover)
    sheet = str(args.sheet) if args.sheet and write_sheet(trial, args.sheet) else None
    if args.json:
        table = [{"then": old, "now": new, "parts": count} for (old, new), count in sorted(trial.table.items())]
        told = {"parts": trial.parts, "table": table, "changed": trial.changed, "missed": dict(trial.missed)}
        unproven = {"unproven": trial.unproven} if trial.unproven else {}
        print(json.dumps({**told, "skipped": trial.skipped, "sheet": sheet, **unproven}, indent=2))
    else:
        _show(trial, sheet)
    return 0


def _show(trial: Trial, sheet: str | None) -> None:
    from lineside.replay.trial import NO_PART, VERDICTS

    columns = (*VERDICTS, NO_PART)
    if trial.unproven:
        print(f"the model {trial.unproven}")
    print(f"{trial.parts} parts, {len(trial.changed)} decided otherwise\n")
    print(f"{'then / now':<12}" + "".join(f"{name:>10}" for name in columns))
    for old in VERDICTS:
        print(f"{old:<12}" + "".join(f"{trial.table[old, new]:>10}" for new in columns))
    if trial.missed:
        print("\nmissed defects: " + ", ".join(f"{count} {name}" for name, count in sorted(trial.missed.items())))
    for change in trial.changed[:_MOST_LINES]:
        print(f"\n{change['id']}\n  then {change['then']}\n  now  {change['now']}")
    for line in trial.skipped[:_MOST_LINES]:
        print(f"skipped: {line}")
    if sheet:
        print(f"\ncontact sheet: {sheet}")


def _since(text: str | None) -> str:
    """The stamp from which on, as folders of evidence carry it. Raises ConfigError."""
    from lineside.errors import ConfigError

    if text is None:
        return ""
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    try:
        if span:
            at = datetime.now(UTC) - timedelta(seconds=float(span[1]) * _SPAN_S[span[2]])
        else:
            at = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--since {text}: write a time, 2026-11-21T06:00, or how long ago: 90m, 8h, 2d") from error
    return f"{at:%Y%m%dT%H%M%S}.{at.microsecond:06d}Z"
