"""Starts tests/rtsp_server.py, a real gst-rtsp-server, and reads the time that its pictures carry."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from lineside.records import Image

PYTHON = "/usr/bin/python3"  # Debian's, which sees Debian's python3-gi
PLUGINS = "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
PACKAGES = f"python3-gi gir1.2-gst-rtsp-server-1.0 {PLUGINS}"
PROBE = """
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
missing = [name for name in ("x264enc", "rtph264pay", "jpegenc", "appsrc") if not Gst.ElementFactory.find(name)]
raise SystemExit(", ".join(missing) or 0)
"""


def require_server() -> None:
    """Skip, or fail in CI, where gst-rtsp-server is not installed."""
    try:
        probe = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, timeout=60)
        reason = probe.stderr.strip().splitlines()[-1] if probe.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason and os.environ.get("CI"):
        pytest.fail(f"no RTSP server ({reason}): apt-get install {PACKAGES}")
    if reason:
        pytest.skip(f"no RTSP server ({reason}): apt-get install {PACKAGES}")


class RtspServer:
    """One server process on a port of its own; it can be frozen, killed, and started again on the same port."""

    def __init__(self, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [PYTHON, str(script), str(self.port), *self._options], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip() == "ready", f"the RTSP server said {line!r}"

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def age_ms(image: Image) -> int:
    """How old the picture is, by the clock in its bars."""
    row = image[image.shape[0] // 2, :, 1]
    bar_px = len(row) // 16
    shown_ms = 0
    for bar in range(16):
        shown_ms = shown_ms << 1 | int(row[bar * bar_px + bar_px // 2] > 128)
    return (time.monotonic_ns() // 1_000_000 - shown_ms) % 65536
