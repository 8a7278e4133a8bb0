"""Break everything around a running line, again and again, and judge: is any decision lost, doubled or unexplained?

    python tools/soak.py [--kills 200] [--cuts 100] [--power-cuts 2000] [--seed 1] [--minutes 30] [--write PAGE]

`lineside run` makes 50 decisions a second on the fake backend and publishes them through a proxy to a mosquitto with
crash-safe settings; a receiver with a persistent session stands beside. Daemon, broker and receiver kit are killed
(-9), the link is cut and swallows, all at instants drawn from the seed and overlapping as they fall; every second time
the disk is slow. Then recorded runs are cut off at random instants as by a power cut (chaos/powercut.py).

Finished rounds are kept in --keep and not done again when the same command is given once more. Exit status 1 if
anything is lost, doubled or unexplained.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos import broken, page, powercut, world
from chaos.plan import KINDS, MEAN_GAP_S, Fault, Kind, draw
from chaos.rounds import Round, play

ROOT = Path(__file__).resolve().parents[1]
KILLS_A_ROUND = 10
CUTS_A_RECORDING = 250
LOST_BY_BROKER = ("lost", "unexplained_gaps")  # of a client that does not ask

Report = dict[str, Any]


def rounds_of(kills: int, broker_kills: int, cuts: int) -> list[dict[Kind, int]]:
    """The faults of each round: ten kills of either kind at most, and even shares of the others."""
    number = max(1, -(-max(kills, broker_kills, cuts) // KILLS_A_ROUND))
    totals = {**dict.fromkeys(KINDS, cuts), "kill_daemon": kills, "kill_broker": broker_kills}
    return [{kind: _share(totals[kind], number, i) for kind in KINDS} for i in range(number)]


def _share(total: int, number: int, which: int) -> int:
    return (total * (which + 1)) // number - (total * which) // number


def one_round(faults: list[Fault], seed: int, slow_ms: int, fault: str | None) -> Round:
    folder = Path(tempfile.mkdtemp(prefix="lineside-soak-"))
    try:
        environment = world.environment(folder / "state", slow_ms=slow_ms) if slow_ms else {}
        program = broken.program(fault) if fault else ()
        return play(folder, faults, seed, program=program, environment=environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chaos_round(args: argparse.Namespace, number: int, faults: dict[Kind, int]) -> Report:
    seed = args.seed * 1000 + number
    done = one_round(draw(faults, seed, args.gap_s), seed, args.slow_ms if number % 2 == 0 else 0, args.broken)
    for text in done.log if args.verbose or not done.ok else ():
        _say(text)
    return {
        **done.report(),
        "slow_disk": number % 2 == 0,
        "delays_ms": [round(ms, 2) for ms in done.delays_ms],
        "backs_s": done.back_s,
    }


def forgetful_round(args: argparse.Namespace, number: int, kills: int) -> Report:
    """A broker with default settings forgets sessions and messages when it dies: the receiver kit finds and asks."""
    folder, seed = Path(tempfile.mkdtemp(prefix="lineside-soak-")), args.seed * 1000 + 500 + number
    faults = draw({"kill_broker": kills, "kill_receiver": kills // 2}, seed, args.gap_s)
    try:
        done = play(folder, faults, seed, settings=["allow_anonymous true"], tolerated=LOST_BY_BROKER)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return done.report()


def power_round(args: argparse.Namespace, number: int, cuts: int) -> Report:
    folder = Path(tempfile.mkdtemp(prefix="lineside-powercut-"))
    try:
        seed = args.seed * 1000 + number
        recorded = powercut.record(folder / "run", "synchronous-off" if args.broken else "checkpoints", seed)
        return powercut.cut_often(recorded, folder / "after", cuts, seed).report()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # processes and folders are cleared away
    kept = Kept(args.keep, vars_of(args))
    deadline_s = time.monotonic() + args.minutes * 60 if args.minutes else float("inf")
    jobs: list[tuple[str, Callable[[], Report]]] = []
    if args.kills or args.broker_kills or args.cuts:
        for number, faults in enumerate(rounds_of(args.kills, args.broker_kills, args.cuts)):
            jobs.append((f"chaos {number}", lambda n=number, f=faults: chaos_round(args, n, f)))  # type: ignore[misc]
    for number in range(-(-args.forgetful // KILLS_A_ROUND)):
        kills = min(KILLS_A_ROUND, args.forgetful - number * KILLS_A_ROUND)
        jobs.append((f"forgetful {number}", lambda n=number, k=kills: forgetful_round(args, n, k)))  # type: ignore[misc]
    for number in range(-(-args.power_cuts // CUTS_A_RECORDING)):
        cuts = min(CUTS_A_RECORDING, args.power_cuts - number * CUTS_A_RECORDING)
        jobs.append((f"power {number}", lambda n=number, c=cuts: power_round(args, n, c)))  # type: ignore[misc]
    for name, job in jobs:
        if name in kept.done:
            continue
        if time.monotonic() > deadline_s:
            _say(f"--minutes {args.minutes:g} are over: give the same command again to go on")
            break
        report = job()
        kept.add(name, report)
        _say(f"{name}: {'ok' if report['ok'] else 'FAILED: ' + '; '.join(report['wrong'])} in {report['took_s']} s")
    total = page.total(kept.done)
    total["complete"] = len(kept.done) == len(jobs)
    print(json.dumps(total, indent=1))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(total, indent=1) + "\n")
    if args.write:
        page.write(args.write, total, " ".join(["python tools/soak.py", *_words(args)]))
    sys.exit(0 if total["ok"] else 1)


class Kept:
    """Reports of finished rounds in a file, so that a long soak can be taken up again."""

    def __init__(self, path: Path | None, of: dict[str, object]) -> None:
        self.done: dict[str, Report] = {}
        self._path = path
        head = json.dumps(of)
        if path is None:
            return
        lines = path.read_text().splitlines() if path.exists() else []
        if lines[:1] == [head]:
            for line in lines[1:]:
                self.done.update(json.loads(line))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + "\n")

    def add(self, name: str, report: Report) -> None:
        self.done[name] = report
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({name: report}) + "\n")


def vars_of(args: argparse.Namespace) -> dict[str, object]:
    """What a kept round depends on."""
    return {
        name: getattr(args, name) for name in ("seed", "kills", "broker_kills", "cuts", "gap_s", "slow_ms", "broken")
    }


def _words(args: argparse.Namespace) -> list[str]:
    names = ("kills", "broker_kills", "cuts", "forgetful", "power_cuts", "gap_s", "seed")
    return [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in names]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of the daemon")
    parser.add_argument("--broker-kills", type=int, help="of the broker (default: as many)")
    parser.add_argument("--cuts", type=int, default=100, help="of the link; as many black holes, and kills of the kit")
    parser.add_argument("--forgetful", type=int, default=50, help="kills of a broker with its default settings")
    parser.add_argument("--power-cuts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of all instants")
    parser.add_argument("--gap-s", type=float, default=MEAN_GAP_S, help="between two faults, on average")
    parser.add_argument("--slow-ms", type=int, default=2, help="of each write and sync on the slow disk, on average")
    parser.add_argument("--minutes", type=float, help="begin no further round after so long")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="finished rounds, to go on after a break")
    parser.add_argument("--broken", choices=[name for name in broken.FAULTS if name != "checkpoints"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the report here too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into this page")
    parser.add_argument("--verbose", action="store_true", help="say each fault")
    args = parser.parse_args()
    args.broker_kills = args.kills if args.broker_kills is None else args.broker_kills
    if min(args.kills, args.broker_kills, args.cuts, args.forgetful, args.power_cuts) < 0:
        parser.error("--kills, --broker-kills, --cuts, --forgetful and --power-cuts: 0 or more")
    return args


if __name__ == "__main__":
    main()
