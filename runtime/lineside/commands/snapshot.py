"""`lineside snapshot`: one picture of a camera with its stations' zones and lines and a pixel grid, to aim it by."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lineside.errors import ConfigError, LinesideError
from lineside.records import Image

if TYPE_CHECKING:
    from lineside.config.cameras import CameraConfig
    from lineside.config.geometry import Point
    from lineside.config.stations import StationConfig

Colour: TypeAlias = tuple[int, int, int]  # BGR

SETTLE_PICTURES = 8  # a live camera finds its exposure over the first ones
COLOURS: tuple[Colour, ...] = ((80, 220, 80), (240, 160, 40), (60, 170, 255), (220, 90, 220), (230, 220, 60))
LINE_COLOUR: Colour = (60, 60, 255)
FACE_SCORE = 0.3  # below what decides: rather a blur too many than a face too much


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="lineside.toml")
    parser.add_argument("--camera", metavar="NAME", help="a name of [cameras]; may be left out if there is only one")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png", help="where the picture goes")
    parser.add_argument(
        "--keep-faces", action="store_true", help="don't blur faces, though a station's model finds them"
    )
    parser.add_argument("--plain", action="store_true", help="the picture alone, without zones, lines and grid")


def run(args: argparse.Namespace) -> int:
    import cv2

    from lineside.config import load
    from lineside.config.stations import outside

    config = load(args.config)
    name = args.camera or (next(iter(config.cameras)) if len(config.cameras) == 1 else None)
    if name not in config.cameras:
        fault = f"--camera {name}: no such camera" if name else "--camera: missing"
        raise ConfigError(f"{fault}; {args.config} has {', '.join(config.cameras)}")
    stations = {key: station for key, station in config.stations.items() if station.camera == name}
    image = look(name, config.cameras[name])
    if not args.keep_faces:
        image = hide_faces(image, stations)
    height_px, width_px = image.shape[:2]
    picture = image if args.plain else draw(image, stations)
    _, packed = cv2.imencode(".png", picture)
    try:
        args.output.write_bytes(packed.tobytes())
    except OSError as error:
        raise ConfigError(f"-o {args.output}: cannot be written: {error.strerror}") from error
    print(f"{args.output}: camera {name}, {width_px} x {height_px} pixels, stations {', '.join(stations) or 'none'}")
    for key, station in stations.items():
        for line in outside(key, station, width_px, height_px):
            print(f"warning: {line}")
    return 0


def look(name: str, camera: CameraConfig) -> Image:
    """One picture as the stations see it; of a live camera a later one, when its exposure has settled."""
    from lineside.cameras.orient import Orientation
    from lineside.registry import driver

    try:
        source = driver("camera", camera.driver)(**camera.options())
        source.open()
        try:
            captured = source.read()
            for _ in range(SETTLE_PICTURES if getattr(source, "live", True) else 0):
                captured = source.read() or captured
        finally:
            source.close()
        if captured is None:
            raise ConfigError("path: not one picture in it")
        return Orientation(camera.rotate_deg, camera.flip, camera.roi).apply(captured.image)
    except ConfigError as error:
        raise ConfigError(*(f"cameras.{name}.{line}" for line in error.lines)) from error
    except LinesideError as error:
        raise type(error)(f"cameras.{name}: {error}") from error


def hide_faces(image: Image, stations: dict[str, StationConfig]) -> Image:
    """The picture with faces blurred where a station's model finds any: it is about to be stored.

    Raises ConfigError or DeviceError if that model cannot run here; `--keep-faces` does without it.
    """
    from lineside.commands import measuring
    from lineside.config.stations import face_labels
    from lineside.hal.board import read
    from lineside.hal.profile import match
    from lineside.recipe import findings_of, open_model
    from lineside.store.bundle import open_bundle
    from lineside.vision.blur import blur_boxes

    for name, station in stations.items():
        try:
            bundle = open_bundle(station.bundle)
        except ConfigError as error:  # a camera is aimed before its model is there
            if station.blur_faces:
                raise
            print(f"warning: stations.{name}: no face is looked for: {error}")
            continue
        faces = face_labels(bundle.labels)
        if not station.blurs(bundle.labels) or not faces:
            continue
        unsure = replace(station, min_score=min(FACE_SCORE, station.min_score or 1.0))
        model = open_model(bundle, unsure, match(read()), prover=measuring.prover())
        try:
            seen = findings_of(model.see(image), model.labels)
        finally:
            model.executor.close()
        image = blur_boxes(image, [f.box for f in seen if f.box is not None and f.label in faces])
    return image


def draw(image: Image, stations: dict[str, StationConfig]) -> Image:
    """A copy of the picture with a ruler on its edges, and every station's zones and lines with their names."""
    import cv2
    import numpy as np

    height_px, width_px = image.shape[:2]
    canvas = image.copy()
    pen = max(1, round(min(width_px, height_px) / 360))
    _ruler(canvas, pen)
    names: list[tuple[str, Point, Colour]] = []  # drawn last, over every line
    colours = iter(COLOURS * (1 + sum(len(station.zones) for station in stations.values()) // len(COLOURS)))
    for key, station in stations.items():
        for zone, points in station.zones_px(width_px, height_px).items():
            colour = next(colours)
            corners = np.array([[round(x), round(y)] for x, y in points], np.int32)
            shaded = canvas.copy()
            cv2.fillPoly(shaded, [corners], colour)
            cv2.addWeighted(shaded, 0.2, canvas, 0.8, 0, dst=canvas)
            cv2.polylines(canvas, [corners], True, colour, 2 * pen, cv2.LINE_AA)
            middle = (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
            names.append((f"{key}.{zone}", middle, colour))
        for line, points in station.lines_px(width_px, height_px).items():
            _line(canvas, points, station.trigger.direction, pen)
            names.append((f"{key}.{line}", points[0], LINE_COLOUR))
    for text, at, colour in names:
        _label(canvas, text, at, colour, pen)
    return canvas


def _ruler(canvas: Image, pen: int) -> None:
    """Ticks with pixel numbers along all four edges, and a faint cross at each pair of numbers."""
    import cv2

    height_px, width_px = canvas.shape[:2]
    step_px = next((step for step in (10, 20, 50, 100, 200, 500, 1000) if max(width_px, height_px) / step <= 14), 2000)
    white: Colour = (255, 255, 255)
    tick = 6 * pen
    for x in range(step_px, width_px, step_px):
        for y in (0, height_px - 1):
            cv2.line(canvas, (x, y), (x, tick if y == 0 else y - tick), white, pen)
        for y in range(step_px, height_px, step_px):
            cv2.drawMarker(canvas, (x, y), (160, 160, 160), cv2.MARKER_CROSS, 4 * pen, 1)
        _text(canvas, str(x), (x - _extent(str(x), 0.4, pen)[0] // 2, tick + 13 * pen), white, pen)
    for y in range(step_px, height_px, step_px):
        for x in (0, width_px - 1):
            cv2.line(canvas, (x, y), (tick if x == 0 else x - tick, y), white, pen)
        _text(canvas, str(y), (tick + 3 * pen, y + 4 * pen), white, pen)


def _line(canvas: Image, points: Sequence[Point], direction: str, pen: int) -> None:
    """The trigger's line, and arrows over its middle the ways that count."""
    import cv2

    (x1, y1), (x2, y2) = points
    cv2.line(canvas, (round(x1), round(y1)), (round(x2), round(y2)), LINE_COLOUR, 2 * pen, cv2.LINE_AA)
    length = math.hypot(x2 - x1, y2 - y1)
    # to the right hand of someone who walks from the first point to the second; y grows downwards
    forward = (-(y2 - y1) / length, (x2 - x1) / length)
    compass = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
    backward = (-forward[0], -forward[1])
    ways = {"any": (forward, backward), "forward": (forward,), "backward": (backward,)}
    reach = 28 * pen
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    for dx, dy in ways.get(direction) or (compass[direction],):
        tip = (round(middle[0] + dx * reach), round(middle[1] + dy * reach))
        cv2.arrowedLine(
            canvas, (round(middle[0]), round(middle[1])), tip, LINE_COLOUR, 2 * pen, cv2.LINE_AA, tipLength=0.35
        )


def _label(canvas: Image, text: str, at: Point, colour: Colour, pen: int) -> None:
    """A name with its middle at a point, moved to stay inside the picture and off the ruler."""
    width, height = _extent(text, 0.5, pen)
    x = min(max(40 * pen, round(at[0]) - width // 2), max(0, canvas.shape[1] - width - 4 * pen))
    y = min(max(24 * pen + height, round(at[1]) + height // 2), canvas.shape[0] - 4 * pen)
    _text(canvas, text, (x, y), colour, pen, scale=0.5)


def _text(canvas: Image, text: str, at: tuple[int, int], colour: Colour, pen: int, scale: float = 0.4) -> None:
    """Text on a dark plate, to be read on any picture; `at` is its lower left corner."""
    import cv2

    x, y = at
    width, height = _extent(text, scale, pen)
    plate = canvas[max(0, y - height - 2 * pen) : y + 3 * pen, max(0, x - 2 * pen) : x + width + 2 * pen]
    plate //= 4
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale * pen, colour, pen, cv2.LINE_AA)


def _extent(text: str, scale: float, pen: int) -> tuple[int, int]:
    import cv2

    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale * pen, pen)
    return width, height
