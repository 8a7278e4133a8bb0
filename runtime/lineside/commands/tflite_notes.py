"""TFLite metadata: a flatbuffer in the buffer TFLITE_METADATA (normalisation, score threshold, names of label files)
and a
zip archive behind the model with those files (source: tensorflow/lite/schema/metadata_schema.fbs, its order of fields).
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

from lineside.commands.model_notes import MAX_NOTE_BYTES, literal
from lineside.hal.tflite import FlatTable

_NORMALIZATION, _SCORE_THRESHOLD = 1, 3  # union ProcessUnitOptions
_GRAYSCALE = 2  # enum ColorSpaceType
_IMAGE_PROPERTIES = 2  # union ContentProperties
_AXIS_LABELS = (2, 3)  # enum AssociatedFileType: labels of an axis, or of values


def appended(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(an exporter's table such as Ultralytics' metadata.json, what the TFLite metadata says); empty without."""
    files = _archive(path)
    table: dict[str, str] = {}
    for name, text in files.items():
        found = literal(text) if name.endswith((".json", ".txt")) else None
        if isinstance(found, dict):
            table |= {str(key): value if isinstance(value, str) else repr(value) for key, value in found.items()}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return table, _metadata(memory, files)
    except (OSError, ValueError, IndexError, struct.error, UnicodeDecodeError):
        return table, {}


def _archive(path: Path) -> dict[str, str]:
    if not zipfile.is_zipfile(path):
        return {}
    files: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size <= MAX_NOTE_BYTES and member.filename.endswith((".json", ".txt")):
                    files[member.filename] = archive.read(member).decode("utf-8", "replace")
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return {}  # bytes that only look like an archive
    return files


def _metadata(memory: mmap.mmap, files: dict[str, str]) -> dict[str, Any]:
    model = FlatTable(memory, struct.unpack_from("<I", memory, 0)[0])
    buffers = list(model.tables(4))
    at = [int(each.scalar(1, "<I")) for each in model.tables(6) if each.text(0) == "TFLITE_METADATA"]
    if not at:
        return {}
    content: Any = bytes(buffers[at[0]].numbers(0, "<B"))
    if len(content) < 8:
        return {}
    graphs = list(FlatTable(content, struct.unpack_from("<I", content, 0)[0]).tables(3))
    if not graphs:
        return {}
    found: dict[str, Any] = {}
    for tensor in graphs[0].tables(2):
        found |= _input(tensor)
        break
    for tensor in graphs[0].tables(3):
        for unit in tensor.tables(4):
            if int(unit.scalar(0, "<B")) == _SCORE_THRESHOLD:
                for options in unit.table(1):
                    found["min_score"] = float(options.scalar(0, "<f"))
        for named in tensor.tables(6):
            text = files.get(named.text(0))
            is_table = text is not None and literal(text) is not None  # Ultralytics names its own notes as labels
            if (
                text is not None
                and not is_table
                and int(named.scalar(2, "<b")) in _AXIS_LABELS
                and "labels" not in found
            ):
                found["labels"] = tuple(line.strip() for line in text.strip().splitlines())
    return found


def _input(tensor: FlatTable) -> dict[str, Any]:
    """Normalisation and colour of the picture: value = (pixel - mean) / std."""
    found: dict[str, Any] = {}
    for unit in tensor.tables(4):
        if int(unit.scalar(0, "<B")) == _NORMALIZATION:
            for options in unit.table(1):
                mean, std = options.numbers(0, "<f"), options.numbers(1, "<f")
                if len(mean) in (1, 3) and len(std) in (1, 3) and min(std) > 0:
                    found |= {"mean": tuple(mean) * (3 // len(mean)), "std": tuple(std) * (3 // len(std))}
    for content in tensor.table(3):
        if int(content.scalar(0, "<B")) == _IMAGE_PROPERTIES:
            for picture in content.table(1):
                found["color"] = "gray" if int(picture.scalar(0, "<b")) == _GRAYSCALE else "rgb"
    return found
