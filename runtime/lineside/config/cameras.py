"""[cameras.NAME] of lineside.toml: one model per driver, told apart by `driver`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from lineside.checked import Check, Is, Table, table


def _within(low: float, high: float, who: str) -> Check:
    """Limits whose message says who sets them: `v4l2 allows at most 240`."""

    def check(value: Any) -> Any:
        if isinstance(value, int | float) and not math.isfinite(value):
            raise ValueError(f"{who} needs a finite number")
        if isinstance(value, int | float) and value < low:
            raise ValueError(f"{who} allows at least {low:g}")
        if isinstance(value, int | float) and value > high:
            raise ValueError(f"{who} allows at most {high:g}")
        return value

    return Check(check)


def _rectangle(roi: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    if min(roi[:2]) < 0 or min(roi[2:]) < 1:
        raise ValueError("[x, y, width, height] with x and y at least 0 and a size of at least 1 pixel")
    return roi


def _rtsp_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("rtsp", "rtsps") or not parts.hostname:
        raise ValueError("expected rtsp://host[:port]/path")
    return url


Rectangle = Annotated[tuple[int, int, int, int], Check(_rectangle)]
Side = Annotated[int, _within(1, 32768, "a picture")]


@table
class _Common(Table):
    """What every camera has, whatever drives it."""

    # what is not finite is refused by _within, which says who cannot take it
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {**Table.__pydantic_config__, "allow_inf_nan": True}

    mode: Annotated[
        Literal["freshest", "every"],
        Is(
            "freshest: the pipeline gets the newest picture and older ones are counted as skipped; "
            "every: each picture, in order"
        ),
    ] = "freshest"
    rotate_deg: Annotated[Literal[0, 90, 180, 270], Is("Clockwise, before flip and roi")] = 0
    flip: Annotated[Literal["none", "horizontal", "vertical"], Is("horizontal mirrors left and right")] = "none"
    roi: Annotated[
        Rectangle | None,
        Is("[x, y, width, height] in pixels of the picture after rotate and flip; the path sees only this"),
    ] = None
    stale_s: Annotated[
        float,
        _within(0.05, 3600, "a camera"),
        Is("In mode freshest, a picture that a buffer held back for longer is skipped and counted"),
    ] = 0.5
    queue_frames: Annotated[
        int, _within(1, 1024, "a camera's queue"), Is("Pictures that may wait for the pipeline in mode every")
    ] = 4
    reopen_min_s: Annotated[
        float, _within(0.01, 3600, "a camera"), Is("A lost camera is reopened after this, doubled after each failure")
    ] = 0.5
    reopen_max_s: Annotated[
        float, _within(0.01, 3600, "a camera"), Is("Longest wait between two attempts to reopen")
    ] = 15.0

    def __post_init__(self) -> None:
        if self.reopen_max_s < self.reopen_min_s:
            raise ValueError(f"reopen_max_s = {self.reopen_max_s:g} is below reopen_min_s = {self.reopen_min_s:g}")

    def options(self) -> dict[str, Any]:
        """What the driver's constructor takes: the fields that only this driver has."""
        return self.values(without=_NOT_THE_DRIVERS)


_NOT_THE_DRIVERS = {field.name for field in fields(_Common)} | {"driver"}


@table
class ClipCamera(_Common):
    """A video file or a folder of images."""

    driver: Literal["clip"]
    mode: Literal["freshest", "every"] = "every"
    path: Annotated[Path, Is("Video file, or folder of images that are shown in the order of their names")]
    pace: Annotated[
        Literal["real_time", "max_speed"],
        Is("real_time: as the recording ran; max_speed: as fast as the pipeline takes them"),
    ] = "real_time"
    loop: Annotated[bool, Is("Begin again at the end; otherwise the station ends with the clip")] = False
    fps: Annotated[
        Annotated[float, _within(0.01, 1000, "clip")] | None,
        Is("Pictures per second instead of the file's own timestamps; a folder has 10 unless told"),
    ] = None


@table
class V4l2Camera(_Common):
    """A USB or CSI camera of the Linux kernel. Name it by exactly one of device, serial, usb_path."""

    driver: Literal["v4l2"]
    device: Annotated[str | None, Is("/dev/video0; another one may get it after a replug", pattern="^/dev/")] = None
    serial: Annotated[str | None, Is("USB serial number: only this camera, in any port", min_length=1)] = None
    usb_path: Annotated[
        str | None, Is("USB port such as 1-1.4: whatever is plugged in there", pattern=r"^[0-9]+-[0-9]+(\.[0-9]+)*$")
    ] = None
    pixel_format: Annotated[
        Literal["MJPG", "YUYV", "UYVY", "NV12", "YU12", "GREY", "BGR3", "RGB3"] | None,
        Is("As the camera sends it; without it MJPG where the camera has it, else the first it has"),
    ] = None
    width_px: Side = 1280
    height_px: Side = 720
    fps: Annotated[float, _within(0.1, 240, "v4l2")] = 30.0
    exposure_us: Annotated[
        Annotated[int, _within(1, 60_000_000, "v4l2")] | Literal["auto"] | None,
        Is("Microseconds, or auto; without it the camera keeps what it has"),
    ] = None
    gain: Annotated[
        Annotated[int, _within(0, 1_000_000, "v4l2")] | Literal["auto"] | None, Is("In the camera's own steps, or auto")
    ] = None
    white_balance_k: Annotated[
        Annotated[int, _within(1000, 20_000, "v4l2")] | Literal["auto"] | None,
        Is("Colour temperature in kelvin, or auto"),
    ] = None
    stall_s: Annotated[
        float, _within(0.1, 3600, "v4l2"), Is("Without a picture for this long, the camera is closed and opened again")
    ] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(pin is not None for pin in (self.device, self.serial, self.usb_path)) != 1:
            raise ValueError("name the camera by exactly one of device, serial, usb_path")


@table
class RtspCamera(_Common):
    """A network camera."""

    driver: Literal["rtsp"]
    url: Annotated[str, Check(_rtsp_url), Is("rtsp://host[:port]/path, without user name and password")]
    username: str | None = None
    password_file: Annotated[Path | None, Is("File whose first line is the password; mode 0600")] = None
    transport: Annotated[Literal["tcp", "udp"], Is("udp has less delay and loses packets on a busy network")] = "tcp"
    open_timeout_s: Annotated[float, _within(0.1, 300, "rtsp")] = 10.0
    stall_s: Annotated[
        float, _within(0.1, 3600, "rtsp"), Is("Without a picture for this long, the stream is closed and opened again")
    ] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.url)  # here and not in _rtsp_url: the message of a key repeats its value
        if parts.username or parts.password:
            raise ValueError("url holds a password, which would end up in logs: use username and password_file")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together: give both or neither")


@table
class SyntheticCamera(_Common):
    """Pictures of the built-in renderer: parts on a conveyor."""

    driver: Literal["synthetic"]
    mode: Literal["freshest", "every"] = "every"
    seed: Annotated[int, Is("The same seed gives the same pictures", ge=0)] = 1
    width_px: Annotated[int, _within(64, 8192, "synthetic")] = 640
    height_px: Annotated[int, _within(64, 8192, "synthetic")] = 360
    fps: Annotated[float, _within(0.1, 1000, "synthetic")] = 15.0
    frames: Annotated[Annotated[int, _within(1, 10**9, "synthetic")] | None, Is("Ends after so many")] = None
    pace: Literal["real_time", "max_speed"] = "real_time"


CameraConfig = Annotated[ClipCamera | V4l2Camera | RtspCamera | SyntheticCamera, Is(discriminator="driver")]
