"""Which /dev/video node belongs to a USB serial number or USB port, by /sys: a replug never binds another camera."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lineside.errors import DeviceError


@dataclass(frozen=True, slots=True)
class UsbCamera:
    """One capture node of a USB camera."""

    node: str  # "/dev/video0"
    number: int  # st_rdev of the node
    serial: str  # "" if the camera has none
    usb_path: str  # kernel's port name, "1-1.4"
    name: str

    def __str__(self) -> str:
        return f"{self.name or 'unnamed'} at usb_path {self.usb_path}, serial {self.serial or 'none'} ({self.node})"


def cameras(sys_root: Path = Path("/sys")) -> list[UsbCamera]:
    """Every USB camera that is plugged in, its first node only (the others carry metadata)."""
    found = []
    nodes = sys_root / "class" / "video4linux"
    for entry in sorted(nodes.iterdir() if nodes.is_dir() else (), key=lambda path: (len(path.name), path.name)):
        usb = _usb_device(entry, sys_root)
        if usb is None or _text(entry / "index") not in ("0", ""):
            continue
        major, _, minor = _text(entry / "dev").partition(":")
        if not (major.isdecimal() and minor.isdecimal()):
            continue  # unplugged while we looked
        number = os.makedev(int(major), int(minor))
        found.append(UsbCamera(f"/dev/{entry.name}", number, _text(usb / "serial"), usb.name, _text(entry / "name")))
    return found


def find(serial: str | None, usb_path: str | None, sys_root: Path = Path("/sys")) -> UsbCamera:
    """The camera with this serial number or in this port. Raises DeviceError if there is none, or two of one serial."""
    present = cameras(sys_root)
    wanted = f"serial {serial!r}" if serial is not None else f"usb_path {usb_path!r}"
    matches = [camera for camera in present if camera.serial == serial or camera.usb_path == usb_path]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DeviceError(f"two cameras have {wanted}: {'; '.join(map(str, matches))}: pin by usb_path")
    listing = "; ".join(map(str, present)) or "no USB camera at all"
    raise DeviceError(f"no camera with {wanted}; plugged in: {listing}")


def _usb_device(entry: Path, sys_root: Path) -> Path | None:
    """The USB device above a video node: the nearest folder with a `busnum`, as udev looks for its parents."""
    device = (entry / "device").resolve()
    while device != sys_root.resolve() and device != device.parent:
        if (device / "busnum").is_file():
            return device
        device = device.parent
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
