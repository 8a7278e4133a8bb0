"""One executor per device: turns are fair, a device that failed is reopened, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeClock
from lineside.errors import ConfigError, DeviceError
from lineside.hal.executor import Executor
from lineside.hal.fake import FakeBackend
from lineside.records import Artefact, InputSpec

CANVAS = np.zeros((8, 8, 3), np.uint8)
Eventually = Callable[..., None]


def fake(slots: int = 1, **options: object) -> FakeBackend:
    return FakeBackend(Artefact("", "onnx", "fp32", ""), InputSpec(8, 8, "bgr", "nhwc"), slots=slots, options=options)  # type: ignore[arg-type]


def executor(open_backend: Callable[[], FakeBackend], slots: int = 1) -> Executor:
    return Executor(open_backend, slots=slots, clock=FakeClock(), reopen_min_s=0.01, reopen_max_s=0.02)


def test_as_many_frames_as_slots_run_at_once_and_never_two_in_one_slot() -> None:
    device = executor(lambda: fake(3), slots=3)
    lock, held, most = threading.Lock(), set[int](), 0
    together = threading.Barrier(3)

    def frames() -> None:
        nonlocal most
        for number in range(50):
            with device.slot() as slot:
                with lock:
                    assert slot not in held
                    held.add(slot)
                    most = max(most, len(held))
                if number == 0:
                    together.wait(10)  # passes only if three slots are held at the same time
                device.infer(CANVAS, slot)
                with lock:
                    held.remove(slot)

    threads = [threading.Thread(target=frames) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (most, held) == (3, set())


def test_waiters_are_served_in_the_order_they_came(eventually: Eventually) -> None:
    device = executor(fake)
    order: list[int] = []

    def wait_for(number: int) -> None:
        with device.slot():
            order.append(number)

    threads = []
    with device.slot():
        for number in range(8):
            threads.append(threading.Thread(target=wait_for, args=(number,)))
            threads[-1].start()
            eventually(lambda: device.status()["waiting"] == len(threads), what="the thread waits")
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


def test_a_greedy_camera_does_not_starve_another() -> None:
    """Both always have a frame: between two turns of one, the other never waits for more than one turn."""
    device = executor(lambda: fake(infer_ms=0.2))
    order: list[str] = []
    start = threading.Barrier(2)

    def camera(name: str) -> None:
        start.wait(10)
        for _ in range(100):
            with device.slot() as slot:
                device.infer(CANVAS, slot)
                order.append(name)

    threads = [threading.Thread(target=camera, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    both_at_work = order[: len(order) - order[::-1].index("a" if order[-1] == "b" else "b")]
    longest = max(len(run) for name in "ab" for run in "".join(both_at_work).split(name))
    assert longest <= 20, "".join(order)  # a scheduler may hold one thread back now and then, a queue does not


def test_a_slot_is_given_back_when_the_holder_fails() -> None:
    device = executor(fake)
    for _ in range(3):
        with pytest.raises(KeyError), device.slot():
            raise KeyError
    with device.slot() as slot:
        assert slot == 0


def test_a_failed_device_is_down_at_once_and_reopened_when_it_is_back(tmp_path: Path, eventually: Eventually) -> None:
    unplugged = tmp_path / "unplugged"
    device = executor(lambda: fake(unplugged_while=str(unplugged)))
    assert device.infer(CANVAS, 0)
    unplugged.touch()
    with pytest.raises(DeviceError, match="unplugged"):
        device.infer(CANVAS, 0)
    with pytest.raises(DeviceError, match=r"device is down .*unplugged.*keeps reopening"):
        device.infer(CANVAS, 0)
    assert (device.status()["up"], device.status()["failures"]) == (False, 1)
    unplugged.unlink()
    eventually(lambda: device.status()["up"], what="the device is reopened")
    assert device.infer(CANVAS, 0)
    assert (device.status()["reopened"], device.status()["failures"]) == (1, 1)
    device.close()


@pytest.mark.parametrize("error", [DeviceError("no such device"), ConfigError("the cable of another model")])
def test_reopening_goes_on_until_it_works(error: Exception, eventually: Eventually) -> None:
    tries: list[int] = []

    def open_backend() -> FakeBackend:
        tries.append(1)
        if 1 < len(tries) < 5:
            raise error
        return fake(fail_after=0) if len(tries) == 1 else fake()

    device = executor(open_backend)
    with pytest.raises(DeviceError):
        device.infer(CANVAS, 0)
    eventually(lambda: device.status()["up"], what="the fifth try opens it")
    assert (len(tries), device.status()["last_error"]) == (5, str(error))
    device.close()


def test_a_driver_that_breaks_while_reopening_ends_the_worker_instead_of_staying_down(eventually: Eventually) -> None:
    """Neither DeviceError nor ConfigError: a fault of a driver, which a restart may cure and waiting does not."""
    tries: list[int] = []

    def open_backend() -> FakeBackend:
        tries.append(1)
        if len(tries) > 1:
            raise RuntimeError("the vendor's library is confused")
        return fake(fail_after=0)

    device = executor(open_backend)
    with pytest.raises(DeviceError):
        device.infer(CANVAS, 0)

    def told() -> bool:
        try:
            device.infer(CANVAS, 0)
        except DeviceError:
            return False
        except RuntimeError as error:
            return "confused" in str(error)
        return False

    eventually(told, what="the worker hears of it")


def test_many_slots_that_fail_together_count_as_one_failure(tmp_path: Path, eventually: Eventually) -> None:
    unplugged = tmp_path / "unplugged"
    opened: list[FakeBackend] = []

    def open_backend() -> FakeBackend:
        opened.append(fake(4, unplugged_while=str(unplugged)))
        return opened[-1]

    device = executor(open_backend, slots=4)
    start = threading.Barrier(4)
    unplugged.touch()

    def frame(slot: int) -> None:
        start.wait(10)
        with pytest.raises(DeviceError):
            device.infer(CANVAS, slot)

    threads = [threading.Thread(target=frame, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert device.status()["failures"] == 1
    unplugged.unlink()
    eventually(lambda: device.status()["up"], what="the device is reopened")
    assert len(opened) == 2
    device.close()


def test_close_ends_reopening(tmp_path: Path, eventually: Eventually) -> None:
    unplugged = tmp_path / "unplugged"
    device = executor(lambda: fake(unplugged_while=str(unplugged)))
    unplugged.touch()
    with pytest.raises(DeviceError):
        device.infer(CANVAS, 0)
    device.close()
    eventually(
        lambda: not any(thread.name == "reopen-device" for thread in threading.enumerate()), what="the thread ends"
    )
    unplugged.unlink()
    with pytest.raises(DeviceError):
        device.infer(CANVAS, 0)
    assert not device.status()["up"]
