"""The two sides of the comparison, each in a process of its own: tools/loops.py, and `lineside run` with a broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.cases import Case, Material
from lineside.metrics import quantile
from peers import FAST, Broker, Lineside, Subscriber, until

_LOOPS = Path(__file__).resolve().parents[1] / "loops.py"
WARM_UP = 15  # frames before latency and CPU time count, as in tools/loops.py
_STEADY_S = 1.0  # at full speed, before decisions are counted
_START_S = 60.0

_CONFIG = """
[cameras.line]
driver = "clip"
path = "{video}"
loop = true
{pace}

[stations.bench]
camera = "line"
bundle = "{bundle}"
backend = "{engine}"
{threads}

[stations.bench.trigger]
per = "frame"

[[stations.bench.rules]]
kind = "threshold"
high = 0.5

[mqtt]
host = "127.0.0.1"
port = {port}
"""


class _Arrivals:
    """Decisions at the subscriber. Waiting sleeps: a poll would disturb what is measured, two threads on two cores."""

    def __init__(self) -> None:
        self.count = 0
        self.first_s = 0.0  # time.monotonic()
        self._moved = threading.Condition()

    def note(self) -> None:
        with self._moved:
            self.count += 1
            self.first_s = self.first_s or time.monotonic()
            self._moved.notify()

    def wait(self, count: int, within_s: float, daemon: Lineside) -> None:
        """Until so many came; ends the program if they do not."""
        deadline = time.monotonic() + within_s
        with self._moved:
            while not self._moved.wait_for(lambda: self.count >= count, 1.0):
                daemon.check_alive()
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.count} of {count} decisions within {within_s:g} s:\n{daemon.log()}")


def loops(command: str, case: Case, material: Material, threads: int, frames: int, *words: str) -> dict[str, Any]:
    """One run of tools/loops.py: its JSON object."""
    size = f"{case.net.side_px}x{case.net.side_px}"
    line = [sys.executable, str(_LOOPS), command, "--engine", case.engine, "--model", str(material.model(case))]
    line += ["--family", case.net.family, "--size", size, "--threads", str(threads), "--frames", str(frames), "--json"]
    if command != "bare":
        line += ["--video", str(material.video(case))]
    if case.engine == "openvino":
        line += ["--cache-dir", str(material.folder / "loops_cache")]
    done = subprocess.run([*line, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def paced(case: Case, material: Material, threads: int, frames: int, fps: float) -> dict[str, Any]:
    """The daemon at a steady pace, every decision on its way to a subscriber: path, start, CPU and memory."""
    arrivals = _Arrivals()
    folder = material.folder / f"run-{time.monotonic_ns()}"
    pace = f'fps = {fps}\nmode = "freshest"'
    with Broker(folder / "broker", *FAST) as broker:
        decisions = Subscriber(broker.port, "lineside/+/+/bench/decision", lambda _: arrivals.note())
        daemon = Lineside(folder, _config(case, material, broker, pace, threads), material.folder / "cache")
        try:
            arrivals.wait(WARM_UP, _START_S, daemon)
            before_ms, began, began_cpu_s = daemon.frame_path_ms("bench"), arrivals.count, daemon.cpu_s()
            arrivals.wait(began + frames, 4 * frames / fps, daemon)
            spent_s, seen = daemon.cpu_s() - began_cpu_s, arrivals.count - began
            pss_mb, path_ms = daemon.pss_mb(), daemon.frame_path_ms("bench")
        finally:
            daemon.stop()
            decisions.stop()
    path_ms.subtract(before_ms)
    return {
        "p50_ms": round(quantile(path_ms, 0.5), 4),
        "p99_ms": round(quantile(path_ms, 0.99), 4),
        "max_ms": round(quantile(path_ms, 1.0), 4),
        "cpu_ms_per_frame": round(spent_s / seen * 1000, 3),
        "pss_mb": round(pss_mb, 1),
        "first_decision_s": round(arrivals.first_s - daemon.started_s, 3),
        "decisions": path_ms.total(),
    }


def full_speed(case: Case, material: Material, measure_s: float) -> float:
    """Decisions a second from a file with both cores, journal and broker attached, over the steady part."""
    folder = material.folder / f"run-{time.monotonic_ns()}"
    with Broker(folder / "broker", *FAST) as broker:
        body = _config(case, material, broker, 'pace = "max_speed"', None)
        daemon = Lineside(folder, body, material.folder / "cache")
        try:
            until(lambda: _decisions(daemon)[1] > WARM_UP, _START_S, f"{case}: {WARM_UP} decisions at full speed")
            time.sleep(_STEADY_S)
            began_s, before = _decisions(daemon)
            time.sleep(measure_s)
            ended_s, after = _decisions(daemon)
        finally:
            daemon.stop()
    return round((after - before) / (ended_s - began_s), 2)


def warm_caches(case: Case, material: Material, threads: int) -> None:
    """Let both sides compile the model once, as on any start but the first (OpenVINO)."""
    if case.engine != "openvino":
        return
    loops("tuned", case, material, threads, 1)
    paced(case, material, threads, 1, 15.0)


def _config(case: Case, material: Material, broker: Broker, pace: str, threads: int | None) -> str:
    return _CONFIG.format(
        video=material.video(case),
        pace=pace,
        bundle=material.bundle(case),
        engine=case.engine,
        threads=f"threads = {threads}" if threads else "",
        port=broker.port,
    )


def _decisions(daemon: Lineside) -> tuple[float, int]:
    """When, and how many decisions so far; 0 until the daemon answers."""
    from lineside.errors import RemoteError

    daemon.check_alive()
    try:
        station = daemon.status()["stations"].get("bench", {})
    except RemoteError:
        time.sleep(0.05)
        station = {}
    return time.monotonic(), int(station.get("decisions", 0))
