"""The line under test: fifty decisions a second on the fake backend, and what it says and keeps of them."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from chaos.receiver import digest
from chaos.verdict import Key, Made, Run
from lineside.records import Artefact, DecodeSettings, InputSpec
from lineside.store.pack import pack

STATION = "gate"
_BANDS = 10

_CONFIG = """
profile = "{folder}/fake.toml"

[journal]
durable = {durable}

[cameras.line]
driver = "clip"
path = "{folder}/clip"
loop = true
fps = {fps}

[stations.gate]
camera = "line"
bundle = "{folder}/bundle"

[mqtt]
host = "127.0.0.1"
port = {port}
box = "box"
live_max_age_ms = {live_max_age_ms}
ack_timeout_s = 1.0
reconnect_min_s = 0.05
reconnect_max_s = 0.5
heartbeat_s = 1.0
{mqtt}
"""
_PROFILE = (
    'title = "fake"\n[match]\n[[backend]]\nname = "fake"\n[thermal]\nzones = ["*"]\nwarn_c = 80\ncritical_c = 90\n'
)
_SAID = re.compile(r"part (\d+): .*\(decision ([0-9a-f-]{36})\)$")


def config(
    folder: Path, port: int, *, fps: float = 50.0, durable: bool = True, live_max_age_ms: int = 1000, mqtt: str = ""
) -> str:
    """The rest of a lineside.toml after its [daemon] keys; makes the clip, bundle and profile that it names."""
    if not (folder / "bundle").exists():
        _make_material(folder)
    return _CONFIG.format(
        folder=folder,
        fps=fps,
        port=port,
        durable=str(durable).lower(),
        live_max_age_ms=live_max_age_ms,
        mqtt=mqtt,
    )


def _make_material(folder: Path) -> None:
    (folder / "clip").mkdir(parents=True)
    for band in range(_BANDS):
        picture = np.full((48, 64, 3), int((band + 0.5) * 256 / _BANDS), np.uint8)
        cv2.imwrite(str(folder / "clip" / f"{band}.png"), picture)
    model = folder / "nothing.onnx"
    model.write_bytes(b"the fake backend reads no file")
    pack(
        folder / "bundle",
        name="brightness",
        version="1",
        task="classify",
        labels=[f"band{band}" for band in range(_BANDS)],
        input=InputSpec(32, 32, "bgr", "nhwc", resize="stretch"),
        decode="classify",
        settings=DecodeSettings(scores="probability"),
        artefacts=[Artefact(str(model), "onnx", "fp32", "")],
        licence="CC0-1.0",
    )
    (folder / "fake.toml").write_text(_PROFILE)


def journalled(path: Path) -> dict[Key, Made]:
    """Every row of a stopped daemon's journal."""
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT row.station, run.epoch, row.seq, row.kind, row.body FROM row JOIN run ON run.id = row.run"
        return {(station, epoch, seq): _made(kind, body) for station, epoch, seq, kind, body in store.execute(query)}
    finally:
        store.close()


def _made(kind: str, body: bytes) -> Made:
    try:
        fields = json.loads(body)
    except ValueError:  # a sector of it did not survive
        return Made(kind, None, "unreadable")
    return Made(kind, fields.get("id"), digest(fields))


def ledger_faults(path: Path, key: Path | None = None) -> list[str]:
    """What `lineside ledger verify` says against a stopped daemon's journal; `key` where it is not beside it."""
    command = [sys.executable, "-m", "lineside.cli", "ledger", "verify", "--journal", str(path)]
    if key is not None and key.is_file():
        command += ["--key", str(key)]
    done = subprocess.run(command, capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"ledger verify: {(done.stdout + done.stderr).strip()}"]


def runs(log: Path) -> Iterator[Run]:
    """What each run of the daemon said that it decided, in its order: [(number of the part, decision id)]."""
    said: Run = []
    for line in log.read_text(errors="replace").splitlines():
        if found := _SAID.search(line):
            number = int(found[1])
            if number == 1 and said:  # parts are counted from each start of the daemon
                yield said
                said = []
            said.append((number, found[2]))
    if said:
        yield said
