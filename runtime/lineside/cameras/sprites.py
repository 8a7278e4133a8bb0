"""Draws one machined part, seen from above, with or without defects. For render.py; nothing here knows of frames.

Lengths are in pixels of a 360-line picture times `unit`; arrays are float32, colours BGR 0 to 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PixelBox = tuple[float, float, float, float]  # x1 y1 x2 y2 in pixels of the sprite

SHAPES = ("ring", "flange", "plate")
DEFECTS = ("scratch", "stain", "chip", "missing_hole")
_METALS = {  # BGR of the evenly lit face
    "steel": (158, 156, 152),
    "aluminium": (190, 188, 185),
    "brass": (92, 142, 172),
    "blackened": (86, 84, 84),
}
_LEAST_LEVELS = 30.0  # what a defect changes at its strongest, seen through a slightly soft lens
_FINE = 4  # defects are drawn this many times finer than the picture


@dataclass(frozen=True, slots=True)
class Sprite:
    """One part ready to be laid on the belt; all arrays are `side` x `side`."""

    shape: str
    colour: Floats  # (S, S, 3)
    shine: Floats  # (S, S) strength of the moving reflection
    grain: tuple[Floats, Floats]  # cosine and sine of twice the direction of the machining marks
    alpha: Floats  # (S, S) 1 where there is metal
    hull: NDArray[np.bool_]  # (S, S) the outline with its holes filled: what can touch another part
    box: PixelBox
    defects: tuple[tuple[str, PixelBox], ...]

    @property
    def side(self) -> int:
        return int(self.alpha.shape[0])


@dataclass(frozen=True, slots=True)
class Blank:
    """The plan of a part, before anything is drawn: what the layout needs and what does not change with defects."""

    shape: str
    metal: str
    finish: str  # turned | brushed | cast
    angle_rad: float
    radius_px: float  # of the disc, or half the long side of the plate
    aspect: float  # plates: short side / long side
    bore_px: float
    holes: tuple[tuple[float, float, float], ...]  # u v radius in the part's own axes
    marking: str
    seed: int
    unit: float

    @property
    def side(self) -> int:
        """Pixels of the square that holds the part at any angle."""
        reach = self.radius_px * (math.hypot(1, self.aspect) if self.shape == "plate" else 1)
        return 2 * math.ceil(reach + 3 * self.unit) + 2


def plan(rng: np.random.Generator, unit: float) -> Blank:
    """Draw the shape, size and finish of the next part."""
    shape = SHAPES[rng.choice(3, p=(0.3, 0.4, 0.3))]
    radius = float(rng.uniform(38, 58)) * unit
    angle = float(rng.uniform(0, 2 * math.pi))
    metal = tuple(_METALS)[rng.choice(4, p=(0.45, 0.25, 0.15, 0.15))]
    holes: list[tuple[float, float, float]] = []
    aspect, bore = 1.0, 0.0
    finish = "turned"
    if shape == "ring":
        bore = radius * float(rng.uniform(0.38, 0.6))
    elif shape == "flange":
        bore = radius * float(rng.uniform(0.2, 0.34))
        count, hole = int(rng.choice((4, 6))), radius * float(rng.uniform(0.09, 0.12))
        at = radius * float(rng.uniform(0.7, 0.76))
        holes = [
            (at * math.cos(2 * math.pi * k / count), at * math.sin(2 * math.pi * k / count), hole) for k in range(count)
        ]
    else:
        radius *= 1.1
        aspect = float(rng.uniform(0.55, 0.85))
        inset, hole = radius * float(rng.uniform(0.17, 0.22)), radius * float(rng.uniform(0.075, 0.1))
        u, v = radius - inset, radius * aspect - inset
        holes = [(u, v, hole), (-u, v, hole), (u, -v, hole), (-u, -v, hole)]
        bore = radius * aspect * float(rng.choice((0.0, rng.uniform(0.25, 0.4))))
        finish = "brushed"
    if rng.random() < 0.15:
        finish = "cast"
    marking = f"{'ABCDEFGH'[rng.integers(8)]}{rng.integers(100, 999)}" if rng.random() < 0.4 else ""
    seed = int(rng.integers(2**62))
    return Blank(shape, metal, finish, angle, radius, aspect, bore, tuple(holes), marking, seed, unit)


def outline(blank: Blank) -> NDArray[np.bool_]:
    """Where the part would stand, holes filled: (side, side)."""
    return _hull(blank, *_axes(blank)) < 0


def draw(blank: Blank, kinds: tuple[str, ...], free: NDArray[np.bool_], rng: np.random.Generator) -> Sprite:
    """Draw a part with defects of these kinds, each where `free` (side, side) says that it will be seen."""
    face = _Face(blank, rng, with_missing_hole="missing_hole" in kinds, free=free)
    for kind in kinds:
        if kind != "missing_hole":
            _damage(face, kind, rng, free)
    ys, xs = np.nonzero(face.alpha > 0.5)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    np.clip(face.colour, 0, 255, out=face.colour)
    return Sprite(blank.shape, face.colour, face.shine, face.grain, face.alpha, face.hull < 0, box, tuple(face.defects))


class _Face:
    """The arrays of a part while it is being drawn."""

    def __init__(
        self, blank: Blank, rng: np.random.Generator, with_missing_hole: bool, free: NDArray[np.bool_]
    ) -> None:
        own = np.random.default_rng(blank.seed)  # the metal must look the same with and without defects
        self.unit = blank.unit
        self.defects: list[tuple[str, PixelBox]] = []
        u, v = _axes(blank)
        self.radius = np.hypot(u, v)
        self.hull = _hull(blank, u, v)
        holes = list(blank.holes)
        missing = _pick_hole(blank, free, rng) if with_missing_hole and holes else None
        if missing is not None:
            holes.remove(missing)
        depth = self.hull.copy()  # signed distance to the nearest edge, negative inside the metal
        for hu, hv, hole in [*holes, *([(0.0, 0.0, blank.bore_px)] if blank.bore_px else [])]:
            np.maximum(depth, hole - np.hypot(u - hu, v - hv), out=depth)
        self.alpha = np.clip(0.5 - depth, 0, 1).astype(np.float32)

        shade = np.ones_like(u)
        if blank.shape == "flange":  # a raised hub
            hub = (blank.bore_px + blank.radius_px * 0.56) / 2
            shade = np.where(self.radius < hub, 1.05, 0.96).astype(np.float32)
            shade -= 0.3 * np.exp(-(((self.radius - hub) / blank.unit) ** 2))
        texture, grain_angle = _finish(blank, u, v, self.radius, own)
        shade *= texture
        gy, gx = np.gradient(depth)
        rim = np.exp(-(((depth + 1.6 * blank.unit) / (1.5 * blank.unit)) ** 2))  # chamfers catch or lose the light
        shade += rim * (-0.30 * gx - 0.38 * gy + 0.04).astype(np.float32)
        shade *= 1 - 0.45 * np.clip(1 + depth / blank.unit, 0, 1)  # the very edge is dark
        if blank.marking:
            shade *= 1 - float(own.uniform(0.12, 0.3)) * _marking(blank, own)
        tint = np.array(_METALS[blank.metal], np.float32) * float(own.uniform(0.92, 1.06)) + own.normal(0, 3, 3)
        self.colour = (shade[..., None] * tint).astype(np.float32)
        gloss = {"turned": 0.5, "brushed": 0.42, "cast": 0.05}[blank.finish] * float(own.uniform(0.5, 1.2))
        self.shine = np.full_like(u, gloss)
        self.shine *= np.clip(texture * 2 - 1, 0.3, 1.7)
        self.grain = (np.cos(2 * grain_angle), np.sin(2 * grain_angle))
        if missing is not None:
            self._blind(blank, missing, u, v)

    def _blind(self, blank: Blank, hole: tuple[float, float, float], u: Floats, v: Floats) -> None:
        """Where a hole was forgotten: at most the dot of the centre punch."""
        away = np.hypot(u - hole[0], v - hole[1])
        self.colour *= (1 - 0.35 * np.exp(-((away / (1.3 * blank.unit)) ** 2)))[..., None]
        self.note("missing_hole", away < hole[2] + blank.unit)

    def note(self, kind: str, mask: NDArray[np.bool_]) -> None:
        """Write down the box of a defect, with a margin of two pixels."""
        ys, xs = np.nonzero(mask)
        pad = 2 * self.unit
        side = self.alpha.shape[0]
        x1, y1 = max(0.0, float(xs.min()) - pad), max(0.0, float(ys.min()) - pad)
        x2, y2 = min(float(side), float(xs.max()) + 1 + pad), min(float(side), float(ys.max()) + 1 + pad)
        self.defects.append((kind, (x1, y1, x2, y2)))


def _axes(blank: Blank) -> tuple[Floats, Floats]:
    """Every pixel's place in the part's own axes, from its centre."""
    ticks = np.arange(blank.side, dtype=np.float32) + 0.5 - blank.side / 2
    x, y = ticks[None, :], ticks[:, None]
    cos, sin = math.cos(blank.angle_rad), math.sin(blank.angle_rad)
    return (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)


def _hull(blank: Blank, u: Floats, v: Floats) -> Floats:
    """Signed distance to the outline (Inigo Quilez, 2D distance functions: circle and rounded box)."""
    if blank.shape != "plate":
        return np.hypot(u, v) - np.float32(blank.radius_px)
    corner = blank.radius_px * 0.14
    qu = np.abs(u) - (blank.radius_px - corner)
    qv = np.abs(v) - (blank.radius_px * blank.aspect - corner)
    outside = np.hypot(np.maximum(qu, 0), np.maximum(qv, 0))
    return (outside + np.minimum(np.maximum(qu, qv), 0) - corner).astype(np.float32)


def _pick_hole(blank: Blank, free: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float, float] | None:
    """A hole in the part of the face that will be seen."""
    cos, sin = math.cos(blank.angle_rad), math.sin(blank.angle_rad)
    for k in rng.permutation(len(blank.holes)):
        u, v, hole = blank.holes[k]
        x, y = u * cos - v * sin + blank.side / 2, u * sin + v * cos + blank.side / 2
        r = math.ceil(hole)
        if free[max(0, int(y) - r) : int(y) + r + 1, max(0, int(x) - r) : int(x) + r + 1].all():
            return blank.holes[k]
    return None


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> Floats:
    """Noise of standard deviation one whose features are about `sigma_px` wide."""
    noise = rng.standard_normal(shape, np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma_px)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)


def _coarse(page: cv2.typing.MatLike, side: int) -> Floats:
    """A finely drawn page as cover 0 to 1 of side x side pixels."""
    return np.asarray(cv2.resize(page, (side, side), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def _finish(blank: Blank, u: Floats, v: Floats, radius: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Brightness around 1 of the machining marks, and their direction in the picture, in radians."""
    side = blank.side
    cloud = 1 + 0.025 * _smooth_noise(rng, (side, side), 9 * blank.unit)
    ticks = np.arange(side, dtype=np.float32) + 0.5 - side / 2
    polar = np.arctan2(ticks[:, None], ticks[None, :])
    if blank.finish == "cast":
        rough = 0.035 * _smooth_noise(rng, (side, side), 0.8) + 0.03 * _smooth_noise(rng, (side, side), 2.5)
        return (cloud + rough).astype(np.float32), _smooth_noise(rng, (side, side), 1.0) * 3
    across = radius if blank.finish == "turned" else v
    rough_line = rng.standard_normal(4 * side).astype(np.float32)
    rough_line = 0.6 * rough_line + np.convolve(rough_line, np.ones(7) / 3, "same").astype(np.float32)
    line = np.interp(across.ravel() * 2 / blank.unit + 2 * side, np.arange(4 * side), rough_line).reshape(side, side)
    strength = float(rng.uniform(0.012, 0.04))
    grain = polar + math.pi / 2 if blank.finish == "turned" else np.full_like(polar, blank.angle_rad)
    return (cloud + strength * line).astype(np.float32), grain.astype(np.float32)


