"""Writes a bundle: the folder is built beside its place and renamed, so a half-written one never has the name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from lineside.errors import ConfigError
from lineside.records import Artefact, DecodeSettings, InputSpec, Task
from lineside.store import golden, passport
from lineside.store.bundle import MANIFEST, Bundle, artefact_files, open_bundle, sha256_of
from lineside.store.golden import Golden
from lineside.store.passport import Passport

LABELS = "labels.txt"
_SELDOM = ("filter", "constants", "box_format", "first_class", "extra_channels", "outputs")
_OURS = {MANIFEST, LABELS, golden.FILE, golden.FOLDER, passport.FILE}


def pack(
    folder: Path,
    *,
    name: str,
    version: str,
    task: Task,
    labels: Sequence[str],
    input: InputSpec,
    decode: str,
    settings: DecodeSettings,
    artefacts: Sequence[Artefact],
    licence: str,
    source: str = "",
    papers: Mapping[str, str] | None = None,
) -> Bundle:
    """Copy the artefacts (their `path`; `sha256` is computed here) into a new folder, and read it back.

    `papers` are text files for people, by name, that go with it. Raises ConfigError when the folder exists,
    cannot be written, or the bundle would not be valid.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not empty: a bundle is never changed; give another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"{folder.parent}: cannot be written: {error.strerror}") from error
    try:
        tables = [_copy(artefact, staging, input) for artefact in artefacts]
        (staging / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        for file, content in (papers or {}).items():
            (staging / file).write_text(content, encoding="utf-8")
        head = {"format": 1, "name": name, "version": version, "task": task, "licence": licence, "source": source}
        text = _toml({**head, "labels": LABELS}, input, decode, settings, tables)
        (staging / MANIFEST).write_text(text, encoding="utf-8")
        open_bundle(staging)
        staging.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        os.rename(staging, folder)
    except ConfigError as error:
        raise ConfigError(*(line.replace(str(staging), str(folder)) for line in error.lines)) from error
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_bundle(folder)


def pack_golden(bundle: Bundle, folder: Path, answers: Golden, pictures: Sequence[Path], version: str) -> Bundle:
    """Copy a bundle into a new folder together with its golden answers, and read it back.

    `pictures` are the files that the cases of `answers` name, in their order. Raises ConfigError.
    """

    def put_pictures(staging: Path) -> None:
        (staging / golden.FOLDER).mkdir()
        for case, picture in zip(answers.cases, pictures, strict=True):
            shutil.copyfile(picture, staging / case.image)

    return _pack_with(bundle, folder, "golden", golden.FILE, asdict(answers), version, put_pictures, golden.FOLDER)


def pack_parity(bundle: Bundle, folder: Path, measured: Passport, version: str) -> Bundle:
    """Copy a bundle into a new folder together with its parity passport, and read it back. Raises ConfigError."""
    return _pack_with(bundle, folder, "parity", passport.FILE, asdict(measured), version)


def _pack_with(
    bundle: Bundle,
    folder: Path,
    table: str,
    file: str,
    told: dict[str, object],
    version: str,
    put_more: Callable[[Path], None] = lambda staging: None,
    *left_out: str,
) -> Bundle:
    """A copy with `told` as `file`, whose hash is in a table of model.toml; what was there before of it is left out."""
    if folder.exists():
        raise ConfigError(f"{folder}: exists: a bundle is never changed; give another folder")
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.copytree(bundle.folder, staging, ignore=shutil.ignore_patterns(file, *left_out))
        put_more(staging)
        text = json.dumps(told, indent=1) + "\n"
        (staging / file).write_text(text)
        lines = _without((staging / MANIFEST).read_text(encoding="utf-8"), table).rstrip()
        lines = re.sub(r"(?m)^version = .*$", lambda _: f"version = {json.dumps(version)}", lines, count=1)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        (staging / MANIFEST).write_text(f'{lines}\n\n[{table}]\nsha256 = "{sha256}"\n', encoding="utf-8")
        open_bundle(staging)
        os.rename(staging, folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_bundle(folder)


def _without(manifest: str, table: str) -> str:
    """The lines of a model.toml but those of one table."""
    return re.sub(rf"(?ms)^\[{table}\]$.*?(?=^\[|\Z)", "", manifest)


def _copy(artefact: Artefact, folder: Path, input: InputSpec) -> dict[str, object]:
    """Copy one artefact's files and give its [[artefact]] table."""
    source = Path(artefact.path)
    for part in artefact_files(source):
        within = part.relative_to(source.parent)
        if within.parts[0] in _OURS:
            raise ConfigError(f"{part}: a bundle has a file of its own of this name: rename it, and export again")
        if (folder / within).exists():
            raise ConfigError(f"{part}: two artefacts have the same file name: rename one")
        try:
            (folder / within).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, folder / within)
        except OSError as error:
            raise ConfigError(f"model file {part}: cannot be read: {error.strerror}") from error
    table: dict[str, object] = {
        "file": source.name,
        "format": artefact.format,
        "precision": artefact.precision,
        "sha256": sha256_of(folder / source.name),
    }
    if artefact.layout not in (None, input.layout):
        table["layout"] = artefact.layout
    if artefact.needs:
        table["needs"] = artefact.needs
    return table


def _toml(
    head: dict[str, object],
    input: InputSpec,
    decode: str,
    settings: DecodeSettings,
    artefacts: Sequence[dict[str, object]],
) -> str:
    parts = [_lines({key: value for key, value in head.items() if value != ""})]
    parts += ["[input]\n" + _lines(_told(input)), "[decode]\n" + _lines({"name": decode, **_told(settings)})]
    parts += ["[[artefact]]\n" + _lines(table) for table in artefacts]
    return "\n".join(parts)


def _told(table: InputSpec | DecodeSettings) -> dict[str, object]:
    """Its keys, but for those that most bundles leave at their default: an older lineside refuses a key it lacks."""
    defaults = {each.name: each.default for each in fields(table)}
    return {key: value for key, value in asdict(table).items() if key not in _SELDOM or value != defaults[key]}


def _lines(table: dict[str, object]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items() if value is not None)


def _value(value: object) -> str:
    """A TOML value; JSON's strings and numbers are TOML's, but for DEL, which no name or path should hold."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
