"""`lineside run` with a tuning plan: it decides as the plan says, tunes again when the box has changed, and never
fails to start because of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lineside.config.stations import StationConfig
from lineside.hal.board import allowed_cores
from lineside.hal.profile import load
from lineside.recipe import open_model
from lineside.store.bundle import open_bundle
from lineside.tuning import pin
from rig import Daemon, fake_bundle, lineside, pictures, rows, until

SWAPPED = Path(__file__).parent / "swapped"


class Box:
    """A box whose profile prefers the fake backend that takes its time, and that has a quick one, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clip = pictures(folder / "clip", 10)
        self.data = Path(shutil.copytree(self.clip, folder / "data"))
        self.profile = folder / "board.toml"
        backends = [
            f'[[backend]]\nname = "{name}"\noptions = {{ infer_ms = {ms} }}\n'
            for name, ms in (("fake", 9), ("quick", 1))
        ]
        head, tail = 'title = "two"\n\n[match]\n\n', '\n[thermal]\nzones = ["*"]\nwarn_c = 80\ncritical_c = 90\n'
        self.profile.write_text(head + "\n".join(backends) + tail)

    def daemon(self, station: str = "") -> Daemon:
        daemon = Daemon(
            self.folder,
            f'[daemon]\nstate_dir = "{self.folder}/state"\ncontrol_socket = "{self.folder}/run/control.sock"\n'
            f'profile = "{self.profile}"\n'
            f'[cameras.cam]\ndriver = "clip"\npath = "{self.clip}"\nloop = true\nfps = 50\n'
            f'[stations.s1]\ncamera = "cam"\nbundle = "{fake_bundle()}"\n{station}\n',
        )
        daemon.env["PYTHONPATH"] = os.pathsep.join([str(SWAPPED), *filter(None, [os.environ.get("PYTHONPATH")])])
        return daemon

    def tune(self, *words: str) -> None:
        daemon = self.daemon()
        more = [
            "--config",
            daemon.config,
            "--data",
            self.data,
            "--seconds",
            "1",
            "--backend",
            "fake",
            "--backend",
            "quick",
        ]
        done = lineside("tune", "--bundle", fake_bundle(), *more, *words, env=daemon.env)
        assert done.returncode == 0, done.stderr

    @property
    def plans(self) -> list[Path]:
        return list((self.folder / "state" / "models").glob("*/*.json"))

    def become_another(self) -> None:
        """As though what was tuned had been another runtime version."""
        (path,) = self.plans
        told = json.loads(path.read_text())
        told["facts"]["onnxruntime"] = "0.1"
        path.unlink()
        path.with_name("0123456789abcdef.json").write_text(json.dumps(told))

    def starts(self, station: str = "") -> tuple[dict[str, Any], str]:
        """The station's status and what this start logged."""
        daemon = self.daemon(station)
        before = len(daemon.log())
        with daemon:
            daemon.ready(times=daemon.log().count("ready: ") + 1)
            found = daemon.status()["stations"]["s1"]
            assert daemon.stop()[0] == 0
        return found, daemon.log()[before:]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_box_that_was_never_tuned_takes_the_profiles_order(box: Box) -> None:
    found, log = box.starts()
    assert (found["backend"], found["chosen_by"]) == ("fake:cpu", "order of profile board")
    assert "tuning" not in log
    assert not box.plans


def test_a_station_decides_as_the_plan_says_and_tells_why(box: Box) -> None:
    box.tune()
    found, log = box.starts()
    assert found["backend"] == "quick:cpu"
    assert found["chosen_by"].startswith("tuning plan of ")
    assert "the soonest that answers right, p99" in found["chosen_by"]
    assert "brightness 1: nothing.onnx on quick:cpu, " in log

    named, log = box.starts('backend = "fake"')
    assert named["backend"] == "fake:cpu", "the station's own word"
    assert named["chosen_by"].startswith("tuning plan of "), "but the plan's threads"
    other, log = box.starts('backend = "fake"\ndevice = "npu"')
    assert (other["backend"], other["chosen_by"]) == ("fake:npu", "named by the station")
    assert "has nothing for fake:npu" in log


