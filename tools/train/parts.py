"""How often lineside says of a part what is true of it: its own path from picture to ruling, over rendered clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lineside.cameras.render import PartSeen, Rendered, Scene
from lineside.config.stations import StationConfig
from lineside.decide.rules import DefectRule
from lineside.decide.steady import Steady, rule_part
from lineside.hal.profile import find
from lineside.recipe import Model, findings_of, open_model
from lineside.records import Observation, Part
from lineside.store.bundle import Bundle, open_bundle
from lineside.triggers.free import FreeTrigger

SETTLE_FRAMES = 8  # a part is announced some frames after it crossed
NEAR_PX = 25.0  # a decision belongs to the part whose centre is at most so far from the announced box's


@dataclass(frozen=True, slots=True)
class Judged:
    """A part that truly crossed the line, and what the trigger announced at its place (None: nothing)."""

    seed: int
    truth: PartSeen
    part: Part | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Parts by outcome. Escape: a defective part accepted. Overkill: a good part rejected."""

    parts: int
    right: int
    escapes: int
    overkill: int
    missed: int


def open_for(bundle: str | Path | Bundle, backend: str, min_score: float | None = None) -> Model:
    """A bundle on one backend, one thread. Without `min_score`, as the bundle says."""
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    station = StationConfig(camera="belt", bundle=str(opened.folder), backend=backend, threads=1, min_score=min_score)
    return open_model(opened, station, find("x86-cpu"))


def watch(models: Mapping[str, Model], seed: int, seconds: float, fps: float = 15.0) -> dict[str, list[Judged]]:
    """Run one rendered clip through each model, its tracker and the middle line: every part that crosses it."""
    scene = Scene(seed, fps=fps)
    middle = scene.width_px / 2
    line = ((middle, 0.0), (middle, float(scene.height_px)))
    triggers = {
        name: FreeTrigger("parts", per="object", line_px=line, direction="right", track_labels=("part",))
        for name in models
    }
    crossed: dict[int, PartSeen] = {}
    before: set[int] = set()
    announced: dict[str, dict[int, Part]] = {name: {} for name in models}
    last = round(seconds * fps) - 1
    for frame in scene.frames(last + 1):
        now_ns = int(frame.number * 1e9 / fps)
        for truth in frame.parts:
            if truth.centre[0] < middle:
                before.add(truth.id)
            elif truth.id in before and frame.number < last - SETTLE_FRAMES:
                crossed.setdefault(truth.id, truth)
        for name, model in models.items():
            seen = Observation(now_ns, findings_of(model.see(frame.image), model.labels), frame.number)
            for part in triggers[name].step(seen, now_ns):
                owner = _owner(part, frame)
                if owner is not None:
                    announced[name].setdefault(owner, part)
    return {
        name: [Judged(seed, truth, announced[name].get(number)) for number, truth in crossed.items()] for name in models
    }


def _owner(part: Part, frame: Rendered) -> int | None:
    box = part.observations[-1].box
    if box is None or not frame.parts:
        return None
    centre = np.array(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    nearest = min(frame.parts, key=lambda truth: float(np.hypot(*(centre - truth.centre))))
    return nearest.id if np.hypot(*(centre - nearest.centre)) <= NEAR_PX else None


def tally(judged: Sequence[Judged], labels: Sequence[str], min_score: float, min_frames: int) -> Tally:
    """Apply the defect rule as the demo does, and count."""
    rules = (DefectRule(tuple(labels), min_score),)
    right = escapes = overkill = missed = 0
    for one in judged:
        if one.part is None:
            missed += 1
            continue
        verdict = rule_part(rules, one.part, Steady(min_frames)).verdict
        wanted = "reject" if one.truth.kinds else "accept"
        right += verdict == wanted
        escapes += bool(one.truth.kinds) and verdict != "reject"
        overkill += not one.truth.kinds and verdict != "accept"
    return Tally(len(judged), right, escapes, overkill, missed)


def choose(judged: Sequence[Judged], labels: Sequence[str]) -> tuple[float, int]:
    """The score and the number of frames with which most parts are judged right; of equals the middle one."""
    options = [(score / 100, frames) for score in range(25, 80, 5) for frames in (1, 2, 3, 4, 5, 6, 8)]
    results = [(tally(judged, labels, *option).right, option) for option in options]
    best = [option for right, option in results if right == max(results)[0]]
    return best[len(best) // 2]
