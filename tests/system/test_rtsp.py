"""The network camera against a real RTSP server, which is frozen, killed, and held back by its network."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.cameras.capture import Capture
from lineside.cameras.rtsp import RtspCamera, Transit
from lineside.errors import ConfigError, DeviceError
from lineside.records import Frame
from rtsp_peer import RtspServer, age_ms, require_server

FRESH_MS = 400  # encoder, loopback, decoder and a loaded test machine; a buffered second would show


@pytest.fixture(scope="module", autouse=True)
def _server_is_installed() -> None:
    require_server()


@pytest.fixture
def server() -> Iterator[RtspServer]:
    server = RtspServer()
    yield server
    server.kill()


@pytest.fixture
def watch() -> Iterator[Callable[..., Capture]]:
    running: list[Capture] = []

    def start(url: str, stall_s: float = 2.0, **options: object) -> Capture:
        def build() -> RtspCamera:
            return RtspCamera(url, stall_s=stall_s, open_timeout_s=5.0, **options)  # type: ignore[arg-type]

        capture = Capture("dock", build, mode="freshest", stall_s=stall_s, reopen_min_s=0.1, reopen_max_s=0.5)
        running.append(capture)
        capture.start()
        return capture

    yield start
    for capture in running:
        capture.stop()


def picture(capture: Capture, within_s: float = 20.0) -> Frame:
    frame = capture.take(within_s)
    assert isinstance(frame, Frame), capture.status()
    return frame


@pytest.mark.parametrize("path", ["/cam", "/mjpg"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_next_picture_is_fresh_after_the_path_was_busy(
    server: RtspServer, watch: Callable[..., Capture], eventually: Callable[..., None], path: str, transport: str
) -> None:
    capture = watch(server.url.replace("/cam", path), transport=transport)
    first = picture(capture)
    assert first.image.shape == (360, 640, 3)
    eventually(lambda: capture.status()["frames"] >= first.number + 45)  # a path that is busy for 1.5 s
    frame = picture(capture)
    assert age_ms(frame.image) < FRESH_MS
    assert frame.number >= first.number + 45
    assert capture.status()["skipped"] >= 44


def test_a_frozen_server_is_noticed_within_stall_s_and_taken_up_again(
    server: RtspServer, watch: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    capture = watch(server.url)
    picture(capture)
    server.freeze()
    eventually(lambda: capture.status()["state"] != "streaming", within_s=2.5)
    assert "no picture for 2 s" in capture.status()["last_error"]
    capture.take(0)
    server.thaw()
    assert age_ms(picture(capture).image) < FRESH_MS


def test_a_killed_server_is_tried_again_until_it_is_back(
    server: RtspServer, watch: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    capture = watch(server.url)
    number = picture(capture).number
    server.kill()
    eventually(lambda: capture.status()["reopens"] >= 3, within_s=20)
    assert "Connection refused" in capture.status()["last_error"]
    capture.take(0)
    server.start()
    assert picture(capture).number > number


def test_pictures_that_the_network_held_back_are_skipped(
    server: RtspServer, watch: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    network = Network(server.port)
    capture = watch(server.url.replace(str(server.port), str(network.port)), stall_s=5.0)
    picture(capture)
    eventually(lambda: capture.status()["frames"] >= 30)
    capture.take(0)
    network.hold()
    held_at = capture.status()["frames"]
    eventually(lambda: network.held_s() > 1.5, what="an outage of 1.5 s")
    network.release()
    ages = [age_ms(picture(capture).image) for _ in range(20)]
    assert max(ages) < 500 + FRESH_MS  # `stale_s`; the first ones after the outage were 1500 ms old
    assert capture.status()["frames"] - held_at > 40, "nothing was held back: the test shows nothing"
    assert capture.status()["reopens"] == 0
    network.close()


def test_login_and_path_faults_say_what_to_do_and_never_tell_the_password(tmp_path: Path) -> None:
    server = RtspServer("--user", "bob", "--password", "s3:c@r/et")
    secret = tmp_path / "password"
    secret.write_text("s3:c@r/et\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("swordfish\n")
    try:
        camera = RtspCamera(server.url, username="bob", password_file=secret)
        camera.open()
        assert camera.read().image.shape == (360, 640, 3)
        camera.close()
        with pytest.raises(DeviceError, match="refuses this user name and password") as refused:
            RtspCamera(server.url, username="bob", password_file=wrong).open()
        assert "swordfish" not in str(refused.value)
        with pytest.raises(DeviceError, match="give username and password_file"):
            RtspCamera(server.url).open()
    finally:
        server.kill()


def test_a_wrong_path_is_told_from_a_dead_camera(server: RtspServer) -> None:
    with pytest.raises(DeviceError, match=r"/attic: the camera has no such stream: check the path"):
        RtspCamera(server.url.replace("/cam", "/attic")).open()


def test_an_unreadable_password_file_is_told_before_anything_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password_file = '.*/none': cannot be read: No such file"):
        RtspCamera("rtsp://127.0.0.1/cam", username="bob", password_file=tmp_path / "none")


def test_transit_finds_the_pictures_that_came_late_and_forgets_when_timestamps_jump_back() -> None:
    transit = Transit()
    second = 1_000_000_000
    assert [transit.held_ns(n * second + 5, float(n)) for n in range(1, 4)] == [0, 0, 0]
    assert transit.held_ns(7 * second + 5, 4.0) == 3 * second
    assert transit.held_ns(7 * second + 6, 5.0) == 2 * second + 1
    assert transit.held_ns(8 * second, 0.0) == 0


class Network:
    """A TCP link to the server that can stop passing bytes from it for a while, and then delivers them all."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._links: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        self._held_since = time.monotonic()
        self._passing.clear()

    def held_s(self) -> float:
        return time.monotonic() - self._held_since

    def release(self) -> None:
        self._passing.set()

    def close(self) -> None:
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._server_port))
        self._links += [client, server]
        threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
        self._pass(server, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, held: bool) -> None:
        try:
            while data := source.recv(65536):
                if held:
                    self._passing.wait(30)
                target.sendall(data)
        except OSError:
            pass  # closed at the end of the test
