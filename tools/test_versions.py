"""Runs the tests of bundles, backends and quantising at the lowest and the newest versions that pyproject.toml allows.

    tools/test_versions.py                    every row: a virtual environment each, under out/versions
    tools/test_versions.py --short            the rows and tests of .ci/run
    tools/test_versions.py openvino nncf      these rows
    tools/test_versions.py --list             the rows, and what each pins

Row `lowest` has lineside's core and every runtime at the lower bound, `newest` at the newest release; so have
`quantize-lowest` and `quantize-newest` with the extra `quantize`, which brings the LiteRT that its quantiser wants. The
row of a package has that one at its lower bound beside the newest of the others that pip finds to fit.

An environment is made once: a stamp says of what, and it is made again when a bound changes or a newer release is out.
Lowest is the lowest release with a wheel for the Python that runs this (PYTHON=... for another). Exit status 1 if
anything fails, or if an environment does not hold what its row pins.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "out" / "versions"
RUNTIMES = ("onnxruntime", "openvino", "litert", "sparkplug")  # extras that stand beside each other
BACKENDS = (
    "tests/contracts/test_backend.py",
    "tests/test_golden.py",
    "tests/test_bundle.py",
    "tests/test_shipped_models.py",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_hal_*.py")),
)
QUANTISING = tuple(
    sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").glob("test_quantize*.py")
        if path.name != "test_quantize_pytorch.py"  # PyTorch: 2 GB, and on the desk only
    )
)
MARKS = "not slow and not exporter and not arm and not cuda and not nspawn"
TEST_S = 1800  # of one row
SHOWN_FAILURES = 12


@dataclass(frozen=True)
class Row:
    """A set of packages and the tests that run on it. `held`: packages at their lowest, "all" of them or "none"."""

    name: str
    extras: tuple[str, ...]
    held: str
    tests: tuple[str, ...]


ROWS = (
    Row("lowest", RUNTIMES, "all", BACKENDS),
    Row("newest", RUNTIMES, "none", BACKENDS),
    Row("quantize-lowest", ("quantize",), "all", QUANTISING),
    Row("quantize-newest", ("quantize",), "none", QUANTISING),
    *(
        Row(name, RUNTIMES, name, BACKENDS)
        for name in ("onnxruntime", "openvino", "ai-edge-litert", "numpy", "opencv-python-headless", "pydantic")
    ),
    *(Row(name, ("quantize",), name, QUANTISING) for name in ("onnx", "nncf", "ai-edge-quantizer")),
)
SHORT = ("lowest", "newest", "quantize-lowest", "quantize-newest")
SHORT_TESTS = (*BACKENDS, "tests/test_quantize_openvino.py", "tests/test_quantize_tflite.py")


def main() -> int:
    asked = _arguments()
    python = os.environ.get("PYTHON", sys.executable)
    rows = [row for row in ROWS if not asked.rows or row.name in asked.rows]
    if asked.short:
        rows = [row for row in rows if row.name in SHORT]
    wanted = {row.name: _requirements(row.extras) for row in rows}
    releases = _releases(python, {each.name for each in _unique(wanted.values())})
    pins = {row.name: _pins(row, wanted[row.name], releases) for row in rows}
    if asked.list:
        print("\n".join(f"{row.name:<24}{' '.join(pins[row.name])}" for row in rows))
        return 0
    with ThreadPoolExecutor(2) as threads:  # pip runs on one core
        newest = {row.name: [releases[each.name][-1] for each in wanted[row.name]] for row in rows}
        making = [threads.submit(_environment, row, pins[row.name], newest[row.name], python) for row in rows]
        failed = []
        for row, made in zip(rows, making, strict=True):
            tests = tuple(test for test in row.tests if not asked.short or test in SHORT_TESTS)
            if not _run(row, pins[row.name], made.result(), tests):
                failed.append(row.name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


# --- what is installed


def _requirements(extras: Iterable[str]) -> list[Requirement]:
    """lineside's own requirements and those of the extras, the highest lower bound where a package is named twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    found: dict[str, Requirement] = {}
    for each in map(Requirement, lines):
        name = canonicalize_name(each.name)
        if name not in found or _bound(each) > _bound(found[name]):
            found[name] = each
    return list(found.values())


def _bound(requirement: Requirement) -> Version:
    bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise SystemExit(f"pyproject.toml: {requirement}: needs a lower bound, or nobody knows what must be tested")
    return bounds[0]


def _unique(lists: Iterable[list[Requirement]]) -> list[Requirement]:
    return list({each.name: each for requirements in lists for each in requirements}.values())


