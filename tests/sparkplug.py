"""What the Sparkplug tests run beside the sink: an independent host in JavaScript, a link that can be cut, a sink."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lineside.deliver.journal import Journal
from lineside.deliver.sparkplug.sink import SparkplugSink

JS = Path(__file__).parent / "js"


def node() -> str:
    """The program that runs tests/js; a test that needs it skips without, except in CI."""
    found = shutil.which("node")
    if found and (JS / "node_modules" / "sparkplug-payload").is_dir():
        return found
    missing = "node or tests/js/node_modules is absent: apt install nodejs npm, then `npm ci` in tests/js"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


class Host:
    """tests/js/sparkplug_host.mjs: `heard` are the messages that it understood, `broken` the rules that were not kept.

    With `host_id` it is a host application with a STATE: offline until `say("online")`.
    """

    def __init__(self, port: int, host_id: str | None = None) -> None:
        self.heard: list[dict[str, Any]] = []
        self._ready = threading.Event()
        command = [node(), str(JS / "sparkplug_host.mjs"), str(port), *([host_id] if host_id else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(20), "the host did not connect"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said.pop("ready", False):
                self._ready.set()
            else:
                self.heard.append(said)

    @property
    def broken(self) -> list[str]:
        return [rule for message in list(self.heard) for rule in message.get("broken", ())]

    def of(self, verb: str, device: str | None = None) -> list[dict[str, Any]]:
        return [m for m in list(self.heard) if m["verb"] == verb and device in (None, m.get("device"))]

    def seqs(self, device: str = "gate") -> list[int]:
        """Record/Seq of each DDATA."""
        return [message["values"].get("Record/Seq") for message in self.of("DDATA", device)]

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """kill -9: the broker publishes its will."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        if self._process.poll() is None:
            self.say("quit")
        self._process.wait(10)
        self._reader.join(10)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join(10)


class Cuttable:
    """A TCP link to a port that can be cut; `sent` is what went to the port, a buffer for each connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.sent: list[bytearray] = []
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends += [near, far]
            self.sent.append(bytearray())
            for ends in ((near, far, self.sent[-1]), (far, near, bytearray())):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, copy: bytearray) -> None:
        try:
            while data := source.recv(65536):
                copy += data
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def cut(self) -> None:
        """Break every connection."""
        ends, self._ends = self._ends, []
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the other side was first

    def close(self) -> None:
        self._listener.close()
        self.cut()


def sparkplug_sink(
    journal: Journal, port: int, state_dir: Path, kind: type[SparkplugSink] = SparkplugSink, **options: Any
) -> SparkplugSink:
    """A sink with short waits, not started."""
    chosen: dict[str, Any] = {
        "group_id": "plant",
        "edge_node_id": "box",
        "devices": {"gate": "gate"},
        "version": "1",
        "host": "127.0.0.1",
        "reconnect_min_s": 0.02,
        "reconnect_max_s": 0.1,
        **options,
    }
    return kind(journal, port=port, state_dir=state_dir, **chosen)


@contextmanager
def running(made: SparkplugSink) -> Iterator[SparkplugSink]:
    made.start()
    try:
        yield made
    finally:
        made.stop(1.0)
