"""Writes tools/constraints.txt: the exact versions that `make demo` and `make test` install.

    make constraints                  the newest that fit together, within the bounds and pins of pyproject.toml
    make constraints KEEP='numpy pydantic'    these as they are now

The extras `demo` and `dev` are resolved together, for the oldest Python that lineside runs on, which must run this;
then each version must have a wheel for every Python and processor below, or nothing is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tools" / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PROCESSORS = ("x86_64", "aarch64")
GLIBC_MINORS = range(17, 37)  # manylinux2014 to Debian 12's glibc 2.36
EXTRAS = ("demo", "dev")


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes tools/constraints.txt.")
    parser.add_argument("--keep", nargs="*", default=[], metavar="PACKAGE", help="leave these at the version they have")
    kept = {canonicalize_name(name) for name in parser.parse_args().keep}
    if "{}.{}".format(*sys.version_info) != PYTHONS[0]:
        print(f"run me with Python {PYTHONS[0]}: versions are those that the oldest Python can have", file=sys.stderr)
        return 1
    held = [line for line in _lines() if canonicalize_name(line.partition("==")[0]) in kept]
    pins = _resolved([*_requirements(), *held])
    binary = [pin for pin, wheel in pins.items() if not wheel.endswith("-none-any.whl")]
    faults = [fault for python in PYTHONS for processor in PROCESSORS if (fault := _fault(binary, python, processor))]
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 1
    head = (
        "# The versions that `make demo` and `make test` install, and that all documents speak of.\n"
        "# Written by `make constraints`; not to be edited.\n"
        f"# for Python {' '.join(PYTHONS)}\n"
    )
    FILE.write_text(head + "\n".join(pins) + "\n")
    print(f"{FILE}: {len(pins)} packages for Python {', '.join(PYTHONS)} on {' and '.join(PROCESSORS)}")
    return 0


def _lines() -> list[str]:
    lines = FILE.read_text().splitlines() if FILE.is_file() else []
    return [line for line in lines if line and not line.startswith("#")]


def _requirements() -> list[str]:
    """What the extras ask for, lineside's own extras among them written out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked, done = list(EXTRAS), set()
    lines = [
        *project["dependencies"],
        *tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"],
    ]
    while asked:
        extra = asked.pop()
        if extra in done:
            continue
        done.add(extra)
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == project["name"]:
                asked.extend(requirement.extras)
            else:
                lines.append(line)
    return lines


def _resolved(requirements: list[str]) -> dict[str, str]:
    """What pip would install for these: `name==version`, and the file that it would take."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip("--ignore-installed", "--report", str(report), *requirements)
        told: dict[str, Any] = json.loads(report.read_text())
    found = {
        f"{canonicalize_name(each['metadata']['name'])}=={each['metadata']['version']}": each["download_info"]["url"]
        for each in told["install"]
    }
    return dict(sorted(found.items()))


def _fault(pins: list[str], python: str, processor: str) -> str:
    """What this Python on this processor cannot install; empty if nothing."""
    platforms = [f"manylinux2014_{processor}", *(f"manylinux_2_{minor}_{processor}" for minor in GLIBC_MINORS)]
    options = ["--no-deps", "--ignore-installed", "--only-binary", ":all:", "--python-version", python]
    for platform in platforms:
        options += ["--platform", platform]
    with tempfile.TemporaryDirectory() as folder:
        try:
            _pip(*options, "--target", folder, *pins)
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
            return f"Python {python} on {processor}: {' '.join(lines)}"
    return ""


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--quiet", *words]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        if "--python-version" not in words:
            print(error.stderr, file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
