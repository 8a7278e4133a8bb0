"""Chooses calibration and the layers that stay in float, by measured accuracy.

Every calibration is tried with what is known to break left in float. Where none holds the bounds, each block is
quantised alone to see how far it moves the answers, and the worst are kept in float: 1, 2, 4, ... until the bounds
hold, then as few as will do. A try that would not be over in time is left out, and said so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lineside.quantize.graph import Block, Network
from lineside.quantize.measure import Score
from lineside.quantize.ranges import METHODS, Method

Say = Callable[[str], None]
_TELL_S = 5.0
_HOPELESS = 3.0  # times the drift of the best calibration


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a model may cost."""

    max_flips: float  # share of decisions
    max_loss: float  # of accuracy, 0 to 1

    def hold(self, score: Score) -> bool:
        return self.excess(score) <= 1.0

    def excess(self, score: Score) -> float:
        """How many times the bound is used, by what uses it most."""
        return max(_over(score.flip_share, self.max_flips), _over(score.loss, self.max_loss))


def _over(value: float, bound: float) -> float:
    return value / bound if bound > 0 else (0.0 if value == 0 else float("inf"))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One INT8 model that was made and measured."""

    what: str  # for people: "entropy, tail and 3 blocks in float"
    method: Method
    in_float: frozenset[str]  # nodes
    score: Score
    fault: str = ""  # why it could not even be run


@dataclass(frozen=True, slots=True)
class Blame:
    """How far one block alone moves the answers when it is INT8 and the rest float."""

    block: Block
    drift: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class Found:
    """The search's outcome. `tried[0]` is what quantising without care gives: min-max, everything."""

    best: Candidate
    tried: tuple[Candidate, ...]
    blamed: tuple[Blame, ...] = ()  # worst first; empty where no search was needed
    floats: tuple[Block, ...] = field(default=())  # the blocks that stay in float
    untried: tuple[str, ...] = ()  # what there was no time for


class Maker(Protocol):
    """Makes an INT8 model and measures it."""

    def make(self, what: str, method: Method, in_float: frozenset[str]) -> Candidate:
        """On all validation pictures."""

    def drift(self, method: Method, in_float: frozenset[str]) -> float:
        """On a few calibration pictures; 1.0 for a model that cannot be run."""


class _Time:
    """What is left of a search's time, and for how many more tries that is enough."""

    def __init__(self, budget_s: float, clock: Callable[[], float]) -> None:
        self._clock, self._ends_s, self._last_s, self._least_s = clock, clock() + budget_s, 0.0, math.inf

    @property
    def left_s(self) -> float:
        return max(0.0, self._ends_s - self._clock())

    @property
    def tries(self) -> int:
        return int(self.left_s / self._last_s) if self._last_s > 0 else 1

    @property
    def most_tries(self) -> int:
        """If each is as short as the shortest: a calibration's first one computes its ranges, too."""
        return int(self.left_s / self._least_s) if self._least_s > 0 else 1

    def of(self, make: Callable[[], Candidate]) -> Candidate:
        began_s = self._clock()
        made = make()
        self._last_s = self._clock() - began_s
        self._least_s = min(self._least_s, self._last_s)
        return made


