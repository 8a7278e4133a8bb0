"""What it costs to get a decision to a subscriber: lineside's journal and MQTT sink beside a bare paho publish.

    python tools/bench_mqtt.py [--rounds 2000] [--json]

Starts its own mosquitto on loopback. The subscriber is a process of its own; times are CLOCK_MONOTONIC, which Linux
processes share. Bare and lineside messages of the same size are interleaved, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from lineside.clock import SystemClock
from lineside.deliver import messages
from lineside.deliver.journal import Journal
from lineside.deliver.mqtt import MqttSink
from lineside.records import Decision, Finding, ModelRef, Part

PAUSE_S = 0.004  # between two messages: nothing queues, each is alone on its way


def a_decision(number: int) -> Decision:
    """A reject with three findings: about 900 bytes as a message."""
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    findings = tuple(Finding("scratch", 3, 0.91 - i / 10, (101.5, 222.25, 340.0, 400.5)) for i in range(3))
    return Decision(
        id=f"bench-{number}",
        station="bench",
        part=Part(f"part-{number}", "bench", number, now_ns, wall_ns),
        verdict="reject",
        output="reject",
        cause="defect: scratch 0.91 at or above 0.5",
        late=False,
        score=0.91,
        findings=findings,
        model=ModelRef("bench", "1", "sha256:" + "0" * 64),
        backend="onnxruntime:cpu",
        captured_ns=now_ns,
        captured_wall_ns=wall_ns,
        decided_ns=now_ns,
        decided_wall_ns=wall_ns,
    )


@contextmanager
def broker(folder: Path, *lines: str) -> Iterator[int]:
    """A mosquitto on a free port of loopback."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        sys.exit("bench_mqtt: mosquitto is absent: apt install mosquitto")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    settings = [f"listener {port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true", "max_queued_messages 0"]
    if os.geteuid() == 0:
        settings.append("user root")
    (folder / "mosquitto.conf").write_text("\n".join([*settings, *lines, ""]))
    command = [program, "-c", str(folder / "mosquitto.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if time.monotonic() > deadline:
                sys.exit("bench_mqtt: mosquitto did not start")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


def subscribe(port: int, pipe: Connection, topic: str, each: bool) -> None:
    """A process: sends the arrival time of each message, or (count, first, last) when there is a break."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    times: list[int] = []

    def arrived(_client: Client, _user: object, message: MQTTMessage) -> None:
        times.append(time.monotonic_ns())
        if each:
            pipe.send(times.pop())

    client.on_message = arrived
    client.on_subscribe = lambda *_: pipe.send("ready")
    client.connect("127.0.0.1", port)
    client.subscribe(topic, 1)
    client.loop_start()
    while pipe.recv() != "stop":
        pipe.send((len(times), times[0] if times else 0, times[-1] if times else 0))
    client.loop_stop()


@contextmanager
def subscriber(port: int, topic: str, each: bool = True) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=subscribe, args=(port, theirs, topic, each))
    process.start()
    assert ours.recv() == "ready"
    try:
        yield ours
    finally:
        ours.send("stop")
        process.join(5)
        process.kill()


def percentiles(values_ns: list[int]) -> dict[str, float]:
    ordered = sorted(values_ns)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
    return {name: round(ordered[int(len(ordered) * place)] / 1e6, 3) for name, place in places.items()}


def latency(port: int, folder: Path, rounds: int) -> dict[str, object]:
    """Hand-over to subscriber, in ms: bare publish, journal without and with fsync; interleaved."""
    bare = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    bare.connect("127.0.0.1", port)
    bare.loop_start()
    body = messages.body(a_decision(0), True)
    senders: dict[str, Callable[[int], object]] = {"bare_paho": lambda _: bare.publish("bench/bare", body, 1)}
    opened: list[tuple[Journal, MqttSink]] = []
    for name, durable in (("durable_false", False), ("durable_true", True)):
        journal = Journal(folder / f"{name}.db", SystemClock(), durable=durable)
        sink = MqttSink(journal, site="bench", line=name, version="0", host="127.0.0.1", port=port, box=name)
        journal.start()
        sink.start()
        opened.append((journal, sink))
        senders[name] = lambda number, journal=journal: journal.put(a_decision(number))  # type: ignore[misc]
    took: dict[str, list[int]] = {name: [] for name in senders}
    with subscriber(port, "+/+/+/+/decision") as decisions, subscriber(port, "bench/bare") as plain:
        for number in range(-50, rounds):  # the first fifty warm up
            for name, send in senders.items():
                started_ns = time.monotonic_ns()
                send(number)
                arrived_ns = (plain if name == "bare_paho" else decisions).recv()
                if number >= 0:
                    took[name].append(arrived_ns - started_ns)
                time.sleep(PAUSE_S)
    for journal, sink in opened:
        sink.stop(1.0)
        journal.stop()
    bare.disconnect()
    bare.loop_stop()
    table = {name: percentiles(values) for name, values in took.items()}
    base = table["bare_paho"]["p50"]
    return {"ms": table, "ratio_p50": {name: round(row["p50"] / base, 2) for name, row in table.items()}}


def put_cost(folder: Path, rounds: int) -> dict[str, float]:
    """What `put` costs the pipeline, in ms, at a part every 2 ms."""
    journal = Journal(folder / "put.db", SystemClock())
    journal.start()
    took = []
    for number in range(rounds):
        record = a_decision(number)
        started_ns = time.perf_counter_ns()
        journal.put(record)
        took.append(time.perf_counter_ns() - started_ns)
        time.sleep(0.002)
    journal.stop()
    return percentiles(took)


def commits(folder: Path, durable: bool, count: int) -> dict[str, float]:
    """Records a second when they come as fast as they can, and one at a time."""
    journal = Journal(folder / f"commits-{durable}.db", SystemClock(), durable=durable)
    journal.start()
    records = [a_decision(number) for number in range(count)]
    started = time.monotonic()
    for record in records:
        journal.put(record)
    journal.flush(120)
    together = count / (time.monotonic() - started)
    singles = []
    for record in records[:1000]:
        started_ns = time.monotonic_ns()
        journal.put(record)
        journal.flush(10)
        singles.append(time.monotonic_ns() - started_ns)
    journal.stop()
    return {"records_per_s": round(together), **{f"single_ms_{k}": v for k, v in percentiles(singles).items()}}


def drain(folder: Path, count: int, *lines: str) -> dict[str, float]:
    """How fast a backlog reaches a subscriber when the line is idle."""
    journal = Journal(folder / "drain.db", SystemClock(), durable=False)
    journal.start()
    for number in range(count):
        journal.put(a_decision(number))
    journal.flush(120)
    journal.stop()
    (folder / "drain").mkdir()
    with broker(folder / "drain", *lines) as port, subscriber(port, "#", each=False) as counts:
        journal = Journal(folder / "drain.db", SystemClock(), durable=False, boot="another")
        sink = MqttSink(journal, site="bench", line="drain", version="0", host="127.0.0.1", port=port, heartbeat_s=3600)
        before_kb = rss_kb()
        journal.start()
        sink.start()
        arrived, first_ns, last_ns = 0, 0, 0
        while arrived < count:
            time.sleep(0.1)
            counts.send("count")
            arrived, first_ns, last_ns = counts.recv()
        grown_kb = rss_kb() - before_kb
        sink.stop(1.0)
        journal.stop()
    shutil.rmtree(folder / "drain")
    (folder / "drain.db").unlink()
    return {"messages_per_s": round(count / ((last_ns - first_ns) / 1e9)), "memory_grown_kb": grown_kb}


def rss_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="messages of each kind (default: 2000)")
    parser.add_argument("--backlog", type=int, default=10000, help="rows of the backlog (default: 10000)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lineside-bench-"))
    report: dict[str, object] = {}

    def note(name: str, step: Callable[[], object]) -> None:
        print(f"{name} ...", file=sys.stderr)
        report[name] = step()
        if not args.json:
            print(f"{name}: {json.dumps(report[name])}", flush=True)

    try:
        with broker(folder) as port:
            note("decision_to_subscriber", lambda: latency(port, folder, args.rounds))
        note("put", lambda: put_cost(folder, args.rounds))
        note("commit_durable_true", lambda: commits(folder, True, args.backlog))
        note("commit_durable_false", lambda: commits(folder, False, args.backlog))
        note("drain_default_broker", lambda: drain(folder, args.backlog))
        safe = ("persistence true", f"persistence_location {folder}/", "autosave_interval 1")
        note("drain_crash_safe_broker", lambda: drain(folder, args.backlog, *safe, "autosave_on_changes true"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
