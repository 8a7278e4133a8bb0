"""Builds world.c; how a process is run in it: a slow or refusing disk, a clock that is set, a record of writes."""

from __future__ import annotations

import hashlib
import mmap
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("world.c")


def library(folder: Path | None = None) -> Path:
    """The shared object, compiled once for each state of its source. Ends the program where there is no compiler."""
    name = f"lineside-world-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    built = (folder or Path(tempfile.gettempdir())) / name
    if built.exists():
        return built
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("the power cut and slow disk need a C compiler: apt install gcc libc6-dev")
    with tempfile.TemporaryDirectory(dir=built.parent) as apart:
        fresh = Path(apart) / name
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(fresh), str(_SOURCE), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
        fresh.replace(built)
    return built


def environment(
    state: Path, *, record: Path | None = None, slow_ms: int | None = None, dials: Dials | None = None
) -> dict[str, str]:
    """What to add to the environment of a process whose files are under `state`."""
    variables = {"LD_PRELOAD": str(library()), "WORLD_FOLDER": str(state)}
    if record is not None:
        variables["WORLD_RECORD"] = str(record)
    if slow_ms is not None:
        variables["WORLD_SLOW_MS"] = str(slow_ms)
    if dials is not None:
        variables["WORLD_DIALS"] = str(dials.path)
    return variables


class Dials:
    """Changes the world of processes that run with it, while they run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(16))

    def set_clock(self, ahead_s: float) -> None:
        """Put the wall clock so many seconds ahead of this machine's."""
        self._turn(0, round(ahead_s * 1e9))

    def refuse_writes(self, error: int) -> None:
        """Every change of a file fails with this errno; 0 ends that."""
        self._turn(8, error)

    def _turn(self, at: int, value: int) -> None:
        with self.path.open("r+b") as file, mmap.mmap(file.fileno(), 16) as shared:
            shared[at : at + 8] = struct.pack("=q", value)
