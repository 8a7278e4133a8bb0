"""Wires evidence: which station keeps what, by which recipe, how its pictures are drawn and what they hide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lineside import __version__
from lineside.config.stations import StationConfig, face_labels
from lineside.contracts import Status
from lineside.deliver.evidence.sealed import Seal
from lineside.deliver.evidence.witness import Witness
from lineside.deliver.evidence.worker import EvidenceWorker
from lineside.deliver.evidence.writer import About
from lineside.errors import ConfigError
from lineside.hal.board import read
from lineside.records import Finding, Image
from lineside.vision.blur import blur_boxes
from lineside.vision.draw import annotate

if TYPE_CHECKING:
    from lineside.config import Config
    from lineside.config.evidence import EvidenceConfig
    from lineside.deliver.journal import Journal
    from lineside.recipe import Recipe
    from lineside.store.bundle import Bundle


FACE_SCORE = 0.3  # below what decides: rather a blur too many than a face too much


class Evidence:
    """The evidence of a daemon: a worker, and a witness for each station."""

    def __init__(self, config: Config, asked: EvidenceConfig, journal: Journal, state_dir: Path) -> None:
        """Raises ConfigError where the public key cannot be used."""
        self._config, self._asked, self._journal = config, asked, journal
        self._about: dict[str, About] = {}
        self._witnesses: dict[str, Witness] = {}
        self.worker = EvidenceWorker(
            asked.path or state_dir / "evidence",
            journal,
            journal.clock,
            self._about,
            machine=machine(),
            version=__version__,
            seal=Seal(asked.public_key) if asked.public_key is not None else None,
            **asked.keeping(),
        )

    def witness(self, name: str, station: StationConfig, recipe: Recipe, bundles: Mapping[str, Bundle]) -> Witness:
        """What stands between this station and the journal. Faces are hidden where any station of the camera does."""
        labels = recipe.model.labels
        others = self._config.stations.items()
        hides = any(s.camera == station.camera and s.blurs(bundles[other].labels) for other, s in others)
        self._about[name] = About(
            station.camera,
            recipe.described,
            recipe.digest,
            drawing(station),
            hide=blur_boxes if hides else None,
            face_labels=face_labels(labels),
        )
        witness = Witness(name, self._journal, self.worker.offer, **self._asked.witnessing())
        self._witnesses[name] = witness
        return witness

    def unsure_from(self, station: StationConfig, bundle: Bundle) -> float | None:
        """From which score on a station's model shall see faces that are hidden; None: as configured."""
        return FACE_SCORE if station.blurs(bundle.labels) and face_labels(bundle.labels) else None

    def missed(self, request: Mapping[str, object]) -> Status:
        """Save what the rings hold, of a `station`, a `camera` or all, as labelled evidence with a person's `note`.

        What the command missed_defect calls. Raises ConfigError.
        """
        asked = {name: request.get(name) for name in ("station", "camera")}
        note = request.get("note") or ""
        stations = {name: self._config.stations[name].camera for name in self._witnesses}
        for name, known in (("station", set(stations)), ("camera", set(stations.values()))):
            if asked[name] is not None and asked[name] not in sorted(known):
                raise ConfigError(f"{name} {asked[name]!r}: there is none; there are {', '.join(sorted(known))}")
        saved: dict[str, object] = {}
        for name, witness in self._witnesses.items():
            if asked["station"] in (None, name) and asked["camera"] in (None, stations[name]):
                job = witness.missed(str(note)[:1000])
                taken = job is not None and self.worker.offer(job)
                frames = len(job.entries) if job else 0
                saved[name] = {"id": job.id if job and taken else None, "frames": frames, "saved": taken}
        return saved

    def status(self) -> Status:
        rings = {name: witness.ring.size() for name, witness in self._witnesses.copy().items()}
        return {
            **self.worker.status(),
            "rings": {name: {"frames": frames, "mb": round(size / 1e6, 1)} for name, (frames, size) in rings.items()},
        }


def drawing(station: StationConfig) -> Callable[[Image, Sequence[Finding], str], Image]:
    """How a picture of this station is drawn for people."""

    def draw(image: Image, findings: Sequence[Finding], caption: str) -> Image:
        size = image.shape[1], image.shape[0]
        zones, lines = station.zones_px(*size), station.lines_px(*size)
        return annotate(image, findings, zones=zones, lines=lines, caption=caption)

    return draw


def machine() -> str:
    """What this box is: the same model may answer in other last bits on another processor."""
    board = read()
    return f"{board.arch} {board.cpu}".strip()
