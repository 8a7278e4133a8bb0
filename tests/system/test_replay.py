"""A real daemon decides on a dense belt with the shipped model; every piece of its evidence is then replayed."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside.control import ask
from lineside.deliver.evidence.folder import Kept, read, sha256
from lineside.deliver.evidence.sealed import Opener
from lineside.errors import ConfigError
from lineside.hal import board
from lineside.hal.profile import match
from lineside.recipe import Model, Recipe, findings_of, open_model
from lineside.replay.again import Report, again
from lineside.replay.find import Places, piece
from lineside.replay.rerun import pictures, station_of
from lineside.resources import shipped
from lineside.store.bundle import open_bundle
from pieces import notes
from rig import Daemon, bundle, environment, fake_bundle, fake_profile, lineside, until
from rig import pictures as grey_pictures

BELT = """
[daemon]
log_decisions = false
[cameras.belt]
driver = "synthetic"
seed = 6
width_px = 320
height_px = 180
fps = 15
frames = 130
pace = "max_speed"
[stations.inspect]
camera = "belt"
bundle = "{bundle}"
backend = "onnxruntime"
frames = "every"
[stations.inspect.trigger]
per = "object"
line = [[0.5, 0.0], [0.5, 1.0]]
track_labels = ["part"]
[[stations.inspect.rules]]
kind = "defect"
labels = ["scratch", "stain", "chip", "missing_hole"]
min_score = 0.5
[stations.inspect.steady]
min_frames = 2
[stations.zone]
camera = "belt"
bundle = "{bundle}"
backend = "onnxruntime"
frames = "every"
[stations.zone.trigger]
per = "event"
[stations.zone.zones.exit]
polygon = [[0.6, 0.0], [0.9, 0.0], [0.9, 1.0], [0.6, 1.0]]
[[stations.zone.rules]]
name = "jam"
kind = "zone"
labels = ["part"]
zone = "exit"
min_score = 0.7
keep_score = 0.4
min_count = 2
dwell_s = 0.6
[stations.zone.steady]
off_s = 0.2
[evidence]
nice = 0
accept_share = 0.5
ring_mb = 100
queue_mb = 2000
min_free_mb = 100
min_free_percent = 0
"""


class Box:
    """What a daemon left behind."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.places = Places(self.state, self.state / "evidence", self.state / "journal.db")

    def pieces(self, station: str) -> list[Path]:
        return sorted((self.state / "evidence" / station).iterdir())

    def decisions(self, kind: str = "decision") -> list[dict[str, Any]]:
        with sqlite3.connect(f"file:{self.state}/journal.db?mode=ro", uri=True) as store:
            rows = store.execute("SELECT body FROM row WHERE kind = ? ORDER BY id", (kind,)).fetchall()
        return [json.loads(body) for (body,) in rows]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    folder = tmp_path_factory.mktemp("belt")
    shutil.copytree(shipped("models") / "conveyor-parts", folder / "model")
    with Daemon(folder, BELT.format(bundle=folder / "model")) as daemon:
        assert daemon.wait() == 0, daemon.log()
    assert "pieces lost" not in daemon.log()
    return Box(folder)


@pytest.fixture(scope="module")
def opened() -> dict[str, Recipe]:
    """Recipes that were opened, for all tests."""
    return {}


def replayed(folder: Path, box: Box, opened: dict[str, Recipe], **options: Any) -> Report:
    return again(read(folder), box.places.journal, opened=opened, **options)


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target / folder.name)
    return target / folder.name


def rejects(box: Box) -> list[Path]:
    return [folder for folder in box.pieces("inspect") if "-reject-" in folder.name]


