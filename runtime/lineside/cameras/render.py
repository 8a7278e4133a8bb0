"""Renders machined parts on a conveyor belt, seen from above: the picture source of the `synthetic` camera.

Everything follows from the seed: the same seed, size and rate give the same pictures on the same build of OpenCV.
The belt runs from left to right. Truth comes with each frame for whoever trains or scores; the camera drops it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lineside.cameras import sprites
from lineside.cameras.scenery import Look, draw_look, draw_scenery
from lineside.cameras.sprites import Floats
from lineside.records import Box, Image

DEFECTS = sprites.DEFECTS


@dataclass(frozen=True, slots=True)
class DefectSeen:
    """One defect in one frame. `visible` is the share of its box inside the view."""

    kind: str
    box: Box
    visible: float


@dataclass(frozen=True, slots=True)
class PartSeen:
    """One part in one frame; boxes are clipped to the view. `visible` leaves out what lies under another part.

    `kinds` are all defects of the part, `defects` those of which something is inside the view.
    """

    id: int
    shape: str
    centre: tuple[float, float]
    box: Box
    visible: float
    kinds: tuple[str, ...]
    defects: tuple[DefectSeen, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One picture and its truth, parts in the order of their ids."""

    number: int
    image: Image
    parts: tuple[PartSeen, ...]


@dataclass(slots=True)
class _Placed:
    """A part with its place on the belt: x in the view is belt travel - `behind_px`."""

    id: int
    sprite: sprites.Sprite
    ink: Floats  # (S, S, 3) colour times cover
    cover: Floats  # (S, S, 3) how much of the ground the metal hides
    shade: Floats  # (S', S', 3) the same of its shadow
    behind_px: float
    y: float
    covered: float  # share that lies under earlier parts


