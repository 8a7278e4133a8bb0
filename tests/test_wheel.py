"""The wheel as a user has it: built from the tree, installed, and run from a folder outside of the tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest

from test_architecture import closure

ROOT = Path(__file__).resolve().parents[1]
CORE_LIMIT_MB = 300.0


class Installed:
    """A virtual environment with the wheel, and a working folder that has nothing of the tree."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(
            [str(ROOT / "tools" / "wheel_venv.sh"), str(folder)],
            check=True,
            env=os.environ | {"PYTHON": sys.executable},
        )
        self.wheel = next(folder.glob("lineside-*.whl"))
        self.bin = folder / "venv" / "bin"
        self.outside = folder / "outside"
        self.outside.mkdir()

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(self.bin / command[0]), *map(str, command[1:])],
            cwd=self.outside,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def output(self, *command: str | Path) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shipped(self, folder: str) -> list[Path]:
        code = f"from lineside.resources import shipped; print(*sorted(shipped({folder!r}).iterdir()), sep='\\n')"
        return [Path(line) for line in self.output("python", "-c", code).splitlines()]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def bundle(installed: Installed) -> Path:
    bundles = [path for path in installed.shipped("models") if (path / "model.toml").is_file()]
    assert bundles, "the wheel ships no model"
    return bundles[0]


def test_the_wheel_holds_the_package_the_models_and_the_profiles(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert "lineside/py.typed" in names
    tracked = subprocess.run(
        ["git", "ls-files", "models/conveyor-parts", "device_profiles"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {f"lineside/{path}" for path in tracked} <= set(names)
    models = {name.split("/")[2] for name in names if name.startswith("lineside/models/")}
    assert models == {"conveyor-parts"}, "the wheel is small: the others are in the tree"
    assert [name for name in names if "__pycache__" in name or name.startswith(("tests/", "tools/"))] == []


def test_what_runs_is_the_wheel_and_not_the_tree(installed: Installed) -> None:
    where = installed.output("python", "-c", "import lineside; print(lineside.__file__)")
    assert where.startswith(str(installed.bin.parent))


def test_help_names_every_command(installed: Installed) -> None:
    text = installed.output("lineside", "--help")
    for command in ["run", "check", "probe", "bundle", "infer", "bench", "status", "init", "snapshot", "subscribe"]:
        assert command in text
        assert "usage" in installed.output("lineside", command, "--help").lower()


def test_probe_finds_the_shipped_profiles(installed: Installed) -> None:
    probed = json.loads(installed.output("lineside", "probe", "--json"))
    profiles = {path.stem for path in installed.shipped("device_profiles") if path.suffix == ".toml"}
    assert any(profile in json.dumps(probed) for profile in profiles), probed


def test_every_shipped_profile_is_readable_where_it_was_installed(installed: Installed) -> None:
    profiles = [path for path in installed.shipped("device_profiles") if path.suffix == ".toml"]
    assert len(profiles) >= 8
    for path in profiles:
        assert tomllib.loads(path.read_text())


def test_a_shipped_model_shows_itself(installed: Installed, bundle: Path) -> None:
    assert tomllib.loads((bundle / "model.toml").read_text())["name"] in installed.output(
        "lineside", "bundle", "show", bundle
    )


def test_a_shipped_model_infers(installed: Installed, bundle: Path) -> None:
    picture = installed.outside / "grey.png"
    cv2.imwrite(str(picture), np.full((240, 320, 3), 127, np.uint8))
    line = json.loads(installed.output("lineside", "infer", "--jsonl", "--bundle", bundle, picture))
    assert line["file"].endswith("grey.png")
    assert {"findings", "top", "score"} & set(line)


def test_the_core_installation_is_small(installed: Installed) -> None:
    names = closure(metadata.requires("lineside") or [], frozenset())
    sizes_mb = {
        name: sum(path.stat().st_size for file in metadata.files(name) or () if (path := Path(file.locate())).is_file())
        / 1e6
        for name in names - {"lineside"}
    }
    site = next((installed.bin.parent / "lib").glob("python3*/site-packages/lineside"))
    sizes_mb["lineside"] = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    assert {"numpy", "opencv-python-headless", "paho-mqtt", "pydantic"} <= set(sizes_mb)
    largest = ", ".join(f"{name} {size:.1f}" for name, size in sorted(sizes_mb.items(), key=lambda item: -item[1]))
    print(f"core install: {sum(sizes_mb.values()):.0f} MB ({largest})")
    assert sum(sizes_mb.values()) < CORE_LIMIT_MB, largest
