"""The line that the renderer films: its belt, lamps and rails, and how the camera sees them. For render.py.

Lengths are in pixels of a 360-line picture times `unit`; arrays are float32, colours BGR 0 to 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from lineside.cameras.sprites import Floats

_BELT_PERIOD = 1536  # pixels of a 360-line picture after which the belt repeats


@dataclass(frozen=True, slots=True)
class Look:
    """How this line is lit and photographed: drawn from the seed."""

    speed_px_s: float
    light_angle: float
    blur: tuple[Floats, Floats]  # separable kernel along x and y: motion and focus
    flicker: tuple[float, float, float]  # depth, Hz, depth of the random part
    noise: float  # standard deviation in levels
    jpeg_quality: int | None
    shadow: tuple[float, float, float, float]  # dx, dy, softness in pixels; strength
    glint: tuple[float, float]  # direction of the moving reflection at the middle, and its change over the view


@dataclass(slots=True)
class Scenery:
    """What stands still, and the belt."""

    belt: Floats
    light: tuple[Floats, Floats]
    noise: Floats
    rail: Floats
    rail_px: int
    band: Floats  # (1, 6 W, 3) a soft shadow that may pass through the view


def draw_look(rng: np.random.Generator, unit: float) -> Look:
    focus = float(rng.uniform(0.35, 0.95)) * unit
    motion = float(rng.uniform(0.5, 3.2)) * unit
    x = np.arange(-6 * math.ceil(unit), 6 * math.ceil(unit) + 1, dtype=np.float32)
    along = np.clip((motion + 1) / 2 - np.abs(x), 0, 1)
    bell = np.exp(-(x**2) / (2 * focus**2))
    along = np.convolve(along, bell, "same")
    angle = float(rng.uniform(0, 2 * math.pi))
    reach = float(rng.uniform(3, 8)) * unit
    return Look(
        speed_px_s=float(rng.uniform(140, 220)) * unit,
        light_angle=angle,
        blur=((along / along.sum()).astype(np.float32), (bell / bell.sum()).astype(np.float32)),
        flicker=(float(rng.uniform(0, 0.05)), float(rng.uniform(0.3, 5)), float(rng.uniform(0, 0.012))),
        noise=float(rng.uniform(1.0, 5.0)),
        jpeg_quality=int(rng.integers(60, 96)) if rng.random() < 0.7 else None,
        shadow=(
            math.cos(angle) * reach,
            abs(math.sin(angle)) * reach,
            float(rng.uniform(2.5, 6)) * unit,
            float(rng.uniform(0.35, 0.65)),
        ),
        glint=(float(rng.uniform(0, math.pi)), float(rng.uniform(0.4, 1.3))),
    )


def draw_scenery(rng: np.random.Generator, look: Look, width: int, height: int, unit: float) -> Scenery:
    belt = _draw_belt(rng, round(_BELT_PERIOD * unit), height, unit)
    belt = np.concatenate((belt, belt[:, :width]), 1) if width <= belt.shape[1] else np.tile(belt, (1, 3, 1))
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    lamps = []
    for _ in range(2):
        cx, cy = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
        spread = rng.uniform(0.6, 1.3) * width
        pool = np.exp(-((xs - cx) ** 2 + 1.6 * (ys - cy) ** 2) / spread**2)
        slope = 1 + rng.normal(0, 0.10) * (xs / width - 0.5) + rng.normal(0, 0.10) * (ys / height - 0.5)
        lamps.append((0.55 + 0.5 * pool) * slope)
    white = 1 + rng.normal(0, 0.035, 3)
    level = float(rng.uniform(0.78, 1.12))
    low, high = (np.ascontiguousarray((lamp[..., None] * white * level).astype(np.float32)) for lamp in lamps)
    noise = rng.standard_normal((height + 64, width + 64, 3), np.float32)
    noise += 0.6 * cv2.GaussianBlur(noise, (0, 0), 0.8) + 0.5 * noise[..., 1:2]
    noise *= look.noise / float(noise.std())
    rail_px = round(float(rng.uniform(9, 16)) * unit)
    across = np.interp(np.arange(rail_px), (0, rail_px * 0.5, rail_px * 0.75, rail_px - 1), (120, 150, 175, 45))
    rail = across[:, None, None] * (1 + 0.03 * rng.standard_normal((rail_px, width, 1))) * np.array((1.0, 1.0, 0.98))
    band = np.ones((1, 6 * width, 3), np.float32)
    if rng.random() < 0.5:  # someone or something passes the lamp now and then
        x = np.arange(6 * width)
        for centre in rng.uniform(0, 6 * width, 3):
            band[0] -= (rng.uniform(0.08, 0.3) * np.exp(-(((x - centre) / rng.uniform(40, 160) / unit) ** 4)))[:, None]
    return Scenery(belt, (low, high), noise, rail.astype(np.float32), rail_px, band)


def _draw_belt(rng: np.random.Generator, period: int, height: int, unit: float) -> Floats:
    """A worn rubber or fabric belt that repeats after `period` columns: (H, period, 3)."""

    def wrapped(sigma_x: float, sigma_y: float, coarse: int = 1) -> Floats:
        """Noise without a joint where the belt repeats; the wider it is, the coarser it may be made."""
        noise = rng.standard_normal((height // coarse + 1, period // coarse), np.float32)
        pad = math.ceil(4 * sigma_x / coarse)
        wide = cv2.copyMakeBorder(noise, 0, 0, pad, pad, cv2.BORDER_WRAP)
        smooth = cv2.GaussianBlur(wide, (0, 0), sigma_x / coarse, sigmaY=sigma_y / coarse)[:, pad:-pad]
        smooth = cv2.resize(smooth, (period, height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(smooth / smooth.std(), np.float32)

    ys, xs = np.mgrid[:height, :period].astype(np.float32)
    tone = np.ones((height, period), np.float32)
    tone += rng.uniform(0.02, 0.07) * wrapped(0.7, 0.7) + rng.uniform(0.02, 0.06) * wrapped(40 * unit, 1.2 * unit)
    tone += rng.uniform(0.03, 0.08) * wrapped(30 * unit, 22 * unit, coarse=8)
    if rng.random() < 0.6:  # woven fabric shows its threads
        threads = period / round(period / (float(rng.uniform(4, 7)) * unit))
        weave = np.sin(2 * math.pi * xs / threads) * np.sin(2 * math.pi * ys / threads)
        tone += float(rng.uniform(0.02, 0.07)) * weave
    page = np.zeros((height, period), np.uint8)
    for _ in range(int(rng.integers(10, 45))):  # scuffs, mostly along the run
        x, y, length = rng.integers(40, period - 40), rng.integers(height), rng.uniform(6, 40) * unit
        slant = rng.normal(0, 0.5)
        end = (int(x + length * math.cos(slant)), int(y + length * math.sin(slant)))
        cv2.line(page, (int(x), int(y)), end, int(rng.integers(40, 200)), 1, cv2.LINE_AA)
    tone += page.astype(np.float32) / 255 * float(rng.choice((-0.3, 0.45)))
    spots = np.zeros((height, period), np.float32)
    for _ in range(int(rng.integers(4, 16))):  # drops of oil and bits of swarf
        x, y, r = rng.integers(40, period - 40), rng.integers(height), rng.uniform(1.5, 9) * unit
        axes = (max(1, int(r)), max(1, int(r * 0.7)))
        depth = float(rng.choice((-0.3, 0.5)))
        cv2.ellipse(spots, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, depth, -1)
    tone += cv2.GaussianBlur(spots, (0, 0), 1.2 * unit)
    seam = period // 2
    tone[:, seam : seam + max(2, round(3 * unit))] *= 0.7
    colour = ((62, 66, 52), (58, 58, 58), (96, 84, 62), (74, 88, 70), (112, 112, 108))[rng.integers(5)]
    return np.ascontiguousarray((tone[..., None] * np.array(colour, np.float32)).astype(np.float32))