def test_another_runtime_version_is_tuned_again_before_the_first_decision(box: Box) -> None:
    box.tune("--max-flips", "0.05")
    box.become_another()
    found, log = box.starts()
    assert found["backend"] == "quick:cpu"
    assert "has changed since it was tuned (onnxruntime 0.1 -> " in log
    assert log.index("tuning again") < log.index("ready: ")
    new = next(json.loads(path.read_text()) for path in box.plans if path.name != "0123456789abcdef.json")
    assert new["plan"]["asked"]["max_flips"] == 0.05, "for what the first was asked"
    _, log = box.starts()
    assert "tuning again" not in log


def test_a_tuning_that_fails_is_told_and_tried_once_and_the_line_decides(box: Box) -> None:
    box.tune()
    box.become_another()
    shutil.rmtree(box.data)
    found, log = box.starts()
    assert (found["backend"], found["chosen_by"]) == ("fake:cpu", "order of profile board")
    assert "is not tuned (lineside: --data" in log
    _, log = box.starts()
    assert "tuning again" not in log
    assert "is not tuned (lineside: --data" in log


def test_a_tuning_that_killed_the_daemon_is_not_tried_again(box: Box) -> None:
    """As a runtime that takes all memory would: the unit stops, and starts again."""
    box.tune("--seconds", "60")
    box.become_another()
    with box.daemon() as daemon:
        until(lambda: "tuning again" in daemon.log() and len(box.plans) == 2, what="tuning again")
        orphans = daemon.children()
        daemon.kill()
    for orphan in orphans:
        os.kill(orphan, signal.SIGKILL)  # as systemd does
    found, log = box.starts()
    assert found["backend"] == "fake:cpu"
    assert "it was interrupted" in log
    box.tune()
    assert box.starts()[0]["backend"] == "quick:cpu"


def test_a_stop_while_it_tunes_is_a_stop_and_the_next_start_tunes(box: Box) -> None:
    box.tune("--seconds", "60")
    box.become_another()
    with box.daemon() as daemon:
        until(lambda: "tuning again" in daemon.log() and len(box.plans) == 2, what="tuning again")
        assert daemon.stop()[0] == 0
    kept = {path.name: json.loads(path.read_text())["plan"] for path in box.plans}
    assert [name for name, plan in kept.items() if plan] == ["0123456789abcdef.json"]


HARMS = {
    "empty": lambda told: told["plan"].clear(),
    "nothing tried": lambda told: told["plan"]["tried"].clear(),
    "no number": lambda told: told["plan"]["tried"][0].update(threads="many"),
    "no plan": lambda told: told.update(plan=[]),
    "another file": lambda told: told["plan"]["tried"][0].update(sha256="0" * 64),
    "backend not registered": lambda told: [one.update(backend="gone") for one in told["plan"]["tried"]],
    "refused all": lambda told: [one.update(state="refused") for one in told["plan"]["tried"][1:]],
}


def test_a_plan_that_is_none_leaves_the_ordinary_choice(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    box.tune()
    (path,) = box.plans
    good = path.read_text()
    bundle, profile = open_bundle(fake_bundle()), load(box.profile)
    station = StationConfig(camera="cam", bundle=str(bundle.folder))
    state = pin.Box(box.folder / "state", box.folder / "cache", profile, None, lambda: False)

    def opened(backend: str = "auto") -> tuple[str, str]:
        choose = partial(open_model, profile=profile)
        model = pin.open_pinned(bundle, replace(station, backend=backend), state, choose, one_slot=True)
        model.executor.close()
        return model.backend, model.why.partition(" of ")[0]

    sys.path.insert(0, str(SWAPPED))
    try:
        assert opened() == ("quick:cpu", "tuning plan")
        for name, harm in HARMS.items():
            told = json.loads(good)
            harm(told)
            path.write_text(json.dumps(told))
            caplog.clear()
            assert opened("fake" if name == "refused all" else "auto")[0] == "fake:cpu", name
            assert caplog.records, f"{name}: nothing is said of it"
    finally:
        sys.path.remove(str(SWAPPED))


def test_with_several_slots_the_number_of_threads_is_not_the_plans(box: Box) -> None:
    """The plan was made for one frame at a time."""
    box.tune()
    found, _ = box.starts("slots = 2")
    assert found["backend"] == "quick:cpu"
    (note,) = rows(box.folder, "recipe")
    assert note[2]["recipe"]["threads"] == max(1, allowed_cores() // 2)
