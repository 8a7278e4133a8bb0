"""[cameras.NAME]: what is allowed, and how a mistake reads."""

from __future__ import annotations

from typing import Any

import pytest

from lineside import registry
from lineside.config import parse
from lineside.errors import ConfigError


def faults(**camera: Any) -> str:
    tree = {"cameras": {"gate": camera}, "stations": {"s": {"camera": "gate", "bundle": "b"}}}
    with pytest.raises(ConfigError) as caught:
        parse(tree)
    return str(caught.value)


V4L2 = {"driver": "v4l2", "serial": "A1"}
RTSP = {"driver": "rtsp", "url": "rtsp://10.0.0.7/cam"}


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        ({**V4L2, "fps": 400}, "cameras.gate.fps = 400: v4l2 allows at most 240"),
        ({**V4L2, "fps": float("nan")}, "v4l2 needs a finite number"),
        ({**V4L2, "exposure_ms": 5}, "cameras.gate.exposure_ms: unknown key; did you mean 'exposure_us'?"),
        ({**V4L2, "pixel_format": "H264"}, "cameras.gate.pixel_format"),
        ({**V4L2, "device": "/dev/video0"}, "cameras.gate: name the camera by exactly one of device, serial, usb_path"),
        ({"driver": "v4l2", "usb_path": "usb1"}, "cameras.gate.usb_path"),
        ({**RTSP, "url": "http://10.0.0.7/cam"}, 'cameras.gate.url = "http://10.0.0.7/cam": expected rtsp://'),
        ({**RTSP, "username": "bob"}, "username and password_file belong together"),
        ({**RTSP, "stall_s": 0}, "cameras.gate.stall_s = 0: rtsp allows at least 0.1"),
        ({"driver": "clip"}, "cameras.gate.path: missing"),
        ({"driver": "clip", "path": "x", "roi": [0, 0, 0, 9]}, "cameras.gate.roi"),
        ({"driver": "clip", "path": "x", "rotate_deg": 45}, "cameras.gate.rotate_deg = 45"),
        ({"driver": "clip", "path": "x", "reopen_min_s": 20}, "reopen_max_s = 15 is below reopen_min_s = 20"),
        ({**V4L2, "reopen_min_s": 20}, "reopen_max_s = 15 is below reopen_min_s = 20"),
        ({**RTSP, "reopen_min_s": 20}, "reopen_max_s = 15 is below reopen_min_s = 20"),
        ({"driver": "synthetic", "width_px": 20}, "cameras.gate.width_px = 20: synthetic allows at least 64"),
        ({"driver": "webcam"}, "webcam"),
    ],
)
def test_a_mistake_reads_as_path_value_and_remedy(camera: dict[str, Any], said: str) -> None:
    assert said in faults(**camera)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    said = faults(driver="rtsp", url="rtsp://bob:swordfish@10.0.0.7/cam")
    assert "use username and password_file" in said
    assert "swordfish" not in said


@pytest.mark.parametrize("camera", [V4L2, RTSP, {"driver": "synthetic"}])
def test_the_driver_takes_exactly_what_the_configuration_gives(camera: dict[str, Any]) -> None:
    tree = {"cameras": {"gate": camera}, "stations": {"s": {"camera": "gate", "bundle": "b"}}}
    parsed = parse(tree).cameras["gate"]
    registry.driver("camera", parsed.driver)(**parsed.options()).close()
