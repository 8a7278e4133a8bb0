"""Writes one piece of evidence: into a folder of its own beside the others, fsynced, then renamed into its place.

So a crash leaves a whole piece or none. A frame that an earlier piece holds already is linked, not written again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2

from lineside import plain
from lineside.deliver.evidence import folder
from lineside.deliver.evidence.ring import Entry, Job
from lineside.deliver.evidence.sealed import SUFFIX, Seal
from lineside.errors import DeviceError
from lineside.records import Box, Decision, Event, Finding, Image

WRITING = ".writing"
UNTOLD = ".untold"  # names of pieces whose record is not known to be committed
RECIPES = "recipes"
_REMEMBERED = 512  # frames that were written last, to be linked
_FACE_FRAMES = 3  # a face that a frame shows is blurred in so many frames before and after it, too
_PNG_FAST = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
)  # noise packs no better

Hide = Callable[[Image, Sequence[Box]], Image]
Draw = Callable[[Image, Sequence[Finding], str], Image]


@dataclass(frozen=True, slots=True)
class About:
    """What evidence says of the station beside the decision."""

    camera: str
    recipe: Mapping[str, object]
    digest: str
    draw: Draw
    hide: Hide | None = None  # None: pictures are kept as they are
    face_labels: tuple[str, ...] = ()  # with `hide`: what it hides; empty: no picture can be made safe, none is kept


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, for the journal."""

    path: Path
    new_bytes: int
    fields: dict[str, object]


@dataclass(slots=True)
class _Frame:
    """A frame that was written: to be linked by the next piece that holds it."""

    path: Path
    about: dict[str, object]  # of evidence.json["files"]
    pixels: str


