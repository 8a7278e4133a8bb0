"""The synthetic camera: pictures of the renderer at their time, and nothing that gives the truth away."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from lineside.cameras.render import Scene
from lineside.cameras.synthetic import SyntheticCamera
from lineside.errors import ConfigError, DeviceError
from lineside.records import Captured


def test_it_gives_the_frames_of_its_scene_and_then_ends() -> None:
    camera = SyntheticCamera(seed=9, fps=20, frames=4, pace="max_speed")
    camera.open()
    got = [camera.read() for _ in range(5)]
    assert got[4] is None
    assert camera.read() is None
    scene = Scene(9, fps=20)
    for number, captured in enumerate(got[:4]):
        assert captured is not None
        assert np.array_equal(captured.image, scene.frame(number).image)
        assert captured.image.dtype == np.uint8
        assert captured.image.flags.c_contiguous
    camera.close()


def test_captured_times_follow_the_frame_rate_in_both_paces() -> None:
    for pace in ("max_speed", "real_time"):
        camera = SyntheticCamera(fps=50, frames=5, pace=pace)  # type: ignore[arg-type]
        camera.open()
        times = [captured.captured_ns for captured in iter(camera.read, None)]
        assert np.diff(times).tolist() == [20_000_000] * 4


def test_real_time_never_shows_a_frame_before_its_time() -> None:
    camera = SyntheticCamera(fps=40, frames=6, pace="real_time")
    camera.open()
    for captured in iter(camera.read, None):
        assert time.monotonic_ns() >= captured.captured_ns
        assert abs((time.time_ns() - captured.wall_ns) - (time.monotonic_ns() - captured.captured_ns)) < 20_000_000


def test_opening_again_begins_again() -> None:
    camera = SyntheticCamera(seed=3, pace="max_speed")
    images = []
    for _ in range(2):
        camera.open()
        camera.read()
        captured = camera.read()
        assert captured is not None
        images.append(captured.image)
        camera.close()
        camera.close()
    assert np.array_equal(*images)


def test_closing_from_another_thread_ends_a_read_that_waits() -> None:
    camera = SyntheticCamera(fps=0.1)
    camera.open()
    camera.read()
    ended = []

    def read() -> None:
        try:
            camera.read()
        except DeviceError as error:
            ended.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    camera.close()
    reader.join(5)
    assert ended == ["synthetic camera: closed"]
    with pytest.raises(DeviceError):
        camera.read()


def test_a_picture_carries_no_truth() -> None:
    camera = SyntheticCamera(pace="max_speed")
    camera.open()
    captured = camera.read()
    assert isinstance(captured, Captured)
    assert set(Captured.__slots__) == {"image", "captured_ns", "wall_ns"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width_px": 10}, "width_px = 10: synthetic allows 64 to 8192"),
        ({"height_px": 9000}, "height_px = 9000"),
        ({"fps": 0}, "fps = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"frames": 0}, "frames = 0"),
        ({"pace": "warp"}, 'pace = "warp": synthetic allows real_time, max_speed'),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        SyntheticCamera(**options)  # type: ignore[arg-type]
