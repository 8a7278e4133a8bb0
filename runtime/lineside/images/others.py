"""Size and completeness of the formats beside JPEG, from their own headers, before a decoder takes memory.

PNG has a checksum in every chunk. BMP, GIF, TIFF and WebP state how long they are, and have none: what is changed in
their middle shows only where the decoder stumbles.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from lineside.images.jpeg import Broken

CUT = "the file was cut short: copy it again"
_PNG_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
_MOST_PAGES = 10_000
_BYTES_OF = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8}  # TIFF 6.0 and BigTIFF: field types


@dataclass(frozen=True, slots=True)
class Facts:
    """`packed` is what to decode; `size_px` (width, height) is None where the header does not say it plainly."""

    packed: bytes
    size_px: tuple[int, int] | None = None
    pictures: int = 1  # in this file; only the first is decoded


def read(kind: str, packed: bytes) -> Facts:
    """Raises Broken for a file that is damaged or ends before its picture."""
    reader = {"PNG": _png, "BMP": _bmp, "GIF": _gif, "TIFF": _tiff, "WebP": _webp, "PNM": _pnm}.get(kind)
    try:
        if reader is not None:
            return reader(packed)
        return Facts(packed, _boxed(packed) if kind in ("AVIF", "HEIC", "HEIF", "JPEG 2000") else None)
    except (struct.error, IndexError) as error:
        raise Broken(CUT) from error


def _png(packed: bytes) -> Facts:
    """Chunks (PNG, third edition, 5.3): a wrong checksum of one that a decoder must understand is damage."""
    at, size, pictures, pixels = 8, None, 1, []
    while at < len(packed):
        length, name = struct.unpack_from(">I4s", packed, at)
        end = at + 12 + length
        if end > len(packed):
            if name == b"IEND":
                break
            raise Broken(CUT)
        content = memoryview(packed)[at + 8 : end - 4]
        critical = not name[0] & 0x20
        if critical and zlib.crc32(content, zlib.crc32(name)) != struct.unpack_from(">I", packed, end - 4)[0]:
            part = name.decode("latin-1")
            raise Broken(f"it is damaged (chunk {part} at byte {at} has a wrong checksum): copy it again")
        if name == b"IHDR":
            size = struct.unpack_from(">II", content)
        elif name == b"acTL":
            pictures = struct.unpack_from(">I", content)[0]
        elif name == b"IDAT":
            pixels.append(content)
        elif name == b"IEND":
            return Facts(packed[:end], size, pictures)
        at = end
    inflate = zlib.decompressobj()
    try:  # the end mark is missing: whether a pixel is missing, too, the compressed stream knows
        for content in pixels:
            inflate.decompress(content)
    except zlib.error as error:
        raise Broken(CUT) from error
    if not inflate.eof:
        raise Broken(CUT)
    return Facts(packed[:at] + _PNG_END, size, pictures)


def _bmp(packed: bytes) -> Facts:
    start, header = struct.unpack_from("<II", packed, 10)
    if header == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", packed, 18)
        packing = 0
    else:
        width, height, _, depth, packing, _ = struct.unpack_from("<iiHHII", packed, 18)
    width, height = abs(width), abs(height)
    needs = start + (width * depth + 31) // 32 * 4 * height if packing in (0, 3) else 0  # BI_RGB, BI_BITFIELDS
    if len(packed) < needs:
        raise Broken(CUT)
    return Facts(packed, (width, height))


def _gif(packed: bytes) -> Facts:
    """Blocks (GIF89a, 20 to 27); a picture is there when its sub-blocks are ended by an empty one."""
    width, height, flags = struct.unpack_from("<HHB", packed, 6)
    at = 13 + _colours(flags)
    pictures = 0
    while at + 10 < len(packed) and packed[at] in (0x21, 0x2C):
        is_picture = packed[at] == 0x2C
        at += 11 + _colours(packed[at + 9]) if is_picture else 2
        while at < len(packed) and packed[at]:
            at += packed[at] + 1
        if at >= len(packed):
            break
        at += 1
        pictures += is_picture
    if not pictures:
        raise Broken(CUT)
    return Facts(packed, (width, height), pictures)


def _colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(packed: bytes) -> Facts:
    if len(packed) < 8 + struct.unpack_from("<I", packed, 4)[0]:
        raise Broken(CUT)
    match packed[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(packed[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            bits = struct.unpack_from("<I", packed, 21)[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", packed, 26))
    return Facts(packed, (width, height), max(1, packed.count(b"ANMF")) if packed[12:16] == b"VP8X" else 1)


def _pnm(packed: bytes) -> Facts:
    """The decoder notices itself where pixels are missing."""
    found = re.match(rb"P[1-6](?:\s+|\s*#[^\n]*\n)+(\d{1,9})\s+(\d{1,9})\s", packed)
    return Facts(packed, (int(found[1]), int(found[2])) if found else None)


def _boxed(packed: bytes) -> tuple[int, int] | None:
    """The size in `ihdr` (JPEG 2000, ISO/IEC 15444-1 I.5.3.1) or the largest `ispe` (HEIF, ISO/IEC 23008-12 6.5.3)."""
    found = re.search(rb"ihdr(.{8})", packed[:65536], re.DOTALL)
    if found:
        height, width = struct.unpack(">II", found[1])
        return width, height
    sizes = [struct.unpack(">II", each) for each in re.findall(rb"ispe\0{4}(.{8})", packed[:65536], re.DOTALL)]
    return max(sizes, key=lambda size: size[0] * size[1]) if sizes else None


def _tiff(packed: bytes) -> Facts:
    """The first directory (TIFF 6.0, section 2; BigTIFF); refused where it is the thumbnail of a raw file."""
    order = "<" if packed[:2] == b"II" else ">"
    big = 43 in packed[2:4]
    at = struct.unpack_from(order + ("Q" if big else "I"), packed, 8 if big else 4)[0]
    first: dict[int, list[int]] = {}
    pages = 0
    while at and pages < _MOST_PAGES:
        if at >= len(packed):
            if pages:
                break
            raise Broken(CUT)
        tags, at = _directory(packed, at, order, big)
        first = first or tags
        pages += not tags.get(254, [0])[0] & 1  # NewSubfileType: a smaller version of another picture
    if first.get(254, [0])[0] & 1 or 50706 in first:  # DNGVersion
        raise Broken("RAW: a camera's raw file: save it as JPEG or PNG")
    for offsets, counts in ((273, 279), (324, 325)):  # strips, tiles
        for start, count in zip(first.get(offsets, ()), first.get(counts, ()), strict=False):
            if start + count > len(packed):
                raise Broken(CUT)
    width, height = first.get(256, [0])[0], first.get(257, [0])[0]
    return Facts(packed, (width, height), pages)


def _directory(packed: bytes, at: int, order: str, big: bool) -> tuple[dict[int, list[int]], int]:
    """Tag -> its whole numbers, and where the next directory is, 0 for none."""
    number, entry, inside = ("Q", 20, 8) if big else ("H", 12, 4)
    count = struct.unpack_from(order + number, packed, at)[0]
    at += struct.calcsize(number)
    offset = "Q" if big else "I"
    tags = {}
    for place in range(at, at + count * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", packed, place)
        amount = struct.unpack_from(order + offset, packed, place + 4)[0]
        if tag not in (254, 256, 257, 273, 279, 324, 325, 50706) or kind not in _BYTES_OF:
            continue
        where = place + 4 + inside
        if amount * _BYTES_OF[kind] > inside:
            where = struct.unpack_from(order + offset, packed, where)[0]
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}[_BYTES_OF[kind]]
        tags[tag] = list(struct.unpack_from(f"{order}{amount}{code}", packed, where))
    return tags, struct.unpack_from(order + offset, packed, at + count * entry)[0]
