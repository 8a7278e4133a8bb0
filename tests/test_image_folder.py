"""Which files of a folder are pictures, and that every reader of folders keeps to the same rule."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.cameras.clip import ClipCamera
from lineside.cli import main
from lineside.commands.shots import Given
from lineside.errors import ConfigError
from lineside.images.folder import find
from lineside.quantize.pictures import find_pictures, load
from lineside.records import InputSpec
from lineside.store.bundle import open_bundle
from lineside.tuning.pictures import pictures

FOREIGN = Path(__file__).parent / "foreign_media"
READABLE = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures that can be read, two that cannot, two videos, and what is neither."""
    here = tmp_path / "upload"
    (here / "sub" / "deep.jpg").mkdir(parents=True)
    square = (FOREIGN / "sq.png").read_bytes()
    photo = (FOREIGN / "noeoi.jpg").read_bytes()
    for name, content in {
        "a.png": square,
        "b.JFIF": photo,
        "c": photo,
        "d.dat": square,
        "sub/e.png": square,
        "sub/deep.jpg/f": square,
        "empty.png": b"",
        "really.jpg": (FOREIGN / "x.heic").read_bytes(),
        "clip": (FOREIGN / "vfr.mkv").read_bytes(),
        "sub/gap.ts": (FOREIGN / "gap.ts").read_bytes(),
        "README": b"P6 is a format, BM is not",
        "labels.txt": b"BMW\nMINI\n",
        "a.json": b"{}",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "code.ts": b"const a = 1\n",
        ".hidden.png": square,
        "sub/._a.png": square,
    }.items():
        (here / name).write_bytes(content)
    (here / ".git").mkdir()
    (here / ".git" / "g.png").write_bytes(square)
    (here / "sub" / "up").symlink_to("..")
    (here / "again").symlink_to("sub")
    return here


def test_pictures_are_found_by_content_in_every_subfolder_once(folder: Path) -> None:
    found = find(folder)
    names = [path.name for path in found.pictures]
    assert sorted(names) == ["a.png", "b.JFIF", "c", "d.dat", "e.png", "empty.png", "f", "really.jpg"]
    assert sorted(path.name for path in found.videos) == ["clip", "gap.ts"]
    assert found.faults == []
    assert found.told() == ["2 videos (clip, gap.ts) in the folder: not looked at: name a video itself"]


def test_what_cannot_be_opened_is_named(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("/nowhere/gone.png")
    told = " ".join(find(folder).faults)
    assert told.count("cannot be read") == 3
    for said in (
        "pipe.jpg: cannot be read: it is a named pipe",
        "loop.png: ",
        "gone.png: cannot be read: No such file",
    ):
        assert said in told


def of_infer(folder: Path) -> tuple[int, list[str]]:
    given, read, faults = Given([folder]), 0, []
    for file in given.files:
        try:
            read += len(list(given.shots(file)))
        except ConfigError as error:
            faults.append(str(error))
    return read, faults + given.notes()


def of_quantize(folder: Path) -> tuple[int, list[str]]:
    spec = InputSpec(
        width_px=8, height_px=8, color="rgb", layout="nchw", mean=(0, 0, 0), std=(1, 1, 1), resize="stretch"
    )
    shots = load(find_pictures(folder), spec, 100, 100)
    return len(shots.calibration) + len(shots.validation), [*shots.unreadable, *shots.notes]


def of_parity(folder: Path) -> tuple[int, list[str]]:
    measured = pictures(open_bundle("conveyor-parts"), folder)
    read = len(list(measured.read()))
    return read, [*measured.told(), *measured.notes()]


@pytest.mark.parametrize("reader", [of_infer, of_quantize, of_parity])
def test_every_command_reads_the_same_pictures_and_names_the_rest(
    folder: Path, reader: Callable[[Path], tuple[int, list[str]]]
) -> None:
    shutil.copy(FOREIGN / "g12in16.png", folder / "g12.png")
    read, told = reader(folder)
    assert read == READABLE + 1
    lines = "\n".join(told)
    for said in ("empty.png: the file is empty", "really.jpg: HEIC", "2 videos (clip, gap.ts)", "uses 12 of 16 bits"):
        assert lines.count(said) == 1
    assert len(told) == 4


def test_the_clip_camera_shows_the_same_pictures_and_names_the_rest_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    camera = ClipCamera(folder, pace="max_speed", loop=True)
    camera.open()
    shown = [camera.read() for _ in range(2 * READABLE + 1)]
    camera.close()
    assert None not in shown
    assert camera.counts == {"bad": 4}  # two in each pass
    for said in ("empty.png: the file is empty", "really.jpg: HEIC", "2 videos (clip, gap.ts)"):
        assert caplog.text.count(said) == 1


def test_a_folder_without_picture_is_an_error_that_names_its_videos(tmp_path: Path) -> None:
    shutil.copy(FOREIGN / "gap.ts", tmp_path / "gap.ts")
    for read in (of_infer, of_quantize, of_parity, ClipCamera):
        with pytest.raises(ConfigError, match=r"(?s)no (picture|image file).*1 video \(gap\.ts\)"):
            read(tmp_path)


def test_what_a_run_draws_below_its_folder_is_not_looked_at_by_the_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["infer", "--bundle", "conveyor-parts", "--backend", "litert", "--draw", str(folder / "out"), str(folder)]
    told = []
    for _ in range(2):
        assert main(words) == 1  # two cannot be read
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == READABLE
    assert len(list((folder / "out").iterdir())) == READABLE


def test_infer_tells_whole_videos_from_damaged_ones_by_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["infer", "--bundle", "conveyor-parts", "--backend", "litert"]
    whole = [FOREIGN / "vfr.mkv", FOREIGN / "vfr.webm", FOREIGN / "gap.ts"]
    assert main([*words, *map(str, whole)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12 + 12 + 20
    content = (FOREIGN / "steady.mkv").read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])  # known by its content
    assert main([*words, str(tmp_path / "half")]) == 1
    assert "half: damaged pictures in it, at least" in capsys.readouterr().err


def test_a_name_that_is_no_utf8_is_printed_and_parsed_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    for name, source in ((b"caf\xe9\n.png", "sq.png"), (b"caf\xe9\n.mkv", "vfr.mkv")):
        shutil.copy(FOREIGN / source, bytes(tmp_path) + b"/" + name)
    files = sorted(Path(each) for each in map(str, tmp_path.iterdir()))
    words = ["infer", "--bundle", "conveyor-parts", "--backend", "litert", *map(str, files)]
    assert main([*words, "--jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["file"] for row in rows} == set(map(str, files))
    assert len(rows) == 1 + 12
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 12
