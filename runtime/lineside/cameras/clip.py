"""The clip camera: a video file or a folder of images, as the recording ran or as fast as the path takes it.

`captured_ns` follows the recording's own timestamps from the moment of the first picture, in both paces, so that rules
see the same times at any speed; with pace = "max_speed" it therefore runs ahead of the clock, while `wall_ns` is now.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Literal, TypeAlias

from lineside.cameras.container import Structure, inspect
from lineside.cameras.ffmpeg import Reader, prepare
from lineside.cameras.lost import Watched, skipped
from lineside.errors import ConfigError, DeviceError
from lineside.images import read_image
from lineside.images.folder import find
from lineside.images.kinds import open_file, what_is
from lineside.images.remarks import Remarks, shown
from lineside.records import Captured, Image

log = logging.getLogger(__name__)

FOLDER_FPS = 10.0
DECODE_SHARE = 0.25  # of the time between two pictures is left for decoding the next, when paced
UNKNOWN_FPS = 25.0  # a raw stream states none
DAMAGED_IN_A_ROW = 16  # damaged packets to read past where the container does not say how many pictures are left

Shot: TypeAlias = tuple[float, Image]  # seconds from the start of the recording, picture


class ClipCamera:
    """contracts.Camera on a recording. `counts["bad"]` are pictures that are stated or listed but don't decode."""

    live = False  # waits for its reader: nothing is lost when the path is slow

    def __init__(
        self,
        path: str | Path,
        pace: Literal["real_time", "max_speed"] = "real_time",
        loop: bool = False,
        fps: float | None = None,
    ) -> None:
        self._path = Path(path)
        self.paced = pace == "real_time"
        self._loop = loop
        self._fps = fps
        self._closing = Event()
        self._reader: Reader | None = None
        self._structure: Structure | None = None  # of the video file, looked at once
        self._shots: Iterator[Shot] = iter(())
        self._period_s = 1 / FOLDER_FPS
        self._shown_ns = 0  # when the picture before was due
        self._unopened = 0  # subfolders and files of the folder
        self._told: set[str] = set()
        self.counts: dict[str, int] = {"bad": 0}
        if not self._path.exists():
            raise ConfigError(f"path = '{path}': no such file or folder")
        if self._path.is_dir():
            self._list()
        elif not self._path.is_file():
            raise ConfigError(f"path = '{path}': is a {what_is(self._path.stat().st_mode)}, no file or folder")
        prepare()

    def open(self) -> None:
        """Open the recording at its start. Raises ConfigError if it is no video, DeviceError if it cannot be read."""
        self._closing.clear()
        if self._path.is_dir():
            self._period_s = 1 / (self._fps or FOLDER_FPS)
        else:
            self._reader = self._video()
            stated = self._reader.fps()
            self._period_s = 1 / (self._fps or (stated if 0.01 <= stated <= 1000 else UNKNOWN_FPS))
        self._shots = self._timed()

    def read(self) -> Captured | None:
        """The next picture, at its time if paced."""
        if (
            self.paced
        ):  # decoded shortly before it is due, as a camera would: not beside the inference of the one before
            self._wait_until(self._shown_ns + int(self._period_s * (1 - DECODE_SHARE) * 1e9))
        shot = next(self._shots, None)
        if self._closing.is_set():
            raise DeviceError(f"clip {self._path}: closed")
        if shot is None:
            return None
        due_ns = self._begun_ns + int(shot[0] * 1e9)
        if self.paced:
            self._wait_until(due_ns)
            self._shown_ns = due_ns
        behind_ns = time.monotonic_ns() - due_ns if self.paced else 0
        return Captured(shot[1], due_ns, time.time_ns() - behind_ns)

    def close(self) -> None:
        self._closing.set()
        if self._reader is not None:
            self._reader.close()

    def _wait_until(self, due_ns: int) -> None:
        wait_s = (due_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0 and self._closing.wait(wait_s):
            raise DeviceError(f"clip {self._path}: closed")

    def _timed(self) -> Iterator[Shot]:
        """Every pass over the recording, on one time line that starts with the first picture."""
        pass_s = 0.0
        while True:
            shown_s = -self._period_s
            first_s: float | None = None
            for stated_s, image in self._one_pass():
                if first_s is None:
                    first_s = stated_s
                    if pass_s == 0.0:
                        self._begun_ns = time.monotonic_ns()
                later = stated_s - first_s > shown_s
                shown_s = stated_s - first_s if later and self._fps is None else shown_s + self._period_s
                yield pass_s + shown_s, image
                del image  # before the next one is decoded: at 1080p a picture is 6 MB
            if self._closing.is_set():
                return
            if shown_s < 0:
                raise ConfigError(f"path = '{self._path}': not one picture in it can be decoded")
            if not self._loop:
                return
            pass_s += shown_s + self._period_s
            if self._reader is not None:
                self._reader.close()
                self._reader = self._video()

    def _one_pass(self) -> Iterator[Shot]:
        return self._read_folder() if self._reader is None else self._read_video(self._reader)

    # --- video file

    def _video(self) -> Reader:
        try:
            descriptor = open_file(self._path)
        except OSError as error:
            raise DeviceError(f"clip {shown(self._path)}: cannot be read: {error.strerror}") from error
        try:
            return Reader(_encodable(self._path.absolute(), descriptor))
        except DeviceError as error:
            raise ConfigError(
                f"path = '{shown(self._path)}': FFmpeg finds no video in it: empty, cut off, or another kind of file"
            ) from error
        finally:
            os.close(descriptor)

    def _read_video(self, reader: Reader) -> Iterator[Shot]:
        stated, run = reader.pictures(), 0
        watched = Watched(stated)
        while not self._closing.is_set() and run <= max(DAMAGED_IN_A_ROW, stated - len(watched.times_s)):
            image = reader.retrieve() if reader.grab() else None
            if image is None:
                run += 1  # a damaged packet, or the end: only reading on tells
                continue
            self.counts["bad"] += run
            watched.damaged, run = watched.damaged + run, 0
            position_s = reader.position_s()
            watched.times_s.append(position_s)
            yield position_s, image
            del image
        if self._closing.is_set():
            return
        if self._structure is None:
            try:
                self._structure = inspect(self._path)
            except OSError:  # gone meanwhile: what was decoded is all that is known
                self._structure = Structure()
        self.counts["bad"] += skipped(watched, self._structure)

    # --- folder of images

    def _list(self) -> list[Path]:
        """The pictures of the folder and below, as a person would order their names. Raises ConfigError."""
        try:
            found = find(self._path)
        except OSError as error:
            raise ConfigError(f"path = '{self._path}': cannot be read: {error.strerror}") from error
        if not found.pictures:
            raise ConfigError(f"path = '{self._path}': the folder has no image file", *found.told())
        self._tell(found.told())
        self._unopened = len(found.faults)
        return sorted(found.pictures, key=_natural)

    def _read_folder(self) -> Iterator[Shot]:
        try:
            pictures = self._list()
        except ConfigError as error:
            raise DeviceError(f"clip {self._path}: {error}") from error
        self.counts["bad"] += self._unopened
        remarks = Remarks()
        for index, path in enumerate(pictures):
            try:
                image = read_image(path, remarks)
            except ConfigError as error:
                self.counts["bad"] += 1
                self._tell([str(error)])
                continue
            yield index * self._period_s, image
        self._tell(remarks.lines())

    def _tell(self, lines: list[str]) -> None:
        """Each once, however often the clip is looped."""
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                log.warning("clip %s: %s", shown(self._path), line)


def _encodable(path: Path, descriptor: int) -> str:
    """The path, or the open file's own where the name is no UTF-8: OpenCV crashes on such a name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"/proc/self/fd/{descriptor}"
    return str(path)


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    """part2 before part10, folder by folder."""
    return [
        [(int(run), "") if run.isdecimal() else (-1, run) for run in re.split(r"(\d+)", part)] for part in path.parts
    ]
