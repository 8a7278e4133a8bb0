"""Compiles the stand-in as libedgetpu.so.1 into a folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("edgetpu_stand_in.c")


def build_libedgetpu(folder: Path) -> Path:
    """The library's path. Skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the Edge TPU stand-in: apt install gcc")
    library = folder / "libedgetpu.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
    return library
