"""The file of open parts: what stands in it is what is open, and whatever becomes of it a start can read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.deliver import openparts
from lineside.deliver.openparts import HEADER_BYTES, SLOT_BYTES, SLOTS, Left, Mark, OpenParts, Origin, parse, read

ORIGIN = Origin("gate", "20261121T030000Z-1f0a9c3e", "top", "boot-1")
SIZE_BYTES = HEADER_BYTES + SLOTS * SLOT_BYTES


@contextmanager
def kept(origin: Origin = ORIGIN) -> Iterator[tuple[OpenParts, Path]]:
    with TemporaryDirectory() as folder:
        book = OpenParts(origin)
        book.keep(Path(folder) / "open")
        (path,) = (Path(folder) / "open").iterdir()
        yield book, path


def adds_up(book: OpenParts) -> bool:
    count = {name: value for name, value in book.status().items() if isinstance(value, int)}
    return count["triggers"] == count["decisions"] + count["misses"] + count["in_doubt"] + count["open"]


steps = st.lists(st.tuples(st.sampled_from(["open", "decide", "commit", "miss", "doubt"]), st.integers(0, 30)))


@settings(max_examples=60, deadline=None)
@given(steps)
def test_a_killed_process_leaves_exactly_the_parts_that_are_open_or_not_yet_committed(
    taken: list[tuple[str, int]],
) -> None:
    """The file is read as another process would, after each step; nobody closes or flushes it."""
    with kept() as (book, path):
        marked: dict[str, Mark] = {}
        waiting: list[tuple[str, Callable[[], None]]] = []
        for time, (step, which) in enumerate(taken):
            undecided = [mark.id for mark in book.undecided()]
            if step == "open":
                mark = Mark(f"part-{time}", which, time, 10**18 + time)
                book.open(*mark)
                marked[mark.id] = mark
            elif step == "commit" and waiting:
                part_id, committed = waiting.pop(which % len(waiting))
                committed()
                del marked[part_id]
            elif undecided and step == "miss":
                part_id = undecided[which % len(undecided)]
                book.missed(part_id)
                del marked[part_id]
            elif undecided and step in ("decide", "doubt"):
                part_id = undecided[which % len(undecided)]
                committed = book.decided(part_id) if step == "decide" else book.doubted(part_id)
                assert committed is not None
                waiting.append((part_id, committed))
            left = read(path)
            assert left == Left(ORIGIN, tuple(marked.values()), 0, "")
            assert adds_up(book)
        book.leave()
        assert path.exists() == bool(marked)


def a_file(count: int) -> tuple[bytearray, list[Mark]]:
    marks = [Mark(f"part-{number}", number, number, 10**18 + number) for number in range(1, count + 1)]
    with kept() as (book, path):
        for mark in marks:
            book.open(*mark)
        return bytearray(path.read_bytes()), marks


FULL, MARKS = a_file(40)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, SIZE_BYTES - 1))
def test_a_file_that_was_cut_gives_what_is_left_of_it_and_says_so(length: int) -> None:
    left = parse(bytes(FULL[:length]), Origin("gate", "run"))
    assert set(left.marks) <= set(MARKS)
    assert left.fault
    assert left.unknown is None, "nobody can say how many"
    whole = max(0, min(40, (length - HEADER_BYTES) // SLOT_BYTES))
    assert len(left.marks) == whole


spots = st.integers(0, HEADER_BYTES + 41 * SLOT_BYTES) | st.integers(0, SIZE_BYTES - 1)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(spots, st.binary(min_size=1, max_size=300)), min_size=1, max_size=4))
def test_garbage_in_the_file_never_becomes_a_part_and_never_raises(damage: list[tuple[int, bytes]]) -> None:
    content = bytearray(FULL)
    for at, garbage in damage:
        garbage = garbage[: SIZE_BYTES - at]
        content[at : at + len(garbage)] = garbage
    left = parse(bytes(content), Origin("gate", "run"))
    assert set(left.marks) <= set(MARKS), "a mark that nobody made"
    harmed = {
        slot
        for slot in range(40)
        if content[HEADER_BYTES + slot * SLOT_BYTES :][:SLOT_BYTES]
        != FULL[HEADER_BYTES + slot * SLOT_BYTES :][:SLOT_BYTES]
    }
    if left.marks or not left.fault:
        assert {mark.number - 1 for mark in left.marks} >= set(range(40)) - harmed, "a sound mark is lost"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, SLOT_BYTES), st.booleans())
def test_a_torn_mark_is_no_part_and_a_torn_mark_that_counts_is_told(length: int, counts: bool) -> None:
    """Killed while it was written: the state comes last. Torn by a power cut: the sum does not fit."""
    content, slot = bytearray(FULL), HEADER_BYTES + 40 * SLOT_BYTES
    whole = bytes(FULL[HEADER_BYTES : HEADER_BYTES + SLOT_BYTES])
    content[slot + 1 : slot + length] = whole[1:length]
    content[slot] = 1 if counts else 0
    left = parse(bytes(content), Origin("gate", "run"))
    if not counts:
        assert (left.marks, left.unknown, left.fault) == (tuple(MARKS), 0, "")
    elif content[slot : slot + SLOT_BYTES] == whole:
        assert len(left.marks) == 41
    else:
        assert (left.marks, left.unknown, left.fault) == (tuple(MARKS), 1, "1 marks cannot be read")


@pytest.mark.parametrize("content", [b"", b"\0" * SIZE_BYTES, b"x" * SIZE_BYTES, os.urandom(SIZE_BYTES)])
def test_what_was_never_such_a_file_is_a_fault(content: bytes) -> None:
    left = parse(content, Origin("gate", "run"))
    assert (left.origin, left.marks, left.unknown) == (Origin("gate", "run"), (), None)
    assert left.fault


def test_a_format_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(openparts, "VERSION", 2)
        content, _ = a_file(3)
    left = parse(bytes(content), Origin("gate", "run"))
    assert "(2, 4096, 128), and this version reads (1, 4096, 128)" in left.fault


def test_more_parts_than_slots_are_counted_and_the_count_outlives_the_process() -> None:
    with kept() as (book, path):
        for number in range(SLOTS + 3):
            book.open(f"part-{number}", 0, number, 0)
        assert (len(read(path).marks), read(path).unknown, book.status()["unmarked"]) == (SLOTS, 3, 3)
        book.missed(f"part-{SLOTS + 1}")
        book.missed("part-7")
        assert (len(read(path).marks), read(path).unknown) == (SLOTS - 1, 2)
        book.open("again", 0, 9**9, 0)
        assert read(path).marks[-1].id == "again", "a slot that became free serves again"


def test_an_id_that_has_no_room_is_counted_and_not_cut() -> None:
    with kept() as (book, path):
        book.open("ä" * 33, 1, 1, 1)
        book.open("ä" * 32, 2, 2, 2)
        assert [mark.id for mark in read(path).marks] == ["ä" * 32]
        assert read(path).unknown == 1


def test_a_folder_that_refuses_is_no_reason_to_forget_and_what_is_open_moves_into_a_later_file(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.write_text("in the way")
    book = OpenParts(ORIGIN)
    with pytest.raises(OSError, match="open"):
        book.keep(folder)
    book.open("one", 1, 1, 1)
    book.open("two", 2, 2, 2)
    assert book.decided("one") is None, "nothing waits for a commit where nothing is kept"
    assert not book.is_kept
    folder.unlink()
    book.keep(folder)
    book.open("three", 3, 3, 3)
    (path,) = folder.iterdir()
    assert [mark.id for mark in read(path).marks] == ["two", "three"]
    book.sync()
    assert adds_up(book)


def test_a_full_disk_refuses_when_the_file_is_made_and_not_by_a_signal_later(tmp_path: Path) -> None:
    """A store into a mapped page for which the disk has no room kills the process."""
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {tmp_path} 2>/dev/null"):
        pytest.skip("no small file system can be mounted")
    try:
        book = OpenParts(ORIGIN)
        with pytest.raises(OSError, match="No space"):
            book.keep(tmp_path / "open")
        for number in range(SLOTS):
            book.open(f"part-{number}", 0, number, 0)
        assert not book.is_kept
    finally:
        os.system(f"umount -l {tmp_path}")


def test_a_part_that_was_never_opened_shows_in_the_counts() -> None:
    book = OpenParts()
    book.decided("never seen")
    assert not adds_up(book)


def test_a_file_is_copied_with_its_marks(tmp_path: Path) -> None:
    """What a box image or a backup takes along reads the same."""
    with kept() as (book, path):
        book.open("one", 1, 5, 6)
        shutil.copy(path, tmp_path / path.name)
    assert read(tmp_path / path.name) == Left(ORIGIN, (Mark("one", 1, 5, 6),), 0, "")
