"""The import rules of the design, checked on the tree as it is: they hold for files that land later, too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "runtime" / "lineside"
STAGES = {"hal", "cameras", "triggers", "vision", "decide", "deliver", "store"}
COMMON = {"records", "contracts", "errors", "registry", "resources", "images", "checked", "metrics", "plain"}
# who may know the stages
WIRING = {
    "pipeline",
    "plan",
    "recipe",
    "golden",
    "proof",
    "proving",
    "daemon",
    "delivery",
    "cli",
    "commands",
    "evidence",
    "replay",
    "tuning",
    "quantize",
}
VENDORS = {  # import names that only a driver's constructor may ask for, through registry.vendor
    *("onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime", "onnx", "iotcore", "av", "serial", "gi"),
    *("pymodbus", "torch", "tensorflow", "PIL", "psutil", "google"),
    *("nncf", "ai_edge_quantizer", "litert_torch", "timm"),
}
CORE = {"numpy", "cv2", "paho", "pydantic", "nacl"}  # what the wheel itself depends on
MAX_LINES = 400
# Names for one licence family; a classifier or an SPDX expression that holds one of these is not shipped.
COPYLEFT = ("AGPL", "GPL", "AFFERO", "GNU GENERAL PUBLIC")
LESSER = ("LGPL", "LESSER GENERAL PUBLIC")

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name below lineside: "hal.ort", "pipeline"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a tree imports, absolute, with its line; type-checking imports count like any other."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = ("lineside", *path.relative_to(PACKAGE).parts[:-1])
                base = ".".join(package[: len(package) - node.level + 1])
            else:
                base = ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module in ("lineside", ""):
                yield from ((f"lineside.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def lineside_imports(path: Path) -> Iterator[tuple[str, int]]:
    """Top names below lineside that a module imports: "records", "hal"."""
    for module, line in imports(ast.parse(path.read_text()), path):
        if module.startswith("lineside."):
            yield module.split(".")[1], line


def at_import_time(path: Path) -> Iterator[tuple[str, int]]:
    """Every import that runs when the module is imported: outside of functions, and not under TYPE_CHECKING."""

    def walk(node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node, path)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return walk(ast.parse(path.read_text()))


def test_a_stage_imports_only_what_all_stages_share_and_itself() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports lineside.{top}"
        for path in MODULES
        if (stage := path.relative_to(PACKAGE).parts[0]) in STAGES
        for top, line in lineside_imports(path)
        if top not in COMMON | {stage}
    ]
    assert faults == []


def test_only_the_wiring_knows_the_stages() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports lineside.{top}"
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in STAGES | WIRING
        for top, line in lineside_imports(path)
        if top in STAGES
    ]
    assert faults == []


def test_nothing_imports_the_wiring_but_the_wiring() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports lineside.{top}"
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in WIRING | {"__main__"}
        for top, line in lineside_imports(path)
        if top in WIRING
    ]
    assert faults == []


def test_what_all_stages_share_imports_only_what_all_stages_share() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports lineside.{top}"
        for path in MODULES
        if name_of(path) in COMMON
        for top, line in lineside_imports(path)
        if top not in COMMON
    ]
    assert faults == []


def test_no_module_imports_a_vendor_package_when_it_is_imported() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in MODULES
        for module, line in at_import_time(path)
        if module.partition(".")[0] in VENDORS
    ]
    assert faults == []


def test_every_import_is_the_standard_library_the_core_or_a_known_vendor() -> None:
    known = set(sys.stdlib_module_names) | CORE | VENDORS | {"lineside"}
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in MODULES
        for module, line in imports(ast.parse(path.read_text()), path)
        if module.partition(".")[0] not in known
    ]
    assert faults == [], "a new dependency: pyproject.toml with its reason, then VENDORS or CORE here"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path) or "__init__")
def test_a_module_is_short_and_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_LINES, f"{path.relative_to(ROOT)}: split it, or say why here"
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), f"{path.relative_to(ROOT)}: says nothing of what it is"


def test_every_registered_driver_exists_and_says_what_it_does() -> None:
    from lineside.registry import DRIVERS

    faults = []
    for kind, drivers in DRIVERS.items():
        for name, target in drivers.items():
            module, _, attribute = target.partition(":")
            path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
            classes = ast.parse(path.read_text()).body if path.is_file() else []
            if not any(isinstance(node, ast.ClassDef) and node.name == attribute for node in classes):
                faults.append(f"{kind} {name}: {target}")
    assert faults == []


def closure(requirements: list[str], extras: frozenset[str]) -> set[str]:
    """Names of every installed package that these requirements pull in, with the extras they name."""
    seen: set[str] = set()
    queue = [(Requirement(text), extras) for text in requirements]
    while queue:
        requirement, wanted = queue.pop()
        markers = (
            [requirement.marker.evaluate({"extra": extra}) for extra in wanted | {""}] if requirement.marker else []
        )
        name = requirement.name.lower().replace("_", "-")
        if (markers and not any(markers)) or name in seen:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that this machine does not have
        seen.add(name)
        queue += [(Requirement(text), frozenset(requirement.extras)) for text in found.requires or ()]
    return seen


def licence_of(name: str) -> str:
    """What a package says of its licence: SPDX expression, classifiers, or the first line of the old field."""
    about = metadata.distribution(name).metadata
    classifiers = [line for line in about.get_all("Classifier") or () if line.startswith("License")]
    field = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or " / ".join(classifiers) or field


def test_nothing_copyleft_is_pulled_in_by_the_wheel_or_its_runtime_extras() -> None:
    extras = frozenset({"onnxruntime", "openvino", "litert", "demo", "sparkplug", "quantize"})
    names = closure(metadata.requires("lineside") or [], extras) - {"lineside"}
    assert {"numpy", "pydantic", "paho-mqtt", "opencv-python-headless", "onnxruntime"} <= names
    licences = {name: licence_of(name) for name in sorted(names)}
    copyleft = {
        name: licence
        for name, licence in licences.items()
        if any(word in licence.upper() for word in COPYLEFT) and not any(word in licence.upper() for word in LESSER)
    }
    assert copyleft == {}
    assert [name for name, licence in licences.items() if not licence] == [], "a package that hides its licence"