class Scene:
    """A stretch of conveyor. Frames are asked in ascending order, gaps allowed: parts that have left are forgotten.

    `with_defects=False` renders the clean twin: the same parts, places and light with nothing wrong.
    """

    def __init__(
        self,
        seed: int,
        width_px: int = 640,
        height_px: int = 360,
        fps: float = 15.0,
        defective_share: float = 0.25,
        with_defects: bool = True,
    ) -> None:
        self.seed, self.width_px, self.height_px, self.fps = seed, width_px, height_px, fps
        self._share, self._with_defects = defective_share, with_defects
        self._unit = height_px / 360
        rng = np.random.default_rng((seed, 1))
        self.look = draw_look(rng, self._unit)
        self._scenery = draw_scenery(rng, self.look, width_px, height_px, self._unit)
        self._layout = np.random.default_rng((seed, 2))
        self._line: deque[_Placed] = deque()
        self._planned = 0
        self._last = 0

    def travel_px(self, number: int) -> float:
        """How far the belt has come at a frame: its drive swings by 3 %."""
        t = number / self.fps
        return self.look.speed_px_s * (t + 0.03 * math.sin(1.3 * t) / 1.3) + 0.55 * self.width_px

    def frame(self, number: int) -> Rendered:
        """Render one frame (H, W, 3 BGR uint8) and say what is in it. Raises ValueError for an earlier one."""
        if number < self._last:
            raise ValueError(f"frame {number}: frame {self._last} was rendered, and the belt does not run back")
        self._last = number
        travel = self.travel_px(number)
        parts = self._parts(travel)
        canvas = self._belt(travel)
        for part in reversed(parts):  # earlier parts lie on top of later ones
            self._lay(canvas, part, travel - part.behind_px)
        rng = np.random.default_rng((self.seed, 3, number))
        image = self._expose(canvas, number / self.fps, rng)
        return Rendered(number, image, tuple(seen for part in parts if (seen := self._seen(part, travel))))

    def frames(self, count: int, start: int = 0) -> Iterator[Rendered]:
        """`count` frames from `start` on."""
        return (self.frame(number) for number in range(start, start + count))

    # --- the parts on the belt -------------------------------------------------------------------------------------

    def _parts(self, travel: float) -> list[_Placed]:
        """Parts that touch the view, having planned as many as the belt has brought."""
        reach = 80 * self._unit
        while not self._line or self._line[-1].behind_px < travel + 3 * reach:
            self._line.append(self._next())
        while travel - self._line[0].behind_px > self.width_px + reach:
            self._line.popleft()
        return [p for p in self._line if travel - p.behind_px > -reach]

    def _next(self) -> _Placed:
        rng, unit = self._layout, self._unit
        blank = sprites.plan(rng, unit)
        hull = sprites.outline(blank)
        half = float(np.argwhere(hull).max(0)[0] + 1 - blank.side / 2)
        free_y = (self.height_px / 2 - self._scenery.rail_px - half - 2) * float(rng.choice((0.35, 1.0), p=(0.6, 0.4)))
        y = self.height_px / 2 + float(rng.uniform(-1, 1)) * max(0.0, free_y)
        kind = rng.choice(4, p=(0.12, 0.12, 0.26, 0.5))  # overlap | touch | near | apart
        gap = float((0.0, 0.0, rng.uniform(1, 16), rng.uniform(16, 120))[kind]) * unit
        allowed = int((float(rng.uniform(0.01, 0.05)) if kind == 0 else 0.0005) * hull.sum())
        behind = -60.0 * unit
        ahead = list(self._line)[-4:]
        if ahead:
            behind = max(p.behind_px + _contact(hull, y, p, allowed) for p in ahead) + gap
            behind = max(behind, ahead[-1].behind_px + 14 * unit)
        self._planned += 1
        wrong = np.random.default_rng((self.seed, 4, self._planned))
        kinds = _wrong(wrong, blank, self._share) if self._with_defects else ()
        free = _free(hull, behind, y, ahead)
        sprite = sprites.draw(blank, kinds, free, wrong)
        covered = 1 - float((free & hull).sum()) / max(1, int(hull.sum()))
        cover = _three(sprite.alpha)
        return _Placed(
            self._planned, sprite, sprite.colour * cover, cover, _shade(sprite, self.look), behind, y, covered
        )

    def _seen(self, part: _Placed, travel: float) -> PartSeen | None:
        half = part.sprite.side / 2
        x = travel - part.behind_px
        left, top = x - half, part.y - half
        box, visible = self._clip(part.sprite.box, left, top)
        if visible <= 0:
            return None
        defects = []
        for kind, where in part.sprite.defects:
            defect_box, share = self._clip(where, left, top)
            if share > 0:
                defects.append(DefectSeen(kind, defect_box, share))
        kinds = tuple(kind for kind, _ in part.sprite.defects)
        shown = visible * (1 - part.covered)
        return PartSeen(part.id, part.sprite.shape, (x, part.y), box, shown, kinds, tuple(defects))

    def _clip(self, box: Box, left: float, top: float) -> tuple[Box, float]:
        x1, y1, x2, y2 = box[0] + left, box[1] + top, box[2] + left, box[3] + top
        cx1, cy1, cx2, cy2 = max(0.0, x1), max(0.0, y1), min(float(self.width_px), x2), min(float(self.height_px), y2)
        inside = max(0.0, cx2 - cx1) * max(0.0, cy2 - cy1)
        return (cx1, cy1, cx2, cy2), inside / ((x2 - x1) * (y2 - y1))

    # --- the picture -----------------------------------------------------------------------------------------------

    def _belt(self, travel: float) -> Floats:
        belt = self._scenery.belt
        period = belt.shape[1] - self.width_px
        start = period - 1 - int(travel) % period
        return belt[:, start : start + self.width_px].copy()

    def _lay(self, canvas: Floats, part: _Placed, x: float) -> None:
        """Shadow, then metal with the reflection that it has at this place."""
        sprite = part.sprite
        dx, dy, _, _ = self.look.shadow
        pad = (part.shade.shape[0] - sprite.side) // 2
        left, top = x - sprite.side / 2, part.y - sprite.side / 2
        _blend(canvas, None, part.shade, left + dx - pad, top + dy - pad)
        glint, change = self.look.glint
        phase = glint + change * (x / self.width_px - 0.5) + 0.4 * (part.y / self.height_px - 0.5)
        cos, sin = sprite.grain
        shine = 0.5 + (0.5 * math.cos(2 * phase)) * cos + (0.5 * math.sin(2 * phase)) * sin
        shine *= shine
        shine *= shine
        shine *= sprite.shine
        shine += 0.8
        _blend(canvas, part.ink * _three(shine), part.cover, left, top)

    def _expose(self, canvas: Floats, t: float, rng: np.random.Generator) -> Image:
        look, scenery = self.look, self._scenery
        cv2.sepFilter2D(canvas, -1, look.blur[0], look.blur[1], dst=canvas)
        edge = scenery.rail_px
        canvas[:edge] = scenery.rail
        canvas[-edge:] = scenery.rail[::-1]
        depth, hertz, jitter = look.flicker
        gain = 1 + depth * math.sin(2 * math.pi * hertz * t) + jitter * float(rng.standard_normal())
        sway = 0.5 + 0.5 * math.sin(0.37 * t + look.light_angle)
        low, high = scenery.light
        light: Floats = np.asarray(cv2.addWeighted(low, gain * (1 - sway), high, gain * sway, 0), np.float32)
        start = int(t * 60 * self._unit + 400 * look.light_angle) % (scenery.band.shape[1] - self.width_px)
        light *= scenery.band[:, start : start + self.width_px]
        cv2.multiply(canvas, light, dst=canvas)
        if look.noise > 0:
            oy, ox = (int(rng.integers(0, n)) for n in (64, 64))
            sign = 1.0 if rng.random() < 0.5 else -1.0
            cv2.scaleAdd(scenery.noise[oy : oy + self.height_px, ox : ox + self.width_px], sign, canvas, dst=canvas)
        image = np.rint(canvas, out=canvas).clip(0, 255, out=canvas).astype(np.uint8)
        if look.jpeg_quality is None:
            return image
        _, packed = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality))
        return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def _wrong(rng: np.random.Generator, blank: sprites.Blank, share: float) -> tuple[str, ...]:
    """What is wrong with the next part, if anything."""
    if rng.random() >= share:
        return ()
    kinds = [k for k in DEFECTS if k != "missing_hole" or blank.holes]
    count = 1 if rng.random() < 0.75 else 2
    return tuple(str(k) for k in rng.choice(kinds, count, replace=False))


