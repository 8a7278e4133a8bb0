"""Picture files: any file that OpenCV can decode becomes a uint8 BGR picture, or a clear error.

Used by `lineside infer` and by the clip camera's folder of images.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from lineside.errors import ConfigError
from lineside.records import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".jp2")
MAX_PIXELS = 1 << 28  # 16384 x 16384, 0.8 GB decoded: what a box can hold beside its daemon


def read_image(path: str | Path) -> Image:
    """Decode a picture file to uint8 (H, W, 3) BGR, turned upright as its EXIF tag says.

    Grey becomes three equal channels, alpha is dropped, CMYK is converted, 16 bit is scaled to 8. Raises ConfigError
    for a file that is absent, empty, no picture, cut short or larger than MAX_PIXELS.
    """
    try:
        packed = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"image {path}: cannot be read: {error.strerror}: check path and permissions") from error
    return decode(packed, str(path))


def decode(packed: bytes, path: str) -> Image:
    """The same for the bytes of a file; `path` is how an error calls it."""
    import cv2  # here: 0.1 s that commands without pictures need not pay

    if not packed:
        raise ConfigError(f"image {path}: the file is empty: copy it again")
    _check(path, packed)
    try:
        pixels = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:  # its size limits (OPENCV_IO_MAX_IMAGE_PIXELS, _WIDTH, _HEIGHT), or no memory
        raise ConfigError(f"image {path}: OpenCV refuses it ({error.err or error}): make it smaller") from error
    if pixels is None:
        raise ConfigError(f"image {path}: not a picture that OpenCV can decode, or damaged: save it as PNG or JPEG")
    match pixels.dtype:
        case np.uint8:
            return np.asarray(pixels, dtype=np.uint8)
        case np.uint16:
            return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257), dtype=np.uint8)
        case other:
            raise ConfigError(f"image {path}: pixels are {other}, allowed are 8 and 16 bit: save it as 8 or 16 bit PNG")


def _check(path: str, packed: bytes) -> None:
    """OpenCV gives a half-grey picture for a JPEG or PNG that was cut short, and may ask for any amount of memory."""
    size = None
    whole = True
    if packed.startswith(b"\xff\xd8"):
        size = _jpeg_size(packed)
        whole = packed.rfind(b"\xff\xd9") > packed.rfind(b"\xff\xda")  # the end marker comes after the last scan
    elif packed.startswith(b"\x89PNG\r\n\x1a\n") and len(packed) >= 24:
        size = struct.unpack(">II", packed[16:24])
        whole = b"IEND" in packed[-64:]
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 1_000_000} million pixels"
        raise ConfigError(f"image {path}: {size[0]} x {size[1]} pixels: {limit} are allowed: make it smaller")
    if not whole:
        raise ConfigError(f"image {path}: the file was cut short: copy it again")


def _jpeg_size(packed: bytes) -> tuple[int, int] | None:
    """Width and height of the frame header (ITU-T T.81, B.2.2), or None before one is found."""
    at = 2
    while at + 9 <= len(packed) and packed[at] == 0xFF:
        marker, length = packed[at + 1], struct.unpack(">H", packed[at + 2 : at + 4])[0]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", packed[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + length
    return None
