"""A model bundle: a folder with model.toml, labels and artefacts, read and checked before anything else looks at it.

docs/models.md describes the format. A bundle is never written after it is packed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.errors import ConfigError
from lineside.records import Artefact, DecodeSettings, InputSpec, ModelRef, Task
from lineside.resources import shipped
from lineside.store.labels import FORMS, MAX_BYTES, parse_labels, read_labels
from lineside.store.onnxfile import external_files

if TYPE_CHECKING:
    from lineside.store.golden import Golden
    from lineside.store.manifest import Manifest

MANIFEST = "model.toml"


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model as the rest of lineside sees it. `digest` covers model.toml, the labels and, through it, every file."""

    folder: Path
    name: str
    version: str
    digest: str  # "sha256:..."
    task: Task
    decode: str  # a decoder's name in the registry
    settings: DecodeSettings
    labels: tuple[str, ...]
    input: InputSpec
    artefacts: tuple[Artefact, ...]  # in the order of model.toml
    licence: str
    golden: Golden | None = None  # answers that the model must give on any box before it decides there
    parity_sha256: str | None = None  # of its parity passport, which store.passport reads

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version, self.digest)

    def input_for(self, artefact: Artefact) -> InputSpec:
        """The input of one of the artefacts: its layout may be its own."""
        return self.input.of(artefact)


def open_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle: a folder, or the name of one that ships with lineside. Raises ConfigError.

    Hashes every artefact (1.6 ms a megabyte); `read_bundle` and `verify` are the two steps apart.
    """
    bundle = read_bundle(path)
    for artefact in bundle.artefacts:
        verify(bundle, artefact)
    return bundle


def read_bundle(path: str | Path) -> Bundle:
    """Read model.toml and the labels; artefacts must exist but are not hashed. Raises ConfigError."""
    from lineside.store.manifest import parse

    folder = find(path)
    where = f"bundle {folder}: {MANIFEST}"
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    manifest = parse(text, where)
    labels, labels_text = _labels(folder, manifest)
    return Bundle(
        folder=folder,
        name=manifest.name,
        version=manifest.version,
        digest="sha256:" + hashlib.sha256(text + b"\0" + labels_text).hexdigest(),
        task=manifest.task,
        decode=manifest.decode.name,
        settings=DecodeSettings(**manifest.decode.values(without=("name",))),
        labels=labels,
        input=InputSpec(**manifest.input.values()),
        artefacts=tuple(
            Artefact(
                _present(folder, entry.file), entry.format, entry.precision, entry.sha256, entry.layout, entry.needs
            )
            for entry in manifest.artefact
        ),
        licence=manifest.licence,
        golden=_golden(folder, manifest.golden.sha256) if manifest.golden else None,
        parity_sha256=manifest.parity.sha256 if manifest.parity else None,
    )


def _golden(folder: Path, sha256: str) -> Golden:
    from lineside.store.golden import read  # here: a bundle without pays nothing for it

    return read(folder, sha256)


def find(path: str | Path) -> Path:
    """The absolute folder of a bundle given by path or by the name of a shipped one. Raises ConfigError."""
    asked = Path(path).expanduser()
    if asked.name == MANIFEST:
        asked = asked.parent
    models = shipped("models")
    for folder in (asked, models / asked) if len(asked.parts) == 1 else (asked,):
        if (folder / MANIFEST).is_file():
            return folder.resolve()
    known = sorted(folder.parent.name for folder in models.glob(f"*/{MANIFEST}"))
    what = f"holds no {MANIFEST}" if asked.is_dir() else "is no folder" if asked.exists() else "does not exist"
    raise ConfigError(
        f"bundle {path}: {what}: give a folder made by `lineside bundle new`"
        + (f", or one of the shipped models: {', '.join(known)}" if known else "")
    )


def verify(bundle: Bundle, artefact: Artefact) -> None:
    """Compare an artefact with the hash in model.toml. Raises ConfigError when it was cut short or changed."""
    found = sha256_of(Path(artefact.path))
    if found != artefact.sha256:
        raise ConfigError(
            f"bundle {bundle.folder}: {Path(artefact.path).name}: sha256 is {found[:12]}..., {MANIFEST} says "
            f"{artefact.sha256[:12]}...: the file was cut short or changed after packing: "
            f"copy the bundle again, or pack a new one with `lineside bundle new`"
        )


def sha256_of(path: Path) -> str:
    """The hash that model.toml holds: of the file; for an OpenVINO .xml, of the .xml followed by its .bin; for an ONNX
    model with weights in other files, of the model followed by each of them, its name and size before it.

    Raises ConfigError when a file cannot be read.
    """
    digest = hashlib.sha256()
    for part in artefact_files(path):
        try:
            with part.open("rb") as file:
                if path.suffix != ".xml" and part != path:
                    size = part.stat().st_size
                    digest.update(f"\0{part.relative_to(path.parent).as_posix()}\0{size}\0".encode())
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ConfigError(f"model file {part}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def artefact_files(path: Path) -> tuple[Path, ...]:
    """The files that make up one artefact, itself first: an OpenVINO .xml keeps its weights in a .bin beside it, an
    ONNX model may name files beside it or below. Raises ConfigError when it names one elsewhere."""
    if path.suffix == ".xml":
        return path, path.with_suffix(".bin")
    if path.suffix.lower() == ".onnx":
        return path, *external_files(path)
    return (path,)


def _present(folder: Path, file: str) -> str:
    """The absolute path of an artefact whose files are all there, with something in them."""
    path = folder / file
    for part in artefact_files(path):
        if not part.is_file():
            raise ConfigError(
                f"bundle {folder}: artefact file {part.relative_to(folder)} is missing: "
                "copy the whole folder, or remove its [[artefact]] table"
            )
        if part.stat().st_size == 0:
            raise ConfigError(f"bundle {folder}: artefact file {part.relative_to(folder)} is empty: copy it again")
    return str(path)


def _labels(folder: Path, manifest: Manifest) -> tuple[tuple[str, ...], bytes]:
    if not isinstance(manifest.labels, str):
        return tuple(manifest.labels), b""
    path = folder / manifest.labels
    try:
        text = path.read_bytes()[: MAX_BYTES + 1]
    except OSError as error:
        raise ConfigError(
            f'bundle {folder}: {MANIFEST}: labels = "{manifest.labels}": cannot be read: {error.strerror}'
        ) from error
    if path.suffix.lower() not in FORMS:
        return parse_labels(text, str(path)), text
    found = read_labels(text, str(path))
    if found.closed:
        raise ConfigError(
            f"bundle {folder}: {manifest.labels}: its class numbers begin at {found.names.index(found.closed[0])}, so "
            "it is not clear which is class 0: write the names alone into a .txt file, one a line"
        )
    return found.names, text
