"""The test pictures of each bundle's own list, decoded and scaled once, so that no emulated processor has to.

Scaled here, since OpenCV scales by other code on ARM, up to two grey levels apart: what differs then is the runtime's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lists import FRAMES_A_SCENE, LISTS, SCENES
from rendered import TEST_SEED

from lineside.cameras.render import Scene
from lineside.errors import ConfigError
from lineside.records import Image
from lineside.store.bundle import Bundle
from lineside.vision.prepare import Prepare


def pictures(bundle: Bundle, on: str, count: int, data: Path, folder: Path) -> tuple[Path, str]:
    """The .npz of `count` pictures of a list, spread evenly over it, on the bundle's canvas, and its digest; made if it
    is not there.

    Raises ConfigError where the data is not there.
    """
    path = folder / f"{bundle.name}-{on}-{count}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        prepare = Prepare(bundle.input)
        canvases = (prepare.put(image)[0].copy() for image in _picked(on, count, data))
        numbered: dict[str, Any] = {f"{number}": canvas for number, canvas in enumerate(canvases)}
        np.savez(part, **numbered)
        part.replace(path)
    digest = hashlib.sha256()
    with np.load(path) as images:
        for name in sorted(images.files, key=int):
            digest.update(repr(images[name].shape).encode() + images[name].tobytes())
    return path, digest.hexdigest()[:16]


def _picked(on: str, count: int, data: Path) -> Iterator[Image]:
    if on == "rendered":  # a frame of each scene: to draw the whole list takes a minute
        for number in range(min(count, SCENES)):
            yield Scene(TEST_SEED + number).frame(23 * (number % FRAMES_A_SCENE)).image
        return
    listed = LISTS[on]
    if not (data / listed.folder).is_dir():
        raise ConfigError(f"--data {data}: has no {listed.folder}: name the folder of the test lists")
    every = [shown.image for shown in listed.read(data)]
    for at in np.unique(np.linspace(0, len(every) - 1, count).round().astype(int)):
        yield every[at]
