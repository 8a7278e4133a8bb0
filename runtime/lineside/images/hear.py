"""What the decoders below OpenCV say of a picture.

libjpeg, libpng and libtiff notice damage that OpenCV's return value does not tell; they write it on standard error
(libjpeg's jdhuff.c and jdmarker.c warn, OpenCV leaves its default output in place). So it is read from there, for the
time of one decode; lines that other threads write meanwhile are passed on.
"""

from __future__ import annotations

import contextlib
import fcntl
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
_DAMAGE = re.compile(r"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|TIFF_Error|OpenJPEG2000")
_lock = Lock()


class _Ear:
    """A file in memory that takes the place of standard error; `passed` bytes of it are dealt with."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("lineside-decoders", os.MFD_CLOEXEC)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, os.O_APPEND)  # writes of several threads stay whole
        self.passed = 0

    def take(self) -> bytes:
        """What was written since the last call."""
        written = os.pread(self.descriptor, os.fstat(self.descriptor).st_size - self.passed, self.passed)
        self.passed += len(written)
        return written

    def clear(self) -> None:
        os.ftruncate(self.descriptor, 0)
        self.passed = 0


@functools.cache
def _ear(process: int) -> _Ear:
    """One for each process: a forked child would write into its parent's."""
    return _Ear()


@contextlib.contextmanager
def overhear() -> Iterator[list[str]]:
    """Fills the list with what decoders said, when the block ends. One thread at a time."""
    with _lock:
        ear = _ear(os.getpid())
        late = ear.take()  # by a thread that was just writing when the block before ended
        ear.clear()
        try:
            kept = os.dup(_STDERR)
        except OSError:  # a process without standard error
            kept = -1
        os.dup2(ear.descriptor, _STDERR)
        said: list[str] = []
        try:
            yield said
        finally:
            if kept < 0:
                os.close(_STDERR)
            else:
                os.dup2(kept, _STDERR)
                os.close(kept)
            others = late + _sort(ear.take(), said)
            if others and kept >= 0:
                with contextlib.suppress(OSError):
                    os.write(_STDERR, others)


def _sort(written: bytes, said: list[str]) -> bytes:
    """Puts the decoders' lines into `said`; gives the lines of others."""
    others = b""
    for line in written.splitlines(keepends=True):
        text = line.decode(errors="replace").rstrip("\n")
        if _OURS.match(text) or _DAMAGE.search(text):  # others may write between a decoder's text and its line's end
            said.append(text)
        else:
            others += line
    return others


def damage(said: list[str]) -> str | None:
    """The first line that tells of damage. libjpeg prints only its first warning of a picture."""
    return next((line for line in said if _DAMAGE.search(line)), None)


@functools.cache
def tells() -> bool:
    """Whether damage can be heard with the OpenCV that is installed; tried once, on a JPEG that is cut short."""
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    packed = cv2.imencode(".jpg", noise)[1].tobytes()
    with overhear() as said:
        cv2.imdecode(np.frombuffer(packed[: len(packed) // 2] + b"\xff\xd9", np.uint8), cv2.IMREAD_COLOR)
    return damage(said) is not None
