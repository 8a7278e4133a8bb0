"""What the decoders below OpenCV say of a picture.

libjpeg, libpng and libtiff notice damage that OpenCV's return value does not tell; they write it on standard error
(libjpeg's jdhuff.c and jdmarker.c warn, OpenCV leaves its default output in place). So it is read from there, for the
time of one decode; lines that other threads write meanwhile are passed on.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from threading import Lock

import numpy as np

_STDERR = 2
_OURS = re.compile(
    r"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Unknown Adobe color|Warning: unknown JFIF|"
    r"Invalid (?:SOS|crop)|libpng (?:warning|error)|iCCP|\[ *(?:ERROR|WARN|INFO):\d+@|TIFF\w*: |\s*$"
)
_DAMAGE = re.compile(r"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|.*(?:TIFF_Error|OpenJPEG2000)")
_lock = Lock()
_memory: list[int] = []  # the descriptor, once it is needed


@contextlib.contextmanager
def overhear() -> Iterator[list[str]]:
    """Fills the list with what decoders said, when the block ends. One thread at a time."""
    with _lock:
        if not _memory:
            _memory.append(os.memfd_create("lineside-decoders", os.MFD_CLOEXEC))
        memory = _memory[0]
        os.ftruncate(memory, 0)
        os.lseek(memory, 0, os.SEEK_SET)
        try:
            kept = os.dup(_STDERR)
        except OSError:  # a process without standard error
            kept = -1
        os.dup2(memory, _STDERR)
        said: list[str] = []
        try:
            yield said
        finally:
            if kept < 0:
                os.close(_STDERR)
            else:
                os.dup2(kept, _STDERR)
                os.close(kept)
            others = _sort(os.pread(memory, 1 << 20, 0), said)
            if others and kept >= 0:
                with contextlib.suppress(OSError):
                    os.write(_STDERR, others)


def _sort(written: bytes, said: list[str]) -> bytes:
    """Puts the decoders' lines into `said`; gives the lines of others."""
    others = b""
    for line in written.splitlines(keepends=True):
        text = line.decode(errors="replace").rstrip("\n")
        if _OURS.match(text):
            said.append(text)
        else:
            others += line
    return others


def damage(said: list[str]) -> str | None:
    """The first line that tells of damage. libjpeg prints only its first warning of a picture."""
    return next((line for line in said if _DAMAGE.match(line)), None)


@functools.cache
def tells() -> bool:
    """Whether damage can be heard with the OpenCV that is installed; tried once, on a JPEG that is cut short."""
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    packed = cv2.imencode(".jpg", noise)[1].tobytes()
    with overhear() as said:
        cv2.imdecode(np.frombuffer(packed[: len(packed) // 2] + b"\xff\xd9", np.uint8), cv2.IMREAD_COLOR)
    return damage(said) is not None
