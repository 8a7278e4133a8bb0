"""The ledger: whatever is changed in a journal by hand is found, and a journal that nobody touched never alarms."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import journal_v2
from deliveries import SteppedClock, decision, journal
from ledgers import by_hand, copy, look, prune, rechain, records, signed_journal, writing
from lineside.cli import main
from lineside.deliver.chain import SpanSet, canonical
from lineside.deliver.identity import device_key, is_signed, key_id, public_key, written
from lineside.deliver.ledger import document_hash, is_signed_by
from lineside.deliver.verify import verify
from lineside.errors import ConfigError, DeviceError
from tampering import TAMPERING, Tamper, add_a_trigger, cut_the_end, prune_in_secret, rewrite_with_a_chain_that_fits

Eventually = Callable[..., None]


def checkpoints(folder: Path) -> list[dict[str, Any]]:
    with by_hand(folder) as db:
        return [json.loads(row[0]) for row in db.execute("SELECT document FROM checkpoint ORDER BY number")]


# --- the key


def test_the_device_key_is_made_once_for_its_owner_only_and_signs(tmp_path: Path) -> None:
    key = device_key(tmp_path / "identity")
    path = tmp_path / "identity" / "device.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert device_key(tmp_path / "identity") == key
    signature = key.sign(b"message")
    assert is_signed(b"message", signature, key.public)
    assert not is_signed(b"Message", signature, key.public)
    assert not is_signed(b"message", signature[:-1] + bytes([signature[-1] ^ 1]), key.public)
    assert not is_signed(b"message", b"", key.public)
    assert public_key(str(path.with_name("device.pub"))) == public_key(written(key.public)) == key.public
    assert sorted(file.name for file in path.parent.iterdir()) == ["device.key", "device.pub"]


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    program = "import sys, pathlib; from lineside.deliver.identity import device_key\n"
    program += "sys.stdin.read(1); print(device_key(pathlib.Path(sys.argv[1])).id)"
    command = [sys.executable, "-c", program, str(tmp_path / "identity")]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("g")
        process.stdin.flush()
    ids = {process.communicate(timeout=30)[0] for process in started}
    assert ids == {device_key(tmp_path / "identity").id + "\n"}


def test_a_key_that_others_may_read_is_closed_again(tmp_path: Path) -> None:
    key = device_key(tmp_path)
    (tmp_path / "device.key").chmod(0o644)
    assert device_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit of the seed": lambda path: flip(path, 30),
    "an empty file": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(os.urandom(200)),
    "a cut file": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_line_goes_on_without_checkpoints_where_the_key_is_damaged(tmp_path: Path, damage: str) -> None:
    device_key(tmp_path / "identity")
    DAMAGE[damage](tmp_path / "identity" / "device.key")
    with pytest.raises(DeviceError, match=r"device\.key"):
        device_key(tmp_path / "identity")
    with writing(tmp_path) as opened:
        opened.put(decision(1))
        assert opened.seal(10)
        state: Any = opened.status()["ledger"]
        assert (state["made"], state["missed"], state["key"]) == (0, 1, None)
        assert "device.key" in state["last_error"]
        assert opened.documents() == {}
        assert opened.last_seq() == {"gate": 1}


@pytest.mark.parametrize("text", ["", "x", "aGVsbG8=", "/no/such/file", "A" * 43, "ü" * 44])
def test_what_is_no_public_key_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="public key"):
        public_key(text)


# --- checkpoints


def test_a_checkpoint_covers_the_rows_and_names_the_one_before(tmp_path: Path) -> None:
    with writing(tmp_path) as opened:
        for number in range(4):
            opened.put(decision(number))
        assert opened.seal(10)
        first = json.loads(opened.documents()["checkpoint"])
        assert opened.seal(10)
        assert json.loads(opened.documents()["checkpoint"]) == first, "nothing was added"
        opened.put(decision(9, "door"))
        assert opened.seal(10)
        second = json.loads(opened.documents()["checkpoint"])
    key = device_key(tmp_path / "identity")
    assert (first["number"], first["row"], first["last_seq"], first["previous"]) == (1, 4, {"gate": 4}, None)
    assert (second["number"], second["row"], second["last_seq"]) == (2, 5, {"gate": 4, "door": 1})
    assert second["previous"] == document_hash(first)
    assert second["key"] == key.id == key_id(key.public)
    assert is_signed_by(second, key.public)
    assert is_signed_by(dict(reversed(second.items())), key.public), "whatever the order of the fields"
    assert not is_signed_by({**second, "row": 6}, key.public)
    assert not is_signed_by({**second, "signature": "?"}, key.public)
    assert checkpoints(tmp_path) == [first, second]


def test_a_checkpoint_is_made_by_itself_and_at_a_clean_stop(tmp_path: Path, eventually: Eventually) -> None:
    opened = signed_journal(tmp_path, every_s=1.0)
    opened.put(decision(1))
    eventually(lambda: opened.documents(), what="the first checkpoint")
    opened.put(decision(2))
    opened.stop(10)
    assert [each["row"] for each in checkpoints(tmp_path)] == [1, 2]
    with writing(tmp_path) as again:
        assert again.flush(10)
        kept = json.loads(again.documents()["checkpoint"])
        assert kept["row"] == 2, "the newest is there from the start, to be published"
    assert [each["run"] for each in checkpoints(tmp_path)] == [1, 1, 2], "that the daemon ran is signed too"


def test_decisions_carry_what_the_chain_is_to_prove(tmp_path: Path) -> None:
    with writing(tmp_path) as opened:
        opened.put(decision(1, recipe="sha256:" + "7" * 64))
    with by_hand(tmp_path) as db:
        (body,) = db.execute("SELECT body FROM row").fetchone()
        for words in ("sha256:" + "7" * 64, "sha256:" + "ab" * 32):
            assert words.encode() in body
        db.execute("UPDATE row SET body = replace(CAST(body AS TEXT), 'sha256:7', 'sha256:8')")
        db.execute("UPDATE row SET body = CAST(body AS BLOB)")
    assert not look(tmp_path).is_clean


# --- a store that nobody touched never alarms


def test_a_store_is_clean_through_restarts_crashes_and_new_epochs(tmp_path: Path) -> None:
    number = 0
    for boot, durable in [("one", False), ("one", True), ("two", True), ("two", False), ("three", False)]:
        opened = signed_journal(tmp_path, boot=boot, durable=durable)
        for record in records(number, 20):
            opened.put(record)
        number += 20
        assert opened.seal(10)
        opened.stop(10)
    lost = tmp_path / "crashed"
    opened = signed_journal(tmp_path, boot="four", durable=False)
    for record in records(number, 20):
        opened.put(record)
    assert opened.flush(10)
    assert look(tmp_path).is_clean, "beside the daemon"
    shutil.copytree(tmp_path, lost)  # as it is while the journal still runs
    epoch = opened.epoch
    opened.stop(10)
    assert look(tmp_path).is_clean
    with writing(lost, boot="five") as after:
        after.put(decision(1))
        assert after.flush(10)
        assert after.epoch != epoch, "without fsync a power cut begins a new epoch"
    report = look(lost)
    assert report.is_clean, report.faults
    assert len(report.epochs) == 2
    assert report.signed_row == report.last_row == 121


ACTIONS = ("put", "put", "put", "seal", "restart", "reboot", "prune", "prune waiting")
actions = st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=14)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions, st.randoms(use_true_random=False))
def test_whatever_a_daemon_does_the_store_is_clean(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("clean")
    boot, number = 1, 0
    kept: list[str] = []
    opened = signed_journal(folder, boot="1")
    for step in steps:
        if step == "put":
            for record in records(number, chance.randrange(1, 40)):
                opened.put(record)
                number += 1
        elif step == "seal":
            assert opened.seal(10)
            kept += [document.decode() for document in opened.documents().values()]
        elif step.startswith("prune") and opened.flush(10) and opened.last_id > 60:
            ends = [sorted(chance.choices(range(1, opened.last_id + 1), k=2)) for _ in range(3)]
            prune(opened, [(first, last) for first, last in ends if step == "prune"], chance.uniform(0.7, 0.97))
        elif step in ("restart", "reboot"):
            opened.stop(10)
            boot += step == "reboot"
            opened = signed_journal(folder, boot=str(boot))
    assert opened.flush(10)
    beside = look(folder, against=kept)
    assert beside.is_clean, beside.faults
    opened.stop(10)
    report = look(folder, against=kept)
    assert report.is_clean, report.faults
    shutil.rmtree(folder)


def test_verifying_beside_a_daemon_that_writes_and_prunes_never_alarms(tmp_path: Path) -> None:
    opened = signed_journal(tmp_path, every_s=1.0)
    cursor = opened.cursor("mqtt")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            for record in records(number, 50):
                opened.put(record)
            number += 50
            assert opened.flush(10)
            cursor.refresh()
            for row_id in range(max(opened.last_id - 300, 1), opened.last_id + 1):
                cursor.deliver(row_id)
            opened._cap_bytes = 400_000
        cursor.close()

    assert opened.flush(10)
    writer = threading.Thread(target=write)
    writer.start()
    reports = []
    while len(reports) < 12 or not opened.status()["pruned"]:
        reports.append(look(tmp_path))
        assert len(reports) < 400
    stop.set()
    writer.join()
    opened.stop(10)
    assert [report.faults for report in reports if not report.is_clean] == []
    assert look(tmp_path).is_clean


@pytest.mark.parametrize("step_s", [365 * 86400, -365 * 86400])
def test_a_clock_that_jumps_a_year_breaks_neither_chain_nor_pruning(tmp_path: Path, step_s: int) -> None:
    clock = SteppedClock()
    with writing(tmp_path, clock=clock) as opened:
        for step in (0, step_s, 0, step_s):
            clock.step_s = step
            for record in records(0, 40):
                opened.put(record)
            assert opened.seal(10)
        prune(opened, [(1, 100)], 0.7)
    clock.step_s = 0
    with writing(tmp_path, clock=clock) as opened:
        opened.put(decision(1))
    report = look(tmp_path)
    assert report.is_clean, report.faults
    assert report.pruned > 30
    rows = [each["row"] for each in checkpoints(tmp_path)]
    assert rows == sorted(rows)
    assert len({each["at"][:4] for each in checkpoints(tmp_path)}) == 2


def test_verifying_takes_no_more_memory_for_more_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (3000, 12000):
        folder = tmp_path / str(rows)
        with writing(folder) as opened:
            for number in range(rows):
                opened.put(decision(number))
        assert look(folder).is_clean
        tracemalloc.start()
        assert look(folder).rows == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000, peaks


def test_verifying_changes_nothing(tmp_path: Path) -> None:
    with writing(tmp_path) as opened:
        opened.put(decision(1))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert look(tmp_path).is_clean
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert after == before


# --- whatever is changed by hand is found


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of three epochs, pruned here and there, all of it signed; in one file."""
    folder = tmp_path_factory.mktemp("honest") / "box"
    for boot in ("1", "1", "2"):
        with writing(folder, boot=boot) as opened:
            for record in records(0, 40):
                opened.put(record)
            assert opened.seal(10)
            for record in records(40, 10):
                opened.put(record)
            assert opened.seal(10)
    opened = signed_journal(folder, boot="2")
    prune(opened, [(1, 30), (60, 75)], 0.8)
    for record in records(50, 10):
        opened.put(record)
    assert opened.seal(10)
    opened.stop(10)
    return copy(folder, folder.with_name("copy"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another box's store."""
    folder = tmp_path_factory.mktemp("other") / "box"
    with writing(folder) as opened:
        for record in records(3, 120):
            opened.put(record)
    return copy(folder, folder.with_name("copy"))


def contents(folder: Path) -> list[Any]:
    """All that a store says, but what the next start works out again."""
    tables = ("run", "row", "pruned", "pruning", "checkpoint", "station")
    with by_hand(folder) as db:
        return [db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(TAMPERING), st.randoms(use_true_random=False))
def test_whatever_somebody_does_to_a_signed_store_is_found(
    honest: Path, tmp_path_factory: pytest.TempPathFactory, tamper: Tamper, chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("tampered") / "box"
    shutil.copytree(honest, folder)
    try:
        before = contents(folder)
        try:
            with by_hand(folder) as db:
                tamper(db, chance)
        except sqlite3.IntegrityError:
            return  # SQLite itself would not have it
        if contents(folder) != before or tamper is add_a_trigger:
            assert not look(folder).is_clean, tamper.__name__
    finally:
        shutil.rmtree(folder.parent)


def test_the_store_of_the_tampering_tests_is_clean(honest: Path, other: Path) -> None:
    assert look(honest).faults == []
    assert look(other).faults == []
    assert look(honest).pruned > 40
    assert len(TAMPERING) >= 20


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_changed_byte_anywhere_in_the_file_is_found_or_changes_nothing(
    honest: Path, tmp_path_factory: pytest.TempPathFactory, chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("byte") / "box"
    shutil.copytree(honest, folder)
    path = folder / "journal.db"
    at = chance.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))
    try:
        is_clean = look(folder).is_clean
    except ConfigError:
        is_clean = False  # no longer a journal at all
    if is_clean:
        assert contents(folder) == contents(honest), f"byte {at}"
    shutil.rmtree(folder.parent)


def test_rows_of_another_box_are_found(honest: Path, other: Path, tmp_path: Path) -> None:
    folder = copy(honest, tmp_path / "box")
    with by_hand(folder) as db:
        db.execute("ATTACH ? AS other", (str(other / "journal.db"),))
        db.execute("INSERT OR REPLACE INTO row SELECT * FROM other.row WHERE id BETWEEN 80 AND 85")
    assert not look(folder).is_clean


# --- what only checkpoints from outside show


def lines(folder: Path) -> list[str]:
    return [json.dumps(each) for each in checkpoints(folder)]


def test_a_cut_tail_shows_only_against_a_checkpoint_from_outside(tmp_path: Path) -> None:
    with writing(tmp_path / "box") as opened:
        for number in range(1, 31):
            opened.put(decision(number))
            if number % 10 == 0:
                assert opened.seal(10)
    kept = lines(tmp_path / "box")
    cut = copy(tmp_path / "box", tmp_path / "cut")
    with by_hand(cut) as db:
        db.execute("DELETE FROM row WHERE id > 20")
        db.execute("DELETE FROM checkpoint WHERE number > 2")
        db.execute("UPDATE station SET last_seq = 20")
    (cut / "journal.db.epoch.json").unlink()
    alone = look(cut)
    assert alone.is_clean
    assert any("--against" in note and "cut off" in note for note in alone.notes)
    against = look(cut, against=kept)
    assert not against.is_clean
    assert any("cut off" in fault for fault in against.faults)
    whole = look(tmp_path / "box", against=kept)
    assert whole.is_clean
    assert (whole.outside, whole.outside_row) == (3, 30)
    assert any("prove that rows up to 30" in note for note in whole.notes)
    older = look(cut, against=kept[:2])
    assert older.is_clean
    assert any("prove that rows up to 20" in note for note in older.notes)


def test_somebody_with_the_device_key_is_found_only_from_outside(tmp_path: Path) -> None:
    with writing(tmp_path / "box") as opened:
        for number in range(20):
            opened.put(decision(number, verdict="reject"))
        assert opened.seal(10)
    kept = lines(tmp_path / "box")
    forged = copy(tmp_path / "box", tmp_path / "forged")
    key = device_key(forged / "identity")
    with by_hand(forged) as db:
        db.execute('UPDATE row SET body = replace(CAST(body AS TEXT), \'"verdict":"reject"\', \'"verdict":"accept"\')')
        db.execute("UPDATE row SET body = CAST(body AS BLOB)")
        rechain(db)
        (newest,) = db.execute("SELECT chain FROM row ORDER BY id DESC LIMIT 1").fetchone()
        fields = {**json.loads(kept[0]), "chain": newest.hex()}
        del fields["signature"]
        fields["signature"] = base64.b64encode(key.sign(canonical(fields))).decode()
        db.execute("UPDATE checkpoint SET document = ?", (canonical(fields),))
    (forged / "journal.db.epoch.json").unlink()
    alone = look(forged)
    assert alone.is_clean
    assert any("device key" in note for note in alone.notes)
    faults = look(forged, against=kept).faults
    assert any("rewritten" in fault for fault in faults), faults
    assert any("forged" in fault for fault in faults), faults


def test_a_rewrite_after_the_newest_checkpoint_is_named_as_what_cannot_be_known(tmp_path: Path) -> None:
    with writing(tmp_path / "box") as opened:
        for number in range(10):
            opened.put(decision(number))
        assert opened.seal(10)
        for number in range(10, 15):
            opened.put(decision(number))
        assert opened.flush(10)
        shutil.copytree(tmp_path / "box", tmp_path / "crashed")
    report = look(tmp_path / "crashed")
    assert report.is_clean
    assert any(note.startswith("rows 11 to 15 came after the newest checkpoint") for note in report.notes)


def test_a_store_put_in_another_s_place_shows_against_checkpoints_from_outside(tmp_path: Path, other: Path) -> None:
    with writing(tmp_path / "box") as opened:
        opened.put(decision(1))
    kept = lines(tmp_path / "box")
    keys = [device_key(folder / "identity").public for folder in (other, tmp_path / "box")]
    report = verify(other / "journal.db", keys, kept)
    assert any("was replaced" in fault for fault in report.faults)


def test_a_forged_or_mangled_line_from_outside_is_named(tmp_path: Path) -> None:
    with writing(tmp_path) as opened:
        opened.put(decision(1))
    good = lines(tmp_path)[0]
    assert look(tmp_path, against=["", good, '{"kind": "status"}']).is_clean, (
        "a subscriber's other messages may be there"
    )
    for bad in ("{", "[]", '{"kind": "checkpoint"}', good.replace('"row": 1', '"row": 2'), good[:-9]):
        report = look(tmp_path, against=[good, bad])
        assert any("line 2 of the checkpoints" in fault for fault in report.faults), bad


def test_a_key_that_is_not_the_box_s_fits_nothing(tmp_path: Path) -> None:
    with writing(tmp_path / "box") as opened:
        opened.put(decision(1))
    stranger = device_key(tmp_path / "stranger").public
    assert not verify(tmp_path / "box" / "journal.db", [stranger]).is_clean
    with pytest.raises(ConfigError, match="--key"):
        verify(tmp_path / "box" / "journal.db", [])


# --- pruning


def kept(folder: Path) -> dict[int, list[int]]:
    """Ids of the rows that are left, by class."""
    with by_hand(folder) as db:
        rows = db.execute("SELECT keep, id FROM row ORDER BY id").fetchall()
    return {keep: [row_id for of, row_id in rows if of == keep] for keep in (0, 1, 2)}


def test_accepts_go_before_rejects_and_recipes_last_and_the_newest_are_spared(tmp_path: Path) -> None:
    opened = signed_journal(tmp_path)
    for record in records(0, 400):
        opened.put(record)
    assert opened.flush(10)
    full = kept(tmp_path)
    prune(opened, [(1, 400)], 0.7)
    some = kept(tmp_path)
    assert (some[1], some[2]) == (full[1], full[2]), "accepts and events first"
    assert some[0] == full[0][-len(some[0]) :], "oldest first"
    prune(opened, [(1, 400)], 0.5)
    fewer = kept(tmp_path)
    assert fewer[2] == full[2], "recipes last"
    assert fewer[1] == full[1][-len(fewer[1]) :]
    left = sum(map(len, fewer.values()))
    assert len(fewer[1]) < len(full[1])
    assert [row for row in fewer[0] if row > 400 - left // 4] == [row for row in full[0] if row > 400 - left // 4]
    opened.stop(10)
    report = look(tmp_path)
    assert report.is_clean, report.faults


def test_delivered_rows_go_before_any_that_waits_whatever_they_are(tmp_path: Path) -> None:
    opened = signed_journal(tmp_path)
    for record in records(0, 300):
        opened.put(record)
    prune(opened, [(100, 300)], 0.5)
    with by_hand(tmp_path) as db:
        assert db.execute("SELECT count(*) FROM row WHERE id < 100").fetchone() == (99,)
        assert db.execute("SELECT count(*) FROM row WHERE kind = 'gap'").fetchone() == (0,)
    prune(opened, [], 0.75)
    opened.stop(10)
    with by_hand(tmp_path) as db:
        gaps = [json.loads(row[0]) for row in db.execute("SELECT body FROM row WHERE kind = 'gap'")]
    newest = checkpoints(tmp_path)[-1]["pruned"]
    assert sum(gap["lost"] for gap in gaps) == newest["undelivered"] > 0
    report = look(tmp_path)
    assert report.is_clean, report.faults
    counts = [int(str(opened.status()[name])) for name in ("pruned", "pruned_undelivered")]
    assert report.pruned == newest["rows"] == sum(counts)
    assert report.pruned_undelivered == counts[1]


def test_no_row_is_pruned_but_behind_a_signed_checkpoint(tmp_path: Path) -> None:
    opened = signed_journal(tmp_path)
    for record in records(0, 200):
        opened.put(record)
    prune(opened, [(1, 150)], 0.7)
    signed = json.loads(opened.documents()["checkpoint"])
    opened.stop(10)
    with by_hand(tmp_path) as db:
        first, rows = db.execute("SELECT min(id), count(*) FROM row").fetchone()
    assert signed["row"] == 200
    assert signed["pruned"]["rows"] == 200 - rows
    assert signed["pruned"]["through"] == first - 1
    assert look(tmp_path).is_clean


def test_without_a_key_a_full_store_is_pruned_all_the_same_and_that_shows(tmp_path: Path) -> None:
    device_key(tmp_path / "identity")
    good = (tmp_path / "identity" / "device.key").read_bytes()
    (tmp_path / "identity" / "device.key").write_bytes(b"broken")
    opened = signed_journal(tmp_path)
    for record in records(0, 200):
        opened.put(record)
    prune(opened, [(1, 150)], 0.6)
    assert opened.status()["pruned"] != 0
    state: Any = opened.status()["ledger"]
    assert state["missed"] > 0
    opened.stop(10)
    keys = [public_key(str(tmp_path / "identity" / "device.pub"))]
    report = verify(tmp_path / "journal.db", keys)
    assert any("no checkpoint signs that" in fault for fault in report.faults)
    (tmp_path / "identity" / "device.key").write_bytes(good)
    with writing(tmp_path) as again:
        again.put(decision(1))
        assert again.seal(10)
        assert "pruned rows" in json.loads(again.documents()["checkpoint"])["doubt"]
    assert any("the box itself found" in fault for fault in look(tmp_path).faults), "a later checkpoint hides nothing"


@pytest.mark.parametrize("tamper", [prune_in_secret, rewrite_with_a_chain_that_fits, cut_the_end])
def test_a_daemon_that_starts_on_a_tampered_store_does_not_sign_it_as_good(
    honest: Path, tmp_path: Path, tamper: Tamper
) -> None:
    folder = copy(honest, tmp_path / "box")
    with by_hand(folder) as db:
        tamper(db, random.Random(5))
    with writing(folder, boot="2") as opened:
        opened.put(decision(1))
        assert opened.seal(10)
        assert json.loads(opened.documents()["checkpoint"])["doubt"]
    assert not look(folder).is_clean


def test_a_row_before_pruned_ones_cannot_be_rewritten_with_a_chain_that_fits(honest: Path, tmp_path: Path) -> None:
    """No checkpoint stands between that row and the hole behind it: the hole itself says what comes before."""
    folder = copy(honest, tmp_path / "box")
    with by_hand(folder) as db:
        (row,) = db.execute("SELECT max(id) FROM row WHERE id < (SELECT max(first) FROM pruned)").fetchone()
        db.execute("UPDATE row SET body = CAST(body || ' ' AS BLOB) WHERE id = ?", (row,))
        rechain(db)
    assert any("before the pruned rows" in fault for fault in look(folder).faults)


def test_spans_are_a_set_whatever_the_order() -> None:
    one, two = SpanSet(), SpanSet()
    members = [(1, 5, None, b"a"), (7, 9, b"a", None), (11, 11, b"b", b"c")]
    for member in members:
        one.add(*member)
    for member in reversed(members):
        two.add(*member)
    assert bytes(one) == bytes(two)
    assert one.digest() == two.digest()
    two.discard(7, 9, b"a", None)
    assert bytes(one) != bytes(two)
    two.add(7, 9, b"", b"a")
    assert bytes(one) != bytes(two)
    two.discard(7, 9, b"", b"a")
    two.add(7, 9, b"a", None)
    assert SpanSet(bytes(two)).digest() == one.digest()


# --- lost stores and other versions


def test_a_store_that_is_set_aside_leaves_its_last_checkpoint_to_the_next_epoch(tmp_path: Path) -> None:
    with writing(tmp_path) as first:
        for number in range(5):
            first.put(decision(number))
        assert first.flush(10)
        epoch = first.epoch
    last = checkpoints(tmp_path)[-1]
    kept = lines(tmp_path)
    (tmp_path / "journal.db").write_bytes(b"not a database " * 400)
    with writing(tmp_path) as second:
        second.put(decision(6))
        assert second.seal(10)
        assert second.previous() == {"epoch": epoch, "last_seq": {"gate": 5}, "checkpoint": document_hash(last)}
        fresh = json.loads(second.documents()["checkpoint"])
    assert (fresh["number"], fresh["previous"]) == (last["number"] + 1, document_hash(last))
    report = look(tmp_path, against=kept)
    assert report.is_clean, report.faults
    assert any(f"epoch {epoch}" in note and "set aside" in note for note in report.notes)
    with by_hand(tmp_path) as db:
        db.execute("UPDATE run SET previous = NULL")
    assert not look(tmp_path, against=kept).is_clean


def test_a_version_2_store_is_taken_over_and_its_rows_are_reported(tmp_path: Path) -> None:
    journal_v2.run(tmp_path / "journal.db", [b'{"n":%d}' % number for number in range(10)], prune=[])
    journal_v2.run(tmp_path / "journal.db", [], prune=range(1, 4))
    with writing(tmp_path) as opened:
        opened.put(decision(1))
        assert opened.seal(10)
        assert opened.last_seq() == {"gate": 11}
    report = look(tmp_path)
    assert report.is_clean, report.faults
    assert report.unchained == 7
    assert any("rows 4 to 10 have no place in the chain" in note for note in report.notes)
    assert any("begins the chain anew" in note for note in report.notes)
    with by_hand(tmp_path) as db:
        db.execute("UPDATE row SET body = x'7b7d' WHERE id = 11")
    assert not look(tmp_path).is_clean, "what came after is proved"


def test_version_2_reads_and_writes_a_version_3_store(tmp_path: Path) -> None:
    with writing(tmp_path) as opened:
        for number in range(5):
            opened.put(decision(number))
    assert journal_v2.run(tmp_path / "journal.db", [b'{"n":1}', b'{"n":2}']) == [1, 2, 3, 4, 5, 6, 7]
    between = look(tmp_path)
    assert any("--allow-unchained" in fault for fault in between.faults)
    with writing(tmp_path) as again:
        again.put(decision(9))
        assert again.seal(10)
        assert again.last_seq() == {"gate": 8}
    assert not look(tmp_path).is_clean, "it could be somebody who put rows in"
    report = look(tmp_path, allow_unchained=True)
    assert report.is_clean, report.faults
    assert report.unchained == 2
    journal_v2.run(tmp_path / "journal.db", prune=[1, 2])
    assert look(tmp_path, allow_unchained=True).is_clean
    assert not look(tmp_path).is_clean


def test_a_store_of_version_2_alone_proves_nothing_and_says_so(tmp_path: Path) -> None:
    journal_v2.run(tmp_path / "journal.db", [b"{}"])
    report = verify(tmp_path / "journal.db", [])
    assert report.is_clean
    assert (report.rows, report.unchained) == (1, 1)
    assert any("nothing of it is proved" in note for note in report.notes)


def test_a_journal_without_a_ledger_is_chained_all_the_same(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    opened.put(decision(1))
    opened.stop()
    report = verify(tmp_path / "journal.db", [])
    assert report.is_clean
    assert any("no checkpoint was signed yet" in note for note in report.notes)


# --- the command


def test_the_command_says_clean_tampered_or_that_it_cannot_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with writing(tmp_path) as opened:
        for number in range(5):
            opened.put(decision(number))
    path = str(tmp_path / "journal.db")
    assert main(["ledger", "verify", "--journal", path]) == 0
    assert "clean" in capsys.readouterr().out
    assert main(["ledger", "key", "--journal", path]) == 0
    text, name = capsys.readouterr().out.split()
    assert (public_key(text), name) == (device_key(tmp_path / "identity").public, device_key(tmp_path / "identity").id)
    assert main(["ledger", "checkpoints", "--journal", path]) == 0
    kept = tmp_path / "kept.jsonl"
    kept.write_text(capsys.readouterr().out)
    assert [json.loads(line) for line in kept.read_text().splitlines()] == checkpoints(tmp_path)
    with by_hand(tmp_path) as db:
        db.execute("UPDATE row SET seq = 9 WHERE id = 3")
    assert main(["ledger", "verify", "--journal", path, "--key", text, "--against", str(kept), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["clean"], report["rows"], report["outside_row"]) == (False, 5, 5)
    assert any("row 3" in fault for fault in report["faults"])


UNUSABLE = (["--journal", "{}/none.db"], ["--journal", "{}/text"], ["--key", "x"], ["--against", "{}/no"])


@pytest.mark.parametrize("words", UNUSABLE)
def test_what_the_command_cannot_use_is_2_with_a_line_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with writing(tmp_path) as opened:
        opened.put(decision(1))
    (tmp_path / "text").write_text("no database at all" * 100)
    where = [] if words[0] == "--journal" else ["--journal", str(tmp_path / "journal.db")]
    assert main(["ledger", "verify", *where, *(word.format(tmp_path) for word in words)]) == 2
    assert capsys.readouterr().err.startswith("lineside: ")


def test_a_copy_on_read_only_media_can_be_verified(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with writing(tmp_path / "box") as opened:
        opened.put(decision(1))
    copied_box = copy(tmp_path / "box", tmp_path / "copy")
    mounted = subprocess.run(["mount", "--bind", str(copied_box), str(copied_box)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("bind mounts are not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(copied_box)], check=True)
        keys = [public_key(str(copied_box / "identity" / "device.pub"))]
        assert verify(copied_box / "journal.db", keys).is_clean
    finally:
        subprocess.run(["umount", str(copied_box)], check=True)
