"""[cameras.NAME] of lineside.toml: one model per driver, told apart by `driver`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


def _within(low: float, high: float, who: str) -> Any:
    """Limits whose message says who sets them: `v4l2 allows at most 240`."""

    def check(value: Any) -> Any:
        if isinstance(value, int | float) and not math.isfinite(value):
            raise ValueError(f"{who} needs a finite number")
        if isinstance(value, int | float) and value < low:
            raise ValueError(f"{who} allows at least {low:g}")
        if isinstance(value, int | float) and value > high:
            raise ValueError(f"{who} allows at most {high:g}")
        return value

    return AfterValidator(check)


Side = Annotated[int, _within(1, 32768, "a picture")]


class _Common(BaseModel):
    """What every camera has, whatever drives it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["freshest", "every"] = Field(
        "freshest",
        description="freshest: the pipeline gets the newest picture and older ones are counted as skipped; "
        "every: each picture, in order",
    )
    rotate_deg: Literal[0, 90, 180, 270] = Field(0, description="Clockwise, before flip and roi")
    flip: Literal["none", "horizontal", "vertical"] = Field("none", description="horizontal mirrors left and right")
    roi: tuple[int, int, int, int] | None = Field(
        None,
        description="[x, y, width, height] in pixels of the picture after rotate and flip; the path sees only this",
    )
    stale_s: Annotated[float, _within(0.05, 3600, "a camera")] = Field(
        0.5, description="In mode freshest, a picture that a buffer held back for longer is skipped and counted"
    )
    queue_frames: Annotated[int, _within(1, 1024, "a camera's queue")] = Field(
        4, description="Pictures that may wait for the pipeline in mode every"
    )
    reopen_min_s: Annotated[float, _within(0.01, 3600, "a camera")] = Field(
        0.5, description="A lost camera is reopened after this, doubled after each failure"
    )
    reopen_max_s: Annotated[float, _within(0.01, 3600, "a camera")] = Field(
        15.0, description="Longest wait between two attempts to reopen"
    )

    @field_validator("roi")
    @classmethod
    def _roi_is_a_rectangle(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and (min(roi[:2]) < 0 or min(roi[2:]) < 1):
            raise ValueError("[x, y, width, height] with x and y at least 0 and a size of at least 1 pixel")
        return roi

    @model_validator(mode="after")
    def _waits_grow(self) -> _Common:
        if self.reopen_max_s < self.reopen_min_s:
            raise ValueError(f"reopen_max_s = {self.reopen_max_s:g} is below reopen_min_s = {self.reopen_min_s:g}")
        return self

    def options(self) -> dict[str, Any]:
        """What the driver's constructor takes: the fields that only this driver has."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in _NOT_THE_DRIVERS}


_NOT_THE_DRIVERS = {*_Common.model_fields, "driver"}


class ClipCamera(_Common):
    """A video file or a folder of images."""

    driver: Literal["clip"]
    mode: Literal["freshest", "every"] = "every"
    path: Path = Field(description="Video file, or folder of images that are shown in the order of their names")
    pace: Literal["real_time", "max_speed"] = Field(
        "real_time", description="real_time: as the recording ran; max_speed: as fast as the pipeline takes them"
    )
    loop: bool = Field(False, description="Begin again at the end; otherwise the station ends with the clip")
    fps: Annotated[float, _within(0.01, 1000, "clip")] | None = Field(
        None, description="Pictures per second instead of the file's own timestamps; a folder has 10 unless told"
    )


class V4l2Camera(_Common):
    """A USB or CSI camera of the Linux kernel. Name it by exactly one of device, serial, usb_path."""

    driver: Literal["v4l2"]
    device: str | None = Field(None, pattern="^/dev/", description="/dev/video0; another one may get it after a replug")
    serial: str | None = Field(None, min_length=1, description="USB serial number: only this camera, in any port")
    usb_path: str | None = Field(
        None, pattern=r"^[0-9]+-[0-9]+(\.[0-9]+)*$", description="USB port such as 1-1.4: whatever is plugged in there"
    )
    pixel_format: Literal["MJPG", "YUYV", "UYVY", "NV12", "YU12", "GREY", "BGR3", "RGB3"] | None = Field(
        None, description="As the camera sends it; without it MJPG where the camera has it, else the first it has"
    )
    width_px: Side = 1280
    height_px: Side = 720
    fps: Annotated[float, _within(0.1, 240, "v4l2")] = 30.0
    exposure_us: Annotated[int, _within(1, 60_000_000, "v4l2")] | Literal["auto"] | None = Field(
        None, description="Microseconds, or auto; without it the camera keeps what it has"
    )
    gain: Annotated[int, _within(0, 1_000_000, "v4l2")] | Literal["auto"] | None = Field(
        None, description="In the camera's own steps, or auto"
    )
    white_balance_k: Annotated[int, _within(1000, 20_000, "v4l2")] | Literal["auto"] | None = Field(
        None, description="Colour temperature in kelvin, or auto"
    )
    stall_s: Annotated[float, _within(0.1, 3600, "v4l2")] = Field(
        3.0, description="Without a picture for this long, the camera is closed and opened again"
    )

    @model_validator(mode="after")
    def _named_once(self) -> V4l2Camera:
        if sum(pin is not None for pin in (self.device, self.serial, self.usb_path)) != 1:
            raise ValueError("name the camera by exactly one of device, serial, usb_path")
        return self


class RtspCamera(_Common):
    """A network camera."""

    driver: Literal["rtsp"]
    url: str = Field(description="rtsp://host[:port]/path, without user name and password")
    username: str | None = None
    password_file: Path | None = Field(None, description="File whose first line is the password; mode 0600")
    transport: Literal["tcp", "udp"] = Field(
        "tcp", description="udp has less delay and loses packets on a busy network"
    )
    open_timeout_s: Annotated[float, _within(0.1, 300, "rtsp")] = 10.0
    stall_s: Annotated[float, _within(0.1, 3600, "rtsp")] = Field(
        3.0, description="Without a picture for this long, the stream is closed and opened again"
    )

    @field_validator("url")
    @classmethod
    def _url_without_secret(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("rtsp", "rtsps") or not parts.hostname:
            raise ValueError("expected rtsp://host[:port]/path")
        return url

    @model_validator(mode="after")
    def _login_is_apart(self) -> RtspCamera:
        parts = urlsplit(self.url)  # here and not above: the message of a field repeats its value
        if parts.username or parts.password:
            raise ValueError("url holds a password, which would end up in logs: use username and password_file")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together: give both or neither")
        return self


class SyntheticCamera(_Common):
    """Pictures of the built-in renderer: parts on a conveyor."""

    driver: Literal["synthetic"]
    mode: Literal["freshest", "every"] = "every"
    seed: int = Field(1, ge=0, description="The same seed gives the same pictures")
    width_px: Annotated[int, _within(64, 8192, "synthetic")] = 640
    height_px: Annotated[int, _within(64, 8192, "synthetic")] = 360
    fps: Annotated[float, _within(0.1, 1000, "synthetic")] = 15.0
    frames: Annotated[int, _within(1, 10**9, "synthetic")] | None = Field(None, description="Ends after so many")
    pace: Literal["real_time", "max_speed"] = "real_time"


CameraConfig = Annotated[ClipCamera | V4l2Camera | RtspCamera | SyntheticCamera, Field(discriminator="driver")]
