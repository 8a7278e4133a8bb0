"""The pictures to measure with: a folder's, or the bundle's golden ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lineside.errors import ConfigError
from lineside.images import SUFFIXES, read_image
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

    def read(self) -> Iterator[Image]:
        """Raises ConfigError when not a single one can be read."""
        readable = 0
        for path in self.paths:
            try:
                image = read_image(path)
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


def pictures(bundle: Bundle, folder: Path | None) -> Pictures:
    """In an order that is mixed and always the same, so that the first few stand for all. Raises ConfigError."""
    if folder is None:
        if bundle.golden is None:
            raise ConfigError(
                f"bundle {bundle.folder}: has no golden pictures: name a folder of pictures with --data DIR"
            )
        return Pictures("its golden pictures", [golden.picture(bundle.folder, case) for case in bundle.golden.cases])
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ConfigError(f"--data {folder}: cannot be read ({error.strerror}): name a folder of pictures") from error
    if not paths:
        raise ConfigError(f"--data {folder}: no picture in this folder: lineside reads {', '.join(SUFFIXES)}")
    random.Random(0).shuffle(paths)
    return Pictures(f"{folder}", paths)
