"""The cells of the table of processors: which there are, and what was found in each, kept by all that it depends on."""

from __future__ import annotations

import ast
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lineside.registry import driver
from lineside.resources import shipped
from lineside.store.bundle import Bundle

ALONE = "alone"  # ONNX Runtime is all that is installed, and no backend is named
FLOAT = "float"  # the model without rounding, on this machine
EXACT = "exact"  # a file computed on this machine without its runtime's integer kernels, or with such as cannot clip
BACKENDS = ("onnxruntime", "openvino", "litert")
# what every stage shares: a line more there changes no answer
_SHARED = {"contracts", "errors", "records", "registry", "resources", "images"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One file on one backend of one processor. `file` empty: whatever the product chooses."""

    machine: str
    bundle: str
    backend: str
    file: str

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.machine, self.bundle, self.backend, self.file)))


def cells_of(machine: str, bundle: Bundle, backends: Sequence[str] = BACKENDS) -> Iterator[Cell]:
    """Every file on every backend that takes its format, and the bundle with ONNX Runtime alone."""
    for backend in backends:
        formats = driver("backend", backend).formats("cpu")
        for artefact in bundle.artefacts:
            if artefact.format in formats:
                yield Cell(machine, bundle.name, backend, Path(artefact.path).name)
    if "onnxruntime" in backends:
        yield Cell(machine, bundle.name, ALONE, "")


def depends(
    cell: Cell, bundle: Bundle, machine: Mapping[str, str], packages: Mapping[str, str], pictures: str
) -> dict[str, Any]:
    """All that the answers of a cell depend on. `machine`: facts of the processor; `packages`: by backend."""
    backends = ["onnxruntime"] if cell.backend in (ALONE, FLOAT) else [exact_way(cell.file)[0]]
    if cell.backend in packages:
        backends = [cell.backend]
    used = {packages[backend] for backend in backends} | {"numpy", "opencv-python-headless", "machine", "cpu"}
    code = [_module("backend", backend) for backend in backends] + [_module("decoder", bundle.decode)]
    if cell.backend == ALONE:
        code.append("lineside.hal.choose")
    artefact = next((one for one in bundle.artefacts if Path(one.path).name == cell.file), None)
    return {
        "cell": cell.name,
        "bundle": bundle.digest,
        "artefact": artefact.sha256 if artefact else "",
        **{name: value for name, value in sorted(machine.items()) if name in used},
        "options": _options(machine["machine"], backends),
        "code": code_digest([*code, "lineside.vision.prepare"]),
        "pictures": pictures,
    }


class Kept:
    """What was found in each cell: a file each, named by what it depends on. `any_code`: what was found with another
    state of the code does, too."""

    def __init__(self, folder: Path, any_code: bool = False) -> None:
        self.folder = folder
        self.any_code = any_code

    def path(self, depends: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(_but_code(depends), sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{depends['cell'].replace('/', '.')}.{digest}.json"

    def read(self, depends: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found, if it was found on just these; None, too, where the file was cut short."""
        try:
            kept = json.loads(self.path(depends).read_text())
            found, on = kept["found"], kept["depends"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        same = _but_code(on) == _but_code(depends) if self.any_code else on == depends
        return dict(found) if same else None

    def put(self, depends: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Whole or not at all, whatever happens to who writes it."""
        path = self.path(depends)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"depends": depends, "found": found}))
        part.replace(path)


def _but_code(depends: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in depends.items() if name != "code"}


def _module(kind: str, name: str) -> str:
    return str(driver(kind, name).__module__)


@cache
def _profile(machine: str) -> dict[str, Any]:
    name = "arm-cpu" if machine.startswith("cortex") else "x86-cpu"
    return tomllib.loads((shipped("device_profiles") / f"{name}.toml").read_text())


def _options(machine: str, backends: Sequence[str]) -> list[Any]:
    return [one for one in _profile(machine)["backend"] if one["name"] in backends]


def code_digest(modules: Sequence[str]) -> str:
    """Of these modules and all of lineside that they import, but what every stage shares. Comments and docstrings do
    not count: they change no answer."""
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[1] in _SHARED:
            continue
        seen[name], more = _code(name)
        waiting += more
    return hashlib.sha256("\n".join(f"{name} {seen[name]}" for name in sorted(seen)).encode()).hexdigest()[:16]


@cache
def _code(name: str) -> tuple[str, tuple[str, ...]]:
    """A module without its words, and the modules of lineside that it imports."""
    path = _source(name)
    assert path is not None, name
    text = path.read_text()
    imported = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lineside."):
            assert node.module is not None
            each = [f"{node.module}.{alias.name}" for alias in node.names]
            imported += [node.module, *(one for one in each if _source(one))]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names if alias.name.startswith("lineside.")]
    return without_words(text), tuple(imported)


def without_words(source: str) -> str:
    """A module's syntax tree without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


@cache
def _source(name: str) -> Path | None:
    import lineside

    path = Path(lineside.__file__).parent.joinpath(*name.split(".")[1:])
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def references(bundle: Bundle) -> Iterator[Cell]:
    """The cells that the others are compared with: the float model, and each file computed exactly."""
    yield Cell("host", bundle.name, FLOAT, "")
    for artefact in bundle.artefacts:
        yield Cell("host", bundle.name, EXACT, Path(artefact.path).name)


def exact_way(file: str) -> tuple[str, dict[str, object]]:
    """The backend and its options that compute a file exactly on this machine.

    ONNX Runtime without optimisations computes each quantised layer in float between rounding and rounding; OpenVINO
    does so where the processor's sums would clip; LiteRT's kernels never add products in 16 bits.
    """
    match Path(file).suffix:
        case ".onnx":
            return "onnxruntime", {"graph_optimization": "disabled"}
        case ".xml":
            return "openvino", {"exact_int8": True, "precision": "f32"}
    return "litert", {}