def _releases(python: str, names: set[str]) -> dict[str, list[Version]]:
    """Releases of each package that have a wheel for this Python and platform, pre-releases aside, oldest first."""

    def listed(name: str) -> list[Version]:
        # no version is 0: pip names those that are there. `pip index` lists those without a wheel as well
        asked = ["install", "--dry-run", "--no-deps", "--only-binary", ":all:", f"{name}==0"]
        done = _pip(python, *asked)
        told = re.search(r"\(from versions: (.*?)\)", done.stderr)
        found = [Version(word) for word in told[1].split(", ")] if told and told[1] != "none" else []
        found = sorted(version for version in found if not version.is_prerelease)
        if not found:
            raise SystemExit(f"{name}: pip finds no release with a wheel for {python}:\n{done.stderr}")
        return found

    ordered = sorted(names)
    with ThreadPoolExecutor(4) as threads:
        return dict(zip(ordered, threads.map(listed, ordered), strict=True))


def _pins(row: Row, requirements: list[Requirement], releases: dict[str, list[Version]]) -> list[str]:
    """What pip gets: exact versions for what the row holds, else the lower bound as pyproject.toml has it."""
    pins = []
    for each in requirements:
        allowed = [version for version in releases[each.name] if version in each.specifier]
        if not allowed:
            raise SystemExit(f"pyproject.toml: {each}: no such release; there are {releases[each.name][-1]} and older")
        if row.held == "all" or row.held == each.name:
            pins.append(f"{each.name}=={allowed[0]}")
        else:
            pins.append(f"{each.name}=={allowed[-1]}" if row.held == "none" else str(each))
    return pins


def _environment(row: Row, pins: list[str], newest: list[Version], python: str) -> str:
    """Make the row's virtual environment if its stamp says of other things; what pip said if it could not."""
    venv = FOLDER / row.name
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    made_of = "\n".join([python, *pins, *(map(str, newest) if row.held != "all" else ()), *tools])
    stamp = venv / "made_of"
    if stamp.is_file() and stamp.read_text() == made_of:
        return ""
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(venv)], check=True)
    wheels = ",".join(Requirement(pin).name for pin in pins)  # what is not ours may come as source: it is small
    options = ["--quiet", "--no-input", "--no-compile", "--only-binary", wheels]
    for _ in range(2):  # a download that fails is tried once more
        done = _pip(str(venv / "bin" / "python"), "install", *options, *pins, *tools)
        if done.returncode == 0:
            stamp.write_text(made_of)
            return ""
    return done.stderr


def _pip(python: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, capture_output=True, text=True)


def _installed(venv: Path, names: Iterable[str]) -> dict[str, Version]:
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = [str(venv / "bin" / "python"), "-c", program, *names]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(zip(names, map(Version, said.split()), strict=True))


# --- what runs on it


def _run(row: Row, pins: list[str], fault: str, tests: tuple[str, ...]) -> bool:
    """Print the row's line; was all of it right? `fault`: why there is no environment."""
    if fault:
        print(f"{row.name:<24}FAILED: cannot be installed together: {' '.join(pins)}\n{fault}", flush=True)
        return False
    begun, venv = time.monotonic(), FOLDER / row.name
    there = _installed(venv, [Requirement(pin).name for pin in pins])
    wrong = [pin for pin in pins if there[(each := Requirement(pin)).name] not in each.specifier]
    code, counts, failures = _tested(row, venv, tests)
    right = code == 0 and not wrong and counts["passed"] > 0
    versions = " ".join(f"{name} {version}" for name, version in there.items())
    print(
        f"{row.name:<24}{'passed' if right else 'FAILED'}: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['skipped']} skipped in {time.monotonic() - begun:.0f} s; {versions}",
        flush=True,
    )
    for line in [*(f"not what was pinned: {pin}" for pin in wrong), *failures[:SHOWN_FAILURES]]:
        print(f"  {line}")
    if not right:
        print(f"  exit status {code}; all of it: {FOLDER / row.name}.log", flush=True)
    return right


def _tested(row: Row, venv: Path, tests: tuple[str, ...]) -> tuple[int, dict[str, int], list[str]]:
    """pytest's exit status, how many tests ended how, and those that failed."""
    report = FOLDER / f"{row.name}.xml"
    report.unlink(missing_ok=True)
    environ = os.environ | {"PYTHONPATH": str(ROOT / "runtime"), "VIRTUAL_ENV": str(venv)}
    command = [str(venv / "bin" / "python"), "-m", "pytest", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
    command += ["-m", MARKS, f"--junitxml={report}", *tests]
    with (FOLDER / f"{row.name}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT, timeout=TEST_S
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures = []
    for case in ElementTree.parse(report).iter("testcase") if report.is_file() else ():
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
            failures.append(f"{case.get('classname')}.{case.get('name')}")
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return code, counts, failures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tests at the lowest and the newest versions that pyproject allows.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--short", action="store_true", help=f"{', '.join(SHORT)} only, with fewer tests")
    parser.add_argument("--list", action="store_true", help="print the rows and what each pins; run nothing")
    asked = parser.parse_args()
    unknown = set(asked.rows) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; known are {', '.join(row.name for row in ROWS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    return asked


if __name__ == "__main__":
    sys.exit(main())
