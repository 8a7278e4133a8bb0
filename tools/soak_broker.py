"""Kill the broker again and again under a running line, and count: is any decision lost?

    python tools/soak_broker.py --minutes 10 --kills 3 [--seed 1] [--json out/soak_broker.json]

`lineside run` decides about every frame of a looped video at 15 fps. A mosquitto with crash-safe settings is killed
(-9) at random instants and started again some seconds later, at least once so late that decisions become backfill. A
plain paho subscriber with a persistent session stands beside. At the end the journal is compared with what arrived, by
(station, epoch, seq). Exit status 1 if a decision was lost, a hole is left, or live and backfill were mixed up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from paho.mqtt.client import MQTTMessage

from bench.cases import Material, all_cases
from peers import CRASH_SAFE, Broker, Lineside, Subscriber, until

ROOT = Path(__file__).resolve().parents[1]
_SETTLE_S = 2.0  # at the start and between two outages the line runs undisturbed at least so long
_DRAIN_S = 60.0
_PROGRESS_S = 10.0

_CONFIG = """
[cameras.line]
driver = "clip"
path = "{video}"
loop = true
fps = {fps}

[stations.gate]
camera = "line"
bundle = "{bundle}"

[stations.gate.trigger]
per = "frame"

[[stations.gate.rules]]
kind = "defect"
labels = ["bottle"]
min_score = 0.5

[mqtt]
host = "127.0.0.1"
port = {port}
live_max_age_ms = {live_max_age_ms}
reconnect_max_s = 2.0
"""


@dataclass(frozen=True)
class Outage:
    """The broker is killed at `at_s` of the run and started `down_s` later."""

    at_s: float
    down_s: float


@dataclass
class Inbox:
    """What the subscriber got, and whether each message keeps the rules of docs/messages.md."""

    live_max_age_ms: int
    copies: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)  # of first copies: live, backfill
    gaps_told: int = 0
    mixed_up: int = 0  # topic and body disagree, or an old decision came as live

    def take(self, message: MQTTMessage) -> None:
        body = json.loads(message.payload)
        if "seq" not in body:
            return  # the box's status
        backfill = message.topic.endswith("/backfill")
        key = (body["station"], body["epoch"], body["seq"])
        self.copies[key] += 1
        if self.copies[key] == 1:
            self.ways["backfill" if backfill else "live"] += 1
            self.gaps_told += body["kind"] == "gap"
        old = body["age_ms"] is None or body["age_ms"] > self.live_max_age_ms
        self.mixed_up += body["backfill"] != backfill or (backfill and not body["late"]) or (old and not backfill)


def plan(duration_s: float, kills: int, live_max_age_s: float, seed: int) -> list[Outage]:
    """Random instants and lengths; one outage is longer than a decision stays live. Pure."""
    dice = random.Random(seed)
    lengths_s = [dice.uniform(0.5, 0.8 * live_max_age_s) for _ in range(kills)]
    if kills:
        lengths_s[dice.randrange(kills)] = live_max_age_s + dice.uniform(1.0, 3.0)
    free_s = duration_s - sum(lengths_s) - _SETTLE_S * (kills + 2)
    if free_s < 0:
        raise SystemExit(
            f"--minutes {duration_s / 60:g}: too short for {kills} outages of {sum(lengths_s):.0f} s in all"
        )
    cuts = [0.0, *sorted(dice.uniform(0, free_s) for _ in range(kills))]
    outages: list[Outage] = []
    at_s = _SETTLE_S
    for (before, cut), down_s in zip(pairwise(cuts), lengths_s, strict=True):
        at_s += cut - before
        outages.append(Outage(round(at_s, 3), round(down_s, 3)))
        at_s += down_s + _SETTLE_S
    return outages


def main() -> None:
    args = _arguments()
    duration_s = args.minutes * 60
    outages = plan(duration_s, args.kills, args.live_max_age_ms / 1000, args.seed)
    _say(f"seed {args.seed}: " + ", ".join(f"kill at {o.at_s:.1f} s for {o.down_s:.1f} s" for o in outages))
    folder = Path(tempfile.mkdtemp(prefix="lineside-soak-"))
    inbox = Inbox(args.live_max_age_ms)
    try:
        with Broker(folder / "broker", *CRASH_SAFE) as broker:
            listener = Subscriber(broker.port, "lineside/#", inbox.take, session_s=86_400, name="soak")
            daemon = Lineside(folder, _config(args, folder, broker))
            try:
                until(lambda: inbox.copies and daemon.check_alive(), 60, "the first decision arrives")
                _run(daemon, broker, inbox, outages, duration_s)
                until(lambda: _nothing_waits(daemon), _DRAIN_S, "the journal's backlog is delivered")
                status = daemon.status()
            finally:
                exit_status = daemon.stop()
            made = _journalled(folder / "state" / "journal.db")
            _settle(inbox, made)
            listener.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = _report(args, outages, inbox, made, status, listener.connections)
    report["daemon_exit_status"] = exit_status
    text = json.dumps(report, indent=1)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n")
    print(text)
    print(_sentence(report))
    sys.exit(0 if report["ok"] and exit_status == 0 else 1)


def _run(daemon: Lineside, broker: Broker, inbox: Inbox, outages: list[Outage], duration_s: float) -> None:
    """The run itself: what is due at which second, and progress in between."""
    began_s = time.monotonic()
    steps = [(o.at_s, broker.kill, "broker killed") for o in outages]
    steps += [(o.at_s + o.down_s, broker.start, "broker started") for o in outages]
    steps += [(float(at_s), lambda: None, "") for at_s in range(int(_PROGRESS_S), int(duration_s), int(_PROGRESS_S))]
    for at_s, act, words in sorted(steps, key=lambda step: step[0]):
        time.sleep(max(0.0, began_s + at_s - time.monotonic()))
        daemon.check_alive()
        act()
        _say(f"{at_s:7.1f} s  {words or 'running'}: {len(inbox.copies)} received, {dict(inbox.ways)}")
    time.sleep(max(0.0, began_s + duration_s - time.monotonic()))


def _nothing_waits(daemon: Lineside) -> bool:
    """Whether no more than the decisions of this instant are still under way."""
    time.sleep(0.1)
    status = daemon.status()["mqtt"]
    return bool(status["connected"]) and int(status["pending"]) <= 2


def _journalled(path: Path) -> set[tuple[str, str, int]]:
    """Every row of the stopped daemon's journal."""
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = store.execute("SELECT row.station, run.epoch, row.seq FROM row JOIN run ON run.id = row.run")
        return {(str(station), str(epoch), int(seq)) for station, epoch, seq in rows}
    finally:
        store.close()


