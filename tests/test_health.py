"""Heartbeats and sd_notify against a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import FakeClock
from lineside.errors import ConfigError
from lineside.health import Health


class Systemd:
    """The receiving end: a bound AF_UNIX datagram socket, as PID 1 has it."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    receiver = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@lineside-test-{os.getpid()}")
    yield receiver
    receiver.close()


def test_systemd_hears_ready_status_and_stopping(systemd: Systemd) -> None:
    health = Health(FakeClock(), systemd.environ)
    health.status("loading\nthe model")
    health.ready()
    health.stopping()
    assert systemd.heard() == ["STATUS=loading the model", "READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_the_watchdog_is_fed_only_while_every_worker_beats(systemd: Systemd) -> None:
    clock = FakeClock()
    health = Health(clock, systemd.environ)
    capture, executor = health.worker("capture.gate", stale_after_s=5.0), health.worker("executor", stale_after_s=5.0)
    for _ in range(10):
        clock.advance(2.0)
        capture()
        executor()
        assert health.tick() == ()
    assert systemd.heard() == ["WATCHDOG=1"] * 10
    for _ in range(10):
        clock.advance(2.0)
        capture()  # the executor hangs
        health.tick()
    assert systemd.heard() == ["WATCHDOG=1"] * 2  # after 2 s and 4 s
    assert health.tick() == ("executor",)
    executor()
    assert health.tick() == ()
    assert systemd.heard() == ["WATCHDOG=1"]


def test_a_busy_main_loop_does_not_flood_systemd(systemd: Systemd) -> None:
    clock = FakeClock()
    health = Health(clock, systemd.environ)
    for _ in range(800):
        clock.advance(0.01)
        health.tick()
    assert len(systemd.heard()) == 4  # 8 s at a quarter of the 8 s interval


def test_the_stale_worker_is_named_once_and_its_return_too(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    health = Health(clock, {"WATCHDOG_USEC": "8000000"})
    beat = health.worker("publisher", stale_after_s=3.0)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            clock.advance(2.0)
            health.tick()
        beat()
        health.tick()
        health.tick()
    assert [record.getMessage() for record in caplog.records] == [
        "publisher: no heartbeat for 4.0 s (allowed 3.0 s); the watchdog is not fed",
        "publisher: alive again",
    ]


def test_long_work_excuses_one_worker_and_moves_the_start_timeout(systemd: Systemd) -> None:
    clock = FakeClock()
    health = Health(clock, systemd.environ)
    health.worker("executor", stale_after_s=5.0)
    with health.long_work("executor", extra_s=600):
        clock.advance(599.0)
        assert health.tick() == ()
        clock.advance(2.0)
        assert health.tick() == ("executor",), "an extension has an end"
    assert health.tick() == (), "the end of the work is a heartbeat"
    clock.advance(6.0)
    assert health.tick() == ("executor",), "and the normal limit holds again"
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=600000000", "WATCHDOG=1", "WATCHDOG=1"]


def test_long_work_after_ready_does_not_touch_the_start_timeout(systemd: Systemd) -> None:
    health = Health(FakeClock(), systemd.environ)
    health.ready()
    with health.long_work("executor", extra_s=60):
        pass
    assert not [message for message in systemd.heard() if message.startswith("EXTEND")]


def test_one_workers_long_work_does_not_hide_another_that_hangs() -> None:
    clock = FakeClock()
    health = Health(clock, {})
    health.worker("capture.gate", stale_after_s=5.0)
    with health.long_work("executor", extra_s=600):
        clock.advance(10.0)
        assert health.tick() == ("capture.gate",)


def test_a_worker_that_ended_on_purpose_is_not_missed() -> None:
    clock = FakeClock()
    health = Health(clock, {})
    worker = health.worker("capture.clip", stale_after_s=1.0)
    worker.end()
    clock.advance(100.0)
    assert health.tick() == ()
    assert health.workers()["workers"] == {"capture.clip": {"age_s": 100.0, "stale_after_s": 1.0, "state": "ended"}}


def test_the_watchdog_of_another_process_is_not_ours(systemd: Systemd) -> None:
    health = Health(FakeClock(), systemd.environ | {"WATCHDOG_PID": "1"})
    assert health.watchdog_s is None
    health.tick()
    assert systemd.heard() == []


def test_without_systemd_nothing_is_sent_and_nothing_fails() -> None:
    health = Health(FakeClock(), {})
    health.ready()
    health.status("running")
    assert health.tick() == ()
    assert health.workers() == {"watchdog_s": None, "notify_failures": 0, "workers": {}}


def test_a_socket_that_is_gone_is_counted_and_the_feed_is_tried_again(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    health = Health(FakeClock(), {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000"})
    health.tick()
    assert health.workers()["notify_failures"] == 1
    systemd = Systemd(address)
    health.tick()
    assert systemd.heard() == ["WATCHDOG=1"]
    systemd.close()


def test_beats_come_from_other_threads() -> None:
    clock = FakeClock()
    health = Health(clock, {})
    beat = health.worker("capture.gate", stale_after_s=1.0)
    clock.advance(5.0)
    assert health.tick() == ("capture.gate",)
    thread = threading.Thread(target=beat)
    thread.start()
    thread.join()
    assert health.tick() == ()


@pytest.mark.parametrize("environ", [{"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}])
def test_an_environment_that_systemd_never_writes_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(environ))):
        Health(FakeClock(), environ)
