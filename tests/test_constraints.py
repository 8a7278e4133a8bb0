"""The versions that `make demo` and `make test` install fit what pyproject.toml asks for, and each runtime is tested at
the ends of what it allows."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED = ("onnxruntime", "openvino", "litert", "quantize")  # extras whose packages have rows in tools/test_versions.py


def constraints() -> dict[str, Version]:
    lines = (ROOT / "tools" / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, _, version in pins}


def asked(*extras: str) -> list[Requirement]:
    """lineside's own requirements and those of the extras, its own extras among them followed."""
    found, open_extras = list(map(Requirement, PROJECT["dependencies"])), list(extras)
    while open_extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][open_extras.pop()]):
            if requirement.name == PROJECT["name"]:
                open_extras.extend(requirement.extras)
            else:
                found.append(requirement)
    return found


def test_what_demo_and_tests_need_is_held_at_one_version_that_pyproject_allows() -> None:
    held = constraints()
    faults = [
        f"{requirement}: {held.get(canonicalize_name(requirement.name), 'no constraint')}"
        for requirement in asked("demo", "dev")
        if (version := held.get(canonicalize_name(requirement.name))) is None or version not in requirement.specifier
    ]
    assert faults == [], "make constraints"


def test_demo_has_a_second_backend_to_go_on_to() -> None:
    demo = {requirement.name for requirement in asked("demo")}
    assert len(demo & {"onnxruntime", "openvino", "ai-edge-litert"}) >= 2


def test_each_package_of_a_runtime_has_a_lower_bound_and_a_row_that_holds_it() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import test_versions as t; print(*(r.held for r in t.ROWS))"],
        env={"PYTHONPATH": str(ROOT / "tools")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    own = set(map(canonicalize_name, (Requirement(each).name for each in PROJECT["dependencies"])))
    for requirement in asked(*TESTED):
        assert [each.operator for each in requirement.specifier] == [">="], requirement
        if requirement.name not in own:
            assert requirement.name in told.stdout.split(), f"tools/test_versions.py has no row for {requirement.name}"


def test_the_constraints_name_the_pythons_they_are_for() -> None:
    head = next(
        line
        for line in (ROOT / "tools" / "constraints.txt").read_text().splitlines()
        if line.startswith("# for Python ")
    )
    assert {"3.11", "3.12", "3.13"} <= set(head.split())
