"""What the measuring tools run around the product: a real mosquitto on loopback, `lineside run`, a plain subscriber."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from lineside.control import ask
from lineside.errors import RemoteError

# without the autosave lines mosquitto 2.0 loses acknowledged messages on kill -9, without max_queued_messages more
CRASH_SAFE = (
    "persistence true",
    "autosave_interval 1",
    "autosave_on_changes true",
    "max_queued_messages 0",
    "set_tcp_nodelay true",
)
FAST = ("set_tcp_nodelay true", "max_queued_messages 0")
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Poll; ends the program with a sentence if the condition does not come true."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{Path(sys.argv[0]).name}: {what} within {within_s:g} s: it did not happen")
        time.sleep(0.005)


class Broker:
    """A mosquitto on a free port of loopback, always the same one, however often it is killed and started."""

    def __init__(self, folder: Path, *lines: str) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("mosquitto is absent: apt install mosquitto")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        folder.mkdir(parents=True, exist_ok=True)
        settings = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            f"persistence_location {folder}/",
            *lines,
        ]
        if os.geteuid() == 0:
            settings.append("user root")
        (folder / "mosquitto.conf").write_text("\n".join([*settings, ""]))
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(self._listens, 10, "mosquitto listens")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Lineside:
    """`lineside run` as a process, with state and control socket in `folder`; `body` is the rest of its lineside.toml.

    `started_s` is time.monotonic() right before the process is made.
    """

    def __init__(
        self,
        folder: Path,
        body: str,
        cache_dir: Path | None = None,
        *,
        log_decisions: bool = False,
        program: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`program` stands for the command `lineside`; `environment` is added to this process's own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._socket = folder / "control.sock"
        head = {
            "control_socket": self._socket,
            "state_dir": folder / "state",
            "cache_dir": cache_dir or folder / "cache",
        }
        logged = f"log_decisions = {str(log_decisions).lower()}"
        lines = ["[daemon]", logged, *(f'{key} = "{path}"' for key, path in head.items())]
        (folder / "lineside.toml").write_text("\n".join([*lines, "", body]))
        self._log = folder / "daemon.log"
        program = program or [str(Path(sys.executable).with_name("lineside"))]
        self._command = [*program, "run", str(folder / "lineside.toml")]
        self._environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        """Also after `kill` or `stop`; the log goes on."""
        with self._log.open("ab") as log:
            self.started_s = time.monotonic()
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_up(self) -> bool:
        """Whether it answers; ends the program with the daemon's own words if the daemon has ended."""
        try:
            return bool(self.status())
        except RemoteError:
            return not self.check_alive()

    def status(self) -> dict[str, Any]:
        """What `lineside status` shows."""
        answer = ask(self._socket, "status")
        assert isinstance(answer, dict)
        return answer

    def decisions(self, station: str) -> int:
        """How many it has made since its start; 0 before the station is open."""
        return int(self.status().get("stations", {}).get(station, {}).get("decisions", 0))

    def frame_path_ms(self, station: str) -> Counter[float]:
        """How many frames took so many milliseconds so far."""
        answer = ask(self._socket, "histograms")
        assert isinstance(answer, dict)
        return Counter({float(edge): count for edge, count in answer[station]["frame_path_ms"].items()})

    def cpu_s(self) -> float:
        """CPU time of the process so far, all threads, user and system (proc(5), stat fields 14 and 15)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS

    def pss_mb(self) -> float:
        """Proportional set size in MiB, as tools/loops.py measures itself."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def check_alive(self) -> bool:
        """Ends the program with the daemon's own words if the daemon has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"lineside run ended with {self._process.returncode}:\n{self.log()}")
        return True

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def stop(self) -> int:
        """SIGTERM, as systemd does; the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise SystemExit(f"lineside run did not stop within 10 s:\n{self.log()}") from None


class Subscriber:
    """Plain paho, QoS 1, MQTT 5, nothing of lineside; `on_message` runs in paho's own thread.

    With `session_s` the broker keeps the session, and what comes meanwhile, for so long.
    """

    def __init__(
        self, port: int, topic: str, on_message: Callable[[MQTTMessage], None], *, session_s: int = 0, name: str = ""
    ) -> None:
        self.connections = 0
        self._subscribed = 0
        self._topic = topic
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
        self._client.on_message = lambda _client, _user, message: on_message(message)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._have_subscribed
        self._client.reconnect_delay_set(1, 2)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = session_s
        self._client.connect("127.0.0.1", port, clean_start=session_s == 0, properties=properties)
        self._client.loop_start()
        until(lambda: self._subscribed, 10, "the broker grants the subscription")

    def _connected(self, *_: object) -> None:
        self.connections += 1
        self._client.subscribe(self._topic, 1)

    def _have_subscribed(self, *_: object) -> None:
        self._subscribed += 1

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
