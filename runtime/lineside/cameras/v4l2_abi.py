"""The part of <linux/videodev2.h> that v4l2.py speaks, as ctypes; names as in the kernel's header, less the prefix."""

from __future__ import annotations

import ctypes as c
import fcntl

CAPTURE, MMAP, ANY_FIELD = 1, 1, 0
CAP_CAPTURE, CAP_CAPTURE_MPLANE, CAP_STREAMING, CAP_DEVICE_CAPS = 0x1, 0x1000, 0x4000000, 0x80000000
CAP_TIMEPERFRAME = 0x1000
FLAG_ERROR, TIMESTAMP_MASK, TIMESTAMP_MONOTONIC = 0x40, 0xE000, 0x2000
FRMSIZE_DISCRETE = 1
CTRL_DISABLED, CTRL_INACTIVE = 0x1, 0x10

EXPOSURE_AUTO, EXPOSURE_ABSOLUTE = 0x009A0901, 0x009A0902  # absolute in steps of 100 microseconds
EXPOSURE_IS_MANUAL, EXPOSURE_IS_AUTO, EXPOSURE_IS_APERTURE_PRIORITY = 1, 0, 3
AUTOGAIN, GAIN = 0x00980912, 0x00980913
AUTO_WHITE_BALANCE, WHITE_BALANCE_TEMPERATURE = 0x0098090C, 0x0098091A


class Capability(c.Structure):
    _fields_ = (
        ("driver", c.c_char * 16), ("card", c.c_char * 32), ("bus_info", c.c_char * 32), ("version", c.c_uint32),
        ("capabilities", c.c_uint32), ("device_caps", c.c_uint32), ("reserved", c.c_uint32 * 3),
    )  # fmt: skip


class FmtDesc(c.Structure):
    _fields_ = (
        ("index", c.c_uint32), ("type", c.c_uint32), ("flags", c.c_uint32), ("description", c.c_char * 32),
        ("pixelformat", c.c_uint32), ("mbus_code", c.c_uint32), ("reserved", c.c_uint32 * 3),
    )  # fmt: skip


class FrmSizeEnum(c.Structure):
    _fields_ = (
        ("index", c.c_uint32), ("pixel_format", c.c_uint32), ("type", c.c_uint32),
        ("sizes", c.c_uint32 * 6), ("reserved", c.c_uint32 * 2),
    )  # fmt: skip


class PixFormat(c.Structure):
    _fields_ = (
        ("width", c.c_uint32), ("height", c.c_uint32), ("pixelformat", c.c_uint32), ("field", c.c_uint32),
        ("bytesperline", c.c_uint32), ("sizeimage", c.c_uint32), ("colorspace", c.c_uint32), ("priv", c.c_uint32),
        ("flags", c.c_uint32), ("encoding", c.c_uint32), ("quantization", c.c_uint32), ("xfer_func", c.c_uint32),
    )  # fmt: skip


class _FormatUnion(c.Union):
    _fields_ = (("pix", PixFormat), ("room", c.c_uint8 * 200), ("align", c.c_void_p))


class Format(c.Structure):
    _fields_ = (("type", c.c_uint32), ("fmt", _FormatUnion))


class StreamParm(c.Structure):
    _fields_ = (
        ("type", c.c_uint32), ("capability", c.c_uint32), ("capturemode", c.c_uint32), ("numerator", c.c_uint32),
        ("denominator", c.c_uint32), ("room", c.c_uint8 * 184),
    )  # fmt: skip


class RequestBuffers(c.Structure):
    _fields_ = (
        ("count", c.c_uint32), ("type", c.c_uint32), ("memory", c.c_uint32), ("capabilities", c.c_uint32),
        ("flags", c.c_uint8), ("reserved", c.c_uint8 * 3),
    )  # fmt: skip


class _Memory(c.Union):
    _fields_ = (("offset", c.c_uint32), ("userptr", c.c_ulong))


