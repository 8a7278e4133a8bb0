"""One INT8 file on an emulated processor: a child under qemu's user emulation looks at pictures, within a time.

`python -m lineside.quantize.emulated FOLDER` is the child; `look` starts it. Arithmetic there is the emulated
processor's, speed is not: a picture takes some ten times as long.
"""

from __future__ import annotations

import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lineside.errors import ConfigError, LinesideError
from lineside.hal.artefact import Options
from lineside.quantize.measure import Reading, Runner
from lineside.quantize.pictures import Shot
from lineside.quantize.processors import PROCESSORS, Processor, here
from lineside.quantize.search import Say
from lineside.records import Artefact, Seen

_JOB, _SEEN = "job", "seen"
_POLL_S, _TELL_S = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What the child saw of the first pictures, as many as there was time for."""

    seen: tuple[Seen, ...]
    fault: str = ""  # why there are not more, but for want of time


def emulators(arm_pythons: Sequence[Path] = ()) -> dict[str, tuple[str, ...]]:
    """The commands that start this Python, or a given one, on another processor, by the processor's name."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in PROCESSORS:
        program = shutil.which(kind.emulator) or shutil.which(f"{kind.emulator}-static") if kind.emulator else None
        if program and platform.machine() in ("x86_64", "AMD64"):
            found[kind.name] = (program, "-cpu", kind.cpu, sys.executable)
    for python in arm_pythons:
        found[_kind_of_python(python)] = (str(python),)
    return found


def _kind_of_python(python: Path) -> str:
    """Raises ConfigError where it does not start, or has not what lineside needs."""
    words = "from lineside.quantize.processors import here; print(here())"
    try:
        done = subprocess.run(
            [str(python), "-c", words], capture_output=True, text=True, timeout=120, env=_environment(), check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"--arm-python {python}: does not run lineside: {_last_line(error)}") from error
    if not done.stdout.strip().startswith("arm64"):
        raise ConfigError(f"--arm-python {python}: runs on {done.stdout.strip()}: give an ARM64 Python")
    return done.stdout.strip()


def _last_line(error: Exception) -> str:
    told = getattr(error, "stderr", None) or str(error)
    lines = (told.decode(errors="replace") if isinstance(told, bytes) else told).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _environment() -> dict[str, str]:
    """The child imports this very lineside."""
    package = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{before}" if before else package}


def look(
    command: Sequence[str],
    kind: Processor,
    artefact: Artefact,
    reading: Reading,
    backend: str,
    shots: Sequence[Shot],
    within_s: float,
    say: Say,
    options: Options | None = None,
) -> Looked:
    """Have a child that `command` starts look at `shots`, for `within_s` seconds at most."""
    ends = time.monotonic() + within_s
    with tempfile.TemporaryDirectory(prefix="lineside-emulated-") as folder:
        at = Path(folder)
        with (at / _JOB).open("wb") as file:
            pictures = [replace(shot, path=Path()) for shot in shots]
            pickle.dump((kind.name, artefact, reading, backend, options, pictures), file)
        told = time.monotonic()
        with (at / "errors").open("w+") as errors:
            child = subprocess.Popen(
                [*command, "-m", "lineside.quantize.emulated", folder],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=_environment(),
            )
            ended = False  # by us
            try:
                while child.poll() is None and time.monotonic() < ends:
                    time.sleep(_POLL_S)
                    if time.monotonic() - told >= _TELL_S:
                        told = time.monotonic()
                        file_name, count = Path(artefact.path).name, len(_read(at))
                        state = f"{count} of {len(shots)} pictures" if count else "starting"
                        say(f"{file_name} on {backend}, {kind.name} emulated: {state}")
            finally:
                if child.poll() is None:
                    ended = True
                    child.kill()
                    child.wait()
            errors.seek(0)
            lines = errors.read().strip().splitlines()
        seen = _read(at)
    if ended or child.returncode == 0:
        return Looked(tuple(seen))
    return Looked(tuple(seen), lines[-1] if lines else f"exit status {child.returncode}")


def _read(folder: Path) -> list[Seen]:
    """What the child has written until now."""
    return list(_records(folder / _SEEN))


def _records(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            while True:
                yield pickle.load(file)
    except (OSError, EOFError, pickle.UnpicklingError):  # the last one may be half written
        return


def main(folder: Path) -> int:
    """The child: writes what it sees, a record a picture."""
    with (folder / _JOB).open("rb") as file:
        kind, artefact, reading, backend, options, shots = pickle.load(file)
    if here() != kind:
        print(f"the emulated processor is {here() or platform.machine()}, not {kind}")
        return 1
    try:
        runner = Runner(artefact, reading, backend, options)
        with (folder / _SEEN).open("wb") as file:
            for shot in shots:
                pickle.dump(runner.see([shot])[0], file)
                file.flush()
        runner.close()
    except LinesideError as error:
        print(str(error).replace("\n", "; "))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
