"""The USB or CSI camera of the Linux kernel, spoken to directly: exact pins, settings read back, kernel times.

OpenCV only converts the pixels. Kernel API: docs.kernel.org/userspace-api/media/v4l.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lineside.cameras import usb_pin
from lineside.cameras import v4l2_abi as abi
from lineside.errors import ConfigError, DeviceError
from lineside.records import Captured, Image

BUFFERS = 4  # one in conversion, the others for the camera to fill meanwhile
PREFERRED = ("MJPG", "YUYV", "UYVY", "NV12", "YU12", "BGR3", "RGB3", "GREY")

Setting = int | Literal["auto"] | None


class V4l2Camera:
    """contracts.Camera on /dev/videoN. `adjusted` says which settings the camera rounded; what it refuses is an error.

    `counts`: "bad" pictures that came damaged, "dropped" ones that the kernel had no free buffer for.
    """

    live = True

    def __init__(
        self,
        device: str | None = None,
        serial: str | None = None,
        usb_path: str | None = None,
        pixel_format: str | None = None,
        width_px: int = 1280,
        height_px: int = 720,
        fps: float = 30.0,
        exposure_us: Setting = None,
        gain: Setting = None,
        white_balance_k: Setting = None,
        stall_s: float = 3.0,
        sys_root: str | Path = "/sys",
    ) -> None:
        if sum(pin is not None for pin in (device, serial, usb_path)) != 1:
            raise ConfigError("device: name the camera by exactly one of device, serial, usb_path")
        if pixel_format is not None and pixel_format not in PREFERRED:
            raise ConfigError(f"pixel_format = {pixel_format!r}: v4l2 allows {', '.join(PREFERRED)}")
        self._device, self._serial, self._usb_path = device, serial, usb_path
        self._sys_root = Path(sys_root)
        self._pixel_format = pixel_format
        self._size_px = (width_px, height_px)
        self._fps = fps
        self._settings = (exposure_us, gain, white_balance_k)
        self._stall_s = stall_s
        self._name = device or (f"serial {serial}" if serial else f"usb_path {usb_path}")
        self._fd = -1
        self._wake: tuple[int, int] | None = None
        self._using = Lock()  # held while a call uses the device, so that close never pulls it away
        self._maps: list[mmap.mmap] = []
        self._sequence = -1
        self.counts: dict[str, int] = {"bad": 0, "dropped": 0}
        self.adjusted: dict[str, str] = {}

    def open(self) -> None:
        """Find, claim, set up and start. ConfigError: the camera cannot do what is asked; DeviceError: absent, busy."""
        self.close()
        with self._using:
            self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                self._claim()
                self._set_up()
                self._start()
            except OSError as error:
                self._free()
                raise self._error("cannot be set up", error) from error
            except (ConfigError, DeviceError):
                self._free()
                raise

    def read(self) -> Captured:
        """The next picture; never None."""
        with self._using:
            deadline = time.monotonic() + self._stall_s * 0.9  # the watch would have to cut the read off
            while True:
                buffer = self._wait(deadline)
                try:
                    image = None if buffer.flags & abi.FLAG_ERROR else self._convert(buffer)
                    captured = None if image is None else self._stamped(buffer, image)
                    abi.call(self._fd, abi.QBUF, buffer)
                except OSError as error:
                    raise self._error("was lost", error) from error
                if captured is not None:
                    return captured
                self.counts["bad"] += 1

    def close(self) -> None:
        wake = self._wake
        if wake is not None:
            with contextlib.suppress(OSError):  # the reading thread may close at the same moment
                os.write(wake[1], b"x")  # ends a read that waits
        if self._using.acquire(timeout=0.5):
            try:
                self._free()
            finally:
                self._using.release()

    # --- opening

    def _claim(self) -> None:
        node, number = self._device or "", None
        if self._device is None:
            camera = usb_pin.find(self._serial, self._usb_path, self._sys_root)
            node, number = camera.node, camera.number
        try:
            self._fd = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(
                f"{node} cannot be opened" if node != self._name else "cannot be opened", error
            ) from error
        status = os.fstat(self._fd)
        if not stat.S_ISCHR(status.st_mode):
            raise DeviceError(f"camera {self._name}: {node} is no device: check the path")
        if number is not None and status.st_rdev != number:
            raise DeviceError(f"camera {self._name}: {node} changed hands while it was opened; looking again")
        answer = abi.Capability()
        try:
            abi.call(self._fd, abi.QUERYCAP, answer)
        except OSError as error:
            raise DeviceError(f"camera {self._name}: {node} is no video device") from error
        able = answer.device_caps if answer.capabilities & abi.CAP_DEVICE_CAPS else answer.capabilities
        if able & abi.CAP_CAPTURE_MPLANE and not able & abi.CAP_CAPTURE:
            raise ConfigError(
                f"device: {node} has planes in several buffers, which v4l2 cannot read: use its ISP's node"
            )
        if not (able & abi.CAP_CAPTURE and able & abi.CAP_STREAMING):
            raise ConfigError(f"device: {node} gives no pictures (a metadata or output node): use another /dev/video")

    def _set_up(self) -> None:
        self.adjusted.clear()
        offered = abi.formats(self._fd)
        usable = [name for name in PREFERRED if name in offered]
        name = self._pixel_format or next(iter(usable), None)
        if name is None or name not in offered:
            raise ConfigError(
                f"pixel_format = {self._pixel_format!r}: the camera offers {', '.join(offered) or 'none'}"
                f"; lineside reads {', '.join(PREFERRED)}"
            )
        wish = abi.Format(type=abi.CAPTURE)
        wish.fmt.pix.width, wish.fmt.pix.height = self._size_px
        wish.fmt.pix.pixelformat = abi.fourcc(name)
        abi.call(self._fd, abi.S_FMT, wish)
        self._pix = wish.fmt.pix
        if self._pix.pixelformat != abi.fourcc(name):
            raise ConfigError(
                f"pixel_format = {name!r}: the camera takes {abi.fourcc_name(self._pix.pixelformat)} instead"
            )
        if (self._pix.width, self._pix.height) != self._size_px:
            sizes = ", ".join(abi.sizes(self._fd, name)) or f"{self._pix.width} x {self._pix.height}"
            raise ConfigError(
                f"width_px, height_px = {self._size_px[0]} x {self._size_px[1]}: in {name} the camera offers {sizes}"
            )
        self._to_bgr = _converter(name, self._pix)
        self._set_rate()
        exposure_us, gain, white_balance_k = self._settings
        if exposure_us is not None:
            self._set_exposure(exposure_us)
        self._set_pair("gain", gain, abi.AUTOGAIN, abi.GAIN)
        self._set_pair("white_balance_k", white_balance_k, abi.AUTO_WHITE_BALANCE, abi.WHITE_BALANCE_TEMPERATURE)

    def _set_rate(self) -> None:
        rate = abi.StreamParm(type=abi.CAPTURE, numerator=1000, denominator=round(self._fps * 1000))
        try:
            abi.call(self._fd, abi.S_PARM, rate)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
        if not rate.capability & abi.CAP_TIMEPERFRAME:
            self.adjusted["fps"] = f"{self._fps:g} asked, the camera does not let it be set"
        elif rate.numerator and abs(rate.denominator / rate.numerator - self._fps) > 0.01 * self._fps:
            self.adjusted["fps"] = f"{self._fps:g} asked, {rate.denominator / rate.numerator:g} taken"

    def _set_exposure(self, exposure_us: int | Literal["auto"]) -> None:
        mode = self._control(abi.EXPOSURE_AUTO)
        if exposure_us == "auto":
            if mode is None:
                raise ConfigError("exposure_us = 'auto': the camera has no automatic exposure")
            try:
                self._set("exposure_us", abi.EXPOSURE_AUTO, abi.EXPOSURE_IS_APERTURE_PRIORITY)  # what UVC cameras have
            except ConfigError:
                self._set("exposure_us", abi.EXPOSURE_AUTO, abi.EXPOSURE_IS_AUTO)
            return
        if mode is not None:
            self._set("exposure_us", abi.EXPOSURE_AUTO, abi.EXPOSURE_IS_MANUAL)
        self._set("exposure_us", abi.EXPOSURE_ABSOLUTE, max(1, round(exposure_us / 100)), unit=100)

    def _set_pair(self, key: str, setting: Setting, automatic: int, value: int) -> None:
        """A setting with an automatic of its own."""
        if setting is None:
            return
        if setting == "auto":
            self._set(key, automatic, 1)
            return
        if self._control(automatic) is not None:
            self._set(key, automatic, 0)
        self._set(key, value, setting)

    def _set(self, key: str, control: int, value: int, unit: int = 1) -> None:
        """Set, read back; ConfigError if the camera has no such control or the value is out of its range."""
        limits = self._control(control)
        if limits is None:
            raise ConfigError(f"{key} = {value * unit}: this camera has no such control: leave it out")
        if not limits.minimum <= value <= limits.maximum:
            raise ConfigError(
                f"{key} = {value * unit}: the camera allows {limits.minimum * unit} to {limits.maximum * unit}"
            )
        wish = abi.Control(id=control, value=value)
        try:
            abi.call(self._fd, abi.S_CTRL, wish)
            abi.call(self._fd, abi.G_CTRL, wish)
        except OSError as error:
            raise ConfigError(f"{key} = {value * unit}: the camera refuses it: {error.strerror}") from error
        if wish.value != value:
            self.adjusted[key] = f"{value * unit} asked, {wish.value * unit} taken"

    def _control(self, control: int) -> abi.QueryCtrl | None:
        limits = abi.QueryCtrl(id=control)
        try:
            abi.call(self._fd, abi.QUERYCTRL, limits)
        except OSError:  # EINVAL: the camera has none
            return None
        return None if limits.flags & abi.CTRL_DISABLED else limits

    def _start(self) -> None:
        request = abi.RequestBuffers(count=BUFFERS, type=abi.CAPTURE, memory=abi.MMAP)
        abi.call(self._fd, abi.REQBUFS, request)
        for index in range(request.count):
            buffer = abi.Buffer(index=index, type=abi.CAPTURE, memory=abi.MMAP)
            abi.call(self._fd, abi.QUERYBUF, buffer)
            # writable although only read: kernels before 6.0 refuse a read-only mapping
            self._maps.append(mmap.mmap(self._fd, buffer.length, offset=buffer.m.offset))
            abi.call(self._fd, abi.QBUF, buffer)
        self._sequence = -1
        abi.call(self._fd, abi.STREAMON, ctypes.c_int(abi.CAPTURE))

    # --- reading

    def _wait(self, deadline: float) -> abi.Buffer:
        if self._fd < 0 or self._wake is None:
            raise DeviceError(f"camera {self._name}: closed")
        buffer = abi.Buffer(type=abi.CAPTURE, memory=abi.MMAP)
        while (left_s := deadline - time.monotonic()) > 0:
            ready, _, broken = select.select([self._fd, self._wake[0]], [], [self._fd], left_s)
            if self._wake[0] in ready:
                raise DeviceError(f"camera {self._name}: closed")
            try:
                abi.call(self._fd, abi.DQBUF, buffer)
            except BlockingIOError:
                if broken:
                    raise DeviceError(f"camera {self._name}: the kernel stopped its stream") from None
                continue
            except OSError as error:
                raise self._error("was lost", error) from error
            if self._sequence >= 0:
                self.counts["dropped"] += max(0, buffer.sequence - self._sequence - 1)
            self._sequence = buffer.sequence
            return buffer
        raise DeviceError(f"camera {self._name}: no picture for {self._stall_s:g} s")

    def _convert(self, buffer: abi.Buffer) -> Image | None:
        """BGR in memory of its own, as the buffer goes back to the camera; None for a damaged picture."""
        import cv2

        filled: NDArray[np.uint8] = np.frombuffer(self._maps[buffer.index], np.uint8, buffer.bytesused)
        try:
            return self._to_bgr(filled)
        except (cv2.error, ValueError):  # ValueError: fewer bytes than the format has
            return None
        finally:
            del filled  # a mapping with a view on it cannot be closed

    def _stamped(self, buffer: abi.Buffer, image: Image) -> Captured:
        now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        if buffer.flags & abi.TIMESTAMP_MASK != abi.TIMESTAMP_MONOTONIC:
            return Captured(image, now_ns, wall_ns)
        # never ahead of now: some drivers stamp a picture with the time for which it was planned
        kernel_ns = min(now_ns, buffer.seconds * 1_000_000_000 + buffer.microseconds * 1000)
        return Captured(image, kernel_ns, wall_ns - (now_ns - kernel_ns))

    # --- both

    def _free(self) -> None:
        for mapping in self._maps:
            mapping.close()
        self._maps.clear()
        if self._fd >= 0:
            os.close(self._fd)  # also stops the stream and frees the buffers
            self._fd = -1
        if self._wake is not None:
            os.close(self._wake[0])
            os.close(self._wake[1])
            self._wake = None

    def _error(self, what: str, error: OSError) -> DeviceError:
        remedy = {
            errno.ENOENT: "no such device: check cable and power",
            errno.ENODEV: "it was unplugged",
            errno.EACCES: "permission denied: the user of the service must be in group video",
            errno.EPERM: "permission denied: the user of the service must be in group video",
            errno.EBUSY: "another program uses it",
            errno.ENOSPC: "the USB bus has no bandwidth left: use MJPG, a smaller size or another port",
        }.get(error.errno or 0, error.strerror or str(error))
        return DeviceError(f"camera {self._name}: {what}: {remedy}")


def _converter(name: str, pix: abi.PixFormat) -> Callable[[NDArray[np.uint8]], Image | None]:
    """From the bytes of one buffer to BGR; rows may be padded to `bytesperline`."""
    import cv2

    height, width, line = pix.height, pix.width, pix.bytesperline

    def rows(filled: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
        pitch = line or width * channels
        picture = filled[: height * pitch].reshape(height, pitch)[:, : width * channels]
        return np.ascontiguousarray(picture).reshape(height, width, channels)

    def planar(filled: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if line not in (0, width):
            raise ValueError("padded rows")
        return filled[: height * width * 3 // 2].reshape(height * 3 // 2, width)

    def jpeg(filled: NDArray[np.uint8]) -> Any:
        if filled.tobytes().rfind(b"\xff\xd9") < 0:
            raise ValueError("cut short")  # OpenCV would fill the rest with grey and call it a picture
        image = cv2.imdecode(filled, cv2.IMREAD_COLOR)
        return image if image is not None and image.shape[:2] == (height, width) else None

    converters: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
        "MJPG": jpeg,
        "YUYV": lambda filled: cv2.cvtColor(rows(filled, 2), cv2.COLOR_YUV2BGR_YUYV),
        "UYVY": lambda filled: cv2.cvtColor(rows(filled, 2), cv2.COLOR_YUV2BGR_UYVY),
        "NV12": lambda filled: cv2.cvtColor(planar(filled), cv2.COLOR_YUV2BGR_NV12),
        "YU12": lambda filled: cv2.cvtColor(planar(filled), cv2.COLOR_YUV2BGR_I420),
        "GREY": lambda filled: cv2.cvtColor(rows(filled, 1), cv2.COLOR_GRAY2BGR),
        "RGB3": lambda filled: cv2.cvtColor(rows(filled, 3), cv2.COLOR_RGB2BGR),
        "BGR3": lambda filled: rows(filled, 3).copy(),
    }
    return converters[name]
