"""Whether a video file itself is whole: what tells a damaged recording from one whose pictures come irregularly.

FFmpeg skips what is damaged in most containers without a word, and a gap between two timestamps is no proof: cameras
drop pictures, phones vary their rate. The container's own structure is: lengths that lead nowhere, counters that jump.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = "mmap.mmap | bytes"


@dataclass(frozen=True, slots=True)
class Structure:
    """`broken` places; `pictures` that the file holds, whole or not; `length_s` it is shown for; None: not known.

    `is_cut`: it ends before it says it does. `is_counted`: it lists its pictures, and FFmpeg reports each that it
    cannot decode.
    """

    broken: int = 0
    pictures: int | None = None
    length_s: float | None = None
    is_cut: bool = False
    is_counted: bool = False


def inspect(path: Path) -> Structure:
    """Reads the whole file, if its container is one of those below. Raises OSError."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        look = _looker(content[:4096])
        try:
            return Structure() if look is None else look(content)
        except (struct.error, IndexError, ValueError):  # a length or a table that the file does not hold
            return Structure(1)


def _looker(head: bytes) -> Callable[[Bytes], Structure] | None:
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free"):
        return _mp4
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _avi
    if head.startswith(b"FLV\x01"):
        return _flv
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return _asf
    if head.startswith(b"\0\0\x01\xba"):
        return _program_stream
    for size, first in ((188, 0), (192, 4)):
        if set(head[first::size]) == {0x47} and len(head) >= 3 * size:
            return partial(_transport_stream, size=size, first=first)
    return None


# --- MP4 and QuickTime: ISO/IEC 14496-12


def _mp4(content: Bytes) -> Structure:
    """The boxes of the file, and what the header of the video track says."""
    broken, length_s = 0, None
    for name, start, end in _boxes(content, 0, len(content)):
        broken += end > len(content)
        if name == b"moov":
            length_s = _length_s(content, start, min(end, len(content)))
    return Structure(broken, length_s=length_s, is_cut=broken > 0, is_counted=True)


