"""Picture files: any file that OpenCV can decode becomes a uint8 BGR picture, or a clear error.

Used by whatever reads pictures; `folder.py` says which files of a folder are pictures, `kinds.py` what a file is.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineside.errors import ConfigError
from lineside.images import hear, jpeg, kinds, others
from lineside.images.remarks import Remarks, shown
from lineside.records import Image

MAX_PIXELS = 1 << 28  # 16384 x 16384, 0.8 GB decoded: what a box can hold beside its daemon
MAX_BYTES = 1 << 31  # OpenCV's decoders count in 32 bits
_NARROW_BITS = 14  # a 16-bit picture that uses no more comes from a sensor of 10, 12 or 14 bits that was not scaled
_SAVE = "save it as JPEG or PNG"
_AVIF = f"{_SAVE}, or install opencv-python-headless 5"


def read_image(path: str | Path, remarks: Remarks | None = None) -> Image:
    """Decode a picture file to uint8 (H, W, 3) BGR, turned upright as its EXIF tag says.

    Grey becomes three equal channels, alpha is dropped, CMYK is converted, 16 bit is scaled to 8; of several pictures
    in one file the first is taken. Whatever follows the picture in its file does no harm. `remarks` collects what is
    odd about pictures that are read all the same. Raises ConfigError for a file that is absent, empty, no picture, of
    a format that this OpenCV does not decode, cut short, damaged as far as its format lets it show, or larger than
    MAX_PIXELS.
    """
    try:
        with open(kinds.open_file(Path(path)), "rb") as file:
            packed = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        told = getattr(error, "strerror", None) or error
        raise ConfigError(f"image {shown(path)}: cannot be read: {told}: check path and permissions") from error
    return decode(packed, str(path), remarks)


def decode(packed: bytes, path: str, remarks: Remarks | None = None) -> Image:
    """The same for the bytes of a file; `path` is how an error calls it, and its suffix tells raw files from TIFF."""
    if not packed:
        raise ConfigError(f"image {shown(path)}: the file is empty: copy it again")
    if len(packed) >= MAX_BYTES:
        raise ConfigError(f"image {shown(path)}: 2 GiB or more: smaller files are allowed: make it smaller")
    kind = kinds.kind_of(packed[: kinds.HEAD], Path(path))
    if kind is None:
        raise ConfigError(
            f"image {shown(path)}: not a picture that OpenCV can decode, or damaged in its first bytes: {_SAVE}"
        )
    if kind.is_video:
        raise ConfigError(f"image {shown(path)}: is a video ({kind.name}), no picture: name it as a video")
    try:
        pixels = _decode(kind.name, packed, path, remarks)
    except jpeg.Broken as error:
        raise ConfigError(f"image {shown(path)}: {error}") from error
    match pixels.dtype:
        case np.uint8:
            return np.asarray(pixels, dtype=np.uint8)
        case np.uint16:
            return _scaled(pixels, path, remarks)
        case other:
            raise ConfigError(
                f"image {shown(path)}: pixels are {other}, allowed are 8 and 16 bit: save it as 8 or 16 bit PNG"
            )


def _decode(kind: str, packed: bytes, path: str, remarks: Remarks | None) -> NDArray[Any]:
    """Raises jpeg.Broken, with what is wrong and what to do."""
    if kind in ("RAW", "SVG", "Photoshop"):  # in some OpenCV finds a thumbnail
        raise jpeg.Broken(f"{kind}: OpenCV does not decode it: {_SAVE}")
    if kind == "JPEG":
        found = jpeg.read(packed)
        size_px: tuple[int, int] | None = (found.width_px, found.height_px)
        packed, count = found.packed, 1
        if not (found.ended or (found.complete and hear.tells())):
            raise jpeg.Broken(others.CUT)
    else:
        found = None
        facts = others.read(kind, packed)
        size_px, packed, count = facts.size_px, facts.packed, facts.pictures
    if size_px is not None and size_px[0] * size_px[1] > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 1_000_000} million pixels"
        raise jpeg.Broken(f"{size_px[0]} x {size_px[1]} pixels: {limit} are allowed: make it smaller")
    pixels, said = _imdecode(packed)
    told = hear.damage(said)
    if told is not None and not (found is not None and found.ended and jpeg.is_padding(told, packed)):
        cut = "the file was cut short" if "premature end" in told.lower() else "it is damaged"
        raise jpeg.Broken(f"{cut} ({told}): copy it again")
    if pixels is None:
        oddity = f"{found.oddity} " if found is not None and found.oddity else ""
        raise jpeg.Broken(_not_decoded(f"{oddity}{kind}", kind))
    if count > 1 and remarks is not None:
        remarks.add("holds several pictures: only the first is looked at: save the others as files of their own", path)
    return pixels


def _imdecode(packed: bytes) -> tuple[NDArray[Any] | None, list[str]]:
    import cv2  # here: 0.1 s that commands without pictures need not pay

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        with hear.overhear() as said:
            pixels = cv2.imdecode(np.frombuffer(packed, np.uint8), flags)
    except cv2.error as error:  # its size limits (OPENCV_IO_MAX_IMAGE_PIXELS, _WIDTH, _HEIGHT), or no memory
        raise jpeg.Broken(f"OpenCV refuses it ({error.err or error}): make it smaller") from error
    return pixels, said


def _scaled(pixels: NDArray[Any], path: str, remarks: Remarks | None) -> Image:
    """16 bits to 8. The scale is the file's, not the picture's: else the same scene would change with its light."""
    import cv2

    bits = int(pixels.max()).bit_length()
    if remarks is not None and 0 < bits <= _NARROW_BITS:
        remarks.add(
            f"nearly black: uses {bits} of 16 bits, as sensors of {_NARROW_BITS} bits and less write them: save it as "
            f"8 bits, or scaled to all 16 (times {1 << 16 - bits})",
            path,
        )
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257), dtype=np.uint8)


def _not_decoded(name: str, kind: str) -> str:
    import cv2

    if kind in ("JPEG", "PNG", "BMP", "WebP", "TIFF", "PNM", "JPEG 2000") or _built_with(kind):
        return f"{name}: not a picture that OpenCV can decode, or damaged: {_SAVE}"
    return f"{name}: OpenCV {cv2.__version__} here does not decode it: {_AVIF if kind in ('AVIF', 'GIF') else _SAVE}"


@functools.cache
def _built_with(kind: str) -> bool:
    import cv2

    return re.search(rf"^\s+{kind}:\s+(?!NO\b)\S", cv2.getBuildInformation(), re.MULTILINE) is not None
