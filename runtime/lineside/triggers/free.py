"""The trigger that needs nothing but the camera: each frame is a part, or each object that crosses a line.

Stands between the decoder and the rules. An object is one part: its observations gather what was found inside its
box over all frames, and it is announced once, when its centre has crossed the line.
"""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, TypeAlias

import numpy as np

from lineside.contracts import Status
from lineside.errors import ConfigError
from lineside.records import Box, Finding, Observation, Part
from lineside.triggers.track import Tracker

Point: TypeAlias = tuple[float, float]
Direction: TypeAlias = Literal["any", "left", "right", "up", "down", "forward", "backward"]

_WAYS: dict[str, Point] = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_BAND_SHARE = 0.04  # of the box's diagonal: so far past the line a centre must be, for a box that trembles
_BAND_MIN_PX = 1.0


@dataclass(slots=True)
class _Object:
    """What is known of one track."""

    seen: deque[Observation]
    hits: int = 0
    side: int = 0  # of the line, +1 or -1, once the centre was clear of it
    side_at: Point = (0.0, 0.0)  # where the centre was last clear of the line
    first_away_px: float = 0.0
    last_away_px: float = 0.0
    crossed: bool = False  # the right way; waits for min_hits
    crossed_wrong: bool = False
    announced: bool = False
    part_id: str = ""  # once it is confirmed


_WITHOUT_SEEN = attrgetter(
    *(slot.name for slot in fields(_Object) if slot.name != "seen")
)  # in the order of the fields