def _marking(blank: Blank, rng: np.random.Generator) -> Floats:
    """A laser-marked number, turned with the part: 0 to 1."""
    side, fine = blank.side, 2
    page = np.zeros((side * fine, side * fine), np.uint8)
    size = float(rng.uniform(0.3, 0.42)) * blank.unit * fine
    (width, height), _ = cv2.getTextSize(blank.marking, cv2.FONT_HERSHEY_SIMPLEX, size, 2)
    middle = side * fine / 2
    away = (blank.bore_px + min(blank.radius_px * blank.aspect, blank.radius_px)) / 2 * fine
    at = (int(middle - width / 2), int(middle - away + height / 2))
    cv2.putText(page, blank.marking, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 2, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((middle, middle), -math.degrees(blank.angle_rad), 1)
    turned = cv2.warpAffine(page, turn, (side * fine, side * fine))
    return _coarse(turned, side)


# --- defects -------------------------------------------------------------------------------------------------------


def _spots(face: _Face, free: NDArray[np.bool_], margin_px: float) -> NDArray[np.intp]:
    """Pixels (y, x) of seen metal that lie at least a margin from any edge."""
    ground = ((face.alpha > 0.9) & free).astype(np.uint8)
    spots = np.argwhere(cv2.distanceTransform(ground, cv2.DIST_L2, 3) > margin_px)
    return spots if len(spots) else np.argwhere(ground > 0)


def _stroke(face: _Face, points: NDArray[np.float64], width_px: float) -> Floats:
    """A thin line through points (x, y): cover 0 to 1."""
    side = face.alpha.shape[0]
    page = np.zeros((side * _FINE, side * _FINE), np.uint8)
    cv2.polylines(
        page,
        [np.rint(points * _FINE * 16).astype(np.int32)],
        False,
        255,
        max(1, round(width_px * _FINE)),
        cv2.LINE_AA,
        4,
    )
    return _coarse(page, side)


def _damage(face: _Face, kind: str, rng: np.random.Generator, free: NDArray[np.bool_]) -> None:
    """Do one kind of damage that a careful person could see in a sharp picture: the best of a few if need be."""
    before = (face.colour.copy(), face.shine.copy(), face.alpha.copy(), list(face.defects))
    whole, best = _flat(face), -1.0
    for _ in range(8):
        _TOOLS[kind](face, rng, free)
        change = cv2.GaussianBlur(_flat(face) - whole, (0, 0), 1.3 * face.unit)
        shown = float(np.abs(change).max())
        if shown > best:
            best, kept = shown, (face.colour, face.shine, face.alpha, face.defects)
        if best >= _LEAST_LEVELS:
            break
        face.colour, face.shine, face.alpha = (array.copy() for array in before[:3])
        face.defects = list(before[3])
    face.colour, face.shine, face.alpha, face.defects = kept


def _flat(face: _Face) -> Floats:
    """Grey levels of the part on a dark belt."""
    return np.asarray(face.colour.mean(2) * face.alpha + 50 * (1 - face.alpha), np.float32)


def _scratch(face: _Face, rng: np.random.Generator, free: NDArray[np.bool_]) -> None:
    spots = _spots(face, free, 5 * face.unit)
    for _ in range(20):
        y, x = spots[rng.integers(len(spots))]
        length = float(np.exp(rng.uniform(math.log(11), math.log(55)))) * face.unit
        heading, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.35)
        t = np.linspace(-0.5, 0.5, 14)
        along = heading + bend * t * 2
        steps = np.stack((np.cos(along), np.sin(along)), 1) * length / 14
        points = np.cumsum(steps, 0) + rng.normal(0, 0.25 * face.unit, (14, 2))
        points += np.array((x, y)) - points.mean(0)
        width = float(rng.uniform(0.8, 2.2)) * face.unit
        mask = _stroke(face, points, width) * face.alpha * free
        if rng.random() < 0.3:  # a second tooth beside the first
            mask = np.maximum(mask, _stroke(face, points + rng.normal(0, 3 * face.unit, 2), width) * face.alpha * free)
        if mask.sum() >= 0.6 * length * width:
            break
    press = 1 + 0.2 * _smooth_noise(rng, (mask.shape[0], mask.shape[1]), 4 * face.unit)
    depth = float(rng.uniform(0.35, 0.9)) * np.clip(press, 0.5, 1.3)
    seen = mask > 0.2
    if rng.random() < 0.6:  # bright: fresh metal, with a dark shoulder
        shoulder = cv2.warpAffine(mask, np.array(((1, 0, 1), (0, 1, 1)), np.float32), mask.shape[::-1])
        face.colour *= (1 - 0.5 * shoulder * depth)[..., None]
        face.colour += (mask * depth * 110)[..., None]
    else:
        face.colour *= (1 - 0.9 * mask * depth)[..., None]
    face.shine *= 1 - mask
    face.note("scratch", seen)