class Writer:
    """`breathe` is called after each small slice of work. Used by one thread."""

    def __init__(self, root: Path, machine: str, version: str, seal: Seal | None, breathe: Callable[[], None]) -> None:
        self._root = root
        self._machine, self._version = machine, version
        self._seal = seal
        self._breathe = breathe
        self._written: OrderedDict[tuple[str, str, int, int], _Frame] = OrderedDict()

    def sweep(self) -> int:
        """Remove what a crash left half written; how many pieces that were. Raises OSError."""
        leftovers = list((self._root / WRITING).iterdir()) if (self._root / WRITING).is_dir() else []
        for path in leftovers:
            shutil.rmtree(path)
        return len(leftovers)

    def untold(self) -> list[str]:
        """Pieces, "station/name", of which nobody knows that the journal has their record. Raises OSError."""
        place = self._root / UNTOLD
        return [path.name.replace("~", "/") for path in sorted(place.iterdir())] if place.is_dir() else []

    def told(self, name: str) -> None:
        """The journal has committed the record of this piece. Raises OSError."""
        (self._root / UNTOLD / name.replace("/", "~")).unlink(missing_ok=True)

    def write(self, job: Job, about: About) -> Written:
        """Raises OSError when the disk refuses, and then leaves nothing behind that counts."""
        self._keep_recipe(about)
        name = f"{_stamp(job.wall_ns)}-{job.why}-{job.id}"
        place = self._root / WRITING / name
        place.mkdir(parents=True)
        try:
            return self._fill(place, name, job, about)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def _fill(self, place: Path, name: str, job: Job, about: About) -> Written:
        files: dict[str, dict[str, object]] = {}
        frames: list[dict[str, object]] = []
        new_bytes = 0
        for index, entry in enumerate(job.entries):
            file, pixels, own_bytes = self._frame(place, entry, about, files)
            new_bytes += own_bytes
            if about.hide is not None and about.face_labels:
                safe = self._safe(job.entries, index, about)
                new_bytes += _save_picture(place / f"{entry.frame.number:08}.blurred.jpg", safe, files)
            frames.append(folder.describe(entry.frame, entry.seen, file, pixels))
            self._breathe()
        if job.entries and (about.hide is None or about.face_labels):
            last = len(job.entries) - 1
            picture = job.entries[last].frame.image if about.hide is None else self._safe(job.entries, last, about)
            shown = about.draw(picture, _findings(job), _caption(job))
            new_bytes += _save_picture(place / folder.PICTURE, shown, files)
        text = self._manifest(job, about, frames, files)
        new_bytes += _save(place / folder.MANIFEST, text)
        (self._root / UNTOLD).mkdir(exist_ok=True)
        marker = self._root / UNTOLD / f"{job.station}~{name}"
        marker.touch()
        _sync(place)
        _sync(marker.parent)
        final = self._root / job.station / name
        final.parent.mkdir(exist_ok=True)
        os.rename(place, final)
        _sync(final.parent)
        for frame in self._written.values():
            if frame.path.parent == place:
                frame.path = final / frame.path.name
        files[folder.MANIFEST] = {"sha256": folder.sha256(text), "bytes": len(text)}
        return Written(final, new_bytes, note_fields(f"{job.station}/{name}", json.loads(text), files))

    def _frame(
        self, place: Path, entry: Entry, about: About, files: dict[str, dict[str, object]]
    ) -> tuple[str | None, str, int]:
        """(file or None, hash of the pixels, bytes that are new on the disk) of one frame."""
        frame = entry.frame
        if about.hide is not None and self._seal is None:
            return None, folder.pixels_sha256(frame.image), 0
        name = f"{frame.number:08}.png" + ("" if about.hide is None else SUFFIX)
        key = (frame.camera, name, frame.captured_ns, frame.captured_wall_ns)
        earlier = self._written.get(key)
        if earlier is not None:
            try:
                os.link(earlier.path, place / name)
            except OSError:  # it went, or the file system links nothing: write it again
                del self._written[key]
            else:
                files[name] = earlier.about
                return name, earlier.pixels, 0
        pixels = folder.pixels_sha256(frame.image)
        done, packed = cv2.imencode(".png", frame.image, _PNG_FAST)
        if not done:
            raise DeviceError(f"frame {frame.number}: OpenCV cannot write it as PNG")
        payload: Any = packed.data if about.hide is None else self._closed(packed.tobytes())
        new_bytes = _save(place / name, payload)
        files[name] = {"sha256": folder.sha256(payload), "bytes": len(payload)}
        self._written[key] = _Frame(place / name, files[name], pixels)
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return name, pixels, new_bytes

    def _closed(self, payload: bytes) -> bytes:
        assert self._seal is not None
        return self._seal.close(payload)

    def _safe(self, entries: Sequence[Entry], index: int, about: About) -> Image:
        """The picture without faces: those of the frames around it, too, since a model misses one now and then."""
        assert about.hide is not None
        near = entries[max(0, index - _FACE_FRAMES) : index + _FACE_FRAMES + 1]
        image = entries[index].frame.image
        if any(isinstance(entry.seen, str) for entry in near):  # nobody knows where faces are
            return about.hide(image, [(0.0, 0.0, float(image.shape[1]), float(image.shape[0]))])
        boxes = [
            finding.box
            for entry in near
            for finding in entry.seen
            if not isinstance(finding, str) and finding.box is not None and finding.label in about.face_labels
        ]
        return about.hide(image, boxes)

    def _manifest(
        self, job: Job, about: About, frames: list[dict[str, object]], files: dict[str, dict[str, object]]
    ) -> bytes:
        """evidence.json, encoded in slices: the whole of it would hold Python's lock for milliseconds."""
        head = {
            "format": folder.FORMAT,
            "lineside": self._version,
            "id": job.id,
            "kind": job.kind,
            "why": job.why,
            "station": job.station,
            "camera": about.camera,
            "note": job.note,
            "machine": self._machine,
            "recipe": about.digest,
            "record": _told(job),
            "at_end": job.at_end,
            "frames_missing": job.frames_missing,
            "faces": "none" if about.hide is None else "sealed" if self._seal is not None else "blurred",
            "files": files,
        }
        parts = [json.dumps(head)[:-1]]
        self._breathe()
        state = json.dumps(plain.pack(job.entries[0].state)) if job.entries else "null"
        parts.append(f', "state": {state}, "described": {json.dumps(about.recipe)}, "frames": [')
        for index, frame in enumerate(frames):
            parts.append(("\n" if index == 0 else ",\n") + json.dumps(frame))
            self._breathe()
        return "".join([*parts, "]}\n"]).encode()

    def _keep_recipe(self, about: About) -> None:
        """The recipe once, under its digest, for whoever looks at the folder of all evidence."""
        path = self._root / RECIPES / (about.digest.removeprefix("sha256:") + ".json")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            _save(fresh, json.dumps(about.recipe, sort_keys=True, separators=(",", ":")).encode("ascii"))
            os.replace(fresh, path)


