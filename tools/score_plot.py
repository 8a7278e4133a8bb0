"""Draws what score_models found: accuracy against latency, a point for each file on each backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
Found: TypeAlias = dict[str, Any]  # a row of score_models, as its JSON has it
Colour: TypeAlias = tuple[int, int, int]  # B, G, R

COLOURS: dict[str, Colour] = {"onnxruntime": (178, 114, 0), "openvino": (0, 94, 213), "litert": (115, 158, 0)}
INK, GRID, PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)
FINE = 2  # drawn so much larger, then shrunk
PANEL_W, PANEL_H = 560, 460  # pixels of the finished picture
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 44, 56
LEGEND_H = 40
LINES_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
PANELS = (("AP", "average precision, IoU 0.5"), ("AUROC", "AUROC, defective or good"))
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(rows: Sequence[Found]) -> Image:
    """One panel for detectors, one for what judges whole parts; those without a row are left out."""
    scored = [row for row in rows if not row["fault"]]
    shown = [(title, mine) for kind, title in PANELS if (mine := [row for row in scored if _kind(row) == kind])]
    panels = [_Panel(title, mine).draw() for title, mine in shown]
    whole = np.concatenate(
        [
            *panels,
        ],
        axis=1,
    )
    legend = np.full((LEGEND_H * FINE, whole.shape[1], 3), PAPER, np.uint8)
    _legend(legend)
    fine = np.concatenate([whole, legend])
    return np.asarray(cv2.resize(fine, None, fx=1 / FINE, fy=1 / FINE, interpolation=cv2.INTER_AREA), np.uint8)


def _kind(row: Found) -> str:
    return "AP" if "AP" in _metric(row) else "AUROC"


def _metric(row: Found) -> str:
    """Its first: mAP50, AP50 or AUROC."""
    return str(next(iter(row["metrics"])))


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    rows: Sequence[Found]

    def draw(self) -> Image:
        image = np.full((PANEL_H * FINE, PANEL_W * FINE, 3), PAPER, np.uint8)
        self._axes(image)
        for name in dict.fromkeys(row["bundle"] for row in self.rows):
            mine = sorted((row for row in self.rows if row["bundle"] == name), key=lambda row: row["model_ms"])
            points = [self._at(row["model_ms"], self._value(row)["value"]) for row in mine]
            cv2.polylines(image, [np.array(points, np.int32)], False, (200, 200, 200), FINE, cv2.LINE_AA)
            for row, point in zip(mine, points, strict=True):
                self._bar(image, row)
                _mark(image, point, COLOURS[row["backend"]], row["precision"] == "fp32")
        for name, place in self._names():
            _write(image, name, place, 0.42)
        return image

    def _value(self, row: Found) -> dict[str, float]:
        found: dict[str, float] = row["metrics"][_metric(row)]
        return found

    def _range(self) -> tuple[float, float, float, float]:
        """Least and most ms, least and most accuracy."""
        ms = [row["model_ms"] for row in self.rows]
        least = min(self._value(row)["low"] for row in self.rows)
        return min(ms) / 1.6, max(ms) * 1.6, np.floor(least * 20 - 0.2) / 20, 1.005

    def _at(self, ms: float, value: float) -> tuple[int, int]:
        low_ms, high_ms, low, high = self._range()
        x = LEFT + (PANEL_W - LEFT - RIGHT) * np.log(ms / low_ms) / np.log(high_ms / low_ms)
        y = PANEL_H - BOTTOM - (PANEL_H - TOP - BOTTOM) * (value - low) / (high - low)
        return round(float(x) * FINE), round(float(y) * FINE)

    def _axes(self, image: Image) -> None:
        low_ms, high_ms, low, high = self._range()
        bottom, left = self._at(low_ms, low)[1], self._at(low_ms, low)[0]
        step = 0.05 if high - low < 0.6 else 0.1
        for value in np.arange(np.ceil(low / step) * step, high, step):
            y = self._at(low_ms, float(value))[1]
            cv2.line(image, (left, y), (self._at(high_ms, low)[0], y), GRID, FINE)
            _write(image, f"{value:.2f}", (left - 40 * FINE, y + 4 * FINE), 0.4)
        for ms in LINES_MS:
            if low_ms <= ms <= high_ms:
                x = self._at(ms, low)[0]
                cv2.line(image, (x, bottom), (x, self._at(ms, high)[1]), GRID, FINE)
                _write(image, f"{ms:g}", (x - 6 * FINE, bottom + 18 * FINE), 0.4)
        corners = (self._at(low_ms, high), self._at(high_ms, low))
        cv2.rectangle(image, *corners, INK, FINE)
        _write(image, f"{self.title} (bars: 95 %)", (left, (TOP - 14) * FINE), 0.5)
        _write(image, "model, ms, one thread (logarithmic)", (left, bottom + 40 * FINE), 0.42)

    def _bar(self, image: Image, row: Found) -> None:
        found = self._value(row)
        low, high = (self._at(row["model_ms"], found[end]) for end in ("low", "high"))
        colour = COLOURS[row["backend"]]
        cv2.line(image, low, high, colour, FINE, cv2.LINE_AA)
        for x, y in (low, high):
            cv2.line(image, (x - 3 * FINE, y), (x + 3 * FINE, y), colour, FINE, cv2.LINE_AA)

    def _names(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each bundle's name under its lowest bar, moved down where it would lie on another."""
        taken: list[tuple[int, int, int]] = []
        for name in dict.fromkeys(row["bundle"] for row in self.rows):
            mine = [row for row in self.rows if row["bundle"] == name]
            lows = [self._at(row["model_ms"], self._value(row)["low"]) for row in mine]
            width = cv2.getTextSize(name, FONT, 0.42 * FINE, FINE)[0][0]
            x = min(max(min(x for x, _ in lows) - 10 * FINE, LEFT * FINE), (PANEL_W - RIGHT) * FINE - width)
            y = max(y for _, y in lows) + 14 * FINE
            while any(abs(y - other) < 13 * FINE and x < end and begin < x + width for begin, end, other in taken):
                y += 13 * FINE
            y = min(y, (PANEL_H - BOTTOM - 4) * FINE)
            taken.append((x, x + width, y))
            yield name, (x, y)


def _mark(image: Image, point: tuple[int, int], colour: Colour, hollow: bool) -> None:
    cv2.circle(image, point, 5 * FINE, PAPER if hollow else colour, -1, cv2.LINE_AA)
    cv2.circle(image, point, 5 * FINE, colour, FINE, cv2.LINE_AA)


def _legend(image: Image) -> None:
    x, y = LEFT * FINE, LEGEND_H * FINE // 2
    entries = [(name, colour, False) for name, colour in COLOURS.items()] + [("hollow: FP32", INK, True)]
    for text, colour, hollow in entries:
        _mark(image, (x, y), colour, hollow)
        _write(image, text, (x + 12 * FINE, y + 5 * FINE), 0.45)
        x += cv2.getTextSize(text, FONT, 0.45 * FINE, FINE)[0][0] + 45 * FINE


def _write(image: Image, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(image, text, at, FONT, size * FINE, INK, FINE, cv2.LINE_AA)
