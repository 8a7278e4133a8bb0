"""Every part that a killed or stopped daemon knew of has a decision, or is in doubt: never both, and never twice."""

from __future__ import annotations

import os
import random
import sqlite3
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from lineside.deliver.openparts import read
from rig import Daemon, fake_bundle, fake_profile, pictures, rows, until

KILLS = int(os.environ.get("LINESIDE_KILLS", "10"))


def toml(folder: Path, camera: str, *, infer_ms: float = 0.0, station: str = "") -> str:
    return f"""
[daemon]
profile = "{fake_profile(folder / "fake.toml", infer_ms=infer_ms)}"
log_decisions = false
[cameras.cam]
{camera}
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
{station}
"""


def numbers_by_run(folder: Path) -> dict[int, list[tuple[int, str]]]:
    """Run of the journal -> (number, kind) of each part of that run, in doubt or decided."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for run, _, made in rows(folder, "decision"):
        found[run].append((made["part"]["number"], "decision"))
    with sqlite3.connect(f"file:{folder}/state/journal.db?mode=ro", uri=True) as store:
        starts = store.execute("SELECT id, started_wall_ns FROM run ORDER BY id").fetchall()
    for told_in, _, made in rows(folder, "in_doubt"):
        opened_ns = datetime.fromisoformat(made["opened_at"]).timestamp() * 1e9
        run = max(run for run, started_ns in starts if started_ns <= opened_ns)
        assert run < told_in, "told by a later start"
        found[run].append((made["part"]["number"], "in_doubt"))
    return found


def part_ids(folder: Path, kind: str) -> list[str]:
    return [made["part"]["id"] for _, _, made in rows(folder, kind)]


def test_each_part_of_a_daemon_that_is_killed_at_any_instant_is_decided_or_in_doubt(tmp_path: Path) -> None:
    """Frames are numbered as lanes take them, decisions as they are made: a run's numbers must have no hole."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    camera = 'driver = "synthetic"\nfps = 60\nwidth_px = 64\nheight_px = 64'
    config = toml(tmp_path, camera, infer_ms=25.0, station="slots = 2")
    with Daemon(tmp_path, config) as daemon:
        for start in range(1, KILLS + 1):
            daemon.ready(times=start)
            more = chance.randrange(0, 40)
            until(lambda more=more: (daemon.station("s1").get("decisions") or 0) >= more, what=f"{more} decisions")
            daemon.kill()
            daemon.start()
        daemon.ready(times=KILLS + 1)
        assert daemon.status()["open_parts"]["unsettled_files"] == 0
        assert daemon.stop()[0] == 0
    doubts = part_ids(tmp_path, "in_doubt")
    every = doubts + part_ids(tmp_path, "decision")
    assert len(set(every)) == len(every), f"seed {seed}: a part was told twice"
    assert len(doubts) >= KILLS // 2, f"seed {seed}: {len(doubts)} in doubt: a part is nearly always in the model"
    by_run = numbers_by_run(tmp_path)
    for run, numbers in by_run.items():
        ordered = [number for number, _ in sorted(numbers)]
        assert ordered == list(range(1, len(ordered) + 1)), f"seed {seed}, run {run}: {sorted(numbers)[-8:]}"
    assert "Traceback" not in daemon.log()
    assert list((tmp_path / "state" / "journal.db.open").iterdir()) == [], "a stop that settled all leaves nothing"


