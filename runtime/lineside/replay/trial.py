"""What another bundle would have decided about the parts that have evidence: counts, a table old by new, a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lineside import plain
from lineside.deliver.evidence.folder import Kept
from lineside.deliver.evidence.sealed import Opener
from lineside.errors import ConfigError
from lineside.proof import Prover
from lineside.recipe import Recipe
from lineside.records import Image
from lineside.replay.again import decision_about, last_picture
from lineside.replay.rerun import pictures, recipe_with, rerun
from lineside.store.bundle import Bundle
from lineside.vision.draw import annotate, contact_sheet, cut_out

VERDICTS = ("accept", "reject", "unknown")
NO_PART = "no part"  # the new model did not see it, or not as one part
SHEET_TILES = 24
_COLUMNS = 4


@dataclass(slots=True)
class Trial:
    """`table` counts (old verdict, new verdict); `tiles` are the parts whose verdict changed, as pictures."""

    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    tiles: list[tuple[Image, str]] = field(default_factory=list)
    changed: list[dict[str, str]] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)  # labelled pieces: "rejected", "not rejected"
    skipped: list[str] = field(default_factory=list)  # why, a line each
    unproven: str = ""  # why nobody knows that the bundle's answers are right on this machine

    @property
    def parts(self) -> int:
        return sum(self.table.values())


def try_bundle(
    kept: Iterable[Kept],
    bundle: Bundle,
    backend: str | None = None,
    opener: Opener | None = None,
    prover: Prover | None = None,
) -> Trial:
    """Every piece that can be compared. Raises ConfigError where the rules don't fit the bundle, DeviceError.

    Without `prover` nobody has proved that the bundle's answers are right on this machine.
    """
    trial = Trial()
    opened: dict[str, Recipe] = {}
    for piece in kept:
        if piece.told["kind"] == "event":
            trial.skipped.append(f"{piece.id}: is of an event, not of a part")
            continue
        try:
            images, faults = pictures(piece, opener)
        except ConfigError as error:
            trial.skipped.append(str(error))
            continue
        if faults:
            trial.skipped.append(f"{piece.id}: {faults[0]}")
            continue
        key = str(piece.told["recipe"])
        if key not in opened:
            opened[key] = recipe_with(piece, bundle, backend, prover)
            proof = opened[key].model.proof
            trial.unproven = proof.told if proof.state == "unproven" else ""
        _try_one(piece, images, opened[key], trial)
    return trial


def _try_one(kept: Kept, images: Sequence[Image], recipe: Recipe, trial: Trial) -> None:
    run = rerun(kept, images, recipe)
    if kept.told["kind"] == "missed":
        rejected = any(decision.verdict == "reject" for decision in run.decisions())
        trial.missed["rejected" if rejected else "not rejected"] += 1
        return
    record = kept.told["record"]
    found = decision_about(plain.unpack(record["observations"]), run)
    old, new = str(record["verdict"]), found[0] if found else NO_PART
    cause = found[1] if found else "it was not followed"
    trial.table[old, new] += 1
    if old != new:
        trial.changed.append({"id": kept.id, "then": f"{old}: {record['cause']}", "now": f"{new}: {cause}"})
        said = cause if new != "accept" else record["cause"]  # the sentence that names a defect
        trial.tiles.append((_picture(kept, images), f"{old} -> {new}: {said}"))


def _picture(kept: Kept, images: Sequence[Image]) -> Image:
    """The part in its last frame, with what was found in it then."""
    image, seen = last_picture(kept, images)
    if seen is None or seen.box is None:
        return annotate(image, seen.findings if seen else ())
    inside = [finding for finding in seen.findings if finding.box != seen.box]  # its own box is the picture's edge
    return cut_out(annotate(image, inside), seen.box)


def write_sheet(trial: Trial, path: Path) -> bool:
    """A contact sheet of the parts whose verdict changed, as PNG; False, and no file, where none did.

    Raises ConfigError.
    """
    import cv2

    if not trial.tiles:
        return False
    tiles = trial.tiles[:SHEET_TILES]
    _, packed = cv2.imencode(".png", contact_sheet(tiles, columns=min(_COLUMNS, len(tiles))))
    try:
        path.write_bytes(packed.tobytes())
    except OSError as error:
        raise ConfigError(f"--sheet {path}: cannot be written: {error.strerror}") from error
    return True
