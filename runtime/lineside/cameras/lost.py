"""How many pictures of a video FFmpeg skipped without a word: from the times of those that it gave."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np

from lineside.cameras.container import Structure

_STEADY = 0.9  # share of the steps between pictures that are alike, in a video of constant rate


@dataclass(slots=True)
class Watched:
    """One pass over a video; `stated`: the pictures that the container lists or its length lets expect, 0: unknown."""

    stated: int
    damaged: int = 0  # reported by FFmpeg and counted already
    times_s: array[float] = field(default_factory=lambda: array("d"))  # of the pictures that were decoded


def skipped(watched: Watched, structure: Structure) -> int:
    """Pictures that are lost to damage beside `watched.damaged`.

    Cameras drop pictures and vary their rate: where the container counts its pictures, a gap in time is damage only if
    they are more than were decoded, or the container itself is broken. At a constant rate the gaps then tell how many
    pictures were lost; at a variable rate the counts do, or the number of broken places: at least so many.
    """
    good = len(watched.times_s)
    if not good:
        return max(0, watched.stated - watched.damaged)
    steps_s = np.diff(np.frombuffer(watched.times_s, np.float64))
    period_s = float(np.median(steps_s)) if len(steps_s) else 0.0
    steady = period_s > 0 and bool((np.abs(steps_s / period_s - 1) < 0.5).mean() >= _STEADY)
    shown_s = watched.times_s[-1]
    unseen = watched.stated - good - watched.damaged
    tail = max(0, watched.stated - 1 - round(shown_s / period_s)) if steady else 0
    if structure.is_counted and structure.length_s is not None:  # an edit list may hide some of the pictures
        left_s = structure.length_s - shown_s
        tail = max(0, round(left_s / period_s) - 1) if steady else 0
        if not steady:
            ends_early = left_s > 2 * max(steps_s, default=left_s)
            return max(0, unseen) if structure.broken or watched.damaged or ends_early else 0
    undecoded = max(0, structure.pictures - good - watched.damaged) if structure.pictures is not None else 0
    if not steady:
        return max(undecoded, structure.broken)
    gaps = int(np.maximum(0, np.round(steps_s / period_s) - 1).sum()) + tail
    lost = max(int(structure.is_cut), min(unseen, gaps - watched.damaged))
    return min(lost, undecoded) if structure.pictures is not None and not structure.broken else lost
