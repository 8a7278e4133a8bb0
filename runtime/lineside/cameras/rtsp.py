"""The network camera: RTSP through FFmpeg with its buffers off, a stall that is noticed, and the age of every picture.

`captured_ns` comes from the stream's own timestamps: a picture that the network or a paused process held back is as old
as it says, so that the capture thread can skip it instead of showing it as new.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from lineside.cameras.ffmpeg import Reader, prepare
from lineside.errors import ConfigError, DeviceError
from lineside.records import Captured

LOW_DELAY = "fflags;nobuffer|flags;low_delay|probesize;32|analyzeduration;0"  # first picture 10 times sooner
DAMAGED_IN_A_ROW = 25  # at the end of a stream every read fails at once
WINDOW = 900  # pictures over which the quickest way through the network is looked for: 30 s at 30 a second


class RtspCamera:
    """contracts.Camera on an RTSP stream. Messages carry the URL without user name and password."""

    live = True

    def __init__(
        self,
        url: str,
        username: str | None = None,
        password_file: str | Path | None = None,
        transport: Literal["tcp", "udp"] = "tcp",
        open_timeout_s: float = 10.0,
        stall_s: float = 3.0,
    ) -> None:
        self._url = url
        self._login = _login(username, password_file)
        self._options = f"rtsp_transport;{transport}|{LOW_DELAY}"
        self._open_timeout_s = open_timeout_s
        self._stall_s = stall_s
        self._quiet_s = stall_s * 0.8  # FFmpeg's own timeout: before that of the watch, which has to cut a read off
        self._reader: Reader | None = None
        self._closed = False
        self.counts: dict[str, int] = {"bad": 0}
        prepare()

    def open(self) -> None:
        """Connect and set up the stream; DeviceError says what the server answered."""
        self.close()
        self._closed = False
        scheme, rest = self._url.split("://", 1)
        try:
            reader = Reader(f"{scheme}://{self._login}{rest}", self._options, self._open_timeout_s, self._quiet_s)
        except DeviceError as error:
            raise DeviceError(f"{self._url}: {self._why()}") from error
        self._reader = reader
        self._transit = Transit()
        if self._closed:  # close came while FFmpeg was connecting
            reader.close()

    def read(self) -> Captured:
        """The next picture of the stream, decoded; never None, as a stream that ends is a lost camera."""
        reader, failed = self._reader, 0
        if reader is None:
            raise DeviceError(f"{self._url}: not open")
        begun = time.monotonic()
        while failed < DAMAGED_IN_A_ROW:
            image = reader.retrieve() if reader.grab() else None
            if self._closed:
                raise DeviceError(f"{self._url}: closed")
            # whatever came: on a timeout FFmpeg gives out the picture that its decoder held back, and calls it new
            if time.monotonic() - begun > self._quiet_s * 0.95:
                raise DeviceError(f"{self._url}: no picture for {self._stall_s:g} s")
            if image is not None:
                self.counts["bad"] += failed
                now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
                held_ns = self._transit.held_ns(now_ns, reader.position_s())
                return Captured(image, now_ns - held_ns, wall_ns - held_ns)
            failed += 1
        raise DeviceError(f"{self._url}: the server ended the stream")

    def close(self) -> None:
        self._closed = True
        if self._reader is not None:
            self._reader.close()

    def _why(self) -> str:
        """What a plain request gets from the server: FFmpeg's reason for a failed open does not reach Python."""
        parts = urlsplit(self._url)
        host, port = parts.hostname or "", parts.port or (322 if parts.scheme == "rtsps" else 554)
        try:
            with socket.create_connection((host, port), timeout=min(3.0, self._open_timeout_s)) as link:
                if parts.scheme == "rtsps":
                    return "the server listens, but gives no video: check path, certificate, user name and password"
                link.sendall(f"DESCRIBE {self._url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n".encode())
                answer = link.recv(256).split(b"\r\n")[0].decode("ascii", "replace")
        except OSError as error:
            return f"{host} port {port}: {error.strerror or error}: check address, power and network"
        match answer.split(" ")[1:2]:
            case ["401"] if self._login:
                return "the camera refuses this user name and password"
            case ["401"]:
                return "the camera asks for a login: give username and password_file"
            case ["404"]:
                return "the camera has no such stream: check the path of the URL"
            case ["200"]:
                return "the camera answers, but no video came in time: check codec and transport"
        return f"the camera answers {answer[:80]!r}"


class Transit:
    """How long a picture was held back on its way, against the quickest of the last ones. No clock of its own."""

    def __init__(self) -> None:
        self._offsets_ns: deque[int] = deque(maxlen=WINDOW)
        self._least_ns = 0
        self._stamp_s = float("-inf")

    def held_ns(self, now_ns: int, stamp_s: float) -> int:
        """Nanoseconds that the picture with this timestamp came late; 0 after timestamps that jumped back."""
        if not stamp_s > self._stamp_s:  # also a stream without timestamps
            self._offsets_ns.clear()
        self._stamp_s = stamp_s
        offset_ns = now_ns - int(stamp_s * 1e9)
        leaves_ns = self._offsets_ns[0] if len(self._offsets_ns) == WINDOW else None
        self._offsets_ns.append(offset_ns)
        if len(self._offsets_ns) == 1 or offset_ns <= self._least_ns:
            self._least_ns = offset_ns
        elif leaves_ns == self._least_ns:
            self._least_ns = min(self._offsets_ns)
        return offset_ns - self._least_ns


def _login(username: str | None, password_file: str | Path | None) -> str:
    """`user:password@` for the URL that FFmpeg gets, or nothing."""
    if username is None or password_file is None:
        return ""
    try:
        text = Path(password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"password_file = '{password_file}': cannot be read: {reason}") from error
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise ConfigError(f"password_file = '{password_file}': the first line is empty; it must be the password")
    return f"{quote(username, safe='')}:{quote(password, safe='')}@"
