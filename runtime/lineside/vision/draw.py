"""Pictures for people: boxes, zones and lines on a frame, and contact sheets. Off the frame path."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lineside.records import Finding, Image
from lineside.vision.letters import drawable

Point: TypeAlias = tuple[float, float]
Color: TypeAlias = tuple[int, int, int]  # blue green red, 0 to 255
_Rect: TypeAlias = tuple[int, int, int, int]  # x1 y1 x2 y2

WHITE: Color = (255, 255, 255)
_PAPER: Color = (32, 32, 32)
_LINE: Color = (0, 255, 255)
_SMALLEST_SIGNS_PX = 14


def annotate(
    image: Image,
    findings: Sequence[Finding] = (),
    *,
    zones: Mapping[str, Sequence[Point]] | None = None,
    lines: Mapping[str, Sequence[Point]] | None = None,
    caption: str = "",
) -> Image:
    """A copy with findings, zones, lines (pixels of the image) and a caption drawn on it.

    Stroke and letters grow with the picture. Findings without a box are listed at the top left, the first five.
    """
    import cv2

    out = np.ascontiguousarray(image).copy()
    pen = _Pen(out)
    for name, points in (zones or {}).items():
        color, corners = color_of(name), np.rint(np.array(points)).astype(np.int32)
        tinted = out.copy()
        cv2.fillPoly(tinted, [corners], color)
        cv2.addWeighted(tinted, 0.18, out, 0.82, 0, out)
        cv2.polylines(out, [corners], True, color, pen.stroke_px, cv2.LINE_AA)
        pen.label(name, tuple(corners[int(corners.sum(axis=1).argmin())].tolist()), color, below=True)
    for name, points in (lines or {}).items():
        start, end = (tuple(np.rint(point).astype(int).tolist()) for point in np.array(points[:2]))
        cv2.line(out, start, end, (0, 0, 0), pen.stroke_px + 2, cv2.LINE_AA)
        cv2.line(out, start, end, _LINE, pen.stroke_px, cv2.LINE_AA)
        pen.label(name, ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2), _LINE)
    boxed = [finding for finding in findings if finding.box is not None]
    for finding in boxed:
        x1, y1, x2, y2 = (round(side) for side in finding.box or (0, 0, 0, 0))
        cv2.rectangle(out, (x1, y1), (x2 - 1, y2 - 1), color_of(finding.label), pen.stroke_px)
    for finding in boxed:  # last: no box hides a label
        x1, y1, _, y2 = (round(side) for side in finding.box or (0, 0, 0, 0))
        pen.label(f"{finding.label} {finding.score:.2f}", (x1, y1), color_of(finding.label), bottom=y2)
    rest = [f"{f.label} {f.score:.2f}" for f in findings if f.box is None][:5]
    for row, text in enumerate([*([caption] if caption else []), *rest]):
        pen.write(text, (0, row * pen.line_px), _PAPER)
    return out


def contact_sheet(tiles: Sequence[tuple[Image, str]], columns: int = 4, tile_px: int = 320) -> Image:
    """Pictures in a grid, each fitted into tile_px x 3/4 tile_px with its caption below, row by row."""
    import cv2

    rows = max(1, -(-len(tiles) // columns))
    gap_px, picture_px, letters_px = 6, tile_px * 3 // 4, max(11, tile_px // 26)
    lines = max((len(_wrap(caption, letters_px, tile_px)) for _, caption in tiles), default=1)
    high_px = picture_px + round(letters_px * 1.7) * lines + 4
    sheet = np.full(
        (rows * (high_px + gap_px) + gap_px, columns * (tile_px + gap_px) + gap_px, 3), _PAPER, dtype=np.uint8
    )
    for place, (image, caption) in enumerate(tiles):
        left = gap_px + place % columns * (tile_px + gap_px)
        top = gap_px + place // columns * (high_px + gap_px)
        height, width = image.shape[:2]
        scale = min(tile_px / width, picture_px / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
        x, y = left + (tile_px - size[0]) // 2, top + (picture_px - size[1]) // 2
        sheet[y : y + size[1], x : x + size[0]] = small
        for row, text in enumerate(_wrap(caption, letters_px, tile_px)):
            base = top + picture_px + 4 + round(letters_px * (1.7 * row + 1.2))
            _put(sheet, text, (left + 2, base), letters_px, WHITE)
    return sheet


def cut_out(image: Image, box: Sequence[float], margin_px: int = 12) -> Image:
    """The part of a picture that a box shows, with some of what is around it; a view."""
    x1, y1, x2, y2 = (round(side) for side in box)
    return image[max(0, y1 - margin_px) : max(0, y2) + margin_px, max(0, x1 - margin_px) : max(0, x2) + margin_px]


def color_of(name: str) -> Color:
    """The same bright colour for the same name, in every process."""
    hue = (zlib.crc32(name.encode()) * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


class _Pen:
    """Writes labels onto one picture, in a size that fits it, and not on top of each other while there is room."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._taken: list[_Rect] = []
        height, width = image.shape[:2]
        self.letters_px: int = max(9, round(min(height, width * 0.6) * 0.025))
        self.stroke_px = max(1, round(self.letters_px / 7))
        self.line_px = _line_px(self.letters_px)

    def label(self, text: str, at: tuple[int, int], color: Color, *, below: bool = False, bottom: int = 0) -> None:
        """A plate with text above the point `at`; or below it, or under the box's `bottom`, where that is free."""
        above, inside = at[1] - _line_px(self._letters_px(text)), at[1]
        tries = [inside, above] if below else [above, bottom or inside, inside]
        self.write(text, (at[0], tries[0]), color, tries[1:])

    def write(self, text: str, at: tuple[int, int], color: Color, other_tops: Iterable[int] = ()) -> None:
        """A plate with its top left corner at `at`, moved into the picture."""
        import cv2

        height, width = self._image.shape[:2]
        letters_px = self._letters_px(text)
        line_px = _line_px(letters_px)
        text = _fit(text, letters_px, width - 4)
        wide = _width_px(text, letters_px) + 4
        left = max(0, min(at[0], width - wide))
        tops = [top for top in (at[1], *other_tops) if 0 <= top <= height - line_px]
        rects = [(left, top, left + wide, top + line_px) for top in tops]
        rects = rects or [(left, max(0, min(at[1], height - line_px)), left + wide, 0)]
        free = [rect for rect in rects if not any(_touch(rect, other) for other in self._taken)]
        x1, top, x2, _ = (free or rects)[0]
        self._taken.append((x1, top, x2, top + line_px))
        cv2.rectangle(self._image, (x1, top), (x2 - 1, top + line_px - 1), color, -1)
        dark = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 140  # luma of Rec. 601
        _put(self._image, text, (x1 + 2, top + round(letters_px * 1.25)), letters_px, (0, 0, 0) if dark else WHITE)

    def _letters_px(self, text: str) -> int:
        """Signs of many strokes are not legible as small as Latin letters."""
        return self.letters_px if text.isascii() else max(_SMALLEST_SIGNS_PX, self.letters_px)


