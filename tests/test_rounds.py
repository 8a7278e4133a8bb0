"""Ways timed in rounds against each other, on a clock that they move themselves."""

from __future__ import annotations

import numpy as np
import pytest

from lineside.errors import DeviceError
from lineside.tuning.rounds import Entrant, choose, race


class Machine:
    """Its clock moves by what frames take. While `noisy` says so, everything takes three times as long."""

    def __init__(self, seed: int, noisy_every_s: float = 1e9) -> None:
        self.now_s = 0.0
        self.random = np.random.default_rng(seed)
        self._noisy_every_s = noisy_every_s

    def entrant(self, name: str, ms: float, spikes: float = 0.0, dies_after: int = 1 << 30) -> Entrant[str]:
        ran = 0

        def run(count: int) -> list[float]:
            nonlocal ran
            times = []
            for _ in range(count):
                ran += 1
                if ran > dies_after:
                    raise DeviceError(f"{name} is gone")
                time_ms = ms * self.random.lognormal(0, 0.05) * (40 if self.random.random() < spikes else 1)
                time_ms *= 3 if self.now_s % self._noisy_every_s > 0.9 * self._noisy_every_s else 1
                self.now_s += time_ms / 1000
                times.append(time_ms)
            return times

        return Entrant(name, run)

    def picks(self, *entrants: Entrant[str], seconds: float = 30.0) -> tuple[str, list[str]]:
        finalists = race(entrants, lambda: self.now_s, self.now_s + seconds, 10.0, lambda done, of: None)
        pick, ties = choose(finalists, lambda name: name)
        return pick.key, [tie.key for tie in ties]


SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_soonest_is_picked_though_the_machine_is_noisy(seed: int) -> None:
    machine = Machine(seed, noisy_every_s=0.7)
    ways = [machine.entrant(f"{ms} ms", ms) for ms in (9.0, 4.0, 5.5, 12.0, 30.0)]
    assert machine.picks(*ways) == ("4.0 ms", [])


@pytest.mark.parametrize("seed", SEEDS)
def test_soon_at_the_median_and_late_at_p99_is_not_picked(seed: int) -> None:
    machine = Machine(seed)
    ways = [machine.entrant("a spiky", 1.0, spikes=0.03), machine.entrant("b steady", 4.0), machine.entrant("c", 9.0)]
    assert machine.picks(*ways) == ("b steady", [])


@pytest.mark.parametrize("seed", SEEDS)
def test_between_two_that_noise_does_not_tell_apart_the_cheaper_is_picked_each_time(seed: int) -> None:
    machine = Machine(seed, noisy_every_s=0.5)
    ways = [machine.entrant(name, ms) for name, ms in (("c dear", 4.0), ("b cheap", 4.1), ("a slow", 8.0))]
    assert machine.picks(*ways) == ("b cheap", ["c dear"])


@pytest.mark.parametrize("seed", SEEDS)
def test_spikes_of_the_machine_do_not_hide_who_is_twice_as_slow(seed: int) -> None:
    """p99 of both is the machine's; the median tells."""
    machine = Machine(seed)
    ways = [machine.entrant("a slow", 4.0, spikes=0.015), machine.entrant("b soon", 2.0, spikes=0.015)]
    assert machine.picks(*ways)[0] == "b soon"


def test_the_slower_half_has_fewer_frames_and_the_time_is_kept() -> None:
    machine = Machine(0)
    ways = [machine.entrant(f"{ms}", ms) for ms in (10.0, 30.0, 50.0, 60.0)]
    assert machine.picks(*ways, seconds=20.0)[0] == "10.0"
    assert machine.now_s < 21.0
    assert ways[3].frames < ways[0].frames


def test_without_time_each_still_has_its_turn() -> None:
    machine = Machine(0)
    ways = [machine.entrant("a", 500.0), machine.entrant("b", 900.0)]
    assert machine.picks(*ways, seconds=0.0)[0] == "a"
    assert min(way.frames for way in ways) >= 3


def test_a_device_that_dies_ends_its_way_and_no_other() -> None:
    machine = Machine(0)
    ways = [machine.entrant("a dying", 1.0, dies_after=100), machine.entrant("b well", 4.0)]
    assert machine.picks(*ways)[0] == "b well"
    assert ways[0].fault == "a dying is gone"
