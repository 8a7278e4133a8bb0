"""A JPEG's segments (ITU-T T.81, annex B): where the picture ends, and whether all of it is there.

Phones append a video or a second picture behind the end marker, and a thumbnail inside of a segment has an end marker
of its own: so the segments are walked from the front.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

EOI = b"\xff\xd9"
_RUN = 64  # equal bytes in a row: what a lost sector or a failed copy leaves, and entropy coding hardly ever
_PAD = 2  # bytes between scan and end marker that webcams are known to leave
_FRAMES = {0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical", 0xCB: "lossless"}


_Codes: TypeAlias = "dict[tuple[int, int], int]"  # a Huffman table: (length, code) -> symbol


class Broken(Exception):
    """Part of a picture is missing or damaged; the text says which."""


@dataclass(slots=True)
class Jpeg:
    """`packed` is what to decode: without whatever follows the picture, and always with an end marker."""

    width_px: int
    height_px: int
    packed: bytes
    ended: bool  # the file has the end marker itself
    complete: bool  # its scans give every coefficient of every component
    oddity: str = ""  # what OpenCV does not decode


@dataclass(slots=True)
class _Walk:
    marks: NDArray[np.int64]  # where a marker begins that ends a scan: no stuffed byte, no restart
    pieces: list[tuple[int, int]] = field(default_factory=lambda: [(0, 2)])
    frame: tuple[int, int, int, int] | None = None  # marker, precision, height, width
    components: bytes = b""
    lowest: dict[int, list[int]] = field(default_factory=dict)  # by component: the lowest bit given, by coefficient
    tables: dict[int, _Codes] = field(default_factory=dict)  # by class * 16 + place
    scans: int = 0
    ended: bool = False


def read(packed: bytes) -> Jpeg:
    """Raises Broken for a file that ends before its picture, or has bytes that no encoder writes."""
    walk = _Walk(_marks(packed))
    at = 2
    while not walk.ended:
        start = packed.find(b"\xff", at)
        while packed[start + 1 : start + 2] == b"\xff":
            start += 1
        if start < 0 or start + 1 >= len(packed):
            break
        marker = packed[start + 1]
        if marker == 0xD9:
            walk.ended = True
        elif marker == 0xD8 and walk.scans:  # the next picture of a stream
            break
        elif marker in (0x00, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7:
            at = start + 2
        else:
            at = _segment(packed, start, marker, walk)
    if walk.frame is None or not walk.scans:
        raise Broken("the file was cut short: copy it again")
    marker, precision, height, width = walk.frame
    oddity = _FRAMES.get(marker, "") or (f"{precision} bit" if precision != 8 else "")
    complete = all(not any(bits) for bits in walk.lowest.values())
    whole = b"".join(packed[first:last] for first, last in walk.pieces)
    return Jpeg(width, height, whole.rstrip(b"\xff") + EOI, walk.ended, complete, oddity)


def _marks(packed: bytes) -> NDArray[np.int64]:
    content = np.frombuffer(packed, np.uint8)
    at = np.flatnonzero(content[:-1] == 0xFF)
    code = content[at + 1]
    marks: NDArray[np.int64] = at[(code != 0x00) & (code != 0xFF) & (code & 0xF8 != 0xD0)]
    return marks


def _segment(packed: bytes, start: int, marker: int, walk: _Walk) -> int:
    """Notes the segment at `start`; gives where the next may begin."""
    if start + 4 > len(packed):
        raise Broken("the file was cut short: copy it again")
    end = start + 2 + int.from_bytes(packed[start + 2 : start + 4], "big")
    if end > len(packed):
        if not walk.scans:
            raise Broken("the file was cut short: copy it again")
        return len(packed)
    content = packed[start + 4 : end]
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 6:
        walk.frame = (marker, *struct.unpack_from(">BHH", content))
        walk.lowest = {content[6 + 3 * one]: [99] * 64 for one in range(content[5]) if 6 + 3 * one < len(content)}
    elif marker == 0xC4:
        _tables(content, walk.tables)
    elif marker == 0xDA:
        walk.scans += 1
        later = walk.marks[np.searchsorted(walk.marks, end) :]
        scan_end = int(later[0]) if len(later) else len(packed)
        _given(content, walk)
        _filled(packed, end, scan_end, walk, _pairs(content, walk.tables))
        walk.pieces.append((start, scan_end))
        return scan_end
    walk.pieces.append((start, end))
    return end


def _given(content: bytes, walk: _Walk) -> None:
    """Notes which coefficients the scan gives, down to which bit (T.81, B.2.3 and G.1.1.1)."""
    count = content[0] if content else 0
    if len(content) < 4 + 2 * count:
        return
    first, last, bits = content[1 + 2 * count : 4 + 2 * count]
    for one in range(count):
        lowest = walk.lowest.get(content[1 + 2 * one])
        if lowest is not None:
            lowest[first : last + 1] = [bits & 15] * len(lowest[first : last + 1])


def _tables(content: bytes, tables: dict[int, _Codes]) -> None:
    """Reads Huffman tables (T.81, B.2.4.2 and C.2)."""
    while len(content) >= 17:
        counts, symbols = content[1:17], content[17:]
        codes, code, used = {}, 0, 0
        for length, count in enumerate(counts, 1):
            for symbol in symbols[used : used + count]:
                codes[length, code] = symbol
                code += 1
            used += count
            code <<= 1
        tables[content[0]] = codes
        content = symbols[used:]


def _filled(packed: bytes, start: int, end: int, walk: _Walk, pairs: list[tuple[_Codes, _Codes]]) -> None:
    """Raises Broken for a run of one byte that stands for no plain area. Zeros before an end marker are padding."""
    if walk.frame is None or walk.frame[0] > 0xC1:
        return  # a progressive scan may say "nothing more" for thousands of blocks
    step = _RUN // 2
    rows = np.frombuffer(packed, np.uint8, (end - start) // step * step, start).reshape(-1, step)
    alike = np.flatnonzero((rows[:, 0] == rows[:, -1]) & (rows[:, 5] == rows[:, 13]))  # to look closer at few
    done = start
    for row in alike[(rows[alike] == rows[alike, :1]).all(axis=1)].tolist():
        first = start + row * step
        if first < done:
            continue
        byte, last = packed[first], first
        while first > start and packed[first - 1] == byte:
            first -= 1
        while last < end and packed[last] == byte:
            last += 1
        done = last
        padding = byte in (0x00, 0xFF) and last == end and packed[end : end + 2] == EOI
        if last - first >= _RUN and not padding and not _plain(byte, pairs):
            raise Broken(f"it is damaged ({last - first} bytes from {first} on are all 0x{byte:02x}): copy it again")


def _pairs(content: bytes, tables: dict[int, _Codes]) -> list[tuple[_Codes, _Codes]]:
    """The tables that each component of a scan uses: for the first coefficient, and for the others."""
    used = {content[2 + 2 * one] for one in range(content[0]) if 2 + 2 * one < len(content)} if content else set()
    return [(tables.get(each >> 4, {}), tables.get(16 + (each & 15), {})) for each in used]


def _plain(byte: int, pairs: list[tuple[_Codes, _Codes]]) -> bool:
    """Whether blocks without any difference to the block before can look like this byte again and again."""
    bits = f"{byte:08b}" * 8

    def can_repeat(dc: _Codes, ac: _Codes) -> bool:
        for phase in range(8):
            symbol, at = _symbol(bits, phase, dc)
            if symbol == 0 and _symbol(bits, at, ac)[0] == 0:
                return True
        return False

    return all(can_repeat(dc, ac) for dc, ac in pairs)


def _symbol(bits: str, at: int, codes: _Codes) -> tuple[int | None, int]:
    for length in range(1, 17):
        symbol = codes.get((length, int(bits[at : at + length], 2)))
        if symbol is not None:
            return symbol, at + length
    return None, at


def is_padding(told: str, packed: bytes) -> bool:
    """Whether libjpeg's warning is of a camera's padding before the end marker in `packed`, and of no damage."""
    found = re.match(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", told)
    if found is None:
        return False
    count = int(found[1])
    return count <= _PAD or not packed[-2 - count : -2].strip(b"\0\xff")
