"""What every camera driver keeps. A new driver adds one line to CAMERAS.

v4l2 takes part where LINESIDE_VIDEO_DEVICE names a camera: tests/system/test_v4l2_vm.py sets it in a machine with one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lineside import registry
from lineside.contracts import Camera
from lineside.errors import ConfigError, DeviceError
from rtsp_peer import RtspServer, require_server

CAMERAS = ("clip_video", "clip_folder", "rtsp", "synthetic", "v4l2")
ABSENT = {
    "clip": {"path": "/nowhere/clip.mp4"},
    "rtsp": {"url": "rtsp://127.0.0.1:1/cam", "open_timeout_s": 2.0},
    "v4l2": {"device": "/dev/video987"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    require_server()
    server = RtspServer()
    yield server
    server.kill()


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Iterator[Camera]:
    name = request.param
    if name == "clip_video":
        options = {"path": request.getfixturevalue("data") / "videos" / "bolts_conveyor.mp4", "loop": True}
    elif name == "clip_folder":
        options = {"path": request.getfixturevalue("data") / "samples", "loop": True, "fps": 50.0}
    elif name == "rtsp":
        options = {"url": request.getfixturevalue("server").url}
    elif name == "synthetic":
        options = {"fps": 50.0}
    else:
        device = os.environ.get("LINESIDE_VIDEO_DEVICE")
        if not device:
            pytest.skip("no camera: set LINESIDE_VIDEO_DEVICE")
        options = {"device": device, "width_px": 640, "height_px": 360}
    made: Camera = registry.driver("camera", name.partition("_")[0])(**options)
    yield made
    made.close()


every_camera = pytest.mark.parametrize("camera", CAMERAS, indirect=True)


@every_camera
def test_pictures_are_bgr_bytes_with_times_that_grow(camera: Camera) -> None:
    camera.open()
    pictures = [camera.read() for _ in range(5)]
    times_ns = []
    for picture in pictures:
        assert picture is not None
        assert picture.image.dtype == np.uint8
        assert picture.image.ndim == 3
        assert picture.image.shape[2] == 3
        times_ns.append(picture.captured_ns)
        offset_ns = picture.wall_ns - picture.captured_ns - (time.time_ns() - time.monotonic_ns())
        assert abs(offset_ns) < 1_000_000_000
    assert times_ns == sorted(set(times_ns))


@every_camera
def test_a_later_read_never_touches_a_picture_that_was_handed_over(camera: Camera) -> None:
    camera.open()
    first = camera.read()
    assert first is not None
    before = first.image.copy()
    for _ in range(6):
        camera.read()
    assert np.array_equal(first.image, before)


@every_camera
def test_a_camera_may_be_closed_twice_and_opened_again(camera: Camera) -> None:
    camera.open()
    assert camera.read() is not None
    camera.close()
    camera.close()
    camera.open()
    assert camera.read() is not None


@every_camera
def test_close_from_another_thread_ends_the_reading(camera: Camera, eventually: Callable[..., None]) -> None:
    camera.open()
    got: list[object] = []

    def read_on() -> None:
        try:
            while picture := camera.read():
                got.append(picture)
        except DeviceError as error:
            got.append(error)

    reader = threading.Thread(target=read_on, daemon=True)
    reader.start()
    eventually(lambda: got, what="a first picture")
    camera.close()
    reader.join(5)
    assert not reader.is_alive()
    assert isinstance(got[-1], DeviceError)


@pytest.mark.parametrize("name", ABSENT)
def test_an_absent_camera_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises((ConfigError, DeviceError)) as caught:
        registry.driver("camera", name)(**ABSENT[name]).open()
    assert str(next(iter(ABSENT[name].values()))) in str(caught.value)


@pytest.mark.parametrize("name", ["rtsp", "v4l2"])
def test_a_driver_is_built_and_closed_without_its_device(name: str, tmp_path: Path) -> None:
    registry.driver("camera", name)(**ABSENT[name]).close()
