"""What a file is, by its first bytes: suffixes lie, and phones write files without."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

HEAD = 4096  # bytes of a file that decide
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".ts", ".m2ts", ".mts", ".wmv", ".flv"),
    *(".mjpeg", ".mjpg", ".h264", ".h265", ".264", ".265", ".3gp", ".y4m", ".ivf", ".ogv"),
)
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".pam", ".jp2", ".avif", ".heic", ".heif", ".jxl", ".psd", ".exr", ".hdr"),
)
_RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
_HEIF = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC", b"heim": "HEIC", b"heis": "HEIC"}
_FTYP = {
    **_HEIF,
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"jxl ": "JPEG XL",
    b"crx ": "RAW",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A format's name as people know it, and whether it is a picture or a video."""

    name: str
    is_video: bool = False


_PICTURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}", "BMP"),
    (rb"RIFF.{4}WEBP", "WebP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II\x2a\0.{4}CR\x02|II(?:RO|RS)|IIU\0|FUJIFILMCCD-RAW", "RAW"),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", "TIFF"),
    (rb"P[1-6](?:\s+|\s*#[^\n]*\n)+\d+\s+\d+|P7\nWIDTH ", "PNM"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", "JPEG XL"),
    (rb"8BPS\0[\x01\x02]", "Photoshop"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"#\?(?:RADIANCE|RGBE)\n", "Radiance HDR"),
    (rb"\x59\xa6\x6a\x95", "Sun raster"),
    (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg[\s>]", "SVG"),
)
_VIDEOS = (
    (rb"\x1a\x45\xdf\xa3.{0,64}?webm", "WebM"),
    (rb"\x1a\x45\xdf\xa3", "Matroska"),
    (rb"RIFF.{4}AVI ", "AVI"),
    (rb"....(?:moov|mdat|wide|skip|free)", "QuickTime"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV"),
    (rb"FLV\x01", "FLV"),
    (rb"\0\0\x01[\xba\xb3]", "MPEG"),
    (rb"\0?\0\0\x01(?:[\x67\x27\x09\x47]|\x40\x01|\x46\x01)", "raw H.264 or H.265"),
    (rb"YUV4MPEG2 ", "YUV4MPEG"),
    (rb"DKIF\0\0", "IVF"),
    (rb"OggS", "Ogg"),
)
_KINDS = tuple(
    (re.compile(pattern, re.DOTALL), Kind(name, is_video))
    for group, is_video in ((_PICTURES, False), (_VIDEOS, True))
    for pattern, name in group
)
_TS = Kind("MPEG-TS", True)


def kind_of(head: bytes, path: Path) -> Kind | None:
    """`head` are the first HEAD bytes of the file at `path`; None: it is no picture and no video, by its content.

    The suffix decides only between what begins alike: a JPEG and a stream of JPEGs, a TIFF and a camera's raw file.
    """
    suffix = path.suffix.lower()
    if head[4:8] == b"ftyp":
        name = _FTYP.get(head[8:12])
        return Kind(name) if name else Kind("MP4" if head[8:10] != b"qt" else "QuickTime", True)
    for pattern, kind in _KINDS:
        if pattern.match(head):
            if kind.name == "JPEG" and suffix in (".mjpeg", ".mjpg"):
                return Kind("stream of JPEGs", True)
            return Kind("RAW") if kind.name == "TIFF" and suffix in _RAW_SUFFIXES else kind
    for size, first in ((188, 0), (192, 4)):  # ISO/IEC 13818-1: a sync byte every 188 bytes; Blu-ray puts 4 before
        syncs = head[first::size]
        if len(syncs) >= 3 and set(syncs) == {0x47}:
            return _TS
    return None


def kind_of_file(path: Path) -> Kind | None:
    """The same, for a file; a known suffix stands in where the content says nothing. Raises OSError."""
    head = read_head(path)
    return kind_of(head, path) or (Kind("video", True) if path.suffix.lower() in VIDEO_SUFFIXES else None)


def read_head(path: Path) -> bytes:
    """The first HEAD bytes of a regular file; raises OSError, for whatever is no regular file, too, and never waits."""
    with open(open_file(path), "rb") as file:
        return file.read(HEAD)


def open_file(path: Path) -> int:
    """A file descriptor of a regular file, for reading; OSError says what else it is. Never waits for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise OSError(0, f"it is a {what_is(mode)}, not a file")


def what_is(mode: int) -> str:
    """`st_mode` in words."""
    names = (
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    )
    return next((name for test, name in names if test(mode)), "special file")
