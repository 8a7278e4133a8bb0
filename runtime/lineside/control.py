"""The control socket: one JSON request a line, one JSON answer a line, over a unix socket of the daemon."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lineside.contracts import Beat
from lineside.errors import ConfigError, DeviceError, LinesideError, RemoteError

_log = logging.getLogger(__name__)
_ROUND_S = 0.5
_ASK_S = 5.0
_REQUEST_BYTES = 65_536

Command = Callable[[Mapping[str, object]], object]


def default_socket() -> Path:
    """Where daemon and commands meet when the configuration names no socket."""
    folder = os.environ.get("RUNTIME_DIRECTORY")
    if folder:
        return Path(folder) / "control.sock"
    system = Path("/run/lineside")
    here = system / "control.sock"
    if os.access(here, os.R_OK | os.W_OK) or os.access(system, os.W_OK):  # a member of the group may ask, not listen
        return here
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / f"lineside-{os.getuid()}.sock"


class ControlServer:
    """Answers requests in a thread of its own; commands: name -> function of the request."""

    def __init__(self, path: Path, commands: Mapping[str, Command], beat: Beat) -> None:
        self._path = path
        self._commands = commands
        self._beat = beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._listener = _listen(path)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept
        if self._thread.ident is not None:
            self._thread.join(2 * _ROUND_S)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._beat()
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stop.is_set():
                    _log.warning("control socket %s: %s", self._path, error)
                self._stop.wait(_ROUND_S)
                continue
            with peer:
                try:
                    line = _line(peer, _ROUND_S)
                    peer.settimeout(_ROUND_S)
                    peer.sendall(self._answer(line) + b"\n")
                except OSError as error:
                    _log.debug("control client went away: %s", error)

    def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return json.dumps({"error": f"unknown request; commands are {', '.join(self._commands)}"}).encode()
        try:
            return json.dumps({"result": command(request)}, default=str).encode()
        except LinesideError as error:  # a wrong request, not a fault of the daemon
            return json.dumps({"error": str(error)}).encode()
        except Exception as error:  # a request ends here: a question about the daemon must not end it
            _log.exception("control command %s", request["command"])
            return json.dumps({"error": f"{request['command']} failed: {error!r}; the daemon's log says more"}).encode()


def ask(path: Path, command: str, **words: object) -> object:
    """Send one command to a running daemon. Raises RemoteError if none answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_ASK_S)
        try:
            peer.connect(str(path))
            peer.sendall(json.dumps({"command": command, **words}).encode() + b"\n")
            answer = json.loads(_line(peer, _ASK_S, limit=1 << 26))
            if not isinstance(answer, dict) or not {"result", "error"} & answer.keys():
                raise ValueError("something else answers there")
        except (OSError, ValueError) as error:
            raise RemoteError(
                f"control socket {path}: no daemon answers ({error}): start one with `lineside run CONFIG`, "
                "or name its socket with --socket"
            ) from error
    if "error" in answer:
        raise RemoteError(f"control socket {path}: {answer['error']}")
    return answer["result"]


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.settimeout(_ROUND_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            if _alive(path):
                raise ConfigError(f"daemon.control_socket = {str(path)!r}: another lineside daemon answers there")
            path.unlink()
        old = os.umask(0o117)  # owner and group only
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise DeviceError(f"daemon.control_socket = {str(path)!r}: {error}: name a writable path") from error
    return listener


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_ROUND_S)
        try:
            peer.connect(str(path))
        except OSError:
            return False
        return True


def _line(peer: socket.socket, within_s: float, limit: int = _REQUEST_BYTES) -> bytes:
    """What came up to the first line's end. Raises OSError when that is too long or takes longer than `within_s`."""
    deadline = time.monotonic() + within_s
    got = bytearray()
    while not got.endswith(b"\n"):
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = peer.recv(65_536)
        if not chunk:
            break
        got += chunk
        if len(got) > limit:
            raise OSError("request too long")
    return bytes(got)
