"""The pictures that a user named on the command line: of image files, videos and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lineside.records import Image


class Shot(NamedTuple):
    """One picture of a file; `frame` counts from 0 in videos."""

    file: Path
    frame: int | None
    image: Image


class Given:
    """The named files in their order; a folder stands for the pictures in it and below (images/folder.py).

    `faults` are what could not be opened below a folder; `notes` what else a user should know of the pictures.
    """

    def __init__(self, asked: list[Path], leave_out: Path | None = None) -> None:
        """`leave_out` is passed by: the folder this run writes. Raises ConfigError for a folder without picture."""
        from lineside.errors import ConfigError
        from lineside.images.folder import find
        from lineside.images.remarks import Remarks, shown

        self.files: list[Path] = []
        self.faults: list[str] = []
        self._passed: list[str] = []
        self._remarks = Remarks()
        for path in asked:
            if not path.is_dir():
                self.files.append(path)
                continue
            try:
                found = find(path, leave_out)
            except OSError as error:
                raise ConfigError(f"{shown(path)}: cannot be read: {error.strerror}: check its permissions") from error
            if not found.pictures:
                message = f"{shown(path)}: no picture in this folder: name files, or a folder of pictures"
                raise ConfigError(message, *found.faults, *found.passed())
            self.files += found.pictures
            self.faults += found.faults
            self._passed += found.passed()

    def notes(self) -> list[str]:
        return [*self._passed, *self._remarks.lines()]

    def is_video(self, file: Path) -> bool:
        """By its content; by its suffix where it cannot be read."""
        from lineside.images.kinds import VIDEO_SUFFIXES, kind_of_file

        try:
            kind = kind_of_file(file)
        except (OSError, ValueError):
            return file.suffix.lower() in VIDEO_SUFFIXES
        return kind is not None and kind.is_video

    def shots(self, file: Path) -> Iterator[Shot]:
        """The pictures of a file. Raises ConfigError or DeviceError."""
        from lineside.images import read_image

        if self.is_video(file):
            yield from _video(file)
        else:
            yield Shot(file, None, read_image(file, self._remarks))


def _video(file: Path) -> Iterator[Shot]:
    from lineside.errors import ConfigError, DeviceError
    from lineside.images.remarks import shown
    from lineside.registry import driver

    try:
        camera = driver("camera", "clip")(path=file, pace="max_speed")
        camera.open()
    except ConfigError as error:
        raise ConfigError(
            f"video {shown(file)}: cannot be opened ({error}): check that it plays in another program"
        ) from error
    number = 0
    try:
        while (captured := camera.read()) is not None:
            yield Shot(file, number, captured.image)
            number += 1
    finally:
        camera.close()
    if bad := camera.counts["bad"]:
        raise DeviceError(
            f"video {shown(file)}: damaged pictures in it, at least {bad}: the others, {number}, were looked at"
        )
