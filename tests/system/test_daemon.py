"""The daemon as a process, with a real broker: nothing lost, nothing twice, and a stop within its time."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import Mosquitto, free_port
from rig import (
    BANDS,
    Daemon,
    Subscriber,
    bundle,
    environment,
    fake_bundle,
    fake_profile,
    grey,
    lineside,
    pictures,
    rows,
    until,
)

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


def toml(
    folder: Path,
    clip: Path | str,
    *,
    port: int | None = None,
    camera: str = 'pace = "max_speed"',
    station: str = "",
    after: str = "",
    profile: Path | None = None,
    site: str = "site",
) -> str:
    """A station on the fake backend that looks at a folder of pictures."""
    profile = profile or fake_profile(folder / "fake.toml")
    mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nbox = "box-{site}"\nreconnect_max_s = 0.5\n' if port else ""
    return f"""
site = "{site}"
[daemon]
profile = "{profile}"
[cameras.cam]
driver = "clip"
path = "{clip}"
{camera}
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
{station}
{after}
{mqtt}
"""


def journal(folder: Path) -> list[tuple[int, str]]:
    """(seq, label of the best finding) of every decision on disk, by seq; the first is the recipe's."""
    with sqlite3.connect(f"file:{folder}/state/journal.db?mode=ro", uri=True) as store:
        rows = store.execute("SELECT seq, body FROM row WHERE kind = 'decision' ORDER BY seq").fetchall()
    return [(seq, (json.loads(body)["findings"] or [{"label": ""}])[0]["label"]) for seq, body in rows]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_clip_ends_in_a_decision_for_each_frame_in_order_and_the_daemon_ends(
    tmp_path: Path, broker: Mosquitto, slots: int
) -> None:
    clip = pictures(tmp_path / "clip", 25)
    site = f"clip{slots}"
    profile = fake_profile(tmp_path / "fake.toml", infer_ms=2.0)
    config = toml(tmp_path, clip, port=broker.port, station=f"slots = {slots}", profile=profile, site=site)
    with Subscriber(broker.port, f"lineside/{site}/#") as witness:
        with Daemon(tmp_path, config) as daemon:
            assert daemon.wait() == 0, daemon.log()
        until(lambda: len(witness.by_seq()) == 25, what="every decision arrives")
        until(lambda: witness.all("status")[-1]["state"] == "offline", what="it says that it has stopped")
    got = witness.by_seq()
    assert witness.seqs() == list(range(1, 27)), "the recipe, then 25 decisions"
    assert [got[seq]["findings"][0]["label"] for seq in sorted(got)] == [f"band{n % BANDS}" for n in range(25)]
    assert [got[seq]["part"]["number"] for seq in sorted(got)] == list(range(1, 26))
    assert "Traceback" not in daemon.log()
    assert daemon.log().count("(decision ") == 25, "each decision is a line of the log with its id"
    assert all(f"(decision {message['id']})" in daemon.log() for message in got.values())