def _stain(face: _Face, rng: np.random.Generator, free: NDArray[np.bool_]) -> None:
    side = face.alpha.shape[0]
    ys, xs = np.mgrid[:side, :side].astype(np.float32)
    spots = _spots(face, free, 4 * face.unit)
    for _ in range(20):
        y, x = spots[rng.integers(len(spots))]
        r = float(np.exp(rng.uniform(math.log(4.0), math.log(17)))) * face.unit
        edge = float(rng.uniform(0.12, 0.4)) / face.unit
        away = np.hypot((xs - x) * rng.uniform(0.75, 1.3), (ys - y) * rng.uniform(0.75, 1.3))
        blob = 1 - away / r + 0.28 * _smooth_noise(rng, (side, side), max(1.0, r * 0.35))
        mask = np.clip(blob * r * edge + 0.35, 0, 1) * (away < 1.7 * r) * face.alpha * free
        if (mask > 0.4).sum() >= 1.2 * r * r:
            break
    tint, dense = (((24, 52, 96), 0.75), ((34, 38, 42), 0.7), ((60, 70, 78), 0.65))[rng.integers(3)]  # rust, oil, grime
    cover = mask * dense * float(rng.uniform(0.5, 1.1))
    cover *= np.clip(1 + 0.2 * _smooth_noise(rng, (side, side), 1.5 * face.unit), 0.5, 1.3)
    cover = np.clip(cover, 0, 0.95)[..., None]
    face.colour += cover * (np.array(tint, np.float32) * float(rng.uniform(0.8, 1.2)) - face.colour)
    face.shine *= 1 - 0.85 * mask
    face.note("stain", mask > 0.4)