def test_a_start_that_is_killed_while_it_tells_neither_loses_nor_doubles(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    camera = 'driver = "synthetic"\nfps = 60\nwidth_px = 64\nheight_px = 64'
    with Daemon(tmp_path, toml(tmp_path, camera, infer_ms=25.0, station="slots = 2")) as daemon:
        daemon.ready()
        until(lambda: daemon.station("s1").get("decisions"), what="a decision")
        daemon.kill()
        folder = tmp_path / "state" / "journal.db.open"
        wanted = {mark.id for path in folder.iterdir() for mark in read(path).marks}
        assert wanted
        for _ in range(4):
            daemon.start()
            instant = chance.random()
            assert daemon.process is not None
            try:
                daemon.process.wait(0.15 + 0.25 * instant)  # the start takes about so long
            except Exception:
                daemon.kill()
            wanted |= {mark.id for path in folder.glob("*.parts") for mark in read(path).marks}
        daemon.start()
        until(lambda: daemon.station("s1").get("decisions"), what="a decision")
        assert daemon.stop()[0] == 0
    doubts, decided = part_ids(tmp_path, "in_doubt"), part_ids(tmp_path, "decision")
    assert sorted(doubts) == sorted(wanted - set(decided)), f"seed {seed}"
    assert not set(doubts) & set(decided)


def test_what_a_hung_device_keeps_past_the_stop_is_in_doubt_at_once(tmp_path: Path) -> None:
    clip = pictures(tmp_path / "clip", 10)
    camera = f'driver = "clip"\npath = "{clip}"\nloop = true\nfps = 50'
    config = toml(tmp_path, camera, infer_ms=0.0, station="slots = 2")
    hung = fake_profile(tmp_path / "fake.toml", infer_ms=0.0)
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        until(lambda: daemon.station("s1").get("decisions", 0) > 3, what="decisions")
        assert daemon.stop()[0] == 0
        assert rows(tmp_path, "in_doubt") == [], "an ordinary stop leaves nothing in doubt"
        hung.write_text(hung.read_text().replace("infer_ms = 0.0", "infer_ms = 2000.0"))
        daemon.start()
        until(lambda: daemon.station("s1").get("parts", {}).get("open") == 2, what="two frames in the device")
        shown = daemon.station("s1")["parts"]
        assert (shown["triggers"], shown["decisions"], shown["kept"]) == (2, 0, True)
        assert daemon.stop()[0] == 0
        told = [made for _, _, made in rows(tmp_path, "in_doubt")]
        assert [made["part"]["number"] for made in told] == [1, 2]
        assert {made["cause"] for made in told} == {"the stop came before it was decided"}
        assert not set(part_ids(tmp_path, "decision")) & set(part_ids(tmp_path, "in_doubt"))
        assert list((tmp_path / "state" / "journal.db.open").iterdir()) == [], "nothing is left to the next start"
    assert "Traceback" not in daemon.log()


def test_an_object_that_a_tracker_follows_is_in_doubt_after_a_kill(tmp_path: Path) -> None:
    config = """
[cameras.cam]
driver = "synthetic"
fps = 30
[stations.s1]
camera = "cam"
bundle = "conveyor-parts"
[stations.s1.trigger]
per = "object"
line = [[0.8, 1.0], [0.8, 0.0]]
track_labels = ["part"]
"""
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()

        def parts() -> dict[str, Any]:
            shown: dict[str, Any] = daemon.station("s1").get("parts", {})
            if shown:
                ended = shown["decisions"] + shown["misses"] + shown["in_doubt"]
                assert shown["triggers"] == ended + shown["open"], shown
                assert shown["unaccounted"] == 0
            return shown

        until(lambda: parts().get("open") and parts()["decisions"], within_s=40, what="a part before the line")
        daemon.kill()
        (path,) = (tmp_path / "state" / "journal.db.open").iterdir()
        left = read(path)
        assert left.fault == ""
        assert left.marks
        daemon.start()
        daemon.ready(times=2)
        told = daemon.status()["open_parts"]
        assert told["told_in_doubt"] + told["settled"] == len(left.marks)
        assert daemon.stop()[0] == 0
    first = [made for run, _, made in rows(tmp_path, "in_doubt") if run == 2 and made["run"] == left.origin.run]
    decided = set(part_ids(tmp_path, "decision"))
    assert {made["part"]["id"] for made in first} == {mark.id for mark in left.marks} - decided
    assert {made["camera"] for made in first} <= {"cam"}
