"""`lineside infer`: a bundle on image and video files, one line a picture."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lineside.commands.shots import Shot
    from lineside.proof import Prover
    from lineside.records import DecodeSettings, Finding, Image, Placement, Seen
    from lineside.store.bundle import Bundle

_ALL_CLASSES = 100  # a classifier with more lists only its best
_BEST = 10
_PROGRESS_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, metavar="DIR", help="folder of a bundle, or a shipped one's name")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="NAME or NAME:DEVICE; default: the profile's")
    parser.add_argument("--min-score", type=float, metavar="S", help="0 to 1; default: the bundle's")
    parser.add_argument("--unproven", action="store_true", help="do not prove first that the answers are right here")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object a picture")
    parser.add_argument("--draw", type=Path, metavar="OUTDIR", help="write annotated PNGs there, faces blurred")
    parser.add_argument("--keep-faces", action="store_true", help="with --draw: don't blur the faces that are found")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="images, videos, folders of images")


def run(args: argparse.Namespace) -> int:
    from lineside.commands.measuring import prover
    from lineside.commands.shots import Given
    from lineside.errors import ConfigError, LinesideError
    from lineside.store.bundle import open_bundle

    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise ConfigError(f"--min-score {args.min_score:g}: must be between 0 and 1")
    if args.draw is not None:
        make_folder(args.draw)
    given = Given(args.files, args.draw)
    eye = Eye(open_bundle(args.bundle), args.backend, args.min_score, prover=None if args.unproven else prover())
    pen = Pen(args.draw, args.keep_faces)
    if args.draw is not None:
        tell_undrawable(eye.bundle.labels)
    show = _as_json if args.jsonl else as_text
    progress = _Progress()
    failed = len(given.faults)
    for line in given.faults:
        print(f"lineside infer: {line}", file=sys.stderr)
    for file in given.files:
        try:
            for shot in given.shots(file):
                seen, placement = eye.see(shot.image)
                print(show(row_of(shot, seen, eye)))
                pen.draw(shot, seen, placement, eye)
                progress.step(shot)
        except LinesideError as error:
            failed += 1
            sys.stdout.flush()
            print(f"lineside infer: {error}", file=sys.stderr, flush=True)
    for line in given.notes():
        print(f"lineside infer: {line}", file=sys.stderr)
    if failed:
        print(f"lineside infer: {failed} of the files failed", file=sys.stderr)
    return 1 if failed else 0


class Sight(Protocol):
    """Who looked at a picture: what is printed and drawn of it needs this of them."""

    bundle: Bundle
    backend: str
    settings: DecodeSettings
    least: float  # scores below it are not listed
    unproven: str  # why nobody knows that the answers are right on this machine; "" where they are proved


class Eye:
    """A bundle on a backend: picture -> what the model saw. Without `prover` nobody proved that it is right here."""

    def __init__(
        self, bundle: Bundle, backend: str, min_score: float | None, threads: int = 0, prover: Prover | None = None
    ) -> None:
        from lineside.config.stations import StationConfig
        from lineside.hal import board, profile
        from lineside.recipe import open_model

        name, _, device = backend.partition(":")
        asked = StationConfig(
            camera="none",
            bundle=str(bundle.folder),
            backend=name,
            device=device or None,
            threads=threads or None,
            min_score=min_score,
        )
        self.model = open_model(bundle, asked, profile.match(board.read()), prover=prover)
        self.bundle = bundle
        self.backend = self.model.backend
        self.file = Path(self.model.artefact.path).name
        self.settings = self.model.settings
        self.least = min_score or 0.0
        self.runtime = self.model.executor.backend
        self.unproven = self.model.proof.told if self.model.proof.state == "unproven" else ""

    def look(self, image: Image) -> Seen:
        return self.model.see(image)

    def see(self, image: Image) -> tuple[Seen, Placement]:
        """What it saw, and where the picture lay on the model's canvas."""
        with self.model.executor.slot() as slot:
            canvas, placement, window = self.model.prepare.put(image, slot)
            return self.model.decoder.decode(self.model.executor.infer(canvas, slot, window), placement), placement


# --- what is printed


