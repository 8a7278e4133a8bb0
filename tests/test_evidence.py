"""Evidence on disk: whole or not at all, within its room, and never in a decision's way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import deliveries
from lineside import plain
from lineside.checked import Unfit, checked
from lineside.cli import main
from lineside.config.evidence import EvidenceConfig
from lineside.deliver.evidence.folder import faults, pixels_sha256, read, sha256
from lineside.deliver.evidence.keeper import pieces
from lineside.deliver.evidence.ring import Ring, bytes_of
from lineside.deliver.evidence.sealed import Opener, Seal, new_pair
from lineside.deliver.evidence.witness import Witness, chance
from lineside.deliver.validate import faults as message_faults
from lineside.errors import ConfigError
from lineside.records import Finding, Observation, Ruling
from lineside.vision.blur import blur_boxes
from pieces import FACE, about, decided, entry, job, kept_folders, noise, notes, worker, write

Eventually = Callable[..., None]


class Kept:
    """A RecordStore and an offer that remember."""

    def __init__(self) -> None:
        self.records: list[object] = []
        self.jobs: list[object] = []

    def put(self, record: object, committed: object = None) -> None:
        self.records.append(record)

    def offer(self, asked: object) -> bool:
        self.jobs.append(asked)
        return True


def witness(kept: Kept, **options: object) -> Witness:
    told = {"accept_share": 0.0, "events": True, "ring_bytes": 1 << 20, "event_frames": 3, "most_frames": 100}
    return Witness("gate", kept, kept.offer, **{**told, **options})  # type: ignore[arg-type]


# --- memory


def test_a_ring_keeps_the_newest_pictures_within_its_bytes() -> None:
    ring = Ring(5 * noise(0).nbytes)
    for number in range(20):
        ring.add(entry(number))
    assert [kept.frame.number for kept in ring.since(0)] == [15, 16, 17, 18, 19]
    assert [kept.frame.number for kept in ring.since(18)] == [18, 19]
    assert ring.size() == (5, 5 * noise(0).nbytes)


def test_a_region_of_interest_counts_as_the_picture_that_it_was_cut_from() -> None:
    whole = noise(1)
    assert bytes_of(entry(1, image=whole[4:8, 4:8]).frame) == whole.nbytes


def test_events_never_see_frames_of_two_sizes() -> None:
    ring = Ring(1 << 30)
    for number in range(6):
        ring.add(entry(number, image=noise(number, 64 if number < 4 else 32)))
    assert [kept.frame.number for kept in ring.newest(5)] == [4, 5]


def test_records_come_back_from_json_bit_for_bit() -> None:
    finding = Finding("a", 1, float(np.float32(0.1)), (0.1, 1e-9, float("inf"), 5.0))
    tree = {
        "seen": (Observation(5, (finding,), 3, (1.0, 2.0, 3.0, 4.0)), Observation(6, ())),
        "ruling": Ruling("reject", "b", 0.3, (finding,)),
        "speed": np.array([[0.1, -3e300]]),
        "ids": np.empty(0, np.int64),
        "none": None,
    }
    back = plain.unpack(json.loads(json.dumps(plain.pack(tree))))
    assert back["seen"] == tree["seen"]
    assert back["ruling"] == tree["ruling"]
    assert np.array_equal(back["speed"], tree["speed"])
    assert back["ids"].dtype == np.int64
    assert back["none"] is None


# --- what asks for evidence


def test_rejects_unknowns_and_escalations_ask_and_a_share_of_accepts() -> None:
    kept = Kept()
    asked = witness(kept, accept_share=0.25)
    for number in range(400):
        asked.see(entry(number).frame, (), {})
        asked.put(decided(number, number, verdict="accept"))
    sampled = [one.id for one in kept.jobs]  # type: ignore[attr-defined]
    assert sampled == [f"gate-{number}" for number in range(400) if chance(f"gate-{number}") < 0.25]
    assert 60 < len(sampled) < 140
    asked.put(decided(1, verdict="unknown"))
    asked.put(decided(2))
    asked.put(deliveries.decision(3, verdict="accept", escalated=True))
    asked.put(deliveries.event())
    assert [one.why for one in kept.jobs[-4:]] == ["unknown", "reject", "escalated", "event"]  # type: ignore[attr-defined]
    assert len(kept.records) == 404, "every record went on to the journal"


def test_a_part_keeps_every_frame_that_it_was_seen_in_and_says_what_is_gone() -> None:
    kept = Kept()
    asked = witness(kept, ring_bytes=4 * noise(0).nbytes)
    for number in range(1, 11):
        asked.see(entry(number).frame, (), {"at": number})
    asked.put(decided(1, 5, 6, 9))
    (made,) = kept.jobs
    assert [one.frame.number for one in made.entries] == [7, 8, 9, 10]  # type: ignore[attr-defined]
    assert made.frames_missing == 2  # type: ignore[attr-defined]
    assert made.entries[0].state == {"at": 7}  # type: ignore[attr-defined]


# --- disk


def test_a_piece_holds_what_was_seen_and_the_journal_its_hashes(tmp_path: Path, eventually: Eventually) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened)
    running.start()
    frames = [entry(number, Finding("scratch", 1, 0.25, (1.0, 2.0, 30.0, 40.0))) for number in (7, 8, 9)]
    write(running, job(1, *frames), eventually=eventually)
    running.stop(1)
    opened.stop()
    (folder,) = kept_folders(tmp_path / "e")
    kept = read(folder)
    (note,) = notes(tmp_path)
    assert faults(kept, note) == []
    assert note["decision"] == "gate-1"
    assert note["frames"][1]["pixels"] == pixels_sha256(noise(8))
    assert note["files"]["evidence.json"]["sha256"] == sha256((folder / "evidence.json").read_bytes())
    assert [known.seen for known in kept.frames] == [e.seen for e in frames]
    for known in kept.frames:
        assert known.file is not None
        assert np.array_equal(cv2.imread(str(folder / known.file)), noise(known.number)), "lossless"
    head = {"lineside": 1, "kind": "evidence", "station": "gate", "epoch": "e", "seq": 1}
    assert message_faults({**head, "late": False, "backfill": False, "age_ms": 1, **note}) == []
    assert not list((tmp_path / "e" / ".untold").iterdir())


def test_parts_that_share_frames_share_their_files(tmp_path: Path, eventually: Eventually) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened)
    running.start()
    frames = [entry(number) for number in range(8)]
    write(running, job(1, *frames[:6]), job(2, *frames[2:]), eventually=eventually)
    running.stop(1)
    opened.stop()
    first, second = kept_folders(tmp_path / "e")
    assert (first / "00000004.png").samefile(second / "00000004.png")
    assert all(faults(read(folder), note) == [] for folder, note in zip((first, second), notes(tmp_path), strict=True))
    used = float(str(running.status()["used_mb"]))
    on_disk = {path.stat().st_ino: path.stat().st_blocks * 512 for path in (tmp_path / "e" / "gate").rglob("*.*")}
    assert used == pytest.approx(sum(on_disk.values()) / 1e6, abs=0.1), "a shared picture counts once"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("pixel", "00000007.png: is not the file that was written"),
        ("gone", "00000007.png: cannot be read"),
        ("picture", "annotated.jpg: is not the file"),
        ("manifest", "evidence.json: is not the file of which the journal holds"),
        ("both", "00000007.png: evidence.json and the journal name different hashes"),
        ("extra", "extra.png: was not written by lineside"),
    ],
)
def test_what_was_changed_by_hand_is_named(tmp_path: Path, eventually: Eventually, spoil: str, said: str) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened)
    running.start()
    write(running, job(1, entry(7), entry(8)), eventually=eventually)
    running.stop(1)
    opened.stop()
    (folder,) = kept_folders(tmp_path / "e")
    frame, manifest = folder / "00000007.png", folder / "evidence.json"
    if spoil in ("pixel", "both"):
        image = cv2.imread(str(frame))
        assert image is not None
        image[3, 3, 0] ^= 1
        cv2.imwrite(str(frame), image)
    if spoil == "both":  # with the hash to it
        told = json.loads(manifest.read_text())
        told["files"][frame.name]["sha256"] = sha256(frame.read_bytes())
        manifest.write_text(json.dumps(told))
    if spoil == "gone":
        frame.unlink()
    if spoil == "picture":
        (folder / "annotated.jpg").write_bytes(b"\xff\xd8")
    if spoil == "manifest":
        manifest.write_text(manifest.read_text().replace('"reject"', '"accept"'))
    if spoil == "extra":
        (folder / "extra.png").write_bytes(b"x")
    found = faults(read(folder), notes(tmp_path)[0])
    assert any(line.startswith(said) for line in found), found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "[" * 100_000])
def test_what_is_no_evidence_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "evidence.json").write_text(text)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        read(tmp_path)


def test_evidence_of_a_later_format_is_an_error(tmp_path: Path, eventually: Eventually) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened)
    running.start()
    write(running, job(1), eventually=eventually)
    running.stop(1)
    opened.stop()
    (folder,) = kept_folders(tmp_path / "e")
    told = json.loads((folder / "evidence.json").read_text())
    (folder / "evidence.json").write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(ConfigError, match="format 2"):
        read(folder)


def test_room_is_made_by_class_then_age_and_a_label_is_announced_before_it_goes(
    tmp_path: Path, eventually: Eventually
) -> None:
    opened = deliveries.journal(tmp_path)
    big = [entry(number, image=noise(number, 400, 300)) for number in range(9)]  # 360 KB each
    running = worker(tmp_path / "e", opened, cap_bytes=2_900_000)
    running.start()
    why = ["missed", "reject", "sample", "unknown", "reject"]
    for number, each in enumerate(why):
        write(running, job(number, big[number], why=each, wall_ns=10**18 + number * 10**9), eventually=eventually)
    assert len(kept_folders(tmp_path / "e")) == 5
    gone: list[set[str]] = []
    before = {path.name for path in kept_folders(tmp_path / "e")}
    for number in range(5, 9):
        write(running, job(number, big[number], wall_ns=10**18 + number * 10**9), eventually=eventually)
        after = {path.name for path in kept_folders(tmp_path / "e")}
        gone.append({name.split("-", 1)[1] for name in before - after})
        before = after
    order = [name for names in gone for name in sorted(names)]
    assert order == ["sample-gate-2", "unknown-gate-3", "reject-gate-1", "reject-gate-4"][: len(order)]
    assert len(order) == 4
    removed = [name for note in notes_now(tmp_path, opened) if note["state"] == "removed" for name in note["removed"]]
    assert removed == [name.split("-", 1)[1] for name in order]
    assert any(path.name.endswith("missed-gate-0") for path in kept_folders(tmp_path / "e"))
    running.stop(1)
    # only the labelled piece is left in the way: it is announced, and goes after its time
    short = worker(tmp_path / "e", opened, cap_bytes=1_000_000, grace_s=0.2)
    short.start()
    write(short, job(20, big[0]), eventually=eventually)
    assert any(note["state"] == "leaving" for note in notes_now(tmp_path, opened))
    assert [path.name.split("-", 1)[1] for path in kept_folders(tmp_path / "e")] == ["missed-gate-0"]
    assert short.status()["lost"] == 1

    def again() -> bool:
        write(short, job(21, big[1]), eventually=eventually)
        return [path.name.split("-", 1)[1] for path in kept_folders(tmp_path / "e")] == ["reject-gate-21"]

    eventually(again, what="the labelled piece made room after its time")
    short.stop(1)
    opened.stop()
    assert any("nothing is left that may go" in note["cause"] for note in notes(tmp_path) if note["state"] == "lost")


def test_what_an_operator_labelled_stays_while_rejects_go(
    tmp_path: Path, eventually: Eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "evidence", opened, cap_bytes=1_900_000)
    running.start()
    for number in range(2):
        write(running, job(number, entry(number, image=noise(number, 400, 300))), eventually=eventually)
    assert main(["evidence", "label", "gate-0", "good", "--state", str(tmp_path)]) == 0
    assert main(["evidence", "label", "gate-9", "good", "--state", str(tmp_path)]) == 78
    for number in range(2, 6):
        write(running, job(number, entry(number, image=noise(number, 400, 300))), eventually=eventually)
    running.stop(1)
    opened.stop()
    names = [path.name.split("-", 1)[1] for path in kept_folders(tmp_path / "evidence")]
    assert names[0] == "reject-gate-0"
    assert names[-1] == "reject-gate-5"
    assert "reject-gate-1" not in names
    capsys.readouterr()
    assert main(["evidence", "list", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("gate-0  good")


def notes_now(folder: Path, opened: object) -> list[dict[str, object]]:
    assert opened.flush(5)  # type: ignore[attr-defined]
    return notes(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_evidence_that_is_counted_and_recovers_by_itself(
    tmp_path: Path, small_disk: Path, eventually: Eventually
) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(small_disk / "e", opened)
    running.start()
    write(running, job(1), eventually=eventually)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    write(
        running, job(2, *(entry(number, image=noise(number, 400, 300)) for number in range(3))), eventually=eventually
    )
    shown = running.status()
    assert (shown["lost"], shown["state"]) == (1, "refusing")
    assert shown["last_error"]
    ballast.unlink()
    numbers = iter(range(10, 1000))

    def again() -> bool:
        write(running, job(next(numbers)), eventually=eventually)
        return running.status()["state"] == "ok"

    eventually(again, what="it works again")
    running.stop(1)
    opened.stop()
    told = [note for note in notes(tmp_path) if note["state"] == "lost"]
    assert sum(note["lost"] for note in told) == running.status()["lost"], "every loss is told in the journal"
    assert not list((small_disk / "e" / ".writing").iterdir()), "nothing half written is left"


def test_what_must_stay_free_stays_free_and_the_oldest_goes_for_it(
    tmp_path: Path, small_disk: Path, eventually: Eventually
) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(small_disk / "e", opened, min_free_bytes=1_500_000)
    running.start()
    for number in range(12):
        write(running, job(number, entry(number, image=noise(number, 400, 300))), eventually=eventually)
        disk = os.statvfs(small_disk)
        assert disk.f_bavail * disk.f_frsize >= 1_500_000
    assert running.status()["lost"] == 0
    assert [path.name[-7:] for path in kept_folders(small_disk / "e")][-1] == "gate-11"
    assert running.status()["removed"] == {"reject": 12 - len(kept_folders(small_disk / "e"))}
    running.stop(1)
    opened.stop()


def test_a_read_only_disk_costs_evidence_and_nothing_else(
    tmp_path: Path, small_disk: Path, eventually: Eventually
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    opened = deliveries.journal(tmp_path)
    running = worker(small_disk / "e", opened)
    running.start()
    write(running, job(1), eventually=eventually)
    assert "Read-only" in str(running.status()["last_error"])
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    numbers = iter(range(10, 1000))

    def again() -> bool:
        write(running, job(next(numbers)), eventually=eventually)
        return running.status()["state"] == "ok"

    eventually(again, what="it works again")
    running.stop(1)
    opened.stop()


def test_a_queue_that_is_full_costs_evidence_that_is_counted_and_never_waits(tmp_path: Path) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened, queue_bytes=5 * noise(0).nbytes)  # not started: nothing is taken
    frames = [entry(number) for number in range(12)]
    assert running.offer(job(1, *frames[:4]))
    assert running.offer(job(2, *frames[1:5])), "frames that wait already count once"
    assert not running.offer(job(3, *frames[5:]))
    assert running.offer(job(4, *frames, why="missed")), "an operator's word does"
    assert not running.offer(job(5, *frames, why="missed")), "once at a time"
    assert running.status()["lost"] == 2
    running.stop(0)
    opened.stop()
    told = {note["cause"]: note["lost"] for note in notes(tmp_path)}
    assert told == {
        "too much evidence waited to be written": 2,
        "the daemon stopped before it was written": 3,
    }


CRASHER = """
import sys
from pathlib import Path
import deliveries
from pieces import entry, job, noise, worker
folder = Path(sys.argv[1])
opened = deliveries.journal(folder)
running = worker(folder / "e", opened)
running.start()
number = int(sys.argv[2])
while True:
    number += 1
    frames = [entry(number * 10 + i, image=noise(i, 320, 200)) for i in range(6)]
    while not running.offer(job(number, *frames)) or running.waiting() > 20:
        pass
