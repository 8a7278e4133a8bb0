"""`lineside tune`: measures every way to run a bundle on this box and pins the soonest one that answers right."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from lineside.commands import measuring

if TYPE_CHECKING:
    from lineside.store.found import Found
    from lineside.tuning.plan import Asked, TuningPlan

SECONDS = 45.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    measuring.add_arguments(parser)
    parser.add_argument("--p99-ms", type=float, metavar="N", help="refuse what takes longer in 1 frame of 100")
    parser.add_argument(
        "--max-flips", type=float, default=0.01, metavar="F", help="refuse what decides otherwise more often (0.01)"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"about so long ({SECONDS:g})")


def run(args: argparse.Namespace) -> int:
    from lineside.errors import ConfigError
    from lineside.hal import board
    from lineside.hal.fingerprint import fingerprint
    from lineside.proof import Prover
    from lineside.store.bundle import open_bundle
    from lineside.store.found import Found
    from lineside.tuning.plan import box_facts
    from lineside.tuning.tune import tune

    asked = _asked(args)
    bundle = open_bundle(args.bundle)
    reference = measuring.reference(args.reference)
    places = measuring.places(args)
    measuring.prepare()
    seen = board.read()
    facts = box_facts(places.profile, seen)
    found = Found(places.state_dir, bundle.digest, fingerprint(facts))
    before = _before(found)
    plan = tune(
        bundle,
        places.profile,
        seen,
        asked,
        reference,
        places.cache_dir,
        measuring.progress,
        before.pick if before else None,
        prover=Prover(places.state_dir, places.cache_dir),
    )
    try:
        found.put(plan=plan.told(), facts=facts)
    except OSError as error:
        raise ConfigError(f"{found.path}: cannot be written: {error.strerror}") from error
    if args.json:
        print(json.dumps(plan.told()))
    else:
        print(f"{bundle.name} {bundle.version}, against {plan.reference}, {plan.pictures} pictures, {plan.took_s} s")
        _table(plan)
        print(f"kept in {found.path}: `lineside run` uses it for stations that name no other backend")
    return 0


def _asked(args: argparse.Namespace) -> Asked:
    from lineside.errors import ConfigError
    from lineside.tuning.plan import Asked

    if not 0 <= args.max_flips < 1:
        raise ConfigError(f"--max-flips {args.max_flips:g}: a share of the pictures, 0 up to but not including 1")
    if args.p99_ms is not None and not 0 < args.p99_ms < 1e6:
        raise ConfigError(f"--p99-ms {args.p99_ms:g}: milliseconds, above 0")
    if not 1 <= args.seconds <= 3600:
        raise ConfigError(f"--seconds {args.seconds:g}: 1 to 3600")
    return Asked(
        p99_ms=args.p99_ms,
        max_flips=args.max_flips,
        backends=tuple(args.backend),
        data=str(args.data.resolve()) if args.data else None,
        reference=str(args.reference.resolve()) if args.reference else None,
        seconds=args.seconds,
    )


def _before(found: Found) -> TuningPlan | None:
    """The plan that is there, if it is one."""
    from lineside.tuning.plan import parse

    try:
        return parse(found.read()["plan"])
    except (KeyError, TypeError, ValueError):
        return None


def _table(plan: TuningPlan) -> None:
    width = max(len(str(one)) for one in plan.tried)
    print(f"{'':<{width}}  {'p50 ms':>8} {'p99 ms':>8} {'frames':>7} {'flips':>9}")
    for one in plan.tried:
        p50, p99 = ("-" if value is None else f"{value:.2f}" for value in (one.p50_ms, one.p99_ms))
        flips = "-" if one.flips is None else f"{one.flips} of {one.pictures}"
        print(f"{one!s:<{width}}  {p50:>8} {p99:>8} {one.frames or '-':>7} {flips:>9}  {one.state}")
    print(f"picked: {plan.pick}: {plan.pick.why}")
    for one in plan.tried:
        if one.state == "refused":
            print(f"refused: {one}: {one.why}")
    for note in plan.notes:
        print(f"note: {note}")
