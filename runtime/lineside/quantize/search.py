"""Chooses calibration and the layers that stay in float, by measured accuracy.

Every calibration is tried with what is known to break left in float. Where none holds the bounds, each block is
quantised alone to see how far it moves the answers, and the worst are kept in float: 1, 2, 4, ... until the bounds
hold, then as few as will do.
"""

from __future__ import annotations

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


class Maker(Protocol):
    """Makes an INT8 model and measures it."""

    def make(self, what: str, method: Method, in_float: frozenset[str]) -> Candidate:
        """On all validation pictures."""

    def drift(self, method: Method, in_float: frozenset[str]) -> float:
        """On a few calibration pictures; 1.0 for a model that cannot be run."""


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

    `budget_s` is for finding the layers to blame.
    """
    tried = [maker.make("min-max, everything", "min-max", frozenset())]
    kept = network.unsafe
    words = "weighted layers only" if network.attention else "tail in float" if kept else "everything"
    for method in methods:
        if kept or method != "min-max":
            tried.append(maker.make(f"{method}, {words}", method, kept))

    def rank(one: Candidate) -> tuple[float, float]:
        return max(1.0, bounds.excess(one.score)), one.score.drift

    careful = tried[1:] if kept else list(tried)
    best = min(careful, key=rank)
    if bounds.hold(best.score):
        return Found(best, tuple(tried))
    blamed = blame(network, maker, best.method, say, budget_s, clock)

    hopeful = sorted(careful, key=rank)  # the best calibration with all layers is not always that with some in float
    hopeful = [one for one in hopeful if not one.fault and one.score.drift <= _HOPELESS * best.score.drift]

    def without(count: int) -> Candidate:
        floats = kept | {node for each in blamed[:count] for node in each.block.nodes}
        made = []
        for one in hopeful or [best]:
            made.append(maker.make(f"{one.method}, {words}, {count} layers too", one.method, floats))
            if bounds.hold(made[-1].score):
                break
        tried.extend(made)
        return min(made, key=rank)

    low, high, holding = 0, 1, None
    while high < len(blamed):
        one = without(high)
        if bounds.hold(one.score):
            holding = one
            break
        low, high = high, high * 2
    while holding is not None and high - low > 1:
        middle = (low + high) // 2
        one = without(middle)
        low, high, holding = (low, middle, one) if bounds.hold(one.score) else (middle, high, holding)
    chosen = holding or min(tried[1:] if kept else tried, key=rank)
    floats = tuple(block for block in network.blocks if block.name in chosen.in_float)
    return Found(chosen, tuple(tried), tuple(blamed), floats)


def blame(
    network: Network, maker: Maker, method: Method, say: Say, budget_s: float, clock: Callable[[], float]
) -> list[Blame]:
    """Every block's drift, worst first. Where the budget is too short for each, neighbours are judged together."""
    left = [block for block in network.blocks if block.name not in network.unsafe]
    found: list[Blame] = []
    began, told, together = clock(), clock(), 1
    while left:
        group, left = left[:together], left[together:]
        tested = {node for block in group for node in block.nodes} - network.unsafe
        moved = maker.drift(method, network.every_node - tested)
        found += [Blame(block, moved) for block in group]
        spent_s = clock() - began
        if clock() - told >= _TELL_S or not left:
            told = clock()
            worst = max(found, key=lambda each: each.drift)
            done = f"{len(found)} of {len(found) + len(left)} layers quantised alone"
            say(f"{done}: {worst.block.name} moves the scores most, by {worst.drift:.1%}")
        each_s = spent_s * together / len(found)
        together = max(1, -(-int(len(left) * each_s) // max(1, int(budget_s - spent_s)))) if left else 1
    return sorted(found, key=lambda each: -each.drift)