def test_every_reject_has_evidence_and_replays_bit_for_bit(box: Box, opened: dict[str, Recipe]) -> None:
    wanted = {told["id"] for told in box.decisions() if told["verdict"] != "accept"}
    reports = [replayed(folder, box, opened) for folder in box.pieces("inspect")]
    assert wanted <= {report.id for report in reports}
    assert len(wanted) >= 3
    assert len(reports) > len(wanted), "and some accepts"
    assert [(report.id, report.outcome, report.differences) for report in reports] == [
        (report.id, "identical", []) for report in reports
    ]
    assert all(report.now == report.then for report in reports)
    assert not [note for report in reports for note in report.notes]
    crowd = [len(read(folder).told["state"]["trigger"]["objects"]) for folder in rejects(box)]
    assert max(crowd) >= 3, "the belt is dense: other parts were being followed when this one came"


def test_every_step_of_an_event_replays_bit_for_bit(box: Box, opened: dict[str, Recipe]) -> None:
    events = {told["id"]: told for told in box.decisions("event")}
    reports = [replayed(folder, box, opened) for folder in box.pieces("zone")]
    assert {report.id for report in reports} == set(events)
    assert {told["phase"] for told in events.values()} >= {"start", "end"}
    assert [(report.outcome, report.differences) for report in reports] == [("identical", [])] * len(reports)


def test_a_rule_state_that_is_not_restored_changes_the_decision(
    box: Box, opened: dict[str, Recipe], tmp_path: Path
) -> None:
    """So the snapshots are what makes an event replay: without one the dwell begins anew."""
    folder = next(path for path in box.pieces("zone") if read(path).told["record"]["phase"] == "end")
    copy = copy_of(folder, tmp_path)
    told = json.loads((copy / "evidence.json").read_text())
    kept = told["state"]["events"][0]
    told["state"]["events"][0] = {**kept, "said": None, "rules": [[] for _ in kept["rules"]]}
    (copy / "evidence.json").write_text(json.dumps(told))
    report = again(read(copy), None, opened=opened)
    assert report.outcome == "differs"


@pytest.mark.parametrize("backend", ["openvino", "litert"])
def test_another_backend_decides_the_same_within_stated_bounds(
    box: Box, opened: dict[str, Recipe], backend: str
) -> None:
    for folder in rejects(box)[:4]:
        report = replayed(folder, box, opened, backend=backend)
        assert report.outcome == "within bounds", report.differences
        assert report.backend_now.startswith(backend)
        assert report.bounds is not None
        assert 0 < report.score_off <= report.bounds.score
        assert report.overlap >= report.bounds.overlap


def test_one_pixel_that_was_changed_is_named_by_its_frame(box: Box, tmp_path: Path, opened: dict[str, Recipe]) -> None:
    copy = copy_of(rejects(box)[0], tmp_path)
    frame = sorted(copy.glob("*.png"))[4]
    image = cv2.imread(str(frame))
    assert image is not None
    image[100, 100, 1] ^= 1
    cv2.imwrite(str(frame), image)
    report = again(read(copy), None, opened=opened)
    assert report.outcome == "tampered"
    assert report.differences == [f"{frame.name}: is not the file that was written: its SHA-256 differs"]
    told = json.loads((copy / "evidence.json").read_text())
    told["files"][frame.name]["sha256"] = sha256(frame.read_bytes())  # and its hash with it
    (copy / "evidence.json").write_text(json.dumps(told))
    report = again(read(copy), None, opened=opened)
    assert report.differences == [
        f"frame {int(frame.stem)} ({frame.name}): its pixels are not those that the model saw"
    ]
    report = again(read(copy), box.places.journal, opened=opened)
    assert f"{frame.name}: evidence.json and the journal name different hashes" in report.differences


def test_a_decision_that_was_rewritten_in_the_evidence_is_found_out(
    box: Box, tmp_path: Path, opened: dict[str, Recipe]
) -> None:
    copy = copy_of(rejects(box)[0], tmp_path)
    told = json.loads((copy / "evidence.json").read_text())
    told["record"]["verdict"] = "accept"
    (copy / "evidence.json").write_text(json.dumps(told))
    report = again(read(copy), None, opened=opened)
    assert report.outcome == "differs", "even without the journal: its own frames say otherwise"
    assert "verdict: 'accept' then, 'reject' now" in report.differences
    report = again(read(copy), box.places.journal, opened=opened)
    assert any("the journal has 'reject'" in line for line in report.differences)


