"""What a commit to the journal costs, with and without fsync; how fast a ledger is verified.

    python tools/bench_journal.py [--commits 20000] [--rows 1000000] [--folder DIR] [--json]

`commit` is one record in one transaction, from Store.commit's call to its return, every 2 ms as from a line (PSS and
checkpoints as in the daemon). `--before TREE` runs the same against another checkout's lineside, interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=20_000, help="of each kind (default: 20000)")
    parser.add_argument("--rows", type=int, default=0, help="of a store that is then verified (default: none)")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary one)")
    parser.add_argument("--before", type=Path, metavar="TREE", help="another checkout, measured in turns with this one")
    parser.add_argument("--rounds", type=int, default=4, help="turns (default: 4)")
    parser.add_argument("--one", choices=("true", "false"), help=argparse.SUPPRESS)  # a turn, in a process of its own
    args = parser.parse_args()
    if args.one:
        print(json.dumps(turn(args.folder, args.one == "true", args.commits)))
        return
    folder = Path(tempfile.mkdtemp(prefix="lineside-bench-", dir=args.folder))
    try:
        trees = {"this": Path(__file__).parents[1], **({"before": args.before} if args.before else {})}
        for durable in ("false", "true"):
            took: dict[str, list[int]] = {name: [] for name in trees}
            cpu_us: dict[str, list[float]] = {name: [] for name in trees}
            for _ in range(args.rounds):
                for name, tree in trees.items():
                    values, spent_us = apart(tree, folder, durable, args.commits // args.rounds)
                    took[name] += values
                    cpu_us[name].append(spent_us)
            for name, values in took.items():
                line = {**percentiles(values), "cpu_us": min(cpu_us[name])}
                print(f"commit durable={durable} {name}: {json.dumps(line)}", flush=True)
        if args.rows:
            print(f"verify: {json.dumps(verified(folder, args.rows))}")
    finally:
        shutil.rmtree(folder)


def apart(tree: Path, folder: Path, durable: str, count: int) -> tuple[list[int], float]:
    """One turn with the lineside of a tree."""
    command = [sys.executable, __file__, "--one", durable, "--commits", str(count), "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(tree / "runtime")}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    values, spent_us = json.loads(answer)
    return values, spent_us


def turn(folder: Path, durable: bool, count: int) -> tuple[list[int], float]:
    """Nanoseconds of each commit, and the processor's microseconds of one (which other work disturbs least)."""
    from lineside.deliver.checkpoint import Checkpointer
    from lineside.deliver.tables import Draft, Store

    path = folder / f"{time.monotonic_ns()}.db"
    store = Store(path, "boot", time.time_ns(), durable, None)
    checkpointer = Checkpointer(path)
    checkpointer.start()
    checkpointer.opened()
    body = b'{"id":"bench",' + b'"x":"0123456789",' * 55 + b'"y":1}'  # about a reject with three findings
    took = []
    spent_ns = 0
    for _ in range(count):
        draft = Draft("gate", "decision", False, time.monotonic_ns(), time.time_ns(), body)
        started_ns, began_ns = time.perf_counter_ns(), time.thread_time_ns()
        store.commit([draft], {})
        took.append(time.perf_counter_ns() - started_ns)
        spent_ns += time.thread_time_ns() - began_ns
        checkpointer.wrote(len(body) + 200)
        time.sleep(0.002)
    checkpointer.stop()
    store.close(clean=True)
    return took[10:], round(spent_ns / count / 1000, 1)


def verified(folder: Path, count: int) -> dict[str, float]:
    """Rows a second of `lineside ledger verify`, and how much memory it takes."""
    from lineside.clock import SystemClock
    from lineside.deliver.ledger import Ledger
    from lineside.deliver.tables import Draft, Store

    path = folder / "journal.db"
    store = Store(path, "boot", time.time_ns(), False, None)
    body = b'{"id":"bench",' + b'"x":"0123456789",' * 55 + b'"y":1}'
    for start in range(0, count, 1000):
        rows = min(1000, count - start)
        store.commit([Draft("gate", "decision", False, 1, 1, body)] * rows, {})
        store.restart_wal()
    ledger = Ledger(folder / "identity", "bench", SystemClock())
    ledger.start()
    ledger.opened(store, None)
    ledger.seal_now(store, 10.0)
    store.close(clean=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "lineside.cli", "ledger", "verify", "--journal", str(path), "--json"]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    wall_s = time.monotonic() - started
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "rows": report["rows"],
        "store_mb": round(path.stat().st_size / 1e6),
        "seconds": round(wall_s, 1),
        "rows_per_s": round(count / wall_s),
        "peak_rss_mb": round(peak_mb),
    }


def percentiles(values_ns: list[int]) -> dict[str, float]:
    ordered = sorted(values_ns)
    places = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}
    return {
        "commits": len(ordered),
        **{f"{name}_ms": round(ordered[int(len(ordered) * place)] / 1e6, 3) for name, place in places.items()},
    }


if __name__ == "__main__":
    main()