def _shade(sprite: sprites.Sprite, look: Look) -> Floats:
    """How much a part's shadow darkens what lies under it; wider than the sprite by its softness."""
    soft, strength = look.shadow[2], look.shadow[3]
    pad = math.ceil(3 * soft)
    wide = cv2.copyMakeBorder(sprite.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    return _three(cv2.GaussianBlur(wide, (0, 0), soft) * np.float32(strength))


def _three(plane: Floats) -> Floats:
    """The same plane for each of three channels: whole arrays multiply several times faster than broadcast ones."""
    return np.asarray(cv2.merge((plane, plane, plane)), np.float32)


def _contact(hull: NDArray[np.bool_], y: float, other: _Placed, allowed_px: int) -> float:
    """The least distance along the belt at which a part covers at most `allowed_px` pixels of an earlier one."""
    low, high = -1, (hull.shape[0] + other.sprite.side) // 2
    while high - low > 1:  # both outlines are convex and point-symmetric, so the cover only shrinks with distance
        middle = (low + high) // 2
        if int(np.count_nonzero(_under(hull, y, middle, other) & hull)) > allowed_px:
            low = middle
        else:
            high = middle
    return float(high)


def _under(hull: NDArray[np.bool_], y: float, distance: float, other: _Placed) -> NDArray[np.bool_]:
    """Which pixels of a part's square lie under another part that is `distance` ahead (to the right)."""
    side, theirs = hull.shape[0], other.sprite.side
    dx = round(distance + side / 2 - theirs / 2)
    dy = round(other.y - y + side / 2 - theirs / 2)
    under = np.zeros_like(hull)
    x1, y1, x2, y2 = max(0, dx), max(0, dy), min(side, dx + theirs), min(side, dy + theirs)
    if x1 < x2 and y1 < y2:
        under[y1:y2, x1:x2] = other.sprite.hull[y1 - dy : y2 - dy, x1 - dx : x2 - dx]
    return under


def _free(hull: NDArray[np.bool_], behind: float, y: float, earlier: list[_Placed]) -> NDArray[np.bool_]:
    free = np.ones_like(hull)
    for other in earlier:
        under = _under(hull, y, behind - other.behind_px, other).astype(np.uint8)
        free &= cv2.dilate(under, np.ones((9, 9), np.uint8)) == 0
    return free


def _blend(canvas: Floats, ink: Floats | None, cover: Floats, left: float, top: float) -> None:
    """Lay a sprite at a fractional place, in place; without ink, darken only (soft, so whole pixels will do)."""
    height, width = canvas.shape[:2]
    ix, iy = math.floor(left), math.floor(top)
    side = cover.shape[0]
    x1, y1, x2, y2 = max(0, ix), max(0, iy), min(width, ix + side), min(height, iy + side)
    if x1 >= x2 or y1 >= y2:
        return
    within = np.s_[y1 - iy : y2 - iy, x1 - ix : x2 - ix]
    ground = canvas[y1:y2, x1:x2]
    if ink is None:
        ground *= 1 - cover[within]
        return
    shift = np.array(((1, 0, left - ix), (0, 1, top - iy)), np.float32)
    ground *= 1 - cv2.warpAffine(cover, shift, (side, side))[within]
    ground += cv2.warpAffine(ink, shift, (side, side))[within]