def _chip(face: _Face, rng: np.random.Generator, free: NDArray[np.bool_]) -> None:
    side = face.alpha.shape[0]
    rim = np.argwhere((np.abs(face.hull + 0.5) < 1) & free)
    metal = face.alpha.copy()
    for _ in range(20):
        y, x = rim[rng.integers(len(rim))]
        r = float(np.exp(rng.uniform(math.log(5.5), math.log(13)))) * face.unit
        turns = np.sort(rng.uniform(0, 2 * math.pi, 9))
        reach = r * rng.uniform(0.65, 1.15, 9)
        corners = np.stack((x + reach * np.cos(turns), y + reach * np.sin(turns)), 1)
        page = np.zeros((side * _FINE, side * _FINE), np.uint8)
        cv2.fillPoly(page, [np.rint(corners * _FINE).astype(np.int32)], 255)
        bite = _coarse(page, side) * free
        if (bite * metal).sum() >= r * r:
            break
    broken = cv2.dilate(bite, np.ones((3, 3), np.uint8), iterations=max(1, round(1.4 * face.unit))) * free
    crumbs = _smooth_noise(rng, (side, side), 0.9)
    fracture = np.clip(0.55 + 0.16 * crumbs, 0.2, 1.2)[..., None] * np.array((150, 150, 150), np.float32)
    face.colour += broken[..., None] * 0.85 * (fracture - face.colour)
    face.shine *= 1 - broken
    face.alpha *= 1 - bite
    face.note("chip", (broken > 0.5) & (metal > 0.5))


_TOOLS: dict[str, Callable[[_Face, np.random.Generator, NDArray[np.bool_]], None]] = {
    "scratch": _scratch,
    "stain": _stain,
    "chip": _chip,
}
