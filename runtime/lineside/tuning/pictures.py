"""The pictures to measure with: a folder's, or the bundle's golden ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lineside.errors import ConfigError
from lineside.images import read_image
from lineside.images.folder import find
from lineside.images.remarks import Remarks, shown
from lineside.records import Image
from lineside.store import golden
from lineside.store.bundle import Bundle

_SHOWN = 5  # unreadable pictures that a message names


@dataclass(slots=True)
class Pictures:
    """`read` gives them one by one and counts in `skipped` those that cannot be read, a line each."""

    source: str  # for people: the folder, or "the bundle's golden pictures"
    paths: list[Path]
    skipped: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)  # what else is in the folder, and is not looked at
    remarks: Remarks = field(default_factory=Remarks)

    def read(self) -> Iterator[Image]:
        """Raises ConfigError when not a single one can be read."""
        readable = 0
        for path in self.paths:
            try:
                image = read_image(path, self.remarks)
            except ConfigError as error:
                self.skipped.append(str(error))
                continue
            readable += 1
            yield image
        if not readable:
            raise ConfigError(f"{self.source}: not one of {len(self.paths)} pictures can be read:", *self.told())

    def told(self) -> list[str]:
        """The first of those that were skipped, and how many more."""
        more = len(self.skipped) - _SHOWN
        return self.skipped[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])

    def notes(self) -> list[str]:
        """What else who named the folder should know."""
        return [*self.passed, *self.remarks.lines()]


def pictures(bundle: Bundle, folder: Path | None) -> Pictures:
    """In an order that is mixed and always the same, so that the first few stand for all. Raises ConfigError."""
    if folder is None:
        if bundle.golden is None:
            raise ConfigError(
                f"bundle {bundle.folder}: has no golden pictures: name a folder of pictures with --data DIR"
            )
        return Pictures("its golden pictures", [golden.picture(bundle.folder, case) for case in bundle.golden.cases])
    try:
        found = find(folder)
    except OSError as error:
        message = f"--data {shown(folder)}: cannot be read ({error.strerror}): name a folder of pictures"
        raise ConfigError(message) from error
    if not found.pictures:
        raise ConfigError(f"--data {shown(folder)}: no picture in this folder or below", *found.told())
    random.Random(0).shuffle(found.pictures)
    return Pictures(shown(folder), found.pictures, skipped=found.faults, passed=found.passed())