"""


def test_a_crash_while_writing_leaves_whole_pieces_that_the_journal_knows_and_no_other(
    tmp_path: Path, eventually: Eventually
) -> None:
    root = tmp_path / "e"
    writing = root / ".writing"
    half = 0

    def is_writing() -> bool:
        return writing.is_dir() and any(writing.iterdir())

    for life in range(4):
        before = len(kept_folders(root))
        command = [sys.executable, "-c", CRASHER, str(tmp_path), str(life * 1000)]
        child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        try:  # it writes at the lowest priority: on a busy machine that takes its time
            eventually(lambda before=before: len(kept_folders(root)) >= before + 2, 60, what="two more pieces")
            eventually(is_writing, 60, what="one that is being written")
            time.sleep(0.004 * life)  # another instant of the writing in each life
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(10)
        half += len(list(writing.iterdir()))
    assert half >= 1, "a life ended in the middle of a piece"
    opened = deliveries.journal(tmp_path)
    running = worker(root, opened)
    running.start()
    assert {piece.path.parent.name for piece in pieces(root)} == {"gate"}, "what is half written is no piece"
    eventually(lambda: running.status()["unfinished"], what="the half piece of the last life is found")
    eventually(lambda: not list((root / ".untold").iterdir()), what="every piece is told of")
    running.stop(1)
    opened.stop()
    assert not list((root / ".writing").iterdir())
    told = {note["decision"]: note for note in notes(tmp_path) if note["state"] == "kept"}
    whole = [read(folder) for folder in kept_folders(root)]
    assert {kept.id for kept in whole} == set(told), "what is there is told of, and what is told of is there"
    assert [line for kept in whole for line in faults(kept, told[kept.id])] == []
    ids = [(note["decision"], note["id"]) for note in notes(tmp_path) if note["state"] == "kept"]
    assert len(set(ids)) == len(told), "told twice only with the same id"


# --- faces


def face_picture(number: int) -> np.ndarray:
    """Noise is the face: it keeps its pixels or it does not."""
    image = np.full((64, 64, 3), 90, np.uint8)
    image[8:24, 8:24] = noise(number, 16, 16)
    return image


def test_where_faces_are_blurred_no_unblurred_pixel_is_on_the_disk(tmp_path: Path, eventually: Eventually) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened, of=about(hide=blur_boxes, face_labels=("face",)))
    running.start()
    frames = [entry(number, FACE, image=face_picture(number)) for number in range(4)]
    frames[2] = entry(2, image=face_picture(2))  # the model missed it once
    write(running, job(1, *frames), eventually=eventually)
    running.stop(1)
    opened.stop()
    (folder,) = kept_folders(tmp_path / "e")
    assert sorted(path.suffix for path in folder.iterdir()) == [".jpg"] * 5 + [".json"]
    for path in folder.glob("*.jpg"):
        stored = cv2.imread(str(path))
        assert stored is not None
        for number in range(4):
            alike = np.corrcoef(stored[8:24, 8:24].ravel(), face_picture(number)[8:24, 8:24].ravel())[0, 1]
            assert abs(alike) < 0.4, f"{path.name} shows the face of frame {number}"
    told = read(folder).told
    assert told["faces"] == "blurred"
    assert [frame["file"] for frame in told["frames"]] == [None] * 4


def test_where_no_face_can_be_found_no_picture_is_kept(tmp_path: Path, eventually: Eventually) -> None:
    opened = deliveries.journal(tmp_path)
    running = worker(tmp_path / "e", opened, of=about(hide=blur_boxes))
    running.start()
    write(running, job(1, entry(1)), eventually=eventually)
    running.stop(1)
    opened.stop()
    (folder,) = kept_folders(tmp_path / "e")
    assert [path.name for path in folder.iterdir()] == ["evidence.json"]


def test_unblurred_frames_are_sealed_and_only_the_private_key_opens_them(
    tmp_path: Path, eventually: Eventually
) -> None:
    private, public = new_pair()
    other, _ = new_pair()
    for name, key in (("box.pub", public), ("me.key", private), ("other.key", other)):
        (tmp_path / name).write_text(key + "\n")
    opened = deliveries.journal(tmp_path)
    seal = Seal(tmp_path / "box.pub")
    running = worker(tmp_path / "e", opened, of=about(hide=blur_boxes, face_labels=("face",)), seal=seal)
    running.start()
    frames = [entry(number, FACE, image=face_picture(number)) for number in range(2)]
    write(running, job(1, *frames), eventually=eventually)
    running.stop(1)
    opened.stop()
    (folder,) = kept_folders(tmp_path / "e")
    assert {path.name for path in folder.glob("*.sealed")} == {"00000000.png.sealed", "00000001.png.sealed"}
    assert not list(folder.glob("*.png"))
    sealed = (folder / "00000001.png.sealed").read_bytes()
    assert cv2.imdecode(np.frombuffer(sealed, np.uint8), cv2.IMREAD_COLOR) is None
    packed = Opener(tmp_path / "me.key").open(sealed, "x")
    assert np.array_equal(cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR), face_picture(1))
    with pytest.raises(ConfigError, match="sealed for another key"):
        Opener(tmp_path / "other.key").open(sealed, "x")
    with pytest.raises(ConfigError, match="or changed"):
        Opener(tmp_path / "me.key").open(sealed[:-1] + b"x", "x")


@pytest.mark.parametrize(("text", "said"), [("", "0 bytes"), ("AAAA", "3 bytes"), ("not a key!", "is no key")])
def test_a_file_that_is_no_key_is_an_error_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match=said):
        Seal(tmp_path / "key")
    with pytest.raises(ConfigError, match="cannot be read"):
        Seal(tmp_path / "none")


@pytest.mark.parametrize(
    "table",
    [
        {"accept_share": 1.5},
        {"keep_unblurred": True},
        {"public_key": "k"},
        {"cap_mb": 0},
        {"min_free_percent": 101},
        {"ring": 1},
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(Unfit):
        checked(EvidenceConfig, table)