def test_a_clip_at_full_speed_is_delivered_to_its_last_decision_before_the_daemon_ends(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """Deciding is faster than a broker that writes to disk: what has piled up at the end is not left for next time."""
    clip = pictures(tmp_path / "clip", 400)
    with Subscriber(broker.port, "lineside/pile/#") as witness:
        with Daemon(tmp_path, toml(tmp_path, clip, port=broker.port, site="pile")) as daemon:
            assert daemon.wait() == 0, daemon.log()
        until(lambda: witness.all("status")[-1]["state"] == "offline", what="it says that it has stopped")
    assert witness.seqs() == list(range(1, 402))


def test_sigterm_stops_within_the_time_and_says_so(tmp_path: Path, broker: Mosquitto) -> None:
    """Two seconds are promised; the bound here allows for a machine that is busy with other tests."""
    clip = pictures(tmp_path / "clip", 10)
    profile = fake_profile(tmp_path / "fake.toml", infer_ms=50.0)
    config = toml(tmp_path, clip, port=broker.port, camera="loop = true\nfps = 100", profile=profile, site="stop")
    with Subscriber(broker.port, "lineside/stop/#") as witness, Daemon(tmp_path, config) as daemon:
        daemon.ready()
        until(lambda: len(witness.by_seq()) >= 5, what="five decisions arrive")
        code, took_s = daemon.stop()
        assert (code, took_s < 5) == (0, True), f"{code} after {took_s} s: {daemon.log()}"
        on_disk = journal(tmp_path)
        until(lambda: len(witness.by_seq()) == len(on_disk), what="everything decided was flushed")
        until(lambda: witness.all("status")[-1]["reason"] == "stopped", what="offline, with its reason")
    assert witness.seqs() == list(range(1, len(on_disk) + 2))
    assert not daemon.socket.exists()
    print(f"SIGTERM to exit: {took_s:.2f} s")


def test_a_broker_that_comes_later_gets_everything_and_can_tell_live_from_late(tmp_path: Path) -> None:
    clip = pictures(tmp_path / "clip", 10)
    late_broker = Mosquitto(tmp_path / "broker")
    config = toml(tmp_path, clip, port=late_broker.port, camera="loop = true\nfps = 20", site="later")
    config = config.replace("reconnect_max_s", "live_max_age_ms = 200\nreconnect_max_s")
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        until(lambda: daemon.station("s1").get("decisions", 0) >= 20, what="it decides without a broker")
        status = daemon.status()
        assert not status["mqtt"]["connected"]
        assert status["mqtt"]["pending"] >= 19
        with late_broker, Subscriber(late_broker.port) as witness:
            until(lambda: len(witness.by_seq()) >= 40 and 2 in witness.by_seq(), what="live and old ones arrive")
            _code, _ = daemon.stop()
            on_disk = journal(tmp_path)
            missing = {seq for seq, _ in on_disk} - set(witness.by_seq())
            if missing:  # a stop leaves the backlog to the next start
                with Daemon(tmp_path, daemon.config) as again:
                    until(lambda: missing <= set(witness.by_seq()), what="the rest comes at the next start")
                    again.stop()
            until(lambda: {seq for seq, _ in on_disk} <= set(witness.by_seq()), what="nothing is lost")
        for topic, message in witness.seen():
            if message["kind"] == "decision":
                assert topic.endswith("/backfill") == message["backfill"]
                assert message["late"] or not message["backfill"]
        decisions = witness.by_seq()
        assert decisions[2]["backfill"]
        assert any(not message["backfill"] for message in decisions.values())


def test_after_kill_9_the_numbers_go_on_and_no_number_stands_for_two_decisions(
    tmp_path: Path, broker: Mosquitto
) -> None:
    clip = pictures(tmp_path / "clip", 10)
    config = toml(tmp_path, clip, port=broker.port, camera="loop = true\nfps = 100", site="kill")
    with Subscriber(broker.port, "lineside/kill/#") as witness:
        for start in range(1, 4):
            before = max(witness.by_seq(), default=0)
            with Daemon(tmp_path, config) as daemon:
                daemon.ready(times=start)
                until(lambda before=before: max(witness.by_seq(), default=0) >= before + 10, what="ten more decisions")
                if start < 3:
                    daemon.kill()
                else:
                    assert daemon.stop()[0] == 0
        on_disk = journal(tmp_path)
        doubts = rows(tmp_path, "in_doubt")
        until(lambda: len(witness.seqs()) >= len(on_disk) + len(doubts) + 3, what="everything on disk arrived")
    assert sorted(witness.by_seq()) == [seq for seq, _ in on_disk]
    assert witness.seqs() == list(range(1, len(on_disk) + len(doubts) + 4)), "a recipe at each of three starts"
    assert len({message["epoch"] for message in witness.all("decision")}) == 1


def test_a_device_that_is_pulled_out_gives_unknown_with_a_cause_and_comes_back(
    tmp_path: Path, broker: Mosquitto
) -> None:
    unplugged = tmp_path / "unplugged"
    clip = pictures(tmp_path / "clip", 10)
    profile = fake_profile(tmp_path / "fake.toml", unplugged_while=str(unplugged))
    config = toml(tmp_path, clip, port=broker.port, camera="loop = true\nfps = 20", profile=profile, site="device")
    with Subscriber(broker.port, "lineside/device/#") as witness, Daemon(tmp_path, config) as daemon:
        daemon.ready()
        until(lambda: len(witness.by_seq()) >= 5, what="five decisions")
        assert daemon.station("s1")["device"]["up"]
        unplugged.touch()
        until(lambda: daemon.station("s1")["frames_without_device"] >= 5, what="frames without a device")
        assert not daemon.station("s1")["device"]["up"]
        unplugged.unlink()
        until(lambda: daemon.station("s1")["device"]["reopened"] == 1, what="it is reopened")
        shown = daemon.station("s1")
        until(lambda: daemon.station("s1")["accept"] > shown["accept"], what="it accepts again")
        assert daemon.stop()[0] == 0
        on_disk = journal(tmp_path)
        until(lambda: len(witness.by_seq()) == len(on_disk), what="every decision arrived")
    unknown = [message for message in witness.by_seq().values() if message["verdict"] == "unknown"]
    assert len(unknown) >= 5
    assert all("unplugged" in message["cause"] for message in unknown)
    assert [message["part"]["number"] for _, message in sorted(witness.by_seq().items())] == list(
        range(1, len(on_disk) + 1)
    )
    assert "Traceback" not in daemon.log()


def test_an_event_that_is_open_at_a_stop_is_ended(tmp_path: Path, broker: Mosquitto) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    import cv2

    cv2.imwrite(str(clip / "bright.png"), grey(9))
    station = """
[stations.s1.trigger]
per = "event"
[[stations.s1.rules]]
kind = "threshold"
name = "bright"
labels = ["band9"]
high = 0.5
"""
    config = toml(tmp_path, clip, port=broker.port, camera="loop = true\nfps = 50", station=station, site="event")
    with Subscriber(broker.port, "lineside/event/#") as witness, Daemon(tmp_path, config) as daemon:
        until(lambda: witness.all("event"), what="the start of the event")
        assert daemon.stop()[0] == 0
        until(lambda: len(witness.all("event")) == 2, what="its end")
    start, end = witness.all("event")
    assert (start["phase"], end["phase"], end["event_id"]) == ("start", "end", start["event_id"])
    assert end["lasted_ms"] >= 0
    assert start["started_at"] == end["started_at"]


def test_two_stations_have_their_own_numbers(tmp_path: Path, broker: Mosquitto) -> None:
    clip, other = pictures(tmp_path / "clip", 12), pictures(tmp_path / "other", 7)
    after = f"""
[cameras.two]
driver = "clip"
path = "{other}"
pace = "max_speed"
[stations.s2]
camera = "two"
bundle = "{fake_bundle()}"
"""
    with Subscriber(broker.port, "lineside/two/#") as witness:
        with Daemon(tmp_path, toml(tmp_path, clip, port=broker.port, after=after, site="two")) as daemon:
            assert daemon.wait() == 0, daemon.log()
        until(lambda: len(witness.all("decision")) >= 19, what="all decisions")
    assert witness.seqs(station="s1") == list(range(1, 14))
    assert witness.seqs(station="s2") == list(range(1, 9))


def test_a_second_daemon_is_refused_before_it_disturbs_the_first(tmp_path: Path, broker: Mosquitto) -> None:
    """Same socket, journal and client id: were it to connect, the broker would throw the first one out."""
    clip = pictures(tmp_path / "clip", 10)
    config = toml(tmp_path, clip, port=broker.port, camera="loop = true\nfps = 20", site="second")
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        until(lambda: daemon.status()["mqtt"]["connected"], what="connected")
        second = lineside("run", daemon.config, env=daemon.env)
        assert second.returncode == 78
        assert "another lineside daemon answers there" in second.stderr
        assert "Traceback" not in second.stderr
        shown = daemon.status()["mqtt"]
        assert (shown["connected"], shown["connects"], shown["disconnects"]) == (True, 1, 0)
        assert daemon.stop()[0] == 0


def test_a_worker_that_dies_ends_the_daemon_with_1(tmp_path: Path) -> None:
    """A clip that is replaced by something unreadable while it loops: the camera is asked again and again, no death;
    a driver that breaks (here one from outside, registered by an entry point) is one."""
    package = tmp_path / "outside"
    (package / "broken-1.dist-info").mkdir(parents=True)
    (package / "broken-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "broken-1.dist-info" / "entry_points.txt").write_text("[lineside.backend]\nbroken = broken:Broken\n")
    (package / "broken.py").write_text(
        "from lineside.hal.fake import FakeBackend\n\n\n"
        "class Broken(FakeBackend):\n"
        "    left = 3\n\n"
        "    def infer(self, pixels, slot=0, window=None):\n"
        "        self.left -= 1\n"
        "        if self.left < 0:\n"
        "            raise RuntimeError('a segfault that Python can see')\n"
        "        return super().infer(pixels, slot, window)\n"
    )
    clip = pictures(tmp_path / "clip", 10)
    with Daemon(tmp_path, toml(tmp_path, clip, station='backend = "broken"\nslots = 1')) as daemon:
        daemon.kill()  # started without the package on its path
        daemon.env["PYTHONPATH"] = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        daemon.start()
        assert daemon.wait() == 1
    assert "a segfault that Python can see" in daemon.log()
    assert len(journal(tmp_path)) == 2, "what was decided before is on disk"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no video", "FFmpeg finds no video in it"),
        ("no rule label", "the bundle has no label 'band99'"),
        ("no bundle", "give a folder made by `lineside bundle new`"),
        ("no backend", "known are"),
        ("no profile", "known are"),
    ],
)
def test_a_configuration_that_cannot_run_ends_with_78_and_a_line(tmp_path: Path, what: str, words: str) -> None:
    """78, so that systemd does not start it again and again."""
    clip: Path = pictures(tmp_path / "clip", 1)
    config = toml(tmp_path, clip)
    if what == "no video":
        clip = tmp_path / "clip.mp4"
        clip.write_bytes(b"not a video" * 1000)
        config = toml(tmp_path, clip)
    if what == "no rule label":
        config = toml(tmp_path, clip, station='[[stations.s1.rules]]\nkind="threshold"\nhigh=0.5\nlabels=["band99"]')
    if what == "no bundle":
        config = config.replace(str(fake_bundle()), "no-such-bundle")
    if what == "no backend":
        config = toml(tmp_path, clip, station='backend = "tensorflow"')
    if what == "no profile":
        config = config.replace("fake.toml", "none").replace(str(tmp_path / "none"), "no-such-board")
    (tmp_path / "lineside.toml").write_text(config)
    result = lineside("run", tmp_path / "lineside.toml", env=environment(tmp_path))
    assert (result.returncode, "Traceback" in result.stderr) == (78, False), result.stderr
    assert words in result.stderr


