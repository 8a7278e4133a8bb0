"""`lineside probe`: what it prints for people and for programs, on a bare machine too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lineside.cli import main

BOARDS = Path(__file__).parent / "recorded_boards"

# What an interpreter without any runtime sees: the import system itself is told, not our code.
BARE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util
sys.meta_path.insert(0, Hide())
real = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return real(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
from lineside.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_table_names_board_profile_and_every_device_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--root", str(BOARDS / "jetson-orin")]) == 0
    out = capsys.readouterr().out
    assert "NVIDIA Jetson Orin Nano Developer Kit (aarch64)" in out
    assert "profile  jetson-orin" in out
    assert "51 C (ok" in out
    rows = {line.split()[0]: line for line in out.splitlines() if ":" in line.split(" ")[0]}
    assert {"onnxruntime:tensorrt", "openvino:npu", "litert:edgetpu"} <= rows.keys()
    for row in rows.values():
        assert " present " in row or " absent " in row


def test_json_holds_the_same_and_a_remedy_for_everything_absent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--json", "--root", str(BOARDS / "raspberry-pi-5-coral-usb")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["board"]["usb"] == ["1a6e:089a", "1d6b:0002", "1d6b:0003"]
    assert found["profile"]["backends"][0]["device"] == "edgetpu:usb"
    for device in found["devices"]:
        assert device["detail"]
        assert bool(device["remedy"]) != device["present"]


def test_this_machine_is_probed_without_a_recorded_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["board"]["cores_allowed"] >= 1
    assert found["board"]["memory_mb"] > 100


def test_an_empty_tree_is_a_board_that_no_profile_knows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["probe", "--root", str(tmp_path)]) == 0
    assert "no sensor is readable" in capsys.readouterr().out


def test_with_no_runtime_installed_every_backend_names_its_install_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, "probe", "--json", "--root", str(BOARDS / "x86-cpu")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    devices = json.loads(done.stdout)["devices"]
    assert not any(one["present"] for one in devices)
    remedies = {one["backend"]: one["remedy"] for one in devices}
    assert "lineside[onnxruntime]" in remedies["onnxruntime"]
    assert "lineside[openvino]" in remedies["openvino"]
    assert "lineside[litert]" in remedies["litert"]


def test_a_runtime_that_is_installed_but_broken_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    for name in ("onnxruntime", "openvino"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('libfoo.so.1: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from lineside.cli import main; sys.exit(main(['probe']))"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "installed but broken: libfoo.so.1" in done.stdout
