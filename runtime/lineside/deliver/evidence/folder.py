"""One piece of evidence is one folder: evidence.json, the frames, a picture for people. Its format, read and checked.

`evidence.json` holds the SHA-256 of every other file and of every frame's pixels; the `evidence` record of the journal
holds the SHA-256 of all of them. A folder may be copied anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lineside import plain
from lineside.deliver.evidence.ring import Answer
from lineside.errors import ConfigError
from lineside.records import Frame, Image

FORMAT = 1
MANIFEST = "evidence.json"
PICTURE = "annotated.jpg"
_NEEDED = {"format", "id", "kind", "why", "station", "frames", "recipe", "record", "files", "state"}


def sha256(payload: Any) -> str:
    """Of bytes or of a contiguous array's bytes, "sha256:..."."""
    return "sha256:" + hashlib.sha256(payload).hexdigest()


def pixels_sha256(image: Image) -> str:
    """Of a picture's pixels row by row, whatever its memory looks like; its shape and type are told beside it."""
    return sha256(np.ascontiguousarray(image).data)


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """What evidence.json says of one frame."""

    frame: Mapping[str, Any]

    @property
    def number(self) -> int:
        return int(self.frame["number"])

    @property
    def file(self) -> str | None:
        """Name of the file with its pixels; None where they were not kept (faces)."""
        file: str | None = self.frame["file"]
        return file

    @property
    def seen(self) -> Answer:
        answer: Answer = self.frame["error"] if self.frame["error"] is not None else plain.unpack(self.frame["seen"])
        return answer

    def with_image(self, image: Image) -> Frame:
        told = self.frame
        times = (told["captured_ns"], told["captured_wall_ns"], told["ready_ns"])
        return Frame(image, told["camera"], self.number, *times, told["paced"])


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of evidence that was read."""

    folder: Path
    told: Mapping[str, Any]  # evidence.json
    manifest_sha256: str

    @property
    def id(self) -> str:
        return str(self.told["id"])

    @property
    def frames(self) -> tuple[KeptFrame, ...]:
        return tuple(KeptFrame(frame) for frame in self.told["frames"])


def describe(frame: Frame, seen: Answer, file: str | None, pixels: str) -> dict[str, object]:
    """A frame's entry of evidence.json."""
    return {
        "number": frame.number,
        "camera": frame.camera,
        "captured_ns": frame.captured_ns,
        "captured_wall_ns": frame.captured_wall_ns,
        "ready_ns": frame.ready_ns,
        "paced": frame.paced,
        "file": file,
        "shape": list(frame.image.shape),
        "dtype": frame.image.dtype.name,
        "pixels": pixels,
        "error": seen if isinstance(seen, str) else None,
        "seen": [] if isinstance(seen, str) else plain.pack(seen),
    }


def read(folder: Path) -> Kept:
    """Raises ConfigError for what is no evidence, or of a format that this lineside does not know."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        told = json.loads(text)
    except OSError as error:
        raise ConfigError(f"evidence {folder}: {MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"evidence {folder}: {MANIFEST} is damaged ({error})") from error
    if not isinstance(told, dict) or not told.keys() >= _NEEDED:
        raise ConfigError(f"evidence {folder}: {MANIFEST} is not what lineside writes: some of it is missing")
    if told["format"] != FORMAT:
        raise ConfigError(f"evidence {folder}: format {told['format']!r}, known is {FORMAT}: use a newer lineside")
    return Kept(folder, told, sha256(text))


def faults(kept: Kept, note: Mapping[str, Any] | None) -> list[str]:
    """What is not as it was written, a line each with the file's name. `note` is the journal's record of it."""
    found = []
    if note is not None:
        found += _against_note(kept, note)
    present = {path.name for path in kept.folder.iterdir()}
    for name, about in kept.told["files"].items():
        path = kept.folder / name
        try:
            if sha256(path.read_bytes()) != about["sha256"]:
                found.append(f"{name}: is not the file that was written: its SHA-256 differs")
        except OSError as error:
            found.append(f"{name}: cannot be read: {error.strerror}")
    extra = present - set(kept.told["files"]) - {MANIFEST}
    return found + [f"{name}: was not written by lineside" for name in sorted(extra)]


def _against_note(kept: Kept, note: Mapping[str, Any]) -> list[str]:
    found = []
    written = {name: about["sha256"] for name, about in note["files"].items()}
    if written.pop(MANIFEST, "") != kept.manifest_sha256:
        found.append(f"{MANIFEST}: is not the file of which the journal holds the SHA-256")
    named = {name: about["sha256"] for name, about in kept.told["files"].items()}
    found += [
        f"{name}: evidence.json and the journal name different hashes"
        for name in sorted(named.keys() | written.keys())
        if named.get(name) != written.get(name)
    ]
    pixels = {frame["number"]: frame["pixels"] for frame in note["frames"]}
    told = {frame["number"]: frame["pixels"] for frame in kept.told["frames"]}
    return found + [
        f"frame {number}: evidence.json and the journal name different pixels"
        for number in sorted(pixels.keys() | told.keys())
        if pixels.get(number) != told.get(number)
    ]