def test_an_absent_device_ends_with_1_and_a_line(tmp_path: Path) -> None:
    """It may be plugged in: systemd tries again."""
    profile = fake_profile(tmp_path / "fake.toml", fail_open=True)
    (tmp_path / "lineside.toml").write_text(toml(tmp_path, pictures(tmp_path / "clip", 1), profile=profile))
    result = lineside("run", tmp_path / "lineside.toml", env=environment(tmp_path))
    assert (result.returncode, "Traceback" in result.stderr) == (1, False), result.stderr
    assert "fail_open" in result.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_it_goes_on_deciding_and_loses_nothing(
    tmp_path: Path, small_disk: Path, broker: Mosquitto
) -> None:
    clip = pictures(tmp_path / "clip", 10)
    config = toml(tmp_path, clip, port=broker.port, camera="loop = true\nfps = 50", site="full")
    config = config.replace("[cameras.cam]", f'[journal]\npath = "{small_disk}/journal.db"\n[cameras.cam]')
    with Subscriber(broker.port, "lineside/full/#") as witness, Daemon(tmp_path, config) as daemon:
        daemon.ready()
        until(lambda: len(witness.by_seq()) >= 5, what="five decisions")
        fill = small_disk / "fill"
        with fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 65_536)
        until(lambda: daemon.status()["journal"]["state"] == "refusing", what="the disk refuses")
        shown = daemon.station("s1")["decisions"]
        until(lambda: daemon.station("s1")["decisions"] >= shown + 20, what="it goes on deciding")
        assert daemon.process is not None
        assert daemon.process.poll() is None
        fill.unlink()
        until(lambda: daemon.status()["journal"]["state"] == "ok", what="the journal works again")
        until(lambda: daemon.status()["journal"]["waiting"] < 20, what="what waited is committed")
        assert daemon.status()["journal"]["lost"] == 0
        assert daemon.stop()[0] == 0
        last = max(witness.seqs())
        until(lambda: witness.seqs() == list(range(1, last + 1)), what="no gap")
    numbers = [message["part"]["number"] for _, message in sorted(witness.by_seq().items())]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "Traceback" not in daemon.log()


