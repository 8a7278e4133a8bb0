"""Times several ways against each other: a few frames each in turn, so that a noisy moment hits them all.

Now and then it is asked who may still be the best, and the time goes to those (successive halving, Jamieson and
Talwalkar 2016). Nobody is out for good: a few frames do not show a p99, so where a leader turns out to have spikes,
those that it had pushed out come back.
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
_FAR = 3.0
_HOPELESS = 1.3  # times the leader's median: its p99 will not be better
SURE_FRAMES = 300  # without a spike they show that spikes are under 1 %, at 95 % confidence
_FRAMES = (100, SURE_FRAMES, 1000)  # of each way that may be the best, step by step
_SHARE = 0.4  # of the time that is left, until it is asked again who may be the best
_BLOCK_MS = 50.0  # one way's turn: the shorter, the more of a busy moment is felt by all
_BLOCK_FRAMES = (3, 5)
_RESAMPLES = 200
_ALIKE = 0.005  # of the resamples: above, the difference may be chance


@dataclass(slots=True, eq=False)
class Entrant(Generic[K]):
    """One way. `run` takes so many frames through it and gives the time of each in ms."""

    key: K
    run: Callable[[int], list[float]]
    blocks: dict[int, list[float]] = field(default_factory=dict)  # by turn: those of one turn felt the same moment
    fault: str = ""  # why it ended

    @property
    def frames(self) -> int:
        return sum(map(len, self.blocks.values()))

    def at(self, percent: float) -> float:
        """A percentile of its times, in ms."""
        return float(np.percentile([time for block in self.blocks.values() for time in block], percent))


def race(
    entrants: Sequence[Entrant[K]],
    now_s: Callable[[], float],
    until_s: float,
    first_ms: float,
    progress: Callable[[int, int], None],
) -> list[Entrant[K]]:
    """Run them until `until_s` or until enough is known; those that may be the best, in their order.

    `first_ms` is about what a frame of the slowest takes. Each has one turn at least.
    """
    began_s, turn = now_s(), 0
    left = list(entrants)
    while left:
        wanted = next((frames for frames in _FRAMES if min(one.frames for one in left) < frames), 0)
        if not wanted or (turn and now_s() >= until_s):
            break
        ends_s = now_s() + _SHARE * (until_s - now_s())
        size = max(_BLOCK_FRAMES[0], min(_BLOCK_FRAMES[1], int(_BLOCK_MS / max(first_ms, 1e-3))))
        while (behind := [one for one in left if not one.fault and one.frames < wanted]) and (
            turn == 0 or now_s() < ends_s
        ):
            for entrant in behind[turn % len(behind) :] + behind[: turn % len(behind)]:  # nobody always comes second
                _block(entrant, turn, size)
            turn += 1
            progress(int(now_s() - began_s), max(1, int(until_s - began_s)))
        left = contenders([entrant for entrant in entrants if not entrant.fault])
        first_ms = max((entrant.at(50) for entrant in left), default=first_ms)
    return left


def _block(entrant: Entrant[K], turn: int, size: int) -> None:
    try:
        entrant.blocks[turn] = entrant.run(size)
    except LinesideError as error:
        entrant.fault = str(error)


def contenders(entrants: Sequence[Entrant[K]]) -> list[Entrant[K]]:
    """Those that may be the best at p99, seen from who is now: but for hopeless medians, whoever has few frames yet or
    is within noise of it."""
    if not entrants:
        return []
    leader = min(entrants, key=lambda entrant: entrant.at(99))

    def may(entrant: Entrant[K]) -> bool:
        is_hopeless = entrant.at(50) > _HOPELESS * leader.at(50)
        return not is_hopeless and (entrant.frames < SURE_FRAMES or alike(leader, entrant, 99))

    return [entrant for entrant in entrants if entrant is leader or may(entrant)]


def alike(leader: Entrant[K], other: Entrant[K], percent: float) -> bool:
    """Whether a percentile of the other's times is within noise of the leader's: nearer than NOISE, or the sign of the
    difference changes from resample to resample. Blocks of one turn are drawn together. In few
    frames, who is _FAR longer is not given the benefit of the doubt."""
    times = other.at(percent) / leader.at(percent)
    if times <= 1 + NOISE:
        return True
    if times > _FAR and other.frames < SURE_FRAMES:
        return False
    turns = sorted(leader.blocks.keys() | other.blocks.keys())
    drawn = np.random.default_rng(0).choice(turns, (_RESAMPLES, len(turns)))
    behind = _percentiles(other, drawn, percent) - _percentiles(leader, drawn, percent)
    return bool(np.mean(behind[np.isfinite(behind)] <= 0) > _ALIKE)


def _percentiles(entrant: Entrant[K], drawn: NDArray[np.int64], percent: float) -> NDArray[np.float64]:
    """Of each resample; not a number where none of its turns was the entrant's."""
    blocks = {turn: np.asarray(block) for turn, block in entrant.blocks.items()}
    found = []
    for turns in drawn.tolist():
        mine = [blocks[turn] for turn in turns if turn in blocks]
        found.append(float(np.percentile(np.concatenate(mine), percent)) if mine else math.nan)
    return np.array(found)


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
