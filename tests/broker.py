"""A real mosquitto for tests: started, killed and started again on one port, with or without crash-safe settings."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

import pytest

# what facts of mosquitto 2.0.11 taught: without the autosave lines kill -9 loses acknowledged messages
CRASH_SAFE = (
    "persistence true",
    "autosave_interval 1",
    "autosave_on_changes true",
)
ALWAYS = ("max_queued_messages 0", "set_tcp_nodelay true")  # the default queue drops for a slow subscriber


def mosquitto() -> str:
    """The broker's program; a test that needs it skips without, except in CI."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("mosquitto is absent, and in CI the tests with a real broker must run: apt install mosquitto")
        pytest.skip("mosquitto is absent: apt install mosquitto")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """`lines` replace the default access rule ("allow_anonymous true"); use as a context or call start and close."""

    def __init__(self, folder: Path, *lines: str, crash_safe: bool = True) -> None:
        self.port = free_port()
        self._program = mosquitto()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings = [
            "per_listener_settings false",
            f"listener {self.port} 127.0.0.1",
            f"persistence_location {folder}/",
            *(("user root",) if os.geteuid() == 0 else ()),
            *ALWAYS,
            *(CRASH_SAFE if crash_safe else ()),
            *(lines or ("allow_anonymous true",)),
        ]
        (folder / "mosquitto.conf").write_text("\n".join(settings) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self._folder / "mosquitto.log").open("ab")
        command = [self._program, "-c", str(self._folder / "mosquitto.conf")]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 10
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"mosquitto did not start: {self.log()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def reload(self) -> None:
        """Read ACL and password files again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def log(self) -> str:
        return (self._folder / "mosquitto.log").read_text(errors="replace")

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SilentBroker:
    """Speaks just enough MQTT to misbehave: `answers` are the bytes for each packet type, None closes at once.

    SilentBroker({0x10: CONNACK}) accepts a client and never acknowledges; SilentBroker({0x10: None}) closes.
    """

    CONNACK_5 = b"\x20\x03\x00\x00\x00"
    CONNACK_311 = b"\x20\x02\x00\x00"

    def __init__(self, answers: dict[int, bytes | None]) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self.packets: list[int] = []  # first bytes of what clients sent
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            while first := stream.read(1):
                length = shift = 0
                while True:
                    byte = stream.read(1)
                    if not byte:
                        return
                    length |= (byte[0] & 0x7F) << shift
                    shift += 7
                    if not byte[0] & 0x80:
                        break
                stream.read(length)
                self.packets.append(first[0])
                answer = self._answers.get(first[0] & 0xF0, b"")
                if answer is None:
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
