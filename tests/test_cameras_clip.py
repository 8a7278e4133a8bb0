"""The clip camera on real videos, whole, damaged and foreign."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cameras.clip import ClipCamera
from lineside.cameras.container import inspect
from lineside.errors import ConfigError
from lineside.records import Captured


def watch(camera: ClipCamera, most: int = 10_000) -> list[Captured]:
    camera.open()
    shown: list[Captured] = []
    while len(shown) < most and (picture := camera.read()) is not None:
        shown.append(picture)
    camera.close()
    return shown


@pytest.fixture(scope="module")
def bottles(data: Path) -> Path:
    return data / "videos" / "bottles_conveyor.mp4"


def damaged(source: Path, target: Path, start: float, end: float) -> Path:
    content = bytearray(source.read_bytes())
    first, last = int(len(content) * start), int(len(content) * end)
    content[first:last] = b"\x5a" * (last - first)
    target.write_bytes(content)
    return target


def test_every_picture_of_a_video_comes_in_order_with_the_recordings_own_times(bottles: Path) -> None:
    shown = watch(ClipCamera(bottles, pace="max_speed"))
    assert len(shown) == 1189
    steps_ms = np.diff([picture.captured_ns for picture in shown]) / 1e6
    assert steps_ms.min() > 33
    assert steps_ms.max() < 34
    video = cv2.VideoCapture(str(bottles))
    for picture in shown[:50]:
        assert np.array_equal(picture.image, video.read()[1])


def test_a_video_that_is_damaged_in_the_middle_goes_on_after_it_and_counts_what_is_lost(
    bottles: Path, tmp_path: Path
) -> None:
    camera = ClipCamera(damaged(bottles, tmp_path / "damaged.mp4", 0.5, 0.54), pace="max_speed")
    shown = watch(camera)
    assert 1100 < len(shown) < 1189
    assert camera.counts == {"bad": 1189 - len(shown)}
    seconds = (shown[-1].captured_ns - shown[0].captured_ns) / 1e9
    assert seconds == pytest.approx(1188 / 29.833, abs=0.1)  # the gap keeps its place in time


def test_damage_at_the_end_is_counted_too(bottles: Path, tmp_path: Path) -> None:
    camera = ClipCamera(damaged(bottles, tmp_path / "damaged.mp4", 0.5, 0.97), pace="max_speed")
    shown = watch(camera)
    assert 600 < len(shown) < 700
    assert camera.counts == {"bad": 1189 - len(shown)}


@pytest.mark.parametrize("content", [b"", b"hello world" * 1000], ids=["empty", "foreign"])
def test_a_file_that_is_no_video_is_a_clear_error(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"path = '.*clip.mp4': FFmpeg finds no video in it"):
        ClipCamera(path).open()
    assert capfd.readouterr().err == ""


def test_a_video_cut_off_before_its_index_is_a_clear_error(bottles: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(bottles.read_bytes()[:200_000])
    with pytest.raises(ConfigError, match="cut off"):
        ClipCamera(path).open()


def test_a_missing_path_and_an_empty_folder_are_told_before_anything_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"path = '/nowhere': no such file or folder"):
        ClipCamera("/nowhere")
    with pytest.raises(ConfigError, match="the folder has no image file"):
        ClipCamera(tmp_path)


def test_a_folder_is_shown_in_the_order_a_person_would_put_its_names(tmp_path: Path) -> None:
    for number in (1, 2, 10, 9):
        cv2.imwrite(str(tmp_path / f"part{number}.png"), np.full((4, 6, 3), number, np.uint8))
    (tmp_path / "part3.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    camera = ClipCamera(tmp_path, pace="max_speed", fps=20)
    shown = watch(camera)
    assert [int(picture.image[0, 0, 0]) for picture in shown] == [1, 2, 9, 10]
    assert camera.counts == {"bad": 1}


def test_a_folder_of_nothing_but_damaged_pictures_does_not_loop_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ConfigError, match="not one picture"):
        watch(ClipCamera(tmp_path, loop=True))


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_looped_clip_goes_on_with_its_time(kind: str, data: Path, tmp_path: Path) -> None:
    if kind == "video":
        path, pictures = data / "videos" / "bolts_conveyor.mp4", 37
    else:
        path, pictures = tmp_path, 2
        for name in ("bird.jpg", "owl.jpg"):
            shutil.copy(data / "samples" / name, tmp_path / name)
    shown = watch(ClipCamera(path, pace="max_speed", loop=True), most=3 * pictures + 1)
    assert len(shown) == 3 * pictures + 1
    steps_ms = np.diff([picture.captured_ns for picture in shown]) / 1e6
    assert steps_ms.max() - steps_ms.min() < 2
    assert np.array_equal(shown[0].image, shown[pictures].image)


def test_a_paced_clip_keeps_to_the_clock_however_slow_its_reader_is(data: Path) -> None:
    camera = ClipCamera(data / "videos" / "bolts_conveyor.mp4", fps=100.0)
    camera.open()
    begun_ns = time.monotonic_ns()
    pictures = []
    while (picture := camera.read()) is not None:
        assert picture.captured_ns <= time.monotonic_ns()
        pictures.append(picture)
        if len(pictures) == 10:
            while time.monotonic_ns() < picture.captured_ns + 100_000_000:  # a reader that is busy for 10 pictures
                pass
    offsets_ms = [(picture.captured_ns - begun_ns) / 1e6 - 10 * index for index, picture in enumerate(pictures)]
    assert max(offsets_ms) - min(offsets_ms) < 0.001


# --- whole and damaged recordings of every container

FOREIGN = Path(__file__).parent / "foreign_media"


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        *(("vfr.mkv", 12), ("vfr.webm", 12), ("gap.ts", 20)),
        *(("phone.mp4", 20), ("dropped.avi", 20), ("vfr.flv", 20), ("vfr.wmv", 20), ("trimmed.mp4", 30)),
        *((f"steady.{kind}", 50) for kind in ("mp4", "mkv", "webm", "ts", "avi", "flv", "wmv", "mpg")),
    ],
)
def test_pictures_that_come_irregularly_are_not_damaged(name: str, pictures: int) -> None:
    camera = ClipCamera(FOREIGN / name, pace="max_speed")
    assert len(watch(camera)) == pictures
    assert camera.counts == {"bad": 0}


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "ts", "avi", "wmv", "mpg"])
def test_a_recording_that_is_overwritten_in_its_middle_is_damaged(kind: str, tmp_path: Path) -> None:
    camera = ClipCamera(damaged(FOREIGN / f"steady.{kind}", tmp_path / f"a.{kind}", 0.5, 0.56), pace="max_speed")
    lost = 50 - len(watch(camera))
    assert lost > 0
    assert camera.counts["bad"] == lost


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "ts", "avi", "flv", "wmv", "mpg"])
def test_a_recording_that_is_cut_off_is_damaged(kind: str, tmp_path: Path) -> None:
    content = (FOREIGN / f"steady.{kind}").read_bytes()
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content[: int(len(content) * 0.6)])
    camera = ClipCamera(path, pace="max_speed")
    lost = 50 - len(watch(camera))
    assert lost > 0
    if kind in ("mp4", "mkv", "webm", "avi", "flv"):  # which say how long they are
        assert camera.counts["bad"] == lost
    assert camera.counts["bad"] > 0


@pytest.mark.parametrize("name", ["phone.mp4", "vfr.flv", "vfr.wmv", "dropped.avi", "gap.ts"])
def test_damage_is_told_from_a_variable_rate(name: str, tmp_path: Path) -> None:
    path = FOREIGN / name
    camera = ClipCamera(damaged(path, tmp_path / f"a{path.suffix}", 0.5, 0.56), pace="max_speed")
    assert len(watch(camera)) < 20
    assert camera.counts["bad"] > 0


def test_a_packet_that_is_missing_from_a_transport_stream_is_damage_and_a_repeated_one_is_not(tmp_path: Path) -> None:
    content = (FOREIGN / "steady.ts").read_bytes()
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    middle = next(at for at in range(50, len(packets)) if packets[at][1:3] == b"\x01\x00")  # of the video, no start
    for name, kept in (
        ("less", packets[:middle] + packets[middle + 1 :]),
        ("twice", packets[: middle + 1] + packets[middle:]),
    ):
        (tmp_path / name).write_bytes(b"".join(kept))
    assert inspect(FOREIGN / "steady.ts").broken == 0
    assert inspect(tmp_path / "less").broken == 1
    assert inspect(tmp_path / "twice").broken == 0


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ConfigError, match=r"pipe\.mp4': is a named pipe, no file or folder"):
        ClipCamera(tmp_path / "pipe.mp4")