def row_of(shot: Shot, seen: Seen, eye: Sight) -> dict[str, object]:
    """One picture as `--jsonl` prints it."""
    from lineside.records import AnomalyMap, Classification
    from lineside.vision.decode import findings

    row: dict[str, object] = {"file": str(shot.file)}
    if shot.frame is not None:
        row["frame"] = shot.frame
    row["backend"] = eye.backend
    if eye.unproven:
        row["unproven"] = eye.unproven
    match seen:
        case AnomalyMap():
            threshold = eye.settings.threshold
            row["score"] = round(seen.score, 6)
            if threshold is not None:
                row |= {"threshold": threshold, "anomalous": seen.score >= threshold}
        case Classification():
            top = findings(seen, eye.bundle.labels)
            if len(top) > _ALL_CLASSES:
                top = tuple(each for each in top[:_BEST] if each.score >= eye.least)
            row["top"] = [_named(each) for each in top]
        case _:
            row["findings"] = [_named(each) for each in findings(seen, eye.bundle.labels)]
    return row


def _named(finding: Finding) -> dict[str, object]:
    row = {"label": finding.label, "class_id": finding.class_id, "score": round(finding.score, 6)}
    return row if finding.box is None else {**row, "box": [round(side, 2) for side in finding.box]}


def _as_json(row: dict[str, object]) -> str:
    import json

    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is no UTF-8, or a terminal that is not
        return json.dumps(row)
    return text


def as_text(row: dict[str, object]) -> str:
    from lineside.images.remarks import shown

    where = shown(str(row["file"])) + (f" frame {row['frame']}" if "frame" in row else "")
    unproven = " [unproven]" if "unproven" in row else ""
    if "score" in row:
        verdict = {True: " anomalous", False: " normal"}.get(bool(row.get("anomalous")), "")
        return f"{where}: score {row['score']}{verdict if 'threshold' in row else ''}{unproven}"
    found = row.get("findings", row.get("top"))
    assert isinstance(found, list)
    words = [
        f"{each['label']} {each['score']:.2f}"
        + (" ({})".format(", ".join(f"{side:.0f}" for side in each["box"])) if "box" in each else "")
        for each in (found if "findings" in row else found[:5])
    ]
    return f"{where}: " + (", ".join(words) or "nothing") + unproven


# --- what is drawn


def make_folder(folder: Path) -> None:
    from lineside.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--draw {folder}: cannot be made: {error.strerror}") from error


def tell_undrawable(labels: tuple[str, ...]) -> None:
    from lineside.vision.letters import undrawable

    if names := undrawable(labels):
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"lineside infer: no font here has the letters of {shown}: drawn as ?", file=sys.stderr)


class Pen:
    """Writes annotated pictures into a folder, or nothing without one."""

    def __init__(self, folder: Path | None, keep_faces: bool) -> None:
        self._folder = folder
        self._keep_faces = keep_faces
        self._names: dict[str, Path] = {}  # two files of one name in different folders get different PNGs

    def draw(self, shot: Shot, seen: Seen, placement: Placement, eye: Sight) -> None:
        if self._folder is None:
            return
        import cv2

        from lineside.config.stations import face_labels
        from lineside.errors import DeviceError
        from lineside.records import AnomalyMap
        from lineside.vision.blur import blur_boxes
        from lineside.vision.decode import findings
        from lineside.vision.draw import annotate

        image, caption = shot.image, ""
        if isinstance(seen, AnomalyMap):
            if seen.heat is not None:
                from lineside.vision.heat import overlay

                image = overlay(image, seen.heat, placement, eye.settings.threshold)
            found: tuple[Finding, ...] = ()
            limit = "" if eye.settings.threshold is None else f" (threshold {eye.settings.threshold:g})"
            caption = f"anomaly score {seen.score:.3f}{limit}"
        else:
            found = findings(seen, eye.bundle.labels)
            if not self._keep_faces:
                faces = face_labels(eye.bundle.labels)
                image = blur_boxes(image, [f.box for f in found if f.box is not None and f.label in faces])
        path = self._folder / self._name(shot)
        done, packed = cv2.imencode(".png", annotate(image, found, caption=caption), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        try:
            path.write_bytes(packed.tobytes() if done else b"")
        except OSError as error:
            raise DeviceError(f"{path}: cannot be written: {error.strerror}") from error

    def _name(self, shot: Shot) -> str:
        stem, tail = shot.file.stem, "" if shot.frame is None else f"-{shot.frame:06d}"
        name, number = stem, 1
        while self._names.setdefault(name, shot.file) != shot.file:
            number += 1
            name = f"{stem}-{number}"
        return f"{name}{tail}.png"


class _Progress:
    """A line on stderr every two seconds, so that a long run is seen to be alive."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._count = 0

    def step(self, shot: Shot) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._told < _PROGRESS_S:
            return
        self._told = now
        from lineside.images.remarks import shown

        speed = self._count / (now - self._began)
        print(f"lineside infer: {self._count} pictures, {speed:.1f} a second, at {shown(shot.file)}", file=sys.stderr)
