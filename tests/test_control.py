"""The control socket: answers everyone, is stopped by nobody, and is one daemon's only."""

from __future__ import annotations

import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside.control import ControlServer, ask
from lineside.errors import ConfigError, DeviceError, RemoteError

Eventually = Callable[..., None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    server = ControlServer(path, {"status": lambda request: {"asked": dict(request)}, "fail": _fail}, lambda: None)
    server.start()
    yield server
    server.stop()


def _fail(request: Mapping[str, object]) -> object:
    raise RuntimeError("dictionary changed size during iteration")


def test_a_command_gets_its_answer(server: ControlServer, path: Path) -> None:
    assert ask(path, "status", of="gate") == {"asked": {"command": "status", "of": "gate"}}


def test_an_unknown_command_names_the_known_ones(server: ControlServer, path: Path) -> None:
    with pytest.raises(RemoteError, match="commands are status, fail"):
        ask(path, "reboot")


def test_a_command_that_fails_is_an_answer_and_the_next_one_works(server: ControlServer, path: Path) -> None:
    with pytest.raises(RemoteError, match="changed size"):
        ask(path, "fail")
    assert ask(path, "status")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=200), st.just(b"[" * 60_000), st.just(b'{"command": ["a"]}'), st.just(b"x" * 70_000))
)
def test_no_bytes_stop_the_server(server: ControlServer, path: Path, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        try:
            peer.sendall(garbage + b"\n")
            while peer.recv(65_536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up on too long a request
    assert ask(path, "status")


def test_a_client_that_drips_does_not_hold_the_server(server: ControlServer, path: Path) -> None:
    """One byte now and then, for ever: within a few seconds somebody else is served."""
    leave = threading.Event()

    def drip() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(str(path))
            while not leave.wait(0.1):
                try:
                    peer.sendall(b" ")
                except OSError:
                    return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert ask(path, "status")
    finally:
        leave.set()
        dripping.join(10)


def test_the_socket_is_for_owner_and_group(server: ControlServer, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_the_socket_is_gone_after_a_stop_and_a_left_over_one_is_taken(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    server = ControlServer(path, {"status": lambda _: 1}, lambda: None)
    server.start()
    assert ask(path, "status") == 1
    server.stop()
    assert not path.exists()


def test_a_server_that_was_never_started_stops(path: Path) -> None:
    ControlServer(path, {}, lambda: None).stop()
    assert not path.exists()


def test_a_second_daemon_is_refused_and_the_first_goes_on(server: ControlServer, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"control_socket = .*another lineside daemon answers there"):
        ControlServer(path, {}, lambda: None)
    assert ask(path, "status")


@pytest.mark.parametrize("bad", ["a" * 200 + "/control.sock", "file/control.sock", "folder"])
def test_a_path_that_cannot_be_a_socket_is_a_clear_error(tmp_path: Path, bad: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DeviceError, match=r"daemon.control_socket = .*name a writable path"):
        ControlServer(tmp_path / bad, {}, lambda: None)


@pytest.mark.parametrize("answer", [b"", b"\n", b"[1]\n", b"null\n", b"not json\n", b'{"neither": 1}\n', b"\xff\xfe\n"])
def test_whoever_else_answers_there_is_not_taken_for_a_daemon(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()

        def serve() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RemoteError, match="no daemon answers"):
            ask(path, "status")
        thread.join(10)


def test_no_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="lineside run CONFIG"):
        ask(tmp_path / "nobody.sock", "status")


def test_an_answer_holds_what_json_cannot(path: Path, eventually: Eventually) -> None:
    server = ControlServer(path, {"status": lambda _: {"path": Path("/x"), "score": float("inf")}}, lambda: None)
    server.start()
    answer = ask(path, "status")
    assert isinstance(answer, dict)
    assert answer["path"] == "/x"
    json.dumps(answer)
    server.stop()
