"""How fast decisions reach the broker, how fast a long backlog drains, and what that costs the decisions of now.

    python tools/bench_delivery.py sustained [--rate 1000] [--seconds 20]      to PUBACK, crash-safe broker, fsync on
    python tools/bench_delivery.py drain [--backlog 1000000]                   default broker, the line is idle
    python tools/bench_delivery.py live [--pairs 4] [--seconds 20]             a running line, with a backlog and not

Each starts its own mosquitto on loopback, and a subscriber that is a process of its own. `live` runs `lineside run` on
a video with an INT8 model, with and without a backlog in turn, so that both meet the same machine. One JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from paho.mqtt.client import MQTTMessage

from bench.cases import Material, all_cases
from bench_mqtt import a_decision, rss_kb, subscriber
from chaos.verdict import percentiles
from lineside.clock import SystemClock
from lineside.deliver import messages
from lineside.deliver.journal import Journal
from lineside.deliver.mqtt import MqttSink
from lineside.deliver.tables import Draft, Store
from lineside.metrics import quantile
from peers import CRASH_SAFE, Broker, Lineside, Subscriber, until

ROOT = Path(__file__).resolve().parents[1]
_ROWS_A_COMMIT = 5000
_CAP_BYTES = 16 << 30
_WARM_S = 3.0  # of each live run is not measured: imports, first pictures, the end of the first burst of backfill

_LINE = """
[journal]
path = "{journal}"
cap_mb = 16000

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

[mqtt]
host = "127.0.0.1"
port = {port}
"""


def lay_backlog(path: Path, count: int, station: str = "past") -> None:
    """A journal with so many undelivered decisions of an earlier boot, about 700 bytes each."""
    store = Store(path, "an earlier boot", time.time_ns(), True, None)
    body = messages.body(a_decision(0), True)
    draft = Draft(station, "decision", False, time.monotonic_ns(), time.time_ns(), body)
    for start in range(0, count, _ROWS_A_COMMIT):
        store.commit([draft] * min(_ROWS_A_COMMIT, count - start), {})
    store.restart_wal()
    store.close(clean=True)


def sync_ms(folder: Path, rounds: int = 200) -> dict[str, float]:
    """What an fsync costs here: mosquitto with crash-safe settings does one for each message in and each one out."""
    took_ms: list[float] = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(rounds):
            file.write(bytes(4096))
            began_ns = time.perf_counter_ns()
            os.fsync(file)
            took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
    return percentiles(took_ms, 2)


def sustained(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Put `--rate` decisions a second and watch the acknowledgements keep up."""
    disk = args.broker_folder or folder / "broker"
    disk.mkdir(parents=True, exist_ok=True)
    cost_ms = sync_ms(disk)
    with Broker(disk, *CRASH_SAFE) as broker, subscriber(broker.port, "#", each=False) as counts:
        journal = Journal(folder / "journal.db", SystemClock(), durable=True)
        sink = MqttSink(journal, site="bench", line="l", version="0", host="127.0.0.1", port=broker.port)
        journal.start()
        sink.start()
        until(lambda: sink.status()["connected"], 10, "the broker accepts us")
        began_s, put = time.monotonic(), 0
        waiting: list[int] = []
        while (past_s := time.monotonic() - began_s) < args.seconds:
            for _ in range(put, round(past_s * args.rate)):
                journal.put(a_decision(put))
                put += 1
            acked = int(str(sink.status()["acked"]))
            waiting.append(put - acked)
            time.sleep(0.005)
        took_s, acked = time.monotonic() - began_s, int(str(sink.status()["acked"]))
        until(lambda: sink.status()["acked"] == put, 120, "the rest is acknowledged")
        all_s = time.monotonic() - began_s
        status = sink.status()
        counts.send("count")
        arrived, _, _ = counts.recv()
        sink.stop(1.0)
        journal.stop()
    return {
        "fsync_ms_where_the_broker_writes": cost_ms,
        "asked_per_s": args.rate,
        "put": put,
        "seconds": round(took_s, 1),
        "acked_per_s_while_putting": round(acked / took_s),
        "acked_per_s_to_the_last": round(put / all_s),
        "unacknowledged": {**percentiles(waiting), "at_the_end": put - acked},
        "backfilled": status["backfilled"],
        "disconnects": status["disconnects"],
        "arrived_at_the_subscriber": arrived,
    }


