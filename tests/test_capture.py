"""The capture thread: what is delivered, skipped, waited for, reopened and abandoned. The drivers are scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.cameras.capture import Capture
from lineside.cameras.orient import Orientation
from lineside.cameras.queues import END, LatestFrame, PartQueue
from lineside.errors import ConfigError, DeviceError
from lineside.records import Captured, Frame


class ScriptedCamera:
    """Gives a picture for each True of the script, raises its errors, waits at an Event; then the source ends."""

    def __init__(self, script: list[object], live: bool = True, opens: list[Exception | None] | None = None) -> None:
        self.live = live
        self.counts = {"bad": 0}
        self.opened = 0
        self._steps: Iterator[object] = iter(script)
        self._opens = iter(opens or [])

    def open(self) -> None:
        self.opened += 1
        error = next(self._opens, None)
        if error is not None:
            raise error

    def read(self) -> Captured | None:
        step = next(self._steps, None)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, threading.Event):
            step.wait(20)
            raise DeviceError("scripted: let go")
        if step is None:
            return None
        late_ns = step if type(step) is int else 0
        now_ns = time.monotonic_ns() - late_ns
        return Captured(np.zeros((6, 8, 3), np.uint8), now_ns, time.time_ns() - late_ns)

    def close(self) -> None:
        pass


def taken(capture: Capture) -> list[Frame]:
    frames = []
    while (frame := capture.take(5.0)) is not END:
        assert isinstance(frame, Frame), "no frame and no end within 5 s"
        frames.append(frame)
    return frames


@pytest.fixture
def run() -> Iterator[Callable[..., Capture]]:
    running: list[Capture] = []

    def start(camera: ScriptedCamera, **options: object) -> Capture:
        capture = Capture("gate", lambda: camera, reopen_min_s=0.01, reopen_max_s=0.02, **options)  # type: ignore[arg-type]
        running.append(capture)
        capture.start()
        return capture

    yield start
    for capture in running:
        capture.stop()


def test_every_mode_hands_over_each_picture_in_order_and_then_the_end(run: Callable[..., Capture]) -> None:
    capture = run(ScriptedCamera([True] * 200, live=False), mode="every", queue_frames=3)
    assert [frame.number for frame in taken(capture)] == list(range(1, 201))
    assert capture.take(0) is END
    status = capture.status()
    assert (status["state"], status["frames"], status["skipped"], status["lost"]) == ("ended", 200, 0, 0)


def test_a_source_that_waits_is_read_no_further_than_the_queue_has_room(
    run: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    capture = run(ScriptedCamera([True] * 50, live=False), mode="every", queue_frames=3)
    eventually(lambda: capture.status()["frames"] == 4)  # three wait, one is in the hand of the capture thread
    assert len(taken(capture)) == 50


def test_freshest_mode_gives_the_newest_picture_and_counts_what_it_skipped(
    run: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    capture = run(ScriptedCamera([True] * 100, live=False), mode="freshest")
    eventually(lambda: capture.status()["state"] == "ended")
    assert [frame.number for frame in taken(capture)] == [100]
    assert capture.status()["skipped"] == 99


def test_a_live_camera_that_is_faster_than_the_path_loses_pictures_loudly(
    run: Callable[..., Capture], eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    hold = threading.Event()
    capture = run(ScriptedCamera([True] * 10 + [hold]), mode="every", queue_frames=4)
    eventually(lambda: capture.status()["frames"] == 10)
    assert capture.status()["lost"] == 6
    assert "frames lost" in caplog.text
    assert [capture.take(0).number for _ in range(4)] == [1, 2, 3, 4]  # never overwritten
    hold.set()


def test_a_picture_that_a_buffer_held_back_is_skipped_and_never_shown(
    run: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    hold = threading.Event()
    two_s = 2_000_000_000
    capture = run(ScriptedCamera([two_s, two_s, True, hold]), mode="freshest", stale_s=0.5)
    frame = capture.take(5)
    assert isinstance(frame, Frame)
    assert frame.number == 3
    assert capture.status()["skipped"] == 2
    hold.set()


def test_a_lost_camera_is_reopened_and_says_why(run: Callable[..., Capture]) -> None:
    camera = ScriptedCamera(
        [True, DeviceError("cable pulled"), True, True, DeviceError("cable pulled")],
        opens=[DeviceError("not yet"), DeviceError("not yet"), None, DeviceError("still gone")],
    )
    capture = run(camera, mode="every", queue_frames=10)
    numbers = [capture.take(5).number for _ in range(3)]
    assert numbers == [1, 2, 3]  # numbers go on over a reopen
    status = capture.status()
    assert status["reopens"] >= 4
    assert camera.opened >= 5
    assert status["last_error"] in ("still gone", "cable pulled", "the stream ended")


def test_a_read_that_never_returns_is_abandoned_with_its_driver(
    run: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    stuck = threading.Event()
    first, second = ScriptedCamera([True, stuck]), ScriptedCamera([True, True, threading.Event()])
    first.counts["bad"] = 7
    made = iter([first, second])
    capture = Capture("gate", lambda: next(made), mode="every", stall_s=0.2, reopen_min_s=0.01, reopen_max_s=0.02)
    capture.start()
    assert [capture.take(5).number for _ in range(3)] == [1, 2, 3]
    status = capture.status()
    assert (status["stalls"], status["abandoned"], status["reopens"]) == (1, 1, 1)
    assert status["bad"] == 7  # what the abandoned driver had counted is not forgotten
    assert "no picture for 0.2 s" in str(status["last_error"])
    stuck.set()  # the old read comes back, and must not disturb the new one
    eventually(lambda: sum(thread.name == "capture-gate" for thread in threading.enumerate()) == 1)
    assert capture.status()["frames"] == 3
    capture.stop(0.1)


def test_the_heartbeat_stops_when_reads_keep_getting_stuck(eventually: Callable[..., None]) -> None:
    stuck = threading.Event()
    beats: list[int] = []
    capture = Capture(
        "gate", lambda: ScriptedCamera([stuck]), stall_s=0.05, reopen_min_s=0.01, beat=lambda: beats.append(1)
    )
    capture.start()
    eventually(lambda: capture.status()["abandoned"] == 4, within_s=20)  # three, and one that is past bearing
    seen = len(beats)
    watch = next(thread for thread in threading.enumerate() if thread.name == "watch-gate")
    watch.join(0.5)
    assert len(beats) <= seen + 1
    stuck.set()
    capture.stop()


def test_an_error_of_the_configuration_ends_the_capture_and_reaches_the_pipeline(run: Callable[..., Capture]) -> None:
    capture = run(ScriptedCamera([True, ConfigError("path = 'x': no video")]), mode="every")
    assert capture.take(5).number == 1
    with pytest.raises(ConfigError, match=r"cameras\.gate\.path = 'x': no video"):
        capture.take(5)
    assert capture.status()["state"] == "failed"


def test_a_wrong_option_is_told_before_a_thread_runs() -> None:
    def build() -> ScriptedCamera:
        raise ConfigError("path = '/nowhere': no such file or folder")

    with pytest.raises(ConfigError, match=r"cameras\.gate\.path = '/nowhere'"):
        Capture("gate", build)


def test_the_heart_beats_while_the_path_is_slow_and_while_the_camera_is_away(eventually: Callable[..., None]) -> None:
    beats: list[float] = []
    camera = ScriptedCamera([], opens=[DeviceError("away")] * 1000)
    capture = Capture("gate", lambda: camera, beat=lambda: beats.append(time.monotonic()))
    capture.start()
    eventually(lambda: len(beats) > 3)
    assert capture.stop()


def test_stop_ends_a_capture_that_waits_for_room_and_wakes_its_taker(
    run: Callable[..., Capture], eventually: Callable[..., None]
) -> None:
    capture = run(ScriptedCamera([True] * 50, live=False), mode="every", queue_frames=1)
    eventually(lambda: capture.status()["frames"] == 2)
    assert capture.stop()
    assert [frame.number for frame in taken(capture)] == [1]
    assert capture.status()["state"] == "stopped"


def test_two_stations_on_one_camera_each_get_what_they_asked_for(eventually: Callable[..., None]) -> None:
    capture = Capture("gate", lambda: ScriptedCamera([True] * 60, live=False))
    every, newest = capture.tap("every", 2), capture.tap("freshest")
    capture.start()
    numbers = []
    while isinstance(frame := every.take(5), Frame):
        numbers.append(frame.number)
    assert numbers == list(range(1, 61))
    eventually(lambda: capture.status()["state"] == "ended")
    last = newest.take(0)
    assert isinstance(last, Frame)
    assert last.number == 60
    assert newest.take(0) is END
    assert capture.status()["skipped"] == 59
    capture.stop()


# --- queues


def frame(number: int) -> Frame:
    return Frame(np.zeros((1, 1, 3), np.uint8), "gate", number, number, number, number)


def test_a_full_part_queue_refuses_and_keeps_what_it_has() -> None:
    queue = PartQueue(2)
    assert [queue.put(frame(number), 0.0) for number in (1, 2, 3)] == [True, True, False]
    queue.end()
    assert [queue.take(0).number for _ in range(2)] == [1, 2]
    assert queue.take(0) is END


def test_latest_frame_gives_the_last_one_before_the_end() -> None:
    latest = LatestFrame()
    assert latest.take(0) is None
    latest.put(frame(1))
    latest.put(frame(2))
    latest.end()
    assert latest.take(0).number == 2
    assert latest.take(0) is END
    assert latest.skipped == 1


@pytest.mark.parametrize("make", [LatestFrame, lambda: PartQueue(1)], ids=["latest", "part"])
def test_many_takers_wake_at_the_end(make: Callable[[], LatestFrame | PartQueue]) -> None:
    queue = make()
    got: list[object] = []
    takers = [threading.Thread(target=lambda: got.append(queue.take(20))) for _ in range(3)]
    for taker in takers:
        taker.start()
    queue.end()
    for taker in takers:
        taker.join(5)
    assert got == [END] * 3


# --- orientation


@given(
    rotate=st.sampled_from([0, 90, 180, 270]),
    flip=st.sampled_from(["none", "horizontal", "vertical"]),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    cut=st.tuples(*[st.integers(0, 11)] * 4),
)
def test_orientation_is_rotate_then_flip_then_cut(
    rotate: int, flip: str, size: tuple[int, int], cut: tuple[int, int, int, int]
) -> None:
    height, width = size
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    expected = np.rot90(image, -rotate // 90)
    expected = {"none": expected, "horizontal": expected[:, ::-1], "vertical": expected[::-1]}[flip]
    x, y = cut[0] % expected.shape[1], cut[1] % expected.shape[0]
    w, h = 1 + cut[2] % (expected.shape[1] - x), 1 + cut[3] % (expected.shape[0] - y)
    turned = Orientation(rotate, flip, (x, y, w, h)).apply(image)  # type: ignore[arg-type]
    assert np.array_equal(turned, expected[y : y + h, x : x + w])
    cv2.resize(turned, (4, 4))  # what the path does next takes it as it is


def test_a_region_costs_no_copy() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    assert Orientation(roi=(10, 20, 30, 40)).apply(image).base is image


def test_a_region_outside_the_picture_says_how_large_the_picture_is() -> None:
    with pytest.raises(ConfigError, match=r"roi = \[0, 0, 100, 150\]: reaches outside the picture of 90 x 160 pixels"):
        Orientation(rotate_deg=90, roi=(0, 0, 100, 150)).apply(np.zeros((90, 160, 3), np.uint8))
