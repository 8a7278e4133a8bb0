"""What else goes wrong around a running line: a full or read-only disk, jumping clocks, a subscriber that hangs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import mosquitto

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from chaos import world
from chaos.rounds import Stage
from peers import FAST, Lineside

Eventually = Callable[..., None]
YEAR_S = 365 * 86_400.0


@pytest.fixture(autouse=True)
def _broker_is_here() -> None:
    mosquitto()


def more(line: Lineside, count: int) -> Callable[[], bool]:
    """Whether so many more decisions were made since now."""
    until = line.decisions("gate") + count
    return lambda: line.decisions("gate") >= until


# --- the disk -------------------------------------------------------------------------------------------------------


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 24 MB in a file, mounted as the state folder of a Stage in tmp_path; needs root and a loop device."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a disk that fills up or turns read-only needs root and mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "stage" / "state"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    folder.mkdir(parents=True)
    mount("-o", "loop", str(image), str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 9, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def refuses_and_goes_on(stage: Stage, eventually: Eventually) -> dict[str, Any]:
    """The journal says that the disk refuses, and the line decides on; what it says then."""
    eventually(lambda: stage.line.status()["journal"]["state"] == "refusing", 60, "the disk being noticed")
    eventually(more(stage.line, 25), 60, "decisions going on")
    status = stage.line.status()
    assert status["journal"]["waiting"] >= 20, "what cannot be written waits in memory, counted"
    assert status["journal"]["failures"] > 0
    assert status["journal"]["last_error"]
    return status


def recovers_without_a_hand(stage: Stage, eventually: Eventually) -> None:
    pid = stage.line.pid
    eventually(lambda: stage.line.status()["journal"]["state"] == "ok", 60, "the journal working again")
    eventually(lambda: stage.line.status()["journal"]["waiting"] < 20, 60, "what waited is committed")
    assert stage.line.status()["journal"]["lost"] == 0
    eventually(more(stage.line, 10), 60)
    verdict = stage.conclude()
    assert verdict.wrong == []
    assert verdict.cut_short == 0, "every decision that was made while the disk refused is in the journal"
    assert stage.line.pid == pid


def test_on_a_full_disk_decisions_go_on_and_everything_arrives_when_there_is_room_again(
    small_disk: Path, eventually: Eventually
) -> None:
    with Stage(small_disk.parent) as stage:
        stage.run([])
        fill(small_disk / "ballast")
        refuses_and_goes_on(stage, eventually)
        (small_disk / "ballast").unlink()
        recovers_without_a_hand(stage, eventually)


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_every_write_holds_no_decision_up_and_is_taken_up_again(
    tmp_path: Path, eventually: Eventually, error: int
) -> None:
    """What ext4 does after an error of the medium (EROFS, with the files open): no mount is needed to show it."""
    dials = world.Dials(tmp_path / "dials")
    with Stage(tmp_path, environment=world.environment(tmp_path / "state", dials=dials)) as stage:
        stage.run([])
        dials.refuse_writes(error)
        refuses_and_goes_on(stage, eventually)
        dials.refuse_writes(0)
        recovers_without_a_hand(stage, eventually)


def test_a_disk_that_is_mounted_read_only_at_the_start_is_waited_for(small_disk: Path, eventually: Eventually) -> None:
    mount("-o", "remount,ro", str(small_disk))
    with Stage(small_disk.parent) as stage:
        eventually(lambda: stage.line.is_up() and stage.line.decisions("gate") > 0, 60)
        refuses_and_goes_on(stage, eventually)
        assert stage.inbox.read() == 0, "nothing is published before it is committed"
        mount("-o", "remount,rw", str(small_disk))
        recovers_without_a_hand(stage, eventually)


# --- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_a_clock_that_jumps_a_year_loses_and_delays_nothing(
    tmp_path: Path, eventually: Eventually, jump_s: float
) -> None:
    dials = world.Dials(tmp_path / "dials")
    environment = world.environment(tmp_path / "state", dials=dials)
    with Stage(tmp_path, settings=FAST, environment=environment) as stage:
        stage.run([])
        eventually(lambda: stage.inbox.read() >= 50, 60, "fifty before")
        before = stage.inbox.read()
        dials.set_clock(jump_s)
        eventually(lambda: stage.inbox.read() >= before + 50, 60, "fifty more")
        stage.line.kill()  # and it stays so over a restart
        stage.line.start()
        eventually(lambda: stage.inbox.read() >= before + 100, 60, "fifty after the restart")
        verdict = stage.conclude()
        assert verdict.wrong == []
        got = [line for line in stage.inbox.lines if line["new"] and line["kind"] == "decision"]
        assert len({line["decided_at"][:4] for line in got}) == 2, "two calendar years"
        assert len({line["key"][1] for line in got}) == 1, "one epoch"
        ages_ms = [line["says"][2] for line in got]
        assert None not in ages_ms
        assert max(ages_ms) < 60_000, "age is counted by the monotonic clock: nothing became a year old"


# --- subscribers and twins ------------------------------------------------------------------------------------------


def never_reads(port: int) -> socket.socket:
    """A client that subscribes to everything with QoS 1 and then never reads again; its window is very small."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    peer.connect(("127.0.0.1", port))
    body = b"\x00\x04MQTT\x05\x00\x00\x00" + b"\x05\x11\x00\x01\x51\x80" + b"\x00\x05stuck"
    peer.sendall(bytes([0x10, len(body)]) + body)
    assert peer.recv(1) == b"\x20"
    body = b"\x00\x01\x00\x00\x01#\x01"
    peer.sendall(bytes([0x82, len(body)]) + body)
    return peer


def test_a_subscriber_that_never_reads_holds_nobody_up(tmp_path: Path, eventually: Eventually) -> None:
    with Stage(tmp_path, settings=FAST, fps=200.0) as stage, never_reads(stage.broker.port):
        stage.run([])
        eventually(lambda: stage.inbox.read() >= 1500, 60, "1500 records with a subscriber that hangs")
        sink = stage.line.status()["mqtt"]
        assert sink["pending"] < 1000, "the broker acknowledges as before"
        assert sink["disconnects"] == 0
        verdict = stage.conclude()
        assert verdict.wrong == []


def test_a_second_daemon_on_the_same_journal_is_refused_and_the_first_loses_nothing(tmp_path: Path) -> None:
    """Somebody starts the same configuration by hand beside the service, with a control socket of its own."""
    with Stage(tmp_path, settings=FAST) as stage:
        stage.run([])
        text = (tmp_path / "lineside.toml").read_text().replace("control.sock", "twin.sock")
        (tmp_path / "twin.toml").write_text(text)
        twin = subprocess.run(
            [sys.executable, "-m", "lineside.cli", "run", str(tmp_path / "twin.toml")],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert twin.returncode == 78
        assert "journal.db': another lineside daemon writes it: stop that one" in twin.stderr
        assert "Traceback" not in twin.stderr
        verdict = stage.conclude()
        assert verdict.wrong == []