def drain(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """A backlog and nothing live; memory is looked at all the while."""
    _say(f"laying {args.backlog} rows ...")
    lay_backlog(folder / "journal.db", args.backlog)
    size_mb = (folder / "journal.db").stat().st_size / 1e6
    with (
        Broker(folder / "broker", "set_tcp_nodelay true", "max_queued_messages 0") as broker,
        subscriber(broker.port, "#", each=False) as counts,
    ):
        journal = Journal(folder / "journal.db", SystemClock(), cap_bytes=_CAP_BYTES)
        sink = MqttSink(
            journal, site="bench", line="l", version="0", host="127.0.0.1", port=broker.port, heartbeat_s=3600
        )
        journal.start()
        sink.start()
        memory_kb: list[int] = []
        arrived, first_ns, last_ns, said = 0, 0, 0, 0
        while arrived < args.backlog:
            time.sleep(0.25)
            counts.send("count")
            arrived, first_ns, last_ns = counts.recv()
            memory_kb.append(rss_kb())
            if arrived - said >= 100_000:
                said = arrived
                _say(f"{arrived} drained, {memory_kb[-1]} KB resident")
        status = sink.status()
        sink.stop(1.0)
        journal.stop()
    tenth = max(1, len(memory_kb) // 10)
    return {
        "backlog": args.backlog,
        "journal_mb": round(size_mb),
        "messages_per_s": round(args.backlog / ((last_ns - first_ns) / 1e9)),
        "resident_mb": {
            "after_a_tenth": round(memory_kb[tenth - 1] / 1024, 1),
            "max": round(max(memory_kb) / 1024, 1),
            "at_the_end": round(memory_kb[-1] / 1024, 1),
        },
        "disconnects": status["disconnects"],
    }


# --- live first -------------------------------------------------------------------------------------------------------


def listen(port: int, pipe: Connection) -> None:
    """A process: (delay in ms, is backfill) of what came since the last question."""
    lock = threading.Lock()
    delays_ms: list[float] = []
    counts: Counter[str] = Counter()

    def arrived(message: MQTTMessage) -> None:
        at_ns = time.time_ns()
        if message.topic.endswith("/backfill"):
            with lock:
                counts["backfill"] += 1
        elif message.topic.endswith("/decision"):
            decided_ns = datetime.fromisoformat(json.loads(message.payload)["decided_at"]).timestamp() * 1e9
            with lock:
                delays_ms.append((at_ns - decided_ns) / 1e6)

    client = Subscriber(port, "#", arrived)
    pipe.send("ready")
    while pipe.recv() != "stop":
        with lock:
            pipe.send((delays_ms.copy(), counts["backfill"]))
            delays_ms.clear()
            counts.clear()
    client.stop()


def one_line(args: argparse.Namespace, folder: Path, material: Material, backlog: Path | None) -> dict[str, Any]:
    """One run of a line: its frame path and the delays of its live decisions, in ms."""
    folder.mkdir()
    case = next(case for case in all_cases() if str(case) == args.case)
    path = folder / "journal.db"
    if backlog is not None:
        shutil.copyfile(backlog, path)
    with Broker(folder / "broker", "set_tcp_nodelay true", "max_queued_messages 0") as broker:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=listen, args=(broker.port, theirs))
        process.start()
        ours.recv()
        body = _LINE.format(
            journal=path, video=material.video(case), fps=args.fps, bundle=material.bundle(case), port=broker.port
        )
        line = Lineside(folder, body)
        try:
            until(lambda: line.is_up() and line.decisions("gate") > 0, 60, "it decides")
            time.sleep(_WARM_S)
            ours.send("ask")
            ours.recv()
            before = line.frame_path_ms("gate")
            time.sleep(args.seconds)
            frame_ms = line.frame_path_ms("gate") - before
            ours.send("ask")
            delays_ms, backfilled = ours.recv()
            pending = int(line.status()["mqtt"]["pending"])
        finally:
            line.stop()
            ours.send("stop")
            process.join(5)
    shutil.rmtree(folder)
    if backlog is not None and pending < 1000:
        raise SystemExit("bench_delivery: the backlog came to its end within the run: give a longer --backlog")
    return {"frame_ms": frame_ms, "delays_ms": delays_ms, "drained_per_s": backfilled / args.seconds}


def live(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Pairs of runs in random order: p99 with and without a backlog, and the spread of their ratio over the pairs."""
    material = Material(args.data, ROOT / "out", folder)
    _say(f"laying {args.backlog} rows ...")
    lay_backlog(folder / "backlog.db", args.backlog)
    dice = random.Random(1)
    pairs: list[dict[bool, dict[str, Any]]] = []
    for number in range(args.pairs):
        pair: dict[bool, dict[str, Any]] = {}
        for behind in dice.sample([False, True], 2):
            pair[behind] = one_line(args, folder / "run", material, folder / "backlog.db" if behind else None)
        pairs.append(pair)
        _say(f"pair {number + 1}: " + ", ".join(f"{'with' if b else 'without'} {_p99(pair[b])}" for b in pair))
    report: dict[str, object] = {"case": args.case, "fps": args.fps, "pairs": args.pairs, "seconds_each": args.seconds}
    for behind, name in ((False, "without_backlog"), (True, "with_backlog")):
        frame_ms: Counter[float] = sum((pair[behind]["frame_ms"] for pair in pairs), Counter())
        delays_ms = [ms for pair in pairs for ms in pair[behind]["delays_ms"]]
        report[name] = {
            "frame_path_ms": _of_histogram(frame_ms),
            "live_delay_ms": _of_values(delays_ms),
            "drained_per_s": round(sum(pair[behind]["drained_per_s"] for pair in pairs) / len(pairs)),
        }
    ratios = [_p99(pair[True])["frame_ms"] / _p99(pair[False])["frame_ms"] for pair in pairs]
    whole = report["with_backlog"]["frame_path_ms"]["p99"] / report["without_backlog"]["frame_path_ms"]["p99"]  # type: ignore[index]
    report["frame_path_p99_ratio"] = {
        "of_all_frames": round(whole, 3),
        "of_each_pair": [round(ratio, 3) for ratio in sorted(ratios)],
    }
    return report


def _p99(run: Mapping[str, Any]) -> dict[str, float]:
    return {"frame_ms": _of_histogram(run["frame_ms"])["p99"], "live_ms": _of_values(run["delays_ms"])["p99"]}


def _of_histogram(counts: Mapping[float, int]) -> dict[str, float]:
    rising = dict(sorted(counts.items()))
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {"frames": sum(rising.values()), **{name: round(quantile(rising, at), 3) for name, at in places.items()}}


def _of_values(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [float("nan")]
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    cells = {name: round(ordered[int(len(ordered) * at)], 2) for name, at in places.items()}
    return {"messages": len(values), **cells, "max": round(ordered[-1], 2)}


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sustained", "drain", "live"])
    parser.add_argument("--rate", type=float, default=1000.0, help="sustained: decisions a second")
    parser.add_argument("--broker-folder", type=Path, metavar="DIR", help="sustained: where the broker keeps its store")
    parser.add_argument("--seconds", type=float, default=20.0, help="sustained, live: how long it is measured")
    parser.add_argument("--backlog", type=int, help="rows (default: drain 1,000,000; live 200,000)")
    parser.add_argument("--pairs", type=int, default=4, help="live: runs with and without a backlog")
    parser.add_argument("--fps", type=float, default=15.0, help="live: of the camera")
    parser.add_argument("--case", default="mobilenet_v2_224/litert/360p", help="live: as in tools/bench/cases.py")
    parser.add_argument("--data", type=Path, default=os.environ.get("LINESIDE_DATA", ROOT.parent / "shared" / "data"))
    args = parser.parse_args()
    args.data = Path(args.data)
    args.backlog = args.backlog or (1_000_000 if args.what == "drain" else 200_000)
    folder = Path(tempfile.mkdtemp(prefix="lineside-bench-"))
    try:
        report = {"sustained": sustained, "drain": drain, "live": live}[args.what](args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({args.what: report}, indent=1))


if __name__ == "__main__":
    main()
