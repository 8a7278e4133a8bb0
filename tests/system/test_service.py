"""lineside.service as it ships, under a real systemd: it decides, survives, gives up and stops as its page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from container import Container, obstacle

pytestmark = [pytest.mark.nspawn, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
LINESIDE = "/opt/lineside/bin/lineside"
Eventually = Callable[..., None]

CONFIG = """
site = "plant1"
line = "line3"
[cameras.belt]
driver = "synthetic"
fps = 15
[stations.inspect]
camera = "belt"
bundle = "conveyor-parts"
backend = "{backend}"
[stations.inspect.trigger]
per = "frame"
[[stations.inspect.rules]]
kind = "count"
max_count = 1000
[mqtt]
host = "127.0.0.1"
port = 1883
"""

BROKER = """
listener 1883 127.0.0.1
allow_anonymous true
"""

# An independent subscriber: prints each message as one JSON line.
SUBSCRIBER = """
import json, paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_connect = lambda *_: client.subscribe("#", qos=1)
client.on_subscribe = lambda *_: print("{}", flush=True)
client.on_message = lambda *a: print(json.dumps({"topic": a[2].topic, "body": a[2].payload.decode()}), flush=True)
client.connect("127.0.0.1", 1883)
client.loop_forever()
"""


class Box(Container):
    """A machine on which docs/install.md was followed, and a broker."""

    def install(self) -> None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        python = "/usr" if sys.base_prefix == "/usr" else "/mnt/python"
        self.run(f"{python}/bin/{version}", "-m", "venv", "--without-pip", "/opt/lineside")
        self.write(f"/opt/lineside/lib/{version}/site-packages/borrowed.pth", "/mnt/dependencies\n")
        wheel = self.run("sh", "-c", "echo /mnt/wheel/lineside-*.whl").strip()
        quiet = ("--quiet", "--disable-pip-version-check")
        self.run("/opt/lineside/bin/python", "-m", "pip", *quiet, "install", "--no-deps", "--no-index", wheel)
        for source, target in (
            ("lineside.sysusers", "/usr/lib/sysusers.d/lineside.conf"),
            ("99-lineside.rules", "/etc/udev/rules.d/99-lineside.rules"),
            ("lineside.service", "/etc/systemd/system/lineside.service"),
        ):
            self.run("install", "-Dm644", f"/mnt/systemd/{source}", target)
        self.run("systemd-sysusers")
        self.run("systemctl", "daemon-reload")
        self.write("/etc/broker.conf", BROKER)
        self.run("systemd-run", "--quiet", "--unit=broker", "mosquitto", "-c", "/etc/broker.conf")

    def configure(self, text: str) -> None:
        self.write("/etc/lineside/lineside.toml", text)

    def drop_in(self, text: str) -> None:
        self.write("/run/systemd/system/lineside.service.d/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def reset(self) -> None:
        self.call("systemctl", "stop", "lineside")
        self.call("systemctl", "reset-failed", "lineside")
        self.run("rm", "-rf", "/run/systemd/system/lineside.service.d", "/var/lib/lineside")
        self.run("systemctl", "daemon-reload")
        self.run("journalctl", "--rotate", "--vacuum-time=1s")

    def start(self) -> None:
        done = self.call("systemctl", "start", "lineside")
        assert done.returncode == 0, self.journal("lineside")


class Subscriber:
    def __init__(self, box: Box) -> None:
        self._process = box.popen("/opt/lineside/bin/python", "-c", SUBSCRIBER)
        assert self._process.stdout
        assert self._process.stdout.readline() == "{}\n", "subscribed"

    def decision(self, after: datetime | None = None) -> dict[str, object]:
        """The next decision (taken later than `after`); the test's own time limit ends a wait for nothing."""
        assert self._process.stdout
        for line in self._process.stdout:
            body = json.loads(line)["body"]
            message = json.loads(body) if body.startswith("{") else {}
            if "verdict" in message and (not after or datetime.fromisoformat(message["decided_at"]) > after):
                return dict(message)
        raise AssertionError("the subscriber ended")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    if reason := obstacle():
        pytest.skip(f"a booted systemd: {reason}")
    folder = tmp_path_factory.mktemp("service")
    environ = os.environ | {"PYTHON": sys.executable}
    subprocess.run([str(ROOT / "tools" / "wheel_venv.sh"), str(folder / "wheel")], check=True, env=environ)
    binds = {
        "/mnt/wheel": folder / "wheel",
        "/mnt/systemd": ROOT / "systemd",
        "/mnt/dependencies": Path(sysconfig.get_path("purelib")),
        "/mnt/python": Path(sys.base_prefix),
    }
    # A shared libpython under /root is out of the service's sight, too: where it looks next must not be another one.
    libpython = {} if sys.base_prefix == "/usr" else {"LD_LIBRARY_PATH": "/mnt/python/lib"}
    box = Box(folder, binds, libpython)
    try:
        box.install()
        yield box
    finally:
        box.close()


@pytest.fixture
def box(machine: Box) -> Iterator[Box]:
    machine.reset()
    yield machine
    machine.reset()


@pytest.fixture
def subscriber(box: Box) -> Iterator[Subscriber]:
    subscriber = Subscriber(box)
    yield subscriber
    subscriber.close()


