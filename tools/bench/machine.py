"""The machine that was measured on, and what is measured once: help, delivery, installed size."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lineside.hal.processor import has_vnni

_PACKAGES = ("lineside", "numpy", "opencv-python-headless", "onnxruntime", "openvino", "ai-edge-litert", "paho-mqtt")


def machine() -> dict[str, Any]:
    """CPU, cores, load and versions."""
    info = Path("/proc/cpuinfo").read_text()
    cpu = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "vnni": has_vnni(),
        "load_1min_at_start": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def help_s(runs: int) -> list[float]:
    """Seconds of `lineside --help`, process and all."""
    command = [str(Path(sys.executable).with_name("lineside")), "--help"]
    took: list[float] = []
    for _ in range(runs):
        began_s = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(round(time.monotonic() - began_s, 4))
    return took


def mqtt(rounds: int) -> dict[str, Any]:
    """Decision -> subscriber beside a bare paho publish, from tools/bench_mqtt.py."""
    import bench_mqtt

    with tempfile.TemporaryDirectory(prefix="lineside-bench-") as name, bench_mqtt.broker(Path(name)) as port:
        return bench_mqtt.latency(port, Path(name), rounds)


def core_install_mb(root: Path) -> float:
    """Size of the wheel with its core dependencies and nothing else, in MB (10^6 bytes), freshly installed."""
    with tempfile.TemporaryDirectory(prefix="lineside-size-") as name:
        target = Path(name) / "site"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--target",
            str(target),
            str(root),
        ]
        subprocess.run(command, check=True)
        sizes = (path.lstat().st_size for path in target.rglob("*") if not path.is_dir())
        return round(sum(sizes) / 1e6, 1)