def _line_px(letters_px: int) -> int:
    return round(letters_px * 1.6)


def _touch(a: _Rect, b: _Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _font(letters_px: int) -> tuple[int, float, int]:
    import cv2

    stroke_px = max(1, round(letters_px / 9))
    scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, letters_px, stroke_px)
    return cv2.FONT_HERSHEY_SIMPLEX, scale, stroke_px


def _put(image: Image, text: str, at: tuple[int, int], letters_px: int, color: Color) -> None:
    import cv2

    font, scale, stroke_px = _font(letters_px)
    cv2.putText(image, drawable(text), at, font, scale, color, stroke_px, cv2.LINE_AA)


def _width_px(text: str, letters_px: int) -> int:
    import cv2

    font, scale, stroke_px = _font(letters_px)
    size: Any = cv2.getTextSize(drawable(text), font, scale, stroke_px)
    return int(size[0][0])


def _fit(text: str, letters_px: int, width_px: int) -> str:
    if _width_px(text, letters_px) <= width_px:
        return text
    while text and _width_px(text + "..", letters_px) > width_px:
        text = text[:-1]
    return text + ".." if text else ""


def _wrap(text: str, letters_px: int, width_px: int) -> list[str]:
    """Lines that fit, broken at spaces; at most three, the last one shortened."""
    lines: list[str] = []
    for word in text.split():
        if lines and _width_px(f"{lines[-1]} {word}", letters_px) <= width_px - 4:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > 3:
        lines = [*lines[:2], " ".join(lines[2:])]
    return [_fit(line, letters_px, width_px - 4) for line in lines]