@dataclass(slots=True)
class FreeTrigger:
    """Announces parts. `step` takes all findings of a frame; boxes and `line_px` are pixels of the same picture.

    With per = "object" these counts always add up: tracks = parts + lost_before_line + appeared_after_line +
    wrong_direction + open. A part that was lost between the line's two sides is in `lost_before_line` or
    `appeared_after_line`: no decision was made about it, and that is an alarm. `boxes_unfollowed` grows where boxes of
    tracked labels score too low to start a track, or lie on top of another.
    """

    station: str
    per: Literal["frame", "object"] = "frame"
    line_px: tuple[Point, Point] | None = None
    direction: Direction = "any"
    track_labels: Sequence[str] = ()
    track_high_score: float = 0.4
    track_low_score: float = 0.1
    min_hits: int = 3
    max_age_s: float = 0.5
    max_frames: int = 100
    new_id: Callable[[], str] = field(default=lambda: str(uuid.uuid4()))
    _counts: dict[str, int] = field(init=False)
    _objects: dict[int, _Object] = field(init=False, default_factory=dict)
    _open: dict[str, None] = field(init=False, default_factory=dict)  # part ids
    _tracker: Tracker = field(init=False)
    _sign: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        names = ("parts", "tracks", "lost_before_line", "appeared_after_line", "wrong_direction", "crossed_unconfirmed")
        self._counts = dict.fromkeys((*names, "frames_forgotten", "boxes_unfollowed"), 0)
        if self.per not in ("frame", "object"):
            raise ConfigError(f'trigger.per = {self.per!r}: the free trigger makes parts per "frame" or "object"')
        self._tracker = self._new_tracker()
        if self.per == "object":
            if self.line_px is None or self.line_px[0] == self.line_px[1]:
                raise ConfigError('trigger: per = "object" needs a line of two different points')
            self._sign = _sign(self.line_px, self.direction)

    def step(self, seen: Observation, wall_ns: int) -> tuple[Part, ...]:
        """The parts that this frame completes; `wall_ns` is the wall time of its capture."""
        if self.per == "frame":
            return (self._part(self.new_id(), seen.captured_ns, wall_ns, (seen,)),)
        followed = [
            f for f in seen.findings if f.box is not None and (not self.track_labels or f.label in self.track_labels)
        ]
        boxes = np.array([f.box for f in followed], np.float32).reshape(-1, 4)
        scores = np.array([f.score for f in followed], np.float32)
        ids, ended = self._tracker.advance(boxes, scores, seen.captured_ns)
        for track in ended:
            self._end(self._objects.pop(track.track_id))
        owners = {id(finding): int(track_id) for finding, track_id in zip(followed, ids, strict=True) if track_id >= 0}
        self._counts["boxes_unfollowed"] += len(followed) - len(owners)
        parts = []
        for finding in followed:
            track_id = owners.get(id(finding))
            if track_id is None or finding.box is None:
                continue
            thing = self._objects.get(track_id)
            if thing is None:
                thing = self._objects[track_id] = _Object(deque(maxlen=self.max_frames))
            self._observe(thing, _belonging(finding, finding.box, seen, owners))
            if thing.crossed and not thing.announced and thing.hits >= self.min_hits:
                thing.announced = True
                del self._open[thing.part_id]
                parts.append(self._part(thing.part_id, seen.captured_ns, wall_ns, tuple(thing.seen)))
                thing.seen.clear()
        return tuple(parts)

    def finish(self) -> tuple[Part, ...]:
        """Ends every track and counts those without a decision. A part is announced at the line, so none is left."""
        for thing in self._objects.values():
            self._end(thing)
        self._objects.clear()
        self._tracker = self._new_tracker()
        return ()

    def open_parts(self) -> Set[str]:
        """Ids of the confirmed tracks that have neither crossed nor ended."""
        return self._open.keys()

    def status(self) -> Status:
        """Counts since the start; `missed` are objects that left no decision, `open` those still before the line.

        `given_up` are the missed and those that went the wrong way.
        """
        counts = self._counts
        missed = counts["lost_before_line"] + counts["appeared_after_line"]
        return {**counts, "missed": missed, "given_up": missed + counts["wrong_direction"], "open": len(self._open)}

    def waiting_parts(self) -> tuple[Part, ...]:
        """What is followed and has not crossed the line yet, as it would be announced now; nothing is counted."""
        objects = (tuple(thing.seen) for thing in self._objects.values() if thing.seen and not thing.announced)
        return tuple(Part("", self.station, 0, seen[-1].captured_ns, 0, observations=seen) for seen in objects)

    def state(self) -> Mapping[str, object]:
        """All that the next `step` depends on. Cheap, since it is taken before every frame that is kept as evidence."""
        objects = [(track_id, tuple(thing.seen), _WITHOUT_SEEN(thing)) for track_id, thing in self._objects.items()]
        return {"tracker": self._tracker.state(), "objects": objects}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of a trigger with the same options; counts begin anew."""
        self._tracker = self._new_tracker()
        self._tracker.restore(state["tracker"])
        self._objects = {
            track_id: _Object(deque(seen, maxlen=self.max_frames), *values)
            for track_id, seen, values in state["objects"]
        }
        known = (thing for thing in self._objects.values() if thing.part_id and not thing.announced)
        self._open = dict.fromkeys(thing.part_id for thing in known)

    def _new_tracker(self) -> Tracker:
        return Tracker(
            high_score=self.track_high_score,
            low_score=self.track_low_score,
            min_hits=self.min_hits,
            max_age_s=self.max_age_s,
        )

    def _observe(self, thing: _Object, now: Observation) -> None:
        assert now.box is not None
        assert self.line_px is not None
        thing.hits += 1
        if thing.hits == self.min_hits:
            self._counts["tracks"] += 1
            thing.part_id = self.new_id()
            self._open[thing.part_id] = None
        if thing.announced:
            return
        if len(thing.seen) == self.max_frames:
            self._counts["frames_forgotten"] += 1
        thing.seen.append(now)
        x1, y1, x2, y2 = now.box
        center = ((x1 + x2) / 2, (y1 + y2) / 2)
        away_px = _away_px(self.line_px, center)
        if thing.hits == 1:
            thing.first_away_px = away_px
        thing.last_away_px = away_px
        if abs(away_px) < max(_BAND_MIN_PX, _BAND_SHARE * math.hypot(x2 - x1, y2 - y1)):
            return
        side = 1 if away_px > 0 else -1
        if thing.side == -side and _passes_between(self.line_px, thing.side_at, center):
            if self._sign in (0, side):
                thing.crossed = True
            else:
                thing.crossed_wrong = True
        thing.side, thing.side_at = side, center

    def _end(self, thing: _Object) -> None:
        if thing.announced:
            return
        self._open.pop(thing.part_id, None)
        if thing.hits < self.min_hits:
            if thing.crossed:
                self._counts["crossed_unconfirmed"] += 1
        elif thing.crossed_wrong:
            self._counts["wrong_direction"] += 1
        elif abs(thing.last_away_px) > abs(thing.first_away_px):
            self._counts["appeared_after_line"] += 1
        else:
            self._counts["lost_before_line"] += 1

    def _part(self, part_id: str, captured_ns: int, wall_ns: int, seen: tuple[Observation, ...]) -> Part:
        self._counts["parts"] += 1
        return Part(part_id, self.station, self._counts["parts"], captured_ns, wall_ns, observations=seen)


def _belonging(part: Finding, box: Box, seen: Observation, owners: dict[int, int]) -> Observation:
    """The part itself and every finding whose centre is inside its box, other parts excepted.

    Where two boxes overlap, what is found in both belongs to both: better a good part rejected than a defect escaped.
    """
    x1, y1, x2, y2 = box
    inside = [part]
    for other in seen.findings:
        if other.box is None or id(other) in owners:
            continue
        x, y = (other.box[0] + other.box[2]) / 2, (other.box[1] + other.box[3]) / 2
        if x1 <= x < x2 and y1 <= y < y2:
            inside.append(other)
    return Observation(seen.captured_ns, tuple(inside), seen.frame_number, box)


def _away_px(line: tuple[Point, Point], at: Point) -> float:
    """Distance from the endless line; positive on the right hand of who walks from the first point to the second."""
    (ax, ay), (bx, by) = line
    return ((bx - ax) * (at[1] - ay) - (by - ay) * (at[0] - ax)) / math.hypot(bx - ax, by - ay)


def _passes_between(line: tuple[Point, Point], before: Point, after: Point) -> bool:
    """Whether the way from `before` to `after`, which are on two sides, goes between the line's two ends."""
    (ax, ay), (bx, by) = line
    near, far = abs(_away_px(line, before)), abs(_away_px(line, after))
    share = near / (near + far)
    x, y = before[0] + share * (after[0] - before[0]), before[1] + share * (after[1] - before[1])
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
    return 0.0 <= along <= 1.0


def _sign(line: tuple[Point, Point], direction: Direction) -> int:
    """The side on which a part must arrive: +1 right hand, -1 left hand, 0 either."""
    if direction == "any":
        return 0
    if direction in ("forward", "backward"):
        return 1 if direction == "forward" else -1
    if direction not in _WAYS:
        raise ConfigError(f"trigger.direction = {direction!r}: allowed are any, forward, backward, {', '.join(_WAYS)}")
    (ax, ay), (bx, by) = line
    way = _WAYS[direction]
    towards = ((bx - ax) * way[1] - (by - ay) * way[0]) / math.hypot(bx - ax, by - ay)
    if abs(towards) < 0.1:
        raise ConfigError(
            f"trigger.direction = {direction!r}: the line runs that way itself, nothing crosses it so; "
            "turn the line or use forward or backward"
        )
    return 1 if towards > 0 else -1