class Buffer(c.Structure):
    _fields_ = (
        ("index", c.c_uint32), ("type", c.c_uint32), ("bytesused", c.c_uint32), ("flags", c.c_uint32),
        ("field", c.c_uint32), ("seconds", c.c_long), ("microseconds", c.c_long), ("timecode", c.c_uint8 * 16),
        ("sequence", c.c_uint32), ("memory", c.c_uint32), ("m", _Memory), ("length", c.c_uint32),
        ("reserved2", c.c_uint32), ("request_fd", c.c_int32),
    )  # fmt: skip


class QueryCtrl(c.Structure):
    _fields_ = (
        ("id", c.c_uint32), ("type", c.c_uint32), ("name", c.c_char * 32), ("minimum", c.c_int32),
        ("maximum", c.c_int32), ("step", c.c_int32), ("default_value", c.c_int32), ("flags", c.c_uint32),
        ("reserved", c.c_uint32 * 2),
    )  # fmt: skip


class Control(c.Structure):
    _fields_ = (("id", c.c_uint32), ("value", c.c_int32))


def _number(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("V") << 8 | number  # asm-generic/ioctl.h


_READ, _WRITE, _BOTH = 2, 1, 3
QUERYCAP = _number(_READ, 0, c.sizeof(Capability))
ENUM_FMT = _number(_BOTH, 2, c.sizeof(FmtDesc))
S_FMT = _number(_BOTH, 5, c.sizeof(Format))
REQBUFS = _number(_BOTH, 8, c.sizeof(RequestBuffers))
QUERYBUF = _number(_BOTH, 9, c.sizeof(Buffer))
QBUF = _number(_BOTH, 15, c.sizeof(Buffer))
DQBUF = _number(_BOTH, 17, c.sizeof(Buffer))
STREAMON = _number(_WRITE, 18, c.sizeof(c.c_int))
STREAMOFF = _number(_WRITE, 19, c.sizeof(c.c_int))
S_PARM = _number(_BOTH, 22, c.sizeof(StreamParm))
G_CTRL = _number(_BOTH, 27, c.sizeof(Control))
S_CTRL = _number(_BOTH, 28, c.sizeof(Control))
QUERYCTRL = _number(_BOTH, 36, c.sizeof(QueryCtrl))
ENUM_FRAMESIZES = _number(_BOTH, 74, c.sizeof(FrmSizeEnum))


def fourcc(name: str) -> int:
    return int.from_bytes(name.encode("ascii"), "little")


def fourcc_name(code: int) -> str:
    """The four letters; a format that differs only in byte order has the top bit set and ends in -BE."""
    letters = (code & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace").rstrip()
    return f"{letters}-BE" if code >> 31 else letters


def call(fd: int, request: int, argument: c.Structure | c.c_int) -> None:
    """One ioctl; fills `argument` in. Raises OSError."""
    fcntl.ioctl(fd, request, argument, True)


def formats(fd: int) -> list[str]:
    """The pixel formats that the device offers, in its own order."""
    names: list[str] = []
    while _fills(fd, ENUM_FMT, entry := FmtDesc(index=len(names), type=CAPTURE)):
        names.append(fourcc_name(entry.pixelformat))
    return names


def sizes(fd: int, pixel_format: str) -> list[str]:
    """The picture sizes of a format, as text for a message: "640 x 480", or "16 x 16 to 1920 x 1080"."""
    texts: list[str] = []
    while _fills(fd, ENUM_FRAMESIZES, entry := FrmSizeEnum(index=len(texts), pixel_format=fourcc(pixel_format))):
        low_w, high_w, _, low_h, high_h, _ = entry.sizes
        if entry.type != FRMSIZE_DISCRETE:
            return [f"{low_w} x {low_h} to {high_w} x {high_h}"]
        texts.append(f"{low_w} x {high_w}")  # of a discrete size, the first two numbers are width and height
    return texts


def _fills(fd: int, request: int, entry: c.Structure) -> bool:
    """Whether an enumeration has one more; EINVAL is past the last, ENOTTY that the driver does not enumerate."""
    try:
        call(fd, request, entry)
    except OSError:
        return False
    return True