def test_status_adds_up_while_it_runs(tmp_path: Path) -> None:
    clip = pictures(tmp_path / "clip", 10)
    with Daemon(tmp_path, toml(tmp_path, clip, camera="loop = true\nfps = 200", station="slots = 2")) as daemon:
        until(lambda: daemon.station("s1").get("frames"), what="a frame")
        for _ in range(50):
            shown = daemon.status()
            station, camera = shown["stations"]["s1"], shown["cameras"]["cam"]
            assert station["decisions"] == station["accept"] + station["reject"] + station["unknown"]
            assert station["decisions"] <= station["frames"] <= camera["frames"]
            assert 0 <= station["trigger"]["parts"] - station["decisions"] <= 1
        until(lambda: daemon.station("s1")["frames"] > 100, what="a hundred frames")
        workers = daemon.status()["health"]["workers"]
        assert {"station.s1.0", "station.s1.1", "capture.cam", "journal", "control"} <= set(workers)
        assert all(worker["state"] != "stale" for worker in workers.values())
        text = lineside("status", "--socket", daemon.socket).stdout
        assert "decisions:" in text
        assert json.loads(lineside("status", "--config", daemon.config, "--json", env=daemon.env).stdout)["version"]
        assert daemon.stop()[0] == 0


def test_a_real_face_model_decides_in_the_daemon(tmp_path: Path, data: Path) -> None:
    """The same path with a real runtime: faces in a real video, without a broker."""
    config = f"""
[cameras.cam]
driver = "clip"
path = "{data}/videos/heads_two_faces.mp4"
pace = "max_speed"
[stations.s1]
camera = "cam"
bundle = "{bundle("faces", data / "models")}"
[[stations.s1.rules]]
kind = "count"
labels = ["face"]
min_count = 1
"""
    with Daemon(tmp_path, config) as daemon:
        assert daemon.wait() == 0, daemon.log()
    assert [label for _, label in journal(tmp_path)] == ["face"] * 56
    assert os.listdir(tmp_path / "run") == []


def test_no_broker_port_is_left_open_by_a_config_without_mqtt(tmp_path: Path) -> None:
    """Nothing listens but the control socket."""
    clip = pictures(tmp_path / "clip", 10)
    with Daemon(tmp_path, toml(tmp_path, clip, camera="loop = true\nfps = 20")) as daemon:
        daemon.ready()
        assert daemon.process is not None
        inodes = set()
        for entry in os.scandir(f"/proc/{daemon.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # a picture that was open a moment ago
                inodes.add(os.readlink(entry.path))
        tcp = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert not [row for row in tcp if f"socket:[{row[9]}]" in inodes]
        assert free_port()
        daemon.stop()
