"""The V4L2 camera: pinning on a recorded /sys, and on a machine with a video device everything else.

LINESIDE_VIDEO_DEVICE names a device of the kernel's `vivid` driver; tests/system/test_v4l2_vm.py boots such a machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cameras import usb_pin
from lineside.cameras import v4l2_abi as abi
from lineside.cameras.capture import Capture
from lineside.cameras.v4l2 import V4l2Camera, _converter
from lineside.errors import ConfigError, DeviceError
from lineside.records import Frame

# --- pinning


def plug(sys_root: Path, port: str, node: int, serial: str | None, name: str = "HD Webcam") -> None:
    """What /sys has of a UVC camera: two nodes (pictures and metadata) of one interface of one USB device."""
    device = sys_root / "devices" / "pci0000:00" / "0000:00:14.0" / "usb1" / port
    interface = device / f"{port}:1.0"
    interface.mkdir(parents=True)
    (device / "busnum").write_text("1\n")
    if serial is not None:
        (device / "serial").write_text(f"{serial}\n")
    for index in range(2):
        entry = interface / "video4linux" / f"video{node + index}"
        entry.mkdir(parents=True)
        (entry / "index").write_text(f"{index}\n")
        (entry / "name").write_text(f"{name}: {name}\n")
        (entry / "dev").write_text(f"81:{node + index}\n")
        (entry / "device").symlink_to("../..")
        listing = sys_root / "class" / "video4linux"
        listing.mkdir(parents=True, exist_ok=True)
        (listing / entry.name).symlink_to(os.path.relpath(entry, listing))


def test_a_pin_finds_its_camera_in_any_order_of_plugging(tmp_path: Path) -> None:
    plug(tmp_path, "1-1.4", 2, "SN-A")
    plug(tmp_path, "1-1.3", 0, "SN-B")
    plug(tmp_path, "1-2", 10, None)
    assert usb_pin.find("SN-A", None, tmp_path).node == "/dev/video2"
    assert usb_pin.find("SN-B", None, tmp_path).node == "/dev/video0"
    by_port = usb_pin.find(None, "1-2", tmp_path)
    assert (by_port.node, by_port.number, by_port.serial) == ("/dev/video10", os.makedev(81, 10), "")


def test_a_replug_of_another_camera_is_never_bound(tmp_path: Path) -> None:
    plug(tmp_path, "1-1.3", 0, "SN-B")
    with pytest.raises(DeviceError, match=r"no camera with serial 'SN-A'; plugged in: .* serial SN-B \(/dev/video0\)"):
        V4l2Camera(serial="SN-A", sys_root=tmp_path).open()


def test_two_cameras_of_one_serial_are_told_apart_by_their_port(tmp_path: Path) -> None:
    plug(tmp_path, "1-1.3", 0, "0000")
    plug(tmp_path, "1-1.4", 2, "0000")
    with pytest.raises(DeviceError, match=r"two cameras have serial '0000'.*pin by usb_path"):
        usb_pin.find("0000", None, tmp_path)
    assert usb_pin.find(None, "1-1.4", tmp_path).node == "/dev/video2"


def test_a_box_without_cameras_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no USB camera at all"):
        usb_pin.find("SN-A", None, tmp_path)


def test_a_node_that_changes_hands_while_it_is_opened_is_given_back(tmp_path: Path) -> None:
    plug(tmp_path, "1-1.3", 0, "SN-A")
    node = tmp_path / "class" / "video4linux" / "video0"
    node.rename(node.with_name("null"))  # /dev/null is a device, and never has the number 81:0
    with pytest.raises(DeviceError, match="changed hands"):
        V4l2Camera(serial="SN-A", sys_root=tmp_path).open()


# --- pixels


def test_a_jpeg_that_the_bus_cut_short_is_no_picture() -> None:
    to_bgr = _converter("MJPG", abi.PixFormat(width=64, height=48))
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    packed = cv2.imencode(".jpg", noise)[1].ravel()
    padded = np.concatenate([packed, np.zeros(500, np.uint8)])  # as many cameras send it
    assert np.array_equal(to_bgr(padded), cv2.imdecode(packed, cv2.IMREAD_COLOR))
    with pytest.raises(ValueError, match="cut short"):
        to_bgr(packed[: len(packed) // 2])
    assert _converter("MJPG", abi.PixFormat(width=32, height=48))(packed) is None  # of another size than agreed


@pytest.mark.parametrize(("name", "channels"), [("YUYV", 2), ("UYVY", 2), ("BGR3", 3), ("RGB3", 3), ("GREY", 1)])
def test_padding_at_the_end_of_rows_is_left_out(name: str, channels: int) -> None:
    width, height, line = 16, 4, 16 * channels + 8
    rows = np.random.default_rng(2).integers(0, 255, (height, line), np.uint8)
    padded = _converter(name, abi.PixFormat(width=width, height=height, bytesperline=line))(rows.ravel())
    dense = np.ascontiguousarray(rows[:, : width * channels]).ravel()
    plain = _converter(name, abi.PixFormat(width=width, height=height, bytesperline=width * channels))(dense)
    assert padded is not None
    assert padded.shape == (height, width, 3)
    assert np.array_equal(padded, plain)


@pytest.mark.parametrize("name", ["YUYV", "NV12", "BGR3"])
def test_a_buffer_with_too_few_bytes_is_no_picture(name: str) -> None:
    with pytest.raises(ValueError, match="reshape"):
        _converter(name, abi.PixFormat(width=16, height=4))(np.zeros(20, np.uint8))


# --- errors that need no camera


def test_the_requests_are_those_of_the_kernels_header() -> None:
    """Values of <linux/videodev2.h> as a C compiler gives them on x86-64 and arm64."""
    assert (abi.QUERYCAP, abi.ENUM_FMT, abi.S_FMT, abi.REQBUFS) == (0x80685600, 0xC0405602, 0xC0D05605, 0xC0145608)
    assert (abi.QUERYBUF, abi.QBUF, abi.DQBUF) == (0xC0585609, 0xC058560F, 0xC0585611)
    assert (abi.STREAMON, abi.STREAMOFF, abi.S_PARM) == (0x40045612, 0x40045613, 0xC0CC5616)
    assert (abi.G_CTRL, abi.S_CTRL, abi.QUERYCTRL) == (0xC008561B, 0xC008561C, 0xC0445624)
    assert abi.ENUM_FRAMESIZES == 0xC02C564A


def test_what_is_no_camera_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="/dev/video987: cannot be opened: no such device: check cable and power"):
        V4l2Camera(device="/dev/video987").open()
    with pytest.raises(DeviceError, match="/dev/null is no video device"):
        V4l2Camera(device="/dev/null").open()
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="is no device: check the path"):
        V4l2Camera(device=str(tmp_path / "file")).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_that_may_not_be_opened_names_the_group(tmp_path: Path) -> None:
    (tmp_path / "video0").touch(mode=0)
    with pytest.raises(DeviceError, match="must be in group video"):
        V4l2Camera(device=str(tmp_path / "video0")).open()


# --- on a video device


class Control:
    """The buttons of vivid: faults that a test can order."""

    def __init__(self, device: str) -> None:
        self._fd = os.open(device, os.O_RDWR)
        self._ids: dict[str, int] = {}
        query = abi.QueryCtrl(id=0x80000000)
        while True:
            try:
                abi.call(self._fd, abi.QUERYCTRL, query)
            except OSError:
                break
            self._ids[query.name.decode()] = query.id
            query = abi.QueryCtrl(id=query.id | 0x80000000)

    def set(self, name: str, value: int) -> None:
        abi.call(self._fd, abi.S_CTRL, abi.Control(id=self._ids[name], value=value))

    def get(self, name: str) -> int:
        wish = abi.Control(id=self._ids[name])
        abi.call(self._fd, abi.G_CTRL, wish)
        return int(wish.value)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def device() -> str:
    name = os.environ.get("LINESIDE_VIDEO_DEVICE")
    if not name:
        pytest.skip("no video device: set LINESIDE_VIDEO_DEVICE, or see tests/system/test_v4l2_vm.py")
    return name


@pytest.fixture
def vivid(device: str) -> Iterator[Control]:
    control = Control(device)
    yield control
    control.close()


SIZE = {"width_px": 640, "height_px": 360, "fps": 25.0}


def test_every_pixel_format_gives_the_same_picture(device: str) -> None:
    means = {}
    for name in ("YUYV", "UYVY", "NV12", "YU12", "BGR3", "RGB3"):
        camera = V4l2Camera(device=device, pixel_format=name, **SIZE)
        camera.open()
        image = camera.read().image
        assert image.shape == (360, 640, 3)
        means[name] = [image[40:90, x : x + 20].mean(axis=(0, 1)) for x in range(30, 640, 80)]  # the colour bars
        camera.close()
    for name, bars in means.items():
        assert np.abs(np.array(bars) - means["BGR3"]).max() < 6, name


def test_the_kernel_says_when_a_picture_was_taken(device: str) -> None:
    camera = V4l2Camera(device=device, **SIZE)
    camera.open()
    before_ns = time.monotonic_ns()
    times_ns = []
    for _ in range(10):
        times_ns.append(camera.read().captured_ns)
        assert times_ns[-1] <= time.monotonic_ns()
    camera.close()
    assert before_ns - 2_000_000_000 < times_ns[0]
    assert np.median(np.diff(times_ns)) == pytest.approx(40e6, rel=0.5)


def test_a_size_that_the_camera_lacks_names_those_it_has(device: str) -> None:
    with pytest.raises(ConfigError, match=r"width_px, height_px = 641 x 361: in YUYV the camera offers .*640 x 360"):
        V4l2Camera(device=device, width_px=641, height_px=361, pixel_format="YUYV").open()


def test_a_pixel_format_that_the_camera_lacks_names_those_it_has(device: str) -> None:
    with pytest.raises(ConfigError, match=r"pixel_format = 'MJPG': the camera offers YUYV, UYVY"):
        V4l2Camera(device=device, pixel_format="MJPG").open()


def test_a_rate_that_the_camera_rounds_is_reported(device: str) -> None:
    camera = V4l2Camera(device=device, width_px=640, height_px=360, fps=23.0)
    camera.open()
    assert camera.adjusted["fps"].startswith("23 asked, ")
    camera.close()


def test_gain_is_set_and_read_back_and_its_range_is_told(device: str, vivid: Control) -> None:
    vivid.set("Gain, Automatic", 1)
    camera = V4l2Camera(device=device, gain=77, **SIZE)
    camera.open()
    assert (vivid.get("Gain, Automatic"), vivid.get("Gain")) == (0, 77)
    camera.close()
    camera = V4l2Camera(device=device, gain="auto", **SIZE)
    camera.open()
    assert vivid.get("Gain, Automatic") == 1
    camera.close()
    with pytest.raises(ConfigError, match=r"gain = 9999: the camera allows 0 to 255"):
        V4l2Camera(device=device, gain=9999, **SIZE).open()


def test_a_control_that_the_camera_lacks_is_a_clear_error(device: str) -> None:
    with pytest.raises(ConfigError, match=r"exposure_us = 5000: this camera has no such control: leave it out"):
        V4l2Camera(device=device, exposure_us=5000, **SIZE).open()


def test_a_damaged_picture_is_counted_and_not_shown(device: str, vivid: Control) -> None:
    camera = V4l2Camera(device=device, **SIZE)
    camera.open()
    camera.read()
    vivid.set("Inject V4L2_BUF_FLAG_ERROR", 1)
    for _ in range(8):
        camera.read()
    camera.close()
    assert camera.counts["bad"] == 1


def test_pictures_that_the_kernel_dropped_are_counted(device: str, vivid: Control) -> None:
    camera = V4l2Camera(device=device, **SIZE)
    camera.open()
    vivid.set("Percentage of Dropped Buffers", 50)
    try:
        for _ in range(20):
            camera.read()
    finally:
        vivid.set("Percentage of Dropped Buffers", 0)
        camera.close()
    assert camera.counts["dropped"] > 0


def test_a_camera_in_use_is_told(device: str) -> None:
    first = V4l2Camera(device=device, **SIZE)
    first.open()
    with pytest.raises(DeviceError, match="another program uses it"):
        V4l2Camera(device=device, **SIZE).open()
    first.close()


def test_a_lost_camera_is_opened_again(device: str, vivid: Control, eventually: Callable[..., None]) -> None:
    capture = Capture("gate", lambda: V4l2Camera(device=device, **SIZE), stall_s=3.0, reopen_min_s=0.1)
    capture.start()
    assert isinstance(capture.take(20), Frame)
    vivid.set("Inject Fatal Streaming Error", 1)
    eventually(lambda: capture.status()["reopens"] >= 1, within_s=20)
    number = capture.status()["frames"]
    eventually(lambda: capture.status()["frames"] > number + 3, within_s=20)
    assert capture.stop()
    assert not any(thread.name.endswith("-gate") for thread in threading.enumerate())
