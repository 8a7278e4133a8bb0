"""Times several ways against each other in rounds: a few frames each in turn, so that a noisy moment hits them all.

After a round those that are clearly slower drop out (successive halving, Jamieson and Talwalkar 2016), so most of the
time goes to those between which it is hard to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from lineside.errors import LinesideError

if TYPE_CHECKING:
    from numpy.typing import NDArray

K = TypeVar("K")

NOISE = 0.1  # two times nearer than this are not told apart, however often they were measured
_HOPELESS = 1.3  # times the leader's median: its p99 will not be better
_FRAMES = (60, 200, 600, 1000)  # of each way, by the end of each round; the last of the rounds all
_BLOCK_MS = 150.0  # one way's turn
_BLOCK_FRAMES = (3, 20)
_RESAMPLES = 200
_ALIKE = 0.025  # of the resamples: above, the difference may be chance


@dataclass(slots=True)
class Entrant(Generic[K]):
    """One way. `run` takes so many frames through it and gives the time of each in ms."""

    key: K
    run: Callable[[int], list[float]]
    blocks: list[list[float]] = field(default_factory=list)
    rounds: int = 0  # that it was in
    fault: str = ""  # why it ended

    @property
    def frames(self) -> int:
        return sum(map(len, self.blocks))

    def at(self, percent: float) -> float:
        """A percentile of its times, in ms."""
        return float(np.percentile([time for block in self.blocks for time in block], percent))


def race(
    entrants: Sequence[Entrant[K]],
    now_s: Callable[[], float],
    until_s: float,
    first_ms: float,
    progress: Callable[[int, int], None],
) -> None:
    """Run all until `until_s` or until enough is known; `first_ms` is about what a frame of the slowest takes.

    Each has the blocks of its rounds; those of the last round have equally many.
    """
    left = [entrant for entrant in entrants if not entrant.fault]
    least, most = _BLOCK_FRAMES
    for number, frames in enumerate(_FRAMES):
        if not left:
            return
        size = max(least, min(most, int(_BLOCK_MS / max(first_ms, 1e-3))))
        began_s = now_s()
        ends_s = began_s + (until_s - began_s) / (len(_FRAMES) - number)
        for entrant in left:
            entrant.rounds += 1
        turn = 0
        while left and left[0].frames < frames and (turn == 0 or now_s() < ends_s):
            for entrant in left[turn % len(left) :] + left[: turn % len(left)]:  # nobody always follows the same one
                _block(entrant, size)
            left = [entrant for entrant in left if not entrant.fault]
            turn += 1
            progress(number, len(_FRAMES))
        if number < len(_FRAMES) - 1:
            left = kept(left)
        first_ms = max((entrant.at(50) for entrant in left), default=first_ms)


def _block(entrant: Entrant[K], size: int) -> None:
    try:
        entrant.blocks.append(entrant.run(size))
    except LinesideError as error:
        entrant.fault = str(error)


def kept(entrants: Sequence[Entrant[K]]) -> list[Entrant[K]]:
    """Those that go on to the next round: the better half at p99, and who may yet be as good; in their order."""
    if not entrants:
        return []
    ranked = sorted(entrants, key=lambda entrant: entrant.at(99))
    leader, half = ranked[0], ranked[: math.ceil(len(ranked) / 2)]
    slow_ms = _HOPELESS * leader.at(50)
    return [
        entrant
        for entrant in entrants
        if entrant is leader or (entrant.at(50) <= slow_ms and (entrant in half or alike(leader, entrant, 99)))
    ]


def alike(leader: Entrant[K], other: Entrant[K], percent: float) -> bool:
    """Whether a percentile of the other's times is within noise of the leader's: nearer than NOISE, or the sign of the
    difference changes from resample to resample. Blocks of one turn are drawn together: both felt the same moment."""
    if other.at(percent) <= (1 + NOISE) * leader.at(percent):
        return True
    turns = min(len(leader.blocks), len(other.blocks))
    if turns < 2:
        return False
    drawn = np.random.default_rng(0).integers(0, turns, (_RESAMPLES, turns))
    behind = _percentiles(other, drawn, percent) - _percentiles(leader, drawn, percent)
    return bool(np.mean(behind <= 0) > _ALIKE)


def _percentiles(entrant: Entrant[K], drawn: NDArray[np.int64], percent: float) -> NDArray[np.float64]:
    """Of each resample. Blocks differ in length between rounds, so each draw is put together by itself."""
    blocks = [np.asarray(block) for block in entrant.blocks]
    return np.array([np.percentile(np.concatenate([blocks[turn] for turn in turns]), percent) for turns in drawn])


def choose(finalists: Sequence[Entrant[K]], cheaper: Callable[[K], object]) -> tuple[Entrant[K], list[Entrant[K]]]:
    """The pick, and those within noise of it, which `cheaper` (smallest first) decided.

    The best p99 leads. Of those within noise of it the best median leads, since noise disturbs a median least; of
    those within noise of that, too, the cheapest is picked: so repeated runs agree, unless noise moves somebody over
    one of these bounds.
    """
    leader = min(finalists, key=lambda entrant: entrant.at(99))
    level = [entrant for entrant in finalists if entrant is leader or alike(leader, entrant, 99)]
    sooner = min(level, key=lambda entrant: entrant.at(50))
    ties = [entrant for entrant in level if entrant is sooner or alike(sooner, entrant, 50)]
    ties.sort(key=lambda entrant: cheaper(entrant.key))  # type: ignore[arg-type,return-value]
    return ties[0], ties[1:]
