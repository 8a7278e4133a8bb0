"""Renders a clip of the conveyor and writes down what is true of it:

    tools/render.py --seed 7 --seconds 60 --fps 15 -o clip.mp4 --truth truth.json

The truth: for each part its id, shape, the frame at which its centre crosses the middle line x = width / 2 (null if it
does not within the clip), "ok" or "defective", its defects, and all boxes by frame, x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2

from lineside.cameras.render import PartSeen, Rendered, Scene

SHOWN_AFTER_S = 2.0
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}  # both encoders are FFmpeg's own, LGPL


class Truth:
    """What is true of a clip, gathered frame by frame."""

    def __init__(self, middle_px: float) -> None:
        self._middle_px = middle_px
        self._parts: dict[int, dict[str, Any]] = {}
        self._before: set[int] = set()  # parts seen on the near side of the line

    def add(self, frame: Rendered) -> None:
        for part in frame.parts:
            self._add(frame.number, part)

    def _add(self, number: int, part: PartSeen) -> None:
        known = self._parts.setdefault(
            part.id,
            {"id": part.id, "shape": part.shape, "crosses_at": None, "verdict": "ok", "defects": [], "frames": {}},
        )
        if part.centre[0] < self._middle_px:
            self._before.add(part.id)
        elif known["crosses_at"] is None and part.id in self._before:
            known["crosses_at"] = number
        if part.kinds:
            known["verdict"], known["defects"] = "defective", sorted(part.kinds)
        known["frames"][number] = {
            "box": _rounded(part.box),
            "visible": round(part.visible, 3),
            "defects": [{"kind": d.kind, "box": _rounded(d.box), "visible": round(d.visible, 3)} for d in part.defects],
        }

    def parts(self) -> list[dict[str, Any]]:
        """Every part that was in view, in the order of ids; JSON values."""
        return [self._parts[number] for number in sorted(self._parts)]


def render(scene: Scene, count: int, clip: Path) -> Truth:
    """Write `count` frames to a new .mp4 or .avi. Raises OSError if it cannot be written."""
    truth = Truth(scene.width_px / 2)
    writer = cv2.VideoWriter(
        str(clip),
        cv2.VideoWriter.fourcc(*CODECS[clip.suffix]),
        scene.fps,
        (scene.width_px, scene.height_px),
    )
    if not writer.isOpened():
        raise OSError(f"{clip}: cannot be written: does the folder exist?")
    begun = time.monotonic()
    for frame in scene.frames(count):
        writer.write(frame.image)
        truth.add(frame)
        if sys.stderr.isatty() and time.monotonic() - begun > SHOWN_AFTER_S:
            done = (frame.number + 1) / count
            print(f"\rrendering [{'#' * int(40 * done):40}] {done:4.0%}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty() and time.monotonic() - begun > SHOWN_AFTER_S:
        print(file=sys.stderr)
    writer.release()
    return truth


def main() -> int:
    parser = argparse.ArgumentParser(description="Render a clip of machined parts on a conveyor, with its truth.")
    parser.add_argument("--seed", type=int, default=7, help="below 1,000,000: the shipped model has not seen those")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--size", default="640x360", help="WIDTHxHEIGHT in pixels (default 640x360)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="clip.mp4 (MPEG-4) or clip.avi (Motion JPEG)")
    parser.add_argument("--truth", type=Path, help="where the truth goes, as JSON")
    asked = parser.parse_args()
    try:
        width, height = (int(side) for side in asked.size.split("x"))
    except ValueError:
        parser.error(f"--size {asked.size}: expected WIDTHxHEIGHT, such as 640x360")
    if min(width, height) < 64 or asked.fps <= 0 or asked.seconds * asked.fps < 1 or asked.seed < 0:
        parser.error("allowed: sides of 64 pixels and more, seed 0 and above, and a clip of at least one frame")
    if asked.output.suffix not in CODECS:
        parser.error(f"{asked.output}: allowed are {', '.join(CODECS)}")
    cv2.setNumThreads(1)
    scene = Scene(asked.seed, width, height, asked.fps)
    count = round(asked.seconds * asked.fps)
    try:
        parts = render(scene, count, asked.output).parts()
        if asked.truth is not None:
            head = {"seed": asked.seed, "fps": asked.fps, "width_px": width, "height_px": height, "frame_count": count}
            asked.truth.write_text(json.dumps({**head, "parts": parts}))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    crossing = [part for part in parts if part["crosses_at"] is not None]
    wrong = sum(part["verdict"] == "defective" for part in crossing)
    print(f"{asked.output}: {count} frames, {len(crossing)} parts cross the middle line, {wrong} of them defective")
    return 0


def _rounded(box: tuple[float, float, float, float]) -> list[float]:
    return [round(float(side), 2) for side in box]


if __name__ == "__main__":
    sys.exit(main())