def search(
    network: Network,
    maker: Maker,
    bounds: Bounds,
    say: Say,
    *,
    budget_s: float,
    methods: Sequence[Method] = METHODS,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The best candidate: one that holds the bounds with as few blocks in float as possible, or the nearest to it.

    Two models are made whatever that takes; whether another one is begun depends on how long the last one took and on
    what is left of `budget_s`. Half of what is left after the calibrations is for finding the layers to blame.
    """
    time_left, untried = _Time(budget_s, clock), list[str]()

    def make(what: str, method: Method, in_float: frozenset[str]) -> Candidate:
        return time_left.of(lambda: maker.make(what, method, in_float))

    tried = [make("min-max, everything", "min-max", frozenset())]
    kept = network.unsafe
    words = "weighted layers only" if network.attention else "tail in float" if kept else "everything"
    for method in methods:
        if not kept and method == "min-max":
            continue
        if len(tried) > 1 and not time_left.tries:
            untried.append(f"{method}, {words}")
            continue
        tried.append(make(f"{method}, {words}", method, kept))

    def rank(one: Candidate) -> tuple[float, float]:
        return max(1.0, bounds.excess(one.score)), one.score.drift

    careful = tried[1:] if kept else list(tried)
    best = min(careful, key=rank)
    if bounds.hold(best.score):
        return Found(best, tuple(tried), untried=tuple(untried))
    if not time_left.tries:
        untried.append("any layer alone, or in float")
        return Found(best, tuple(tried), untried=tuple(untried))
    blamed = blame(network, maker, best.method, say, time_left.left_s / 2, clock)

    hopeful = sorted(careful, key=rank)  # the best calibration with all layers is not always that with some in float
    hopeful = [one for one in hopeful if not one.fault and one.score.drift <= _HOPELESS * best.score.drift]

    def without(count: int) -> Candidate:
        floats = kept | {node for each in blamed[:count] for node in each.block.nodes}
        made: list[Candidate] = []
        for one in hopeful or [best]:
            what = f"{one.method}, {words}, {count} layers too"
            if made and not time_left.tries:
                untried.append(what)
                continue
            made.append(make(what, one.method, floats))
            if bounds.hold(made[-1].score):
                break
        tried.extend(made)
        return min(made, key=rank)

    def more(now: int) -> int:
        """How many layers next: twice as many, or more where that would not come to all but one of them in time."""
        tries = max(1, time_left.most_tries // max(1, len(hopeful)))
        return min(most, max(2 * now, math.ceil(now * math.pow(most / now, 1 / tries))))

    low, high, holding, most = 0, 1, None, len(blamed) - 1
    if most > 1 and time_left.most_tries < most.bit_length() * max(1, len(hopeful)):
        high = more(1) // 2
    while low < most:
        if not time_left.tries:
            untried.append(f"{high} layers or more in float")
            break
        one = without(high)
        if bounds.hold(one.score):
            holding = one
            break
        low, high = high, more(high)
    while holding is not None and high - low > 1:
        if not time_left.tries:
            untried.append(f"fewer than {high} layers in float, but more than {low}")
            break
        middle = (low + high) // 2
        one = without(middle)
        low, high, holding = (low, middle, one) if bounds.hold(one.score) else (middle, high, holding)
    chosen = holding or min(tried[1:] if kept else tried, key=rank)
    floats = tuple(block for block in network.blocks if block.name in chosen.in_float)
    return Found(chosen, tuple(tried), tuple(blamed), floats, tuple(untried))


def blame(
    network: Network, maker: Maker, method: Method, say: Say, budget_s: float, clock: Callable[[], float]
) -> list[Blame]:
    """Every block's drift, worst first. Where the budget is too short for each, neighbours are judged together."""
    left = [block for block in network.blocks if block.name not in network.unsafe]
    count = len(left)
    found: list[Blame] = []
    began = told = clock()
    together = 1
    while left:
        group, left = left[:together], left[together:]
        tested = {node for block in group for node in block.nodes} - network.unsafe
        before_s = clock()
        moved = maker.drift(method, network.every_node - tested)
        now = clock()
        found += [Blame(block, moved) for block in group]
        if now - told >= _TELL_S or not left:
            told = now
            worst = max(found, key=lambda each: each.drift)
            say(
                f"{len(found)} of {count} layers quantised alone: {worst.block.name} moves the scores most, by "
                f"{worst.drift:.1%}"
            )
        calls = int((budget_s - (now - began)) / max(1e-9, now - before_s))  # that fit into what is left
        together = -(-len(left) // max(1, calls)) or 1
    return sorted(found, key=lambda each: -each.drift)
