"""The synthetic camera: the renderer's conveyor as a picture source, for demos, soak runs and tests without a camera.

It gives pictures only: what is wrong with a part stays in the renderer. `captured_ns` follows the frame rate from the
first picture in both paces; with pace = "max_speed" it therefore runs ahead of the clock, while `wall_ns` is now.
"""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING, Literal

from lineside.errors import ConfigError, DeviceError
from lineside.records import Captured

if TYPE_CHECKING:
    from lineside.cameras.render import Scene

RENDER_SHARE = 0.5  # of the time between two pictures is left for rendering the next, when paced
SMALLEST_PX, LARGEST_PX = 64, 8192  # the renderer scales with the height


class SyntheticCamera:
    """contracts.Camera on a rendered conveyor. The same seed, size and rate give the same pictures after each open."""

    live = False  # waits for its reader: nothing is lost when the path is slow

    def __init__(
        self,
        seed: int = 1,
        width_px: int = 640,
        height_px: int = 360,
        fps: float = 15.0,
        frames: int | None = None,
        pace: Literal["real_time", "max_speed"] = "real_time",
    ) -> None:
        for name, side in (("width_px", width_px), ("height_px", height_px)):
            if not SMALLEST_PX <= side <= LARGEST_PX:
                raise ConfigError(f"{name} = {side}: synthetic allows {SMALLEST_PX} to {LARGEST_PX}")
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps = {fps:g}: synthetic allows above 0, at most 1000")
        if seed < 0:
            raise ConfigError(f"seed = {seed}: synthetic allows 0 and above")
        if frames is not None and frames < 1:
            raise ConfigError(f"frames = {frames}: synthetic allows 1 and above, or leave it out for an endless belt")
        if pace not in ("real_time", "max_speed"):
            raise ConfigError(f'pace = "{pace}": synthetic allows real_time, max_speed')
        self._seed, self._size, self._fps, self._frames = seed, (width_px, height_px), fps, frames
        self.paced = pace == "real_time"
        self._closing = Event()
        self._scene: Scene | None = None
        self._number = 0
        self._begun_ns = 0

    def open(self) -> None:
        """Lay the belt and begin at the first frame."""
        from lineside.cameras.render import Scene  # here: OpenCV is not needed to check a configuration

        self._scene = Scene(self._seed, *self._size, fps=self._fps)
        self._number = 0
        self._closing.clear()

    def read(self) -> Captured | None:
        """The next picture, at its time if paced; None after the last of `frames`."""
        if self._scene is None or self._closing.is_set():
            raise DeviceError("synthetic camera: closed")
        if self._number == self._frames:
            return None
        if self.paced and self._number:  # rendered before it is due, not beside the inference of the picture before
            self._wait_until(self._begun_ns + round((self._number - RENDER_SHARE) * 1e9 / self._fps))
        image = self._scene.frame(self._number).image
        if self._number == 0:
            self._begun_ns = time.monotonic_ns()
        due_ns = self._begun_ns + round(self._number * 1e9 / self._fps)
        self._number += 1
        if not self.paced:
            return Captured(image, due_ns, time.time_ns())
        self._wait_until(due_ns)
        return Captured(image, due_ns, time.time_ns() - (time.monotonic_ns() - due_ns))

    def _wait_until(self, due_ns: int) -> None:
        wait_s = (due_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0 and self._closing.wait(wait_s):
            raise DeviceError("synthetic camera: closed")

    def close(self) -> None:
        self._closing.set()