def test_a_recipe_that_was_rewritten_is_found_out(box: Box, tmp_path: Path, opened: dict[str, Recipe]) -> None:
    copy = copy_of(rejects(box)[0], tmp_path)
    told = json.loads((copy / "evidence.json").read_text())
    told["described"]["station"]["rules"][0]["min_score"] = 0.99
    (copy / "evidence.json").write_text(json.dumps(told))
    report = again(read(copy), None, opened=opened)
    assert report.outcome == "tampered"
    assert "the recipe in it is not the one" in report.differences[0]


def test_frames_that_were_no_longer_in_memory_are_told_and_the_rest_replays(
    tmp_path: Path, opened: dict[str, Recipe]
) -> None:
    config = (
        BELT.partition("[stations.zone]")[0] + "[evidence]\nnice = 0\nring_mb = 2\nqueue_mb = 2000\nmin_free_mb = 1\n"
    )
    config = config.replace("frames = 130", "frames = 60").format(bundle="conveyor-parts")
    with Daemon(tmp_path, config) as daemon:
        assert daemon.wait() == 0, daemon.log()
    box = Box(tmp_path)
    reports = [replayed(folder, box, opened) for folder in box.pieces("inspect")]
    assert {report.outcome for report in reports} == {"identical"}
    assert any("older frames of the part were not kept" in note for report in reports for note in report.notes)


# --- the commands


