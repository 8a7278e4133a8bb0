"""The power is cut at random instants of a recorded run: what was published is in the journal that opens afterwards."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest

from broker import mosquitto

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from chaos import powercut
from chaos.powercut import OPEN, RENAME, SYNC, SYNC_FOLDER, TRUNCATE, UNLINK, WRITE, Disk, Op, Recorded

CUTS = 50
pytestmark = pytest.mark.timeout(300)


def recorded(folder: Path, fault: str, seed: int, durable: bool = True) -> Recorded:
    mosquitto()
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("recording what reaches the disk needs a C compiler: apt install gcc libc6-dev")
    return powercut.record(folder / "run", fault, seed, durable, seconds=0.7)


def test_after_a_power_cut_every_published_record_is_there_and_no_seq_is_used_twice(tmp_path: Path) -> None:
    seed = random.randrange(1 << 20)
    run = recorded(tmp_path, "checkpoints", seed)
    cuts = powercut.cut_often(run, tmp_path / "after", CUTS, seed)
    assert cuts.wrong == [], f"seed {seed}"
    assert (cuts.cuts, cuts.missing, cuts.reused, cuts.set_aside) == (CUTS, 0, 0, 0)
    assert cuts.published > CUTS * 10, "hardly anything was published before the cuts"
    synced = {op.file for op in run.ops if op.op == SYNC}
    written = {op.path for op in run.ops if op.op == OPEN and op.file in synced}
    assert {name.rpartition(".")[2] for name in written} >= {"db", "db-wal"}, "log and database were both synced"


def test_the_power_cut_finds_a_store_that_does_not_sync(tmp_path: Path) -> None:
    cuts = powercut.cut_often(recorded(tmp_path, "synchronous-off", 5), tmp_path / "after", 20, 5)
    assert cuts.missing > 0, "synchronous = OFF lost nothing: the cuts are too tame to prove anything"
    assert any("published records are not there" in words for words in cuts.wrong)


def test_without_durable_a_power_cut_may_lose_but_never_reuses_a_seq_and_says_which_epoch_was_before(
    tmp_path: Path,
) -> None:
    seed = random.randrange(1 << 20)
    cuts = powercut.cut_often(recorded(tmp_path, "checkpoints", seed, durable=False), tmp_path / "after", 30, seed)
    assert cuts.wrong == [], f"seed {seed}"
    assert (cuts.reused, cuts.not_told) == (0, 0)


# --- the disk itself --------------------------------------------------------------------------------------------------

FOLDER = "/state"


def ops(*steps: tuple[int, int, int, str, bytes, int]) -> list[Op]:
    """Operations at places 0, 100, 200 ... of a record."""
    return [Op(100 * at, *step) for at, step in enumerate(steps)]


def made(inode: int, name: str) -> tuple[int, int, int, str, bytes, int]:
    return (OPEN, inode, 0, f"{FOLDER}/{name}", b"", 0)


def after(steps: list[Op], keep: powercut.Keep, seed: int = 1) -> dict[str, bytes]:
    disk = Disk(Path(FOLDER))
    for op in steps:
        disk.do(op)
    return {Path(name).name: content for name, content in disk.after_cut(keep, random.Random(seed)).items()}


def sync(inode: int, before: int) -> tuple[int, int, int, str, bytes, int]:
    return (SYNC, inode, before, "", b"", 0)


def test_what_was_synced_is_kept_and_what_was_not_may_go() -> None:
    steps = ops(
        made(1, "a"),
        (WRITE, 1, 0, "", b"sure", 4),
        sync(1, 200),
        (SYNC_FOLDER, 9, 300, "", b"", 0),
        (WRITE, 1, 4, "", b"!", 1),
    )
    assert after(steps, "nothing") == {"a": b"sure"}
    assert after(steps, "everything") == {"a": b"sure!"}


def test_a_write_that_came_while_a_sync_was_under_way_is_not_sure() -> None:
    steps = ops(made(1, "a"), (WRITE, 1, 0, "", b"one", 3), (WRITE, 1, 3, "", b"two", 3), sync(1, 200))
    steps.append(Op(400, SYNC_FOLDER, 9, 400, "", b"", 0))
    assert after(steps, "nothing") == {"a": b"one"}


def test_a_name_is_sure_only_when_its_folder_was_synced() -> None:
    steps = ops(made(1, "a"), (WRITE, 1, 0, "", b"x", 1), sync(1, 200))
    assert after(steps, "nothing") == {}
    assert after(steps, "everything") == {"a": b"x"}


def test_names_change_in_their_order() -> None:
    steps = ops(
        made(1, "new"),
        (WRITE, 1, 0, "", b"x", 1),
        (RENAME, 0, 0, f"{FOLDER}/new", f"{FOLDER}/a".encode(), 0),
        made(2, "b"),
        (UNLINK, 0, 0, f"{FOLDER}/b", b"", 0),
    )
    seen = {tuple(sorted(after(steps, "some", seed))) for seed in range(60)}
    assert seen == {(), ("new",), ("a",), ("a", "b")}


def test_sectors_of_one_write_are_torn_and_later_writes_may_be_there_without_earlier_ones() -> None:
    steps = ops(
        made(1, "a"),
        (WRITE, 1, 0, "", b"." * 2048, 2048),
        sync(1, 200),
        (SYNC_FOLDER, 9, 300, "", b"", 0),
        (WRITE, 1, 0, "", b"A" * 1024, 1024),
        (WRITE, 1, 1024, "", b"B" * 1024, 1024),
    )
    seen = {after(steps, "some", seed)["a"] for seed in range(200)}
    assert b"." * 1024 + b"B" * 1024 in seen, "the later one alone"
    assert any(content[:512] != content[512:1024] for content in seen), "torn"
    assert all(len(set(content[at : at + 512])) == 1 for content in seen for at in range(0, 2048, 512))


def test_a_file_that_shrank_and_was_not_synced_has_either_length() -> None:
    steps = ops(
        made(1, "a"),
        (WRITE, 1, 0, "", b"long", 4),
        sync(1, 200),
        (SYNC_FOLDER, 9, 300, "", b"", 0),
        (TRUNCATE, 1, 0, "", b"", 0),
    )
    assert {after(steps, "some", seed)["a"] for seed in range(20)} == {b"long", b""}


def test_a_write_through_a_mapping_is_refused_because_it_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="cannot be followed"):
        after(ops(made(1, "journal.db"), (powercut.MAP, 1, 0, "", b"", 0)), "nothing")
    assert after(ops(made(1, "journal.db-shm"), (powercut.MAP, 1, 0, "", b"", 0)), "everything") == {}


def test_a_record_that_was_damaged_is_refused_and_one_that_a_kill_cut_off_is_read_to_there(tmp_path: Path) -> None:
    head = powercut._HEAD.pack(powercut._MAGIC, WRITE, 1, 0, 3, 0, 3, 0)
    file = tmp_path / "record"
    file.write_bytes(head + b"abc" + head + b"a")
    assert [op.data for op in powercut.read(file)] == [b"abc"]
    file.write_bytes(head + b"abcd" + head)
    with pytest.raises(ValueError, match="no record at byte"):
        list(powercut.read(file))
