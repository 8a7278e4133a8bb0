"""One round: broker, proxy, line and receiver as processes; faults at their instants; then the verdict."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import kit
from chaos import line as lines
from chaos.plan import Fault, Kind
from chaos.proxy import BOTH, Proxy, Way
from chaos.verdict import Key, Made, Verdict, back_after_s, delays_ms, judge, newest, percentiles
from lineside.errors import RemoteError
from peers import CRASH_SAFE, Broker, Lineside, until

TOOLS = Path(__file__).resolve().parents[1]
_DRAIN_S = 60.0
_QUIET_S = 4.0  # nothing more arrives for so long: what is missing then is lost
_KIT_QUIET_S = 20.0
_AIM_S = 5.0  # a kill that waits for a message strikes without one after this time


class Inbox:
    """The receiver as a process, and the lines that it has written so far."""

    def __init__(self, port: int, file: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self.subscriptions = 0
        self.said: set[Key] = set()  # newest seqs, of the box's status messages
        file.touch()
        self._file = file.open()
        self._half = ""
        path = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "chaos.receiver", str(port), str(file)]
        self._process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    def read(self) -> int:
        """Take in what has come; how many different records there are."""
        *whole, self._half = (self._half + self._file.read()).split("\n")
        for text in whole:
            line = json.loads(text)
            if line["kind"] == "subscribed":
                self.subscriptions += 1
            elif line["kind"] == "status":
                epoch, last_seq = line["said"]
                self.said |= {(station, epoch, seq) for station, seq in (last_seq or {}).items()}
            else:
                self.lines.append(line)
        return len(self.lines)

    def settle(self, keys: set[Key]) -> None:
        """Wait until all of them are here, or nothing more comes."""
        have, since = -1, time.monotonic()
        while time.monotonic() - since < _QUIET_S:
            if (count := self.read()) != have:
                have, since = count, time.monotonic()
                if keys <= {_key(line) for line in self.lines}:
                    return
            time.sleep(0.02)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
        self.read()
        self._file.close()


class Kit:
    """The receiver kit as a process that is killed and started again."""

    def __init__(self, port: int, file: Path) -> None:
        self.file = file
        self._command = [sys.executable, "-m", "chaos.kit", str(port), str(file)]
        path = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
        self._environment = {**os.environ, "PYTHONPATH": path}
        self.start()
        until(self._is_there, 20, "the receiver kit makes its file")

    def start(self) -> None:
        with self.file.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stderr=log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def settle(self, epoch: str, last_seq: Mapping[str, int]) -> None:
        """Wait until everything up to these seqs was handled, or no more is for a while: it asks with patience."""
        have, since = -1, time.monotonic()
        while time.monotonic() - since < _KIT_QUIET_S and have < sum(last_seq.values()):
            if (now := kit.count(self.file, epoch, last_seq)) != have:
                have, since = now, time.monotonic()
            time.sleep(0.1)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(15)

    def _is_there(self) -> bool:
        try:
            return kit.count(self.file, "", {"": 0}) >= 0
        except sqlite3.OperationalError:
            return False


@dataclass
class Round:
    """What one round did and found."""

    seed: int
    faults: Counter[str]
    verdict: Verdict  # of the plain subscriber
    kit: Verdict  # of the receiver kit, which asks for what it lacks
    kit_told: dict[str, int]
    delays_ms: list[float]
    back_s: dict[str, list[float]]  # kind of fault -> how long until the next decision arrived
    took_s: float
    log: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> list[str]:
        return [*self.verdict.wrong, *(f"the receiver kit: {words}" for words in self.kit.wrong)]

    def report(self) -> dict[str, object]:
        return {
            "seed": self.seed,
            "faults": dict(self.faults),
            **self.verdict.report(),
            "ok": self.ok,
            "wrong": self.wrong,
            "kit": {"handled": self.kit.received, "lost": self.kit.lost, "doubled": self.kit.doubled, **self.kit_told},
            "live_delay_ms": percentiles(self.delays_ms),
            "back_s": {kind: percentiles(values, 2) for kind, values in self.back_s.items()},
            "took_s": round(self.took_s, 1),
        }


class Stage:
    """Broker, proxy, line and receiver, and the faults that befall them. A context."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Sequence[str] = CRASH_SAFE,
        fps: float = 50.0,
        durable: bool = True,
        program: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.folder = folder
        self.live_max_age_ms = 1000
        self.log: list[str] = []
        self.ended_ns: dict[str, list[int]] = {}
        self.said: set[Key] = set()
        self.made: dict[Key, Made] = {}
        self._dice = random.Random(seed)
        self._began_s = time.monotonic()
        with ExitStack() as started:
            self.broker = Broker(folder / "broker", *settings)
            started.callback(self.broker.kill)
            self.broker.start()
            self.proxy = started.enter_context(Proxy(self.broker.port))
            self.inbox = Inbox(self.broker.port, folder / "received.jsonl")
            started.callback(self.inbox.close)
            until(lambda: self.inbox.read() or self.inbox.subscriptions, 20, "the receiver subscribes")
            self.kit = Kit(self.broker.port, folder / "kit.db")
            started.callback(self.kit.kill)
            body = lines.config(folder, self.proxy.port, fps=fps, durable=durable, live_max_age_ms=self.live_max_age_ms)
            self.line = Lineside(folder, body, log_decisions=True, program=program, environment=environment)
            started.callback(self.line.kill)
            self._started = started.pop_all()

    def run(self, faults: Sequence[Fault]) -> None:
        """Do to the line what is planned, each thing at its instant."""
        until(lambda: self.inbox.read() and self.line.check_alive(), 60, "the first decision arrives")
        began_s = time.monotonic()
        steps: list[tuple[float, int, Callable[[], None]]] = []
        for number, fault in enumerate(faults):
            heapq.heappush(steps, (fault.at_s, 2 * number, lambda fault=fault: self._begin(fault)))  # type: ignore[misc]
            if fault.lasts_s:
                end = (fault.at_s + fault.lasts_s, 2 * number + 1, lambda fault=fault: self._end(fault))
                heapq.heappush(steps, end)
        while steps:
            at_s, _, act = heapq.heappop(steps)
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            acted_s = time.monotonic()
            act()
            began_s += time.monotonic() - acted_s  # what follows keeps its distance
            self.inbox.read()

    def conclude(self, tolerated: Collection[str] = ()) -> Verdict:
        """Let everything arrive, stop the line, compare."""
        until(self._nothing_waits, _DRAIN_S, "what waits is delivered")
        journal = self.line.status()["journal"]
        self.kit.settle(journal["epoch"], journal["last_seq"])  # the line must run to answer it
        self.line.stop()
        self.made = lines.journalled(self.folder / "state" / "journal.db")
        self.inbox.settle(set(self.made))
        runs = lines.runs(self.folder / "daemon.log")
        said = self.said | self.inbox.said
        verdict = judge(self.made, self.inbox.lines, runs, said, self.live_max_age_ms, tolerated)
        verdict.wrong += lines.ledger_faults(self.folder / "state" / "journal.db")
        return verdict

    def conclude_kit(self) -> Verdict:
        """After `conclude`: what the receiver kit handed over."""
        for epoch in {epoch for _, epoch, _ in self.made}:
            self.kit.settle(epoch, newest(self.made, epoch))
        self.kit.close()
        return judge(self.made, kit.handled(self.kit.file), [], [], self.live_max_age_ms)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    # --- faults

    def _begin(self, fault: Fault) -> None:
        self._note(f"{fault.kind} {fault.how}" + (f" for {fault.lasts_s:.2f} s" if fault.lasts_s else ""))
        getattr(self, f"_{fault.kind}")(fault)
        if not fault.lasts_s:
            self._ended(fault)

    def _end(self, fault: Fault) -> None:
        {"kill_broker": self.broker.start, "kill_receiver": self.kit.start, "black_hole": self.proxy.heal}[fault.kind]()
        self._ended(fault)

    def _ended(self, fault: Fault) -> None:
        self.ended_ns.setdefault(fault.kind, []).append(time.time_ns())

    def _kill_daemon(self, fault: Fault) -> None:
        self._ask()
        if fault.how != "at once":  # the narrow places are around a commit and a publication
            before, deadline = self.inbox.read(), time.monotonic() + _AIM_S
            while self.broker.is_running and self.inbox.read() == before and time.monotonic() < deadline:
                pass
            time.sleep(self._dice.uniform(0.0, 0.004))
        self.line.kill()
        self.line.start()

    def _kill_broker(self, _fault: Fault) -> None:
        self.broker.kill()

    def _kill_receiver(self, _fault: Fault) -> None:
        self.kit.kill()

    def _cut(self, fault: Fault) -> None:
        self.proxy.cut(reset=fault.how == "RST")

    def _black_hole(self, fault: Fault) -> None:
        how, *named = fault.how.split()
        ways: tuple[Way, ...] = tuple(way for way in BOTH if way in named) or BOTH
        (self.proxy.black_hole if how == "swallow" else self.proxy.stall)(*ways)

    def _ask(self) -> None:
        """What the daemon says now must still be true after it was killed."""
        try:
            journal = self.line.status()["journal"]
        except RemoteError:
            return  # it has not come so far
        if journal:
            self.said |= {(station, journal["epoch"], seq) for station, seq in journal["last_seq"].items()}

    def _nothing_waits(self) -> bool:
        time.sleep(0.1)
        self.inbox.read()
        try:
            status = self.line.status()
        except RemoteError:
            return not self.line.check_alive()
        sink = status.get("mqtt", {})  # it is there only when the daemon has come so far
        pending = sink.get("pending")  # None: it has not yet read what waits
        return bool(sink.get("connected")) and pending is not None and int(pending) <= 2

    def _note(self, words: str) -> None:
        self.log.append(f"{time.monotonic() - self._began_s:8.3f} s  {words}")


def play(folder: Path, faults: Sequence[Fault], seed: int, *, tolerated: Collection[str] = (), **options: Any) -> Round:
    """A whole round in an empty folder; options are those of Stage."""
    began_s = time.monotonic()
    with Stage(folder, seed=seed, **options) as stage:
        stage.run(faults)
        verdict = stage.conclude(tolerated)
        of_kit = stage.conclude_kit()
        told = kit.told(stage.kit.file)
        back_s = {kind: back_after_s(stage.inbox.lines, ended) for kind, ended in stage.ended_ns.items()}
        kinds: Counter[Kind] = Counter(fault.kind for fault in faults)
        took_s = time.monotonic() - began_s
        delays = delays_ms(stage.inbox.lines)
        return Round(seed, Counter(kinds), verdict, of_kit, told, delays, back_s, took_s, stage.log)


def _key(line: Mapping[str, Any]) -> Key:
    station, epoch, seq = line["key"]
    return (station, epoch, seq)