def _settle(inbox: Inbox, made: set[tuple[str, str, int]]) -> None:
    """Wait until everything has arrived, or nothing more comes."""
    deadline = time.monotonic() + 15
    while not made <= inbox.copies.keys() and time.monotonic() < deadline:
        time.sleep(0.05)


def _report(
    args: argparse.Namespace,
    outages: list[Outage],
    inbox: Inbox,
    made: set[tuple[str, str, int]],
    status: dict[str, Any],
    connections: int,
) -> dict[str, Any]:
    seqs: dict[tuple[str, str], set[int]] = {}
    for station, epoch, seq in inbox.copies:
        seqs.setdefault((station, epoch), set()).add(seq)
    holes = sum(max(of) - len(of) for of in seqs.values())
    lost = len(made - inbox.copies.keys())
    sure = made and lost == holes == inbox.gaps_told == inbox.mixed_up == 0 and not inbox.copies.keys() - made
    return {
        "ok": bool(sure) and (inbox.ways["backfill"] > 0 or not outages),
        "minutes": args.minutes,
        "fps": args.fps,
        "seed": args.seed,
        "outages": [{"at_s": outage.at_s, "down_s": outage.down_s} for outage in outages],
        "decisions_made": len(made),
        "received_unique": len(inbox.copies),
        "duplicates": inbox.copies.total() - len(inbox.copies),
        "lost": lost,
        "holes_in_seq": holes,
        "gaps_told": inbox.gaps_told,
        "live": inbox.ways["live"],
        "backfill": inbox.ways["backfill"],
        "mixed_up": inbox.mixed_up,
        "subscriber_connections": connections,
        "daemon_connects": status["mqtt"]["connects"],
        "frames": status["stations"]["gate"]["frames"],
        "camera_skipped": status["cameras"]["line"]["skipped"],
        "backend": status["stations"]["gate"]["backend"],
    }


def _sentence(report: dict[str, Any]) -> str:
    verdict = "nothing lost" if report["ok"] else f"FAILED: {report['lost']} lost, {report['holes_in_seq']} holes"
    return (
        f"{verdict}: {report['decisions_made']} decisions made in {report['minutes']:g} min with the broker killed "
        f"{len(report['outages'])} times; {report['received_unique']} received ({report['live']} live, "
        f"{report['backfill']} backfill, {report['mixed_up']} mixed up), {report['duplicates']} of them again, "
        f"{report['holes_in_seq']} holes in seq"
    )


def _config(args: argparse.Namespace, folder: Path, broker: Broker) -> str:
    case = next(case for case in all_cases() if str(case) == "yolox_nano_416/litert/360p")
    material = Material(args.data, ROOT / "out", folder)
    return _CONFIG.format(
        video=material.video(case),
        bundle=material.bundle(case),
        fps=args.fps,
        port=broker.port,
        live_max_age_ms=args.live_max_age_ms,
    )


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of instants and lengths")
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--live-max-age-ms", type=int, default=5000, help="as in [mqtt] of lineside.toml")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the report here too")
    parser.add_argument("--data", type=Path, default=os.environ.get("LINESIDE_DATA", ROOT.parent / "shared" / "data"))
    args = parser.parse_args()
    args.data = Path(args.data)
    return args


if __name__ == "__main__":
    main()
