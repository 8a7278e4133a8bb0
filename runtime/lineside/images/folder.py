"""Which files of a folder are pictures: one rule for every command and camera that is given a folder.

The folder and its subfolders are walked; links are followed, each folder once. A file is a picture if its first bytes
say so, or its suffix does and its content is no video. Hidden files and folders (".name") are passed by, and so is
whatever is neither picture nor video. Videos, and what cannot be opened, are named: nothing vanishes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lineside.images import kinds
from lineside.images.remarks import shown

_SHOWN = 5  # names in one message


@dataclass(slots=True)
class Found:
    """What is in a folder and below it, in the order of the names."""

    pictures: list[Path] = field(default_factory=list)  # some of them may turn out to be damaged
    videos: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # subfolders and files that cannot be opened, a message each

    def passed(self) -> list[str]:
        """A line on the videos, which no reader of a folder looks at."""
        if not self.videos:
            return []
        return [f"{listed(self.videos, 'video')} in the folder: not looked at: name a video itself"]

    def told(self) -> list[str]:
        """What is not among the pictures, a line each, for people."""
        return [*self.faults, *self.passed()]


def find(folder: Path, leave_out: Path | None = None) -> Found:
    """Raises OSError if the folder itself cannot be read; `leave_out` is a folder below it that is passed by."""
    found = Found()
    skipped = _identity(leave_out) if leave_out is not None else None
    seen = {skipped} if skipped is not None and skipped != _identity(folder) else set()
    for path in _files(folder, seen, found.faults):
        _put(path, found)
    found.pictures.sort()
    found.videos.sort()
    return found


def _files(folder: Path, seen: set[tuple[int, int]], faults: list[str]) -> Iterator[Path]:
    """Every file of the folder and below. Each folder is walked once, under its own name before that of a link."""
    waiting, links = [folder], list[Path]()
    while waiting or links:
        at = waiting.pop() if waiting else links.pop(0)
        identity = _identity(at)
        if identity in seen:
            continue
        if identity is not None:
            seen.add(identity)
        try:
            with os.scandir(at) as entries:
                each = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            if at == folder:
                raise
            faults.append(f"folder {shown(at)}: cannot be read: {error.strerror}")
            continue
        below = []
        for entry in each:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if is_folder and entry.is_symlink():
                links.append(at / entry.name)
            elif is_folder:
                below.append(at / entry.name)
            else:
                yield at / entry.name
        waiting += reversed(below)


def _put(path: Path, found: Found) -> None:
    suffix = path.suffix.lower()
    named = suffix in kinds.SUFFIXES or suffix in kinds.VIDEO_SUFFIXES
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(0, f"it is a {kinds.what_is(path.stat().st_mode)}, not a file")
        head = kinds.read_head(path)
    except OSError as error:
        if named or not suffix:
            found.faults.append(f"image {shown(path)}: cannot be read: {error.strerror}")
        return
    kind = kinds.kind_of(head, path)
    if kind is None:
        if suffix in kinds.SUFFIXES:  # empty, or its first bytes are damaged: reading it says so
            found.pictures.append(path)
        elif suffix in kinds.VIDEO_SUFFIXES and suffix != ".ts":  # which TypeScript has, too
            found.videos.append(path)
    elif kind.is_video:
        found.videos.append(path)
    else:
        found.pictures.append(path)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def listed(paths: Sequence[Path], noun: str) -> str:
    """`1 video (a.mp4)`, `7 videos (a.mp4, b.mp4, ... and 2 more)`."""
    names = ", ".join(shown(path.name) for path in paths[:_SHOWN])
    more = f", and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{len(paths)} {noun}{'s' if len(paths) != 1 else ''} ({names}{more})"