def test_the_command_finds_a_decision_by_the_beginning_of_its_id(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    id_ = next(told["id"] for told in box.decisions() if told["verdict"] == "reject")
    assert main(["replay", id_[:8], "--state", str(box.state)]) == 0
    assert "identical:" in capsys.readouterr().out
    assert main(["replay", id_, "--state", str(box.state), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["outcome"]) == (id_, "identical")


def test_a_folder_that_was_copied_elsewhere_replays_and_says_what_it_cannot_know(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copy_of(rejects(box)[0], tmp_path)
    assert main(["replay", str(copy)]) == 0
    shown = capsys.readouterr().out
    assert "identical:" in shown
    assert "no journal was asked" in shown
    (copy / "annotated.jpg").unlink()
    assert main(["replay", str(copy)]) == 1
    assert "annotated.jpg: cannot be read" in capsys.readouterr().out


def test_evidence_verify_goes_through_all_of_it(box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "verify", "--state", str(box.state)]) == 0
    assert ", 0 not as they were written" in capsys.readouterr().out
    assert main(["evidence", "list", "--state", str(box.state), "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(listed) == len(box.pieces("inspect")) + len(box.pieces("zone"))
    copy = copy_of(rejects(box)[0], tmp_path)
    (copy / "evidence.json").write_bytes((copy / "evidence.json").read_bytes()[:-9])
    assert main(["evidence", "verify", str(copy)]) == 1
    assert "is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give the ID of a decision"),
        (["00000000", "--bundle", "x"], "give the ID of a decision"),
        (["zzzzzzzz"], "no such decision"),
        (["ACCEPTED"], "none was kept: not asked for, or lost"),
        (["SHORT"], "no evidence of it"),
        (["--bundle", "conveyor-parts", "--since", "yesterday"], "write a time"),
        (["--bundle", "conveyor-parts", "--since", "2100-01-01"], "nothing to try"),
        (["--bundle", "/nowhere"], "does not exist"),
        (["REJECTED", "--backend", "tensorflow"], "unknown; known are"),
        (["REJECTED", "--models", "/nowhere"], "no such folder"),
        (["REJECTED", "--key", "/nowhere"], "cannot be read"),
    ],
)
def test_what_cannot_be_replayed_is_an_error_that_says_why(
    box: Box, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    have = {folder.name.split("-", 2)[2] for folder in box.pieces("inspect")}
    places = {
        "ACCEPTED": next(told["id"] for told in box.decisions() if told["id"] not in have),
        "REJECTED": rejects(box)[0].name.split("-", 2)[2],
        "SHORT": rejects(box)[0].name.split("-", 2)[2][:2],
    }
    assert main(["replay", *(places.get(word, word) for word in words), "--state", str(box.state)]) == 78
    assert said in capsys.readouterr().err


def test_a_bundle_that_is_gone_or_changed_is_an_error_that_names_it(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copy_of(rejects(box)[0], tmp_path)
    told = json.loads((copy / "evidence.json").read_text())
    was = Path(told["described"]["station"]["bundle"])
    hidden = was.with_name("elsewhere")
    fake = told["described"]["model"]["digest"].replace("sha256:", "")[:12]
    changed = was / "conveyor-parts_int8.onnx"
    whole = changed.read_bytes()
    try:
        changed.write_bytes(whole[:-1])
        assert main(["replay", str(copy)]) == 78
        assert "the file was cut short or changed" in capsys.readouterr().err
        changed.write_bytes(whole)
        manifest = (was / "model.toml").read_text()
        (was / "model.toml").write_text(re.sub(r"(?m)^version = .*", 'version = "9"', manifest))
        shipped_one = shipped("models") / "conveyor-parts"
        assert main(["replay", str(copy)]) == 0, f"the shipped one in {shipped_one} has the digest {fake}"
        capsys.readouterr()
        (was / "model.toml").write_text(manifest)
        was.rename(hidden)
        assert main(["replay", str(copy), "--models", str(hidden.parent)]) == 0
    finally:
        if hidden.exists():
            hidden.rename(was)
        changed.write_bytes(whole)
        (was / "model.toml").write_text(manifest)


def test_another_bundle_is_tried_on_what_was_kept(box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle that finds defects only from 0.9 on lets some of the rejects pass: the table and the sheet say which."""
    new = tmp_path / "new"
    shutil.copytree(shipped("models") / "conveyor-parts", new)
    text = (new / "model.toml").read_text()
    assert "min_score = 0.35" in text
    (new / "model.toml").write_text(text.replace("min_score = 0.35", "min_score = 0.9"))
    words = ["replay", "--state", str(box.state), "--since", "1h", "--station", "inspect"]
    assert main([*words, "--bundle", str(new), "--sheet", str(tmp_path / "sheet.png"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == len(box.pieces("inspect"))
    table = {(row["then"], row["now"]): row["parts"] for row in told["table"]}
    then_rejected = sum(count for (then, _), count in table.items() if then == "reject")
    assert then_rejected == len(rejects(box))
    assert sum(count for (then, now), count in table.items() if then != now) == len(told["changed"]) >= 1
    assert all(change["then"].startswith("reject") or "no part" in change["now"] for change in told["changed"])
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100, "it shows pictures"
    assert main([*words, "--bundle", "conveyor-parts", "--sheet", str(tmp_path / "none.png")]) == 0
    assert "0 decided otherwise" in capsys.readouterr().out
    assert not (tmp_path / "none.png").exists()


# --- a defect that was missed, and devices that fail


def test_a_missed_defect_is_saved_labelled_and_replays(tmp_path: Path, opened: dict[str, Recipe]) -> None:
    config = BELT.replace("frames = 130", "").replace('pace = "max_speed"', "").format(bundle="conveyor-parts")
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        assert lineside("missed", "--socket", daemon.socket, "--camera", "none").returncode == 1
        until(lambda: daemon.station("inspect").get("frames", 0) >= 12, what="a dozen frames")
        done = lineside("missed", daemon.config, "--camera", "belt", "--note", "dent on the rim", env=daemon.env)
        assert done.returncode == 0, done.stderr
        until(lambda: daemon.status()["evidence"]["why"].get("missed") == 2, what="both stations' frames are saved")
        refused = ask(daemon.socket, "tell", name="missed_defect", args={"camera": "none"})
        assert "camera 'none': there is none; there are belt" in refused["reason"]  # type: ignore[index]
        told = lineside("command", "--socket", daemon.socket, "missed_defect", "station=zone", "note=again")
        assert list(json.loads(told.stdout)) == ["zone"]
        until(lambda: daemon.status()["evidence"]["why"]["missed"] == 3, 60, what="one station's frames are saved")
        daemon.stop()
    box = Box(tmp_path)
    for station in ("inspect", "zone"):
        folder = next(path for path in box.pieces(station) if "-missed-" in path.name)
        kept = read(folder)
        assert kept.told["note"] == "dent on the rim"
        assert folder.name.partition("-missed-")[2] in done.stdout
        assert len(kept.frames) >= 10
        report = replayed(folder, box, opened)
        assert report.outcome == "identical", report.differences
    told = [note for note in notes(box.state) if note["why"] == "missed"]
    assert [note["cause"] for note in told] == ["dent on the rim", "dent on the rim", "again"]


def test_without_evidence_a_missed_defect_is_refused_with_a_remedy(tmp_path: Path) -> None:
    config = BELT.partition("[evidence]")[0].replace("frames = 130", "").replace('pace = "max_speed"', "")
    with Daemon(tmp_path, config.format(bundle="conveyor-parts")) as daemon:
        daemon.ready()
        assert "evidence" not in daemon.status()
        done = lineside("missed", "--socket", daemon.socket)
        assert done.returncode == 1
        assert "[evidence] is absent: add it" in done.stderr
        daemon.stop()


def test_a_part_that_the_device_gave_no_answer_to_replays_as_that(tmp_path: Path) -> None:
    clip, unplugged = grey_pictures(tmp_path / "clip", 10), tmp_path / "unplugged"
    profile = fake_profile(tmp_path / "fake.toml", unplugged_while=str(unplugged))
    config = f"""
[daemon]
profile = "{profile}"
[cameras.cam]
driver = "clip"
path = "{clip}"
loop = true
fps = 20
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
[evidence]
min_free_mb = 1
"""
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        unplugged.touch()
        until(lambda: daemon.station("s1")["frames_without_device"] >= 3, what="frames without a device")
        unplugged.unlink()
        until(lambda: daemon.status()["evidence"]["why"].get("unknown", 0) >= 2, 60, what="evidence of them")
        assert daemon.process is not None
        tasks = Path(f"/proc/{daemon.process.pid}/task").iterdir()
        nice = {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks}
        assert len(nice) == 2, "the thread that writes yields to all others"
        assert max(nice) == 19
        daemon.stop()
    box = Box(tmp_path)
    unknown = next(folder for folder in box.pieces("s1") if "-unknown-" in folder.name)
    report = again(read(unknown), box.places.journal)
    assert report.outcome == "identical", report.differences
    assert "no model answer" in report.then
    assert any("the device gave no answer" in note for note in report.notes)


def test_a_full_disk_costs_evidence_while_every_part_is_decided(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.decode().strip()}")
    try:
        (disk / "ballast").write_bytes(b"x" * 1_900_000)
        profile = fake_profile(tmp_path / "fake.toml")
        config = f"""
[daemon]
profile = "{profile}"
[cameras.cam]
driver = "clip"
path = "{grey_pictures(tmp_path / "clip", 10)}"
loop = true
fps = 50
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
[evidence]
nice = 0
path = "{disk}/evidence"
accept_share = 1.0
min_free_mb = 0
"""
        with Daemon(tmp_path, config) as daemon:
            daemon.ready()
            until(lambda: daemon.status()["evidence"]["lost"] >= 10, what="evidence is refused, and counted")
            shown = daemon.status()
            assert shown["evidence"]["state"] == "refusing"
            assert shown["journal"]["state"] == "ok"
            decided = shown["stations"]["s1"]["decisions"]
            until(lambda: daemon.station("s1")["decisions"] >= decided + 20, what="it goes on deciding")
            (disk / "ballast").unlink()
            until(lambda: daemon.status()["evidence"]["written"] >= 3, what="evidence is written again, without a hand")
            assert daemon.stop()[0] == 0
        box = Box(tmp_path)
        told = box.decisions("evidence")
        assert sum(note["lost"] for note in told if note["state"] == "lost") >= 10
        assert "Traceback" not in daemon.log()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_evidence_of_faces_is_blurred_and_cannot_be_replayed_or_sealed_and_can(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = bundle("faces", data / "models")
    assert main(["evidence", "keys", "-o", str(tmp_path / "me")]) == 0
    assert (tmp_path / "me.key").stat().st_mode & 0o777 == 0o600
    assert main(["evidence", "keys", "-o", str(tmp_path / "me")]) == 78
    for name, table in (("blurred", ""), ("sealed", f'keep_unblurred = true\npublic_key = "{tmp_path}/me.pub"')):
        folder = tmp_path / name
        folder.mkdir()
        config = f"""
[cameras.cam]
driver = "clip"
path = "{data}/videos/heads_two_faces.mp4"
pace = "max_speed"
[stations.s1]
camera = "cam"
bundle = "{faces}"
min_score = 0.5
[stations.s1.trigger]
per = "event"
[[stations.s1.rules]]
name = "somebody"
kind = "count"
labels = ["face"]
max_count = 0
min_score = 0.6
[evidence]
nice = 0
queue_mb = 2000
min_free_mb = 1
{table}
"""
        with Daemon(folder, config) as daemon:
            assert daemon.wait() == 0, daemon.log()
    blurred, sealed = Box(tmp_path / "blurred"), Box(tmp_path / "sealed")
    assert not [path for path in (tmp_path / "blurred").rglob("*") if path.suffix in (".png", ".sealed")]
    assert not list((tmp_path / "sealed").rglob("*.png"))
    first = read(sealed.pieces("s1")[0])
    shown = [path for box in (blurred, sealed) for path in (box.state / "evidence").rglob("*.jpg")]
    assert len(shown) >= 20
    finder = open_model(open_bundle(faces), station_of(first), match(board.read()))
    assert not [path for path in shown if has_face(finder, path)], "no picture in which the model still finds a face"
    assert has_face(finder, first_picture(first, tmp_path)), "while it finds it in the frame itself"
    piece_of_blurred = blurred.pieces("s1")[0]
    assert main(["replay", str(piece_of_blurred)]) == 78
    assert "keep_unblurred = false" in capsys.readouterr().err
    piece_of_sealed = sealed.pieces("s1")[0]
    assert main(["replay", str(piece_of_sealed)]) == 78
    assert "give the private key with --key" in capsys.readouterr().err
    assert main(["replay", str(piece_of_sealed), "--key", str(tmp_path / "me.key")]) == 0
    assert "identical:" in capsys.readouterr().out


def has_face(model: Model, path: Path) -> bool:
    image = cv2.imread(str(path))
    assert image is not None
    return bool(findings_of(model.see(np.asarray(image, np.uint8)), model.labels))


def first_picture(kept: Kept, folder: Path) -> Path:
    cv2.imwrite(str(folder / "first.png"), pictures(kept, Opener(folder / "me.key"))[0][0])
    return folder / "first.png"


def test_places_that_are_not_there_are_named(tmp_path: Path) -> None:
    done = lineside("replay", "abcd", "--state", tmp_path / "none", env=environment(tmp_path))
    assert done.returncode == 78
    assert "no such folder" in done.stderr
    with pytest.raises(ConfigError, match="no journal beside it"):
        piece("abcdefgh", Places(tmp_path, tmp_path, None))
