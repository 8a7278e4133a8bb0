"""The processors that the shipped models are tried on, and the Python that runs on each: this machine's own, or one
under qemu's user emulation (tools/setup_cpus.sh, tools/setup_arm.sh)."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = "host"
FLAGS = ("sse4_2", "avx", "avx2", "avx512f", "avx_vnni", "avx512_vnni", "asimddp", "i8mm")  # what kernels are chosen by
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}  # by backend


@dataclass(frozen=True, slots=True)
class Machine:
    """One processor. `folder` holds bin/python; `folder`-onnxruntime the same with ONNX Runtime alone."""

    name: str
    title: str
    arch: str
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def alone(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-onnxruntime") / "bin" / "python"

    @property
    def emulated(self) -> bool:
        return self.name != HOST


_X86, _ARM = ROOT / ".venv-cpus", ROOT / ".venv-arm"
MACHINES = (
    Machine(HOST, "this machine", "x86_64", _X86 / HOST),
    Machine("Nehalem", "x86-64 with SSE4.2", "x86_64", _X86 / "Nehalem"),
    Machine("Haswell", "x86-64 with AVX2", "x86_64", _X86 / "Haswell"),
    Machine("cortex-a53", "ARM64 without dot product", "aarch64", _ARM / "cortex-a53"),
    Machine("cortex-a72", "ARM64 without dot product", "aarch64", _ARM / "cortex-a72"),
    Machine("cortex-a76", "ARM64 with dot product", "aarch64", _ARM / "cortex-a76"),
)


def environment() -> dict[str, str]:
    """Of every process that is started: this tree's lineside, one thread, no word of the emulator's about itself."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "OMP_NUM_THREADS": "1"}


@cache
def facts(machine: Machine) -> dict[str, str]:
    """What the answers of this processor may depend on: itself, the emulator, Python's packages by name."""
    found = {"machine": machine.name, "cpu": _host_cpu() if not machine.emulated else _emulator(machine)}
    site = next(machine.folder.glob("lib/python3*/site-packages"))
    wanted = {"numpy", "opencv-python-headless", *PACKAGES.values()}
    for one in distributions(path=[str(site)]):
        if (name := one.metadata["Name"].lower()) in wanted:
            found[name] = one.version
    return found


def missing(machine: Machine) -> bool:
    return not (machine.python.exists() and machine.alone.exists())


def _host_cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    lines = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    told = {key.strip(): value.strip() for key, value in lines.items()}
    flags = told.get("flags", told.get("Features", "")).split()
    return " ".join([told.get("model name", "unknown"), *(flag for flag in FLAGS if flag in flags)])


def _emulator(machine: Machine) -> str:
    qemu = machine.folder.parent / f"qemu-{machine.arch}"
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{machine.name}, {told.splitlines()[0]}"


def described(machine: Machine) -> str:
    return json.dumps(facts(machine), sort_keys=True)