def note_fields(name: str, told: Mapping[str, Any], files: Mapping[str, object]) -> dict[str, object]:
    """What the journal's record says of a piece: that it is there, and the hashes of all that belongs to it."""
    frames = [{key: frame[key] for key in ("number", "file", "shape", "dtype", "pixels")} for frame in told["frames"]]
    return {
        "state": "kept",
        "decision": None if told["kind"] == "missed" else told["id"],
        "why": told["why"],
        "folder": name,
        "recipe": told["recipe"],
        "frames": frames,
        "frames_missing": told["frames_missing"],
        "faces": told["faces"],
        "files": files,
        "cause": told["note"] or told["record"]["cause"],
    }


def _told(job: Job) -> dict[str, object]:
    record = job.record
    if record is None:
        return {"cause": "an operator saw a defect that was not decided about"}
    told: dict[str, object] = {
        "cause": record.cause,
        "score": record.score,
        "findings": plain.pack(record.findings),
        "model": {"name": record.model.name, "version": record.model.version, "digest": record.model.digest},
        "backend": record.backend,
        "decided_wall_ns": record.decided_wall_ns,
    }
    if isinstance(record, Decision):
        part = {"id": record.part.id, "number": record.part.number, "serial": record.part.serial}
        seen = plain.pack(record.part.observations)
        return {**told, "verdict": record.verdict, "part": part, "observations": seen}
    return {**told, "phase": record.phase, "count": record.count, "event_id": record.event_id}


def _caption(job: Job) -> str:
    if job.record is None:
        return f"missed defect: {job.note}" if job.note else "missed defect"
    word = job.record.verdict if isinstance(job.record, Decision) else job.record.phase
    return f"{word}: {job.record.cause}"


def _findings(job: Job) -> tuple[Finding, ...]:
    """What to draw on the last frame: what was seen of the part there; of an event, what it is about."""
    last = job.entries[-1]
    if isinstance(job.record, Decision) and job.record.part.observations:
        seen = job.record.part.observations[-1]
        if seen.frame_number == last.frame.number:
            return seen.findings
    if isinstance(job.record, Event):
        return job.record.findings
    return () if isinstance(last.seen, str) else last.seen


def _save_picture(path: Path, image: Image, files: dict[str, dict[str, object]]) -> int:
    done, packed = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 90))
    if not done:
        raise DeviceError(f"{path.name}: OpenCV cannot write it as JPEG")
    files[path.name] = {"sha256": folder.sha256(packed.data), "bytes": len(packed)}
    return _save(path, packed.data)


def _save(path: Path, payload: Any) -> int:
    """Write and fsync; the bytes that it takes on the disk."""
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_blocks * 512


def _sync(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stamp(wall_ns: int) -> str:
    seconds, micros = divmod(max(wall_ns, 0) // 1000, 1_000_000)
    return f"{datetime.fromtimestamp(min(seconds, 253402300799), UTC):%Y%m%dT%H%M%S}.{micros:06d}Z"