def test_udev_reads_every_rule_and_knows_every_group(box: Box) -> None:
    if box.call("udevadm", "--version").returncode != 0:
        pytest.skip("no udevadm: apt install udev")
    read = box.call("udevadm", "test", "/sys/class/mem/null")
    words = [line for line in (read.stdout + read.stderr).splitlines() if "99-lineside.rules" in line]
    assert words == ["Reading rules file: /etc/udev/rules.d/99-lineside.rules"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "litert"])
def test_the_hardened_service_decides_on(
    backend: str, box: Box, subscriber: Subscriber, eventually: Eventually
) -> None:
    box.configure(CONFIG.format(backend=backend))
    box.start()
    decision = subscriber.decision()
    assert str(decision["backend"]).startswith(backend)
    assert decision["verdict"] == "accept"
    eventually(lambda: str(decision["id"]) in box.journal("lineside"), what="the decision's id in the journal")
    assert box.run("ps", "-o", "user=", "-p", box.show("lineside", "MainPID")).strip() == "lineside"

    box.run("systemctl", "stop", "lineside")
    assert (box.show("lineside", "Result"), box.show("lineside", "ExecMainStatus")) == ("success", "0")
    warnings = box.run("journalctl", "--unit", "lineside", "--priority", "warning", "--output", "cat", "--quiet")
    assert warnings == "", "a stop leaves the journal clean"


def test_stop_finishes_within_two_seconds(box: Box, subscriber: Subscriber) -> None:
    box.drop_in("[Service]\nTimeoutStopSec=2\n")  # systemd itself holds the clock
    box.configure(CONFIG.format(backend="onnxruntime"))
    box.start()
    subscriber.decision()
    box.run("systemctl", "stop", "lineside")
    assert box.show("lineside", "Result") == "success", box.journal("lineside")


def test_probe_sees_the_board_from_inside_the_sandbox(box: Box) -> None:
    unit = (ROOT / "systemd" / "lineside.service").read_text()
    unit = re.sub(r"(?m)^(Type|NotifyAccess|WatchdogSec|Restart\w*|ExecStart)=.*\n", "", unit)
    probe = f"Type=oneshot\nExecStart={LINESIDE} probe --json\nStandardOutput=truncate:/run/probe.json\n"
    box.write("/run/systemd/system/probe.service", unit.replace("[Service]\n", f"[Service]\n{probe}"))
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", "probe")
    inside = json.loads(box.run("cat", "/run/probe.json"))
    outside = json.loads(box.run(LINESIDE, "probe", "--json"))
    assert inside == outside


def test_a_daemon_that_hangs_is_restarted_and_decides_again(
    box: Box, subscriber: Subscriber, eventually: Eventually
) -> None:
    box.drop_in("[Service]\nWatchdogSec=3\n")
    box.configure(CONFIG.format(backend="onnxruntime"))
    box.start()
    first = subscriber.decision()
    box.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "lineside")
    eventually(lambda: box.show("lineside", "NRestarts") == "1", within_s=30, what="a restart by the watchdog")
    eventually(lambda: box.show("lineside", "ActiveState") == "active", within_s=30, what="readiness after the restart")
    assert subscriber.decision(after=datetime.now(UTC))["epoch"] == first["epoch"]
    log = box.journal("lineside")
    assert "Watchdog timeout" in log
    assert "most recent call first" in log, "the stack of every thread is in the journal"


def test_a_wrong_configuration_ends_with_78_and_is_not_tried_again(box: Box) -> None:
    box.configure(CONFIG.format(backend="onnxruntime") + "prot = 1884\n")
    assert box.call("systemctl", "start", "lineside").returncode != 0
    state = [box.show("lineside", name) for name in ("ExecMainStatus", "ActiveState", "SubState", "NRestarts")]
    assert state == ["78", "failed", "failed", "0"], box.journal("lineside")
    log = box.journal("lineside")
    assert "mqtt.prot" in log
    assert "Traceback" not in log


def test_a_daemon_that_crashes_is_started_again(box: Box, subscriber: Subscriber, eventually: Eventually) -> None:
    box.configure(CONFIG.format(backend="onnxruntime"))
    box.start()
    first = subscriber.decision()
    box.run("systemctl", "kill", "--kill-whom=main", "--signal=SEGV", "lineside")
    eventually(lambda: box.show("lineside", "NRestarts") == "1", within_s=30, what="a restart")
    later = subscriber.decision(after=datetime.now(UTC))
    assert int(str(later["seq"])) > int(str(first["seq"]))


def test_status_answers_root_and_members_of_the_group(box: Box) -> None:
    box.configure(CONFIG.format(backend="onnxruntime"))
    box.start()
    assert json.loads(box.run(LINESIDE, "status", "--json"))
    box.call("useradd", "--groups", "lineside", "fitter")
    box.call("useradd", "stranger")
    as_fitter = box.call("runuser", "-u", "fitter", "--", LINESIDE, "status", "--json")
    assert as_fitter.returncode == 0, as_fitter.stderr
    as_stranger = box.call("runuser", "-u", "stranger", "--", LINESIDE, "status", "--json")
    assert as_stranger.returncode == 1
    assert "Traceback" not in as_stranger.stderr