def _boxes(content: Bytes, at: int, limit: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, where the content begins, where it ends; that may lie behind `limit`."""
    while at + 8 <= limit:
        size, name = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", content, at + 8)[0], 16
        elif size == 0:  # to the end of the file
            size = limit - at
        if size < header or (not name.isalnum() and not name.strip(b" \xa9").isalnum()):
            yield b"", at, len(content) + 1
            return
        yield name, at + header, at + size
        at += size


def _length_s(content: Bytes, start: int, end: int) -> float | None:
    """Of the video track, as its edit list shows it (8.3.2); None if the header does not say."""
    scale = 0
    for name, first, last in _boxes(content, start, end):
        if name == b"mvhd":
            scale = struct.unpack_from(">I", content, first + (20 if content[first] else 12))[0]
        elif name == b"trak":
            inside = {each: where for each, where, _ in _boxes(content, first, last)}
            handler = content[inside.get(b"mdia", first) : last].find(b"hdlr")
            kind = inside.get(b"mdia", first) + handler + 12
            if handler < 0 or content[kind : kind + 4] != b"vide" or b"tkhd" not in inside:
                continue
            at = inside[b"tkhd"]
            code, place = (">Q", at + 28) if content[at] else (">I", at + 20)
            length = struct.unpack_from(code, content, place)[0]
            return length / scale if scale and length else None
    return None


# --- Matroska and WebM: RFC 8794, RFC 9559

_SEGMENT, _CLUSTER, _TRACKS, _GROUP, _BLOCK, _SIMPLE = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xA0, 0xA1, 0xA3
_TRACK, _TRACK_NUMBER, _TRACK_TYPE, _CODEC = 0xAE, 0xD7, 0x83, 0x86
_IN_SEGMENT = {_CLUSTER, _TRACKS, 0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, _GROUP, _SIMPLE, 0xAF, 0xEC, 0xBF}
_UNKNOWN = -1


def _matroska(content: Bytes) -> Structure:
    """Elements of the segment and of its clusters; behind a broken one, on with the next cluster."""
    size = len(content)
    broken = pictures = 0
    is_cut = False
    track, codec = 0, b""
    at = 0
    while at < size:
        try:
            name, start, end = _element(content, at)
        except (IndexError, ValueError):
            name, start, end = 0, at, size
        if end > size:
            broken, is_cut = broken + 1, True
            if name not in (_SEGMENT, _CLUSTER):
                break
        if name in (_SEGMENT, _CLUSTER):  # into it
            at = start
            continue
        if name == _TRACKS and not track:
            track, codec = _video_track(content, start, end)
        elif name in (_SIMPLE, _GROUP):
            pictures += _is_shown(content, name, start, end, track, codec)
        elif name not in _IN_SEGMENT and name not in _IN_CLUSTER and name != 0x1A45DFA3:
            broken += 1
            at = content.find(b"\x1f\x43\xb6\x75", at + 1)
            if at < 0:
                break
            continue
        at = end if end != _UNKNOWN else start
    return Structure(broken, pictures or None, is_cut=is_cut)


def _element(content: Bytes, at: int) -> tuple[int, int, int]:
    """ID, where its content begins and ends; the end is _UNKNOWN where the size is. Raises ValueError, IndexError."""
    id_bytes = 9 - content[at].bit_length()
    if id_bytes > 4:
        raise ValueError
    size_bytes = 9 - content[at + id_bytes].bit_length()
    if size_bytes > 8:
        raise ValueError
    start = at + id_bytes + size_bytes
    size = _number(content[at + id_bytes : start])
    end = _UNKNOWN if size == (1 << 7 * size_bytes) - 1 else start + size
    return int.from_bytes(content[at : at + id_bytes], "big"), start, end


def _number(coded: bytes) -> int:
    return int.from_bytes(coded, "big") & (1 << 7 * len(coded)) - 1


def _video_track(content: Bytes, start: int, end: int) -> tuple[int, bytes]:
    """Number and codec of the first video track."""
    while start < end:
        name, at, start = _element(content, start)
        if name != _TRACK:
            continue
        fields = {}
        while at < start:
            field, first, at = _element(content, at)
            fields[field] = content[first:at]
        if fields.get(_TRACK_TYPE) == b"\x01":
            return int.from_bytes(fields.get(_TRACK_NUMBER, b""), "big"), fields.get(_CODEC, b"")
    return 0, b""


def _is_shown(content: Bytes, name: int, start: int, end: int, track: int, codec: bytes) -> bool:
    """Whether the block is a picture of the track; VP8 has such that are never shown (RFC 6386, 9.1)."""
    if name == _GROUP:
        while start < end:
            inner, first, start = _element(content, start)
            if inner == _BLOCK:
                return _is_shown(content, _SIMPLE, first, start, track, codec)
        return False
    width = 9 - content[start].bit_length()
    if _number(content[start : start + width]) != track:
        return False
    return not codec.startswith(b"V_VP8") or bool(content[start + width + 3] & 0x10)


# --- the older ones


def _avi(content: Bytes) -> Structure:
    """RIFF chunks; an empty one stands for a picture that the recorder dropped."""
    broken = pictures = 0
    at = 0
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        if name in (b"RIFF", b"LIST"):
            broken += at + 8 + size > len(content)
            at += 12
            if name == b"LIST" and content[at - 4 : at] not in (b"movi", b"rec "):
                at += size - 4 + (size & 1)
            continue
        end = at + 8 + size
        if not all(0x20 <= byte < 0x7F for byte in name) or end > len(content):
            broken += 1
            found = [where for code in (b"00dc", b"00db", b"01dc") if (where := content.find(code, at + 1)) > 0]
            if not found:
                break
            at = min(found)
            continue
        pictures += name[2:] in (b"dc", b"db") and size > 0
        at = end + (size & 1)
    return Structure(broken, pictures or None)


def _flv(content: Bytes) -> Structure:
    """Tags, each followed by its length (FLV 10.1, annex E)."""
    broken = pictures = 0
    at = struct.unpack_from(">I", content, 5)[0] + 4
    while at < len(content):
        size = int.from_bytes(content[at + 1 : at + 4], "big")
        end = at + 11 + size
        if content[at] & 0x1F not in (8, 9, 18) or content[end : end + 4] != struct.pack(">I", 11 + size):
            return Structure(broken + 1)
        is_picture = content[at] & 0x1F == 9 and size > 1 and content[at + 11] >> 4 != 5
        pictures += is_picture and (content[at + 11] & 0x0F not in (7, 12) or content[at + 12] == 1)
        at = end + 4
    return Structure(broken, pictures or None)


def _asf(content: Bytes) -> Structure:
    """Packets of one size; all begin with the same error correction flags (ASF 1.2, 5.2.1)."""
    data = content.find(b"\x36\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c")
    properties = content.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65")
    packet = struct.unpack_from("<I", content, properties + 92)[0] if properties >= 0 else 0
    if data < 0 or not packet:
        return Structure(1)
    size = struct.unpack_from("<Q", content, data + 16)[0]
    start, end = data + 50, min(data + size, len(content))
    is_cut = data + size > len(content)
    flags = content[start:end:packet]
    return Structure(is_cut + sum(each != flags[0] for each in flags), is_cut=is_cut)


def _program_stream(content: Bytes) -> Structure:
    """Packs and packets (ISO/IEC 13818-1, 2.5.3); behind a broken one, on with the next pack."""
    broken = at = 0
    is_cut = False
    while at + 4 <= len(content):
        code = content[at + 3]
        if content[at : at + 3] != b"\0\0\x01":
            end = 0
        elif code == 0xBA:
            end = at + 14 + (content[at + 13] & 7) if content[at + 4] & 0xC0 == 0x40 else at + 12
        elif code == 0xB9:
            end = at + 4
        else:
            end = at + 6 + struct.unpack_from(">H", content, at + 4)[0] if code > 0xB9 else 0
        if not end or end > len(content):
            broken, is_cut = broken + 1, end > len(content)
            end = content.find(b"\0\0\x01\xba", at + 1)
            if end < 0:
                break
        at = end
    return Structure(broken, is_cut=is_cut)


def _transport_stream(content: Bytes, size: int, first: int) -> Structure:
    """Packets with a counter for each stream (ISO/IEC 13818-1, 2.4.3.3): one that jumps tells of a lost packet."""
    whole = len(content) // size
    heads = np.frombuffer(content, np.uint8, whole * size).reshape(whole, size)[:, first : first + 6].copy()
    synced = heads[:, 0] == 0x47
    broken = int(len(content) % size != 0) + int((~synced & np.concatenate(([True], synced[:-1]))).sum())
    sound = synced & (heads[:, 1] & 0x80 == 0)
    broken += int((synced & ~sound).sum())  # transport_error_indicator
    places, heads = np.flatnonzero(sound), heads[sound]
    pids = (heads[:, 1].astype(np.int32) & 0x1F) << 8 | heads[:, 2]
    pictures = 0
    for pid in np.unique(pids[pids != 0x1FFF]).tolist():
        mine = heads[pids == pid]
        adapted = mine[:, 3] & 0x20 != 0
        announced = adapted & (mine[:, 4] > 0) & (mine[:, 5] & 0x80 != 0)  # discontinuity_indicator
        carries = mine[:, 3] & 0x10 != 0
        steps = np.diff((mine[:, 3] & 0x0F).astype(np.int32)) % 16
        fine = (steps == carries[1:]) | (steps == 0) | announced[1:]  # a packet may be sent twice
        broken += int((~fine).sum())
        if not pictures:
            begins = mine[:, 1] & 0x40 != 0  # payload_unit_start_indicator
            pictures = _packets_of_video(content, places[pids == pid][begins & carries] * size + first)
    return Structure(broken, pictures or None, is_cut=len(content) % size != 0)


def _packets_of_video(content: Bytes, places: NDArray[np.int64]) -> int:
    """How many of the packets at these places begin a packet of a video stream (2.4.3.7): a picture each, mostly."""
    count = 0
    for at in places.tolist():
        start = at + 4 + (1 + content[at + 4] if content[at + 3] & 0x20 else 0)
        count += content[start : start + 3] == b"\0\0\1" and content[start + 3] & 0xF0 == 0xE0
    return count
