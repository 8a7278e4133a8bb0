"""Which fault strikes when: drawn from a seed, so that a run that found something can be run again. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["kill_daemon", "kill_broker", "cut", "black_hole", "kill_receiver"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEAN_GAP_S = 0.7  # between the beginnings of two faults, whatever they are
_REST_S = 0.15  # between the end of a fault and the next of its kind


@dataclass(frozen=True)
class Fault:
    """`at_s` of the round it begins, `lasts_s` until what was broken is whole again; `how` is the kind's variant."""

    kind: Kind
    at_s: float
    lasts_s: float
    how: str


def draw(counts: dict[Kind, int], seed: int, mean_gap_s: float = MEAN_GAP_S) -> list[Fault]:
    """So many of each kind in random order at random instants. Faults of different kinds may overlap."""
    dice = random.Random(seed)
    kinds = [kind for kind in KINDS for _ in range(counts.get(kind, 0))]
    dice.shuffle(kinds)
    faults: list[Fault] = []
    free_s = dict.fromkeys(KINDS, 0.0)
    at_s = 0.0
    for kind in kinds:
        at_s = max(at_s + dice.uniform(0.0, 2 * mean_gap_s), free_s[kind])
        lasts_s, how = _shape(kind, dice)
        faults.append(Fault(kind, round(at_s, 4), round(lasts_s, 4), how))
        free_s[kind] = at_s + lasts_s + _REST_S
    return faults


def _shape(kind: Kind, dice: random.Random) -> tuple[float, str]:
    if kind == "kill_daemon":  # the harness starts it again at once, as systemd does
        return 0.0, dice.choice(["at once", "right behind a message"])
    if kind == "kill_broker":
        return dice.uniform(0.0, 1.5), ""
    if kind == "kill_receiver":
        return dice.uniform(0.0, 1.5), ""
    if kind == "cut":
        return 0.0, dice.choice(["RST", "FIN"])
    return dice.uniform(0.2, 2.5), dice.choice(["swallow", "stall"]) + dice.choice(["", " up", " down"])
