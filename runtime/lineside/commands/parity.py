"""`lineside parity`: how far each way to run a bundle on this box is from its FP32 reference."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands import measuring

if TYPE_CHECKING:
    from lineside.store.bundle import Bundle
    from lineside.store.passport import Estimate, Passport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    measuring.add_arguments(parser)
    parser.add_argument("--into", type=Path, metavar="NEW", help="pack a copy of the bundle that holds the result")
    parser.add_argument("--version", help="of the new bundle; default: the old one's")


def run(args: argparse.Namespace) -> int:
    from lineside.errors import ConfigError
    from lineside.hal import board
    from lineside.hal.fingerprint import fingerprint
    from lineside.store.bundle import open_bundle
    from lineside.store.found import Found
    from lineside.store.pack import pack_parity
    from lineside.tuning.plan import box_facts

    if args.version is not None and args.into is None:
        raise ConfigError("--version: is that of the new bundle: give --into NEW, too")
    if args.into is not None and args.into.exists():
        raise ConfigError(f"--into {args.into}: exists: a bundle is never changed; give another folder")
    bundle = open_bundle(args.bundle)
    places = measuring.places(args)
    measuring.prepare()
    facts = box_facts(places.profile, board.read())
    passport = _measure(bundle, args, places, facts)
    found = Found(places.state_dir, bundle.digest, fingerprint(facts))
    try:
        found.put(parity=asdict(passport), facts=facts)
    except OSError as error:
        raise ConfigError(f"{found.path}: cannot be written: {error.strerror}") from error
    if args.json:
        print(json.dumps(asdict(passport)))
    else:
        print(f"{bundle.name} {bundle.version}")
        print("\n".join(lines(passport)))
    if args.into is not None:
        made = pack_parity(bundle, args.into, passport, args.version or bundle.version)
        told = f"bundle {made.folder}: {made.name} {made.version}, {made.digest[:19]}..."
        print(told, file=sys.stderr if args.json else sys.stdout)
    return 0


def _measure(bundle: Bundle, args: argparse.Namespace, places: measuring.Places, facts: dict[str, str]) -> Passport:
    from lineside.errors import ConfigError, LinesideError
    from lineside.hal import board
    from lineside.proof import NotProven, Prover
    from lineside.recipe import Model
    from lineside.store import passport
    from lineside.tuning.parity import compare, row
    from lineside.tuning.pictures import pictures
    from lineside.tuning.ways import Way, open_reference, open_way, ways

    given = measuring.reference(args.reference)
    shown = pictures(bundle, args.data)
    found, not_run = ways(bundle, places.profile, board.read(), args.backend)
    first = open_reference(bundle, given, places.profile, found)
    models: dict[Way, Model] = {}
    refused: dict[Way, str] = {}
    prover = Prover(places.state_dir, places.cache_dir)
    try:
        for way in found:
            try:
                proof = prover.prove(bundle, way.artefact, way.candidate(places.profile))
                if proof.state == "broken":
                    raise NotProven(str(proof))
                models[way] = open_way(bundle, way, places.profile, places.cache_dir)
                refused[way] = "" if proof.may_run else str(proof)
            except LinesideError as error:
                not_run.append(way.not_run(error))
        compared = compare(models, first, shown, measuring.progress)
    finally:
        for model in (first.model, *models.values()):
            model.executor.close()
    for line in shown.told():
        print(f"lineside parity: left out: {line}", file=sys.stderr)
    for line in shown.notes():
        print(f"lineside parity: {line}", file=sys.stderr)
    not_run += [way.not_run(one.fault) for way, one in compared.items() if one.fault]
    rows = tuple(replace(row(way, one), refused=refused[way]) for way, one in compared.items() if not one.fault)
    if not rows:
        raise ConfigError(
            f"bundle {bundle.folder}: nothing here runs it:", *(f"{one.backend}: {one.why}" for one in not_run)
        )
    return passport.Passport(
        reference=passport.Reference(
            backend=first.way.place, file=first.way.file, precision=first.way.artefact.precision, is_fp32=first.is_fp32
        ),
        task=bundle.task,
        pictures=rows[0].pictures,
        skipped=len(shown.skipped),
        machine=facts,
        rows=rows,
        not_run=tuple(not_run),
    )


def lines(passport: Passport) -> list[str]:
    """For people; `lineside bundle show` prints them, too."""
    reference = passport.reference
    skipped = f", {passport.skipped} left out" if passport.skipped else ""
    told = "" if reference.is_fp32 else "no fp32 reference: "
    out = [f"{told}against {reference.file} on {reference.backend}, {passport.pictures} pictures{skipped}"]
    if not reference.is_fp32:
        out.append("  give the FP32 model with --reference FILE")
    for row in passport.rows:
        out.append(f"{row.file} ({row.precision}) on {row.backend}, median {row.median_ms:.2f} ms")
        if row.refused:
            out.append(f"  REFUSED by run: {row.refused}")
        flips = (
            "not known: [decode] has no threshold" if row.flips is None else f"{row.flips}, {_percent(row.flip_rate)}"
        )
        out.append(f"  decisions that flip   {flips}")
        if row.any_flip_rate is not None:
            out.append(f"  something or nothing  {row.any_flips}, {_percent(row.any_flip_rate)}")
        if row.drift is not None:
            out.append(
                f"  score drift           {_plain(row.drift.mean)}, p95 {row.drift.p95:.4f}, max {row.drift.max:.4f}"
            )
        if row.matched is not None:
            out.append(f"  findings of both      {_percent(row.matched)}")
        if row.iou is not None:
            out.append(f"  their boxes' IoU      {_plain(row.iou)}")
    out += [f"{one.file or 'nothing'} on {one.backend}: not compared: {one.why}" for one in passport.not_run]
    return [*out, f"intervals: {passport.intervals}"]


def _percent(found: Estimate | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found.value:.1f} % ({100 * (found.low or 0):.1f} to {100 * (found.high or 0):.1f})"


def _plain(found: Estimate) -> str:
    span = "" if found.low is None or found.high is None else f" ({found.low:.4f} to {found.high:.4f})"
    return f"mean {found.value:.4f}{span}"
