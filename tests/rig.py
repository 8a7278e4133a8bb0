"""Whole daemons for tests: bundles made once, `lineside run` as a process, a subscriber that remembers everything."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as mqtt

from lineside.cli import main
from lineside.control import ask
from lineside.errors import RemoteError
from lineside.records import Artefact, DecodeSettings, InputSpec
from lineside.store.pack import pack

BANDS = 10  # classes of the fake backend: the brightness of a picture in tenths

# name -> (model, options of `lineside bundle new`)
_MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "faces": ("face/yunet_n_320_320.onnx", ("--decode", "yunet")),
    "anyface": ("face/yunet_n_dynamic.onnx", ("--decode", "yunet")),
    "classifier": ("classify/mobilenet_v1_0.25_128_quant.tflite", ("--labels", "labels/imagenet_labels_1001.txt")),
    "detector": (
        "detect/yolov5n_224_int8.tflite",
        ("--decode", "yolov5", "--labels", "labels/coco_labels_80.txt"),
    ),
}


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lineside-bundles-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def bundle(name: str, models: Path) -> Path:
    """A bundle of a real model, made by `lineside bundle new` once in a session."""
    file, options = _MODELS[name]
    words = [str(models / option) if option.startswith("labels/") else option for option in options]
    assert main(["bundle", "new", str(models / file), *words, "-o", str(_folder() / name)]) == 0
    return _folder() / name


@cache
def fake_bundle() -> Path:
    """A bundle for the fake backend: ten labels, band0 for a dark picture to band9 for a bright one."""
    model = _folder() / "nothing.onnx"
    model.write_bytes(b"the fake backend reads no file")
    pack(
        _folder() / "fake",
        name="brightness",
        version="1",
        task="classify",
        labels=[f"band{band}" for band in range(BANDS)],
        input=InputSpec(32, 32, "bgr", "nhwc", resize="stretch"),
        decode="classify",
        settings=DecodeSettings(scores="probability"),
        artefacts=[Artefact(str(model), "onnx", "fp32", "")],
        licence="CC0-1.0",
    )
    return _folder() / "fake"


def fake_profile(path: Path, **options: object) -> Path:
    """A device profile whose only backend is the fake one, with these options."""
    words = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    path.write_text(
        f'title = "fake"\n\n[match]\n\n[[backend]]\nname = "fake"\noptions = {{ {words} }}\n\n'
        '[thermal]\nzones = ["*"]\nwarn_c = 80\ncritical_c = 90\n'
    )
    return path


def level(band: int) -> int:
    """The grey level in the middle of a band."""
    return int((band % BANDS + 0.5) * 256 / BANDS)


def grey(band: int, width_px: int = 64, height_px: int = 48) -> np.ndarray:
    """A picture that the fake backend calls band<band>."""
    return np.full((height_px, width_px, 3), level(band), np.uint8)


def pictures(folder: Path, count: int) -> Path:
    """A clip of PNGs: picture i is of band i modulo ten, so that an answer tells its frame."""
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:05}.png"), grey(number))
    return folder


def until(condition: Callable[[], object], within_s: float = 20.0, what: str = "the condition") -> None:
    """Poll, as the `eventually` fixture does."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {within_s} s")
        time.sleep(0.01)


def environment(folder: Path) -> dict[str, str]:
    """What systemd gives a service, in a folder of the test."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("NOTIFY_", "WATCHDOG_"))}
    for name in ("state", "run", "cache"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    places = {"STATE_DIRECTORY": "state", "RUNTIME_DIRECTORY": "run", "CACHE_DIRECTORY": "cache"}
    return {**keep, **{name: str(folder / place) for name, place in places.items()}}


def lineside(
    *words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, within_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "lineside.cli", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=env, timeout=within_s, stdin=subprocess.DEVNULL
    )


def rows(folder: Path, kind: str) -> list[tuple[int, int, dict[str, Any]]]:
    """(run of the journal, seq, what it says) of every record of that kind on a daemon's disk, as committed."""
    with sqlite3.connect(f"file:{folder}/state/journal.db?mode=ro", uri=True) as store:
        found = store.execute("SELECT run, seq, body FROM row WHERE kind = ? ORDER BY id", (kind,)).fetchall()
    return [(run, seq, json.loads(body)) for run, seq, body in found]


class Daemon:
    """`lineside run` on a configuration, as a process. A context that leaves none behind."""

    def __init__(
        self, folder: Path, config: str | Path, *, prefix: Sequence[str] = (), python: str = sys.executable
    ) -> None:
        self.folder = folder
        self.env = environment(folder)
        self.config = config if isinstance(config, Path) else folder / "lineside.toml"
        if isinstance(config, str):
            self.config.write_text(config)
        self.socket = folder / "run" / "control.sock"
        self._log = folder / "daemon.log"
        self._prefix, self._python = list(prefix), python
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Daemon:
        command = [*self._prefix, self._python, "-m", "lineside.cli", "run", str(self.config)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.env, stdin=subprocess.DEVNULL)
        return self

    def ready(self, times: int = 1) -> Daemon:
        """Wait until it says that it decides; `times` counts starts with this log."""
        until(lambda: self.log().count("ready: ") >= times or self._ended(), 60, "ready")
        assert self.log().count("ready: ") >= times, self.log()
        return self

    def status(self) -> dict[str, Any]:
        answer = ask(self.socket, "status")
        assert isinstance(answer, dict)
        return answer

    def station(self, name: str) -> dict[str, Any]:
        """A station's status, or an empty one while nobody answers."""
        try:
            found: dict[str, Any] = self.status()["stations"].get(name, {})
        except RemoteError:
            return {}
        return found

    def wait(self, within_s: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def stop(self) -> tuple[int, float]:
        """SIGTERM; the exit status and the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), time.monotonic() - began

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def children(self) -> list[int]:
        """Process ids of what its main thread started and still runs."""
        assert self.process is not None
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Subscriber:
    """An independent MQTT client with a persistent session that keeps every message of its topic."""

    def __init__(self, port: int, topic: str = "lineside/#") -> None:
        self._port = port
        self._lock = threading.Lock()
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"witness-{topic}", clean_session=False, protocol=mqtt.MQTTv311
        )
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._keep
        self._client.reconnect_delay_set(1, 1)

    def _keep(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self._messages.append((message.topic, json.loads(message.payload)))

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every message of that kind, backfill and repeats included, as it came."""
        return [message for _, message in self.seen() if message["kind"] == kind]

    def seen(self) -> list[tuple[str, dict[str, Any]]]:
        with self._lock:
            return list(self._messages)

    def by_seq(self, kind: str = "decision", station: str | None = None) -> dict[int, dict[str, Any]]:
        """Seq -> message; asserts that a seq never came with two contents."""
        found = self._by_seq(station)
        return {seq: message for seq, message in found.items() if message["kind"] == kind}

    def seqs(self, station: str | None = None) -> list[int]:
        """Every seq that came, of whatever kind, in order."""
        return sorted(self._by_seq(station))

    def _by_seq(self, station: str | None) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for _, message in self.seen():
            if "seq" not in message or station not in (None, message["station"]):
                continue
            first = found.setdefault(message["seq"], message)
            assert first["kind"] == message["kind"], f"seq {message['seq']} stands for two records"
            assert first.get("id") == message.get("id"), f"seq {message['seq']} stands for two records"
        return found

    def __enter__(self) -> Subscriber:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(10), "not subscribed"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
