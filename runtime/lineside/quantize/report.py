"""What was measured, for people and programs: the table that is printed, report.md and report.json in the bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lineside.quantize.measure import Score
from lineside.quantize.processor_proof import ProcessorProof
from lineside.quantize.search import Bounds, Found

_MOST_BLAMED = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One file, INT8 or float, on one backend."""

    file: str
    precision: str
    backend: str
    size_mb: float
    latency_ms: float  # median, one picture, the model alone
    score: Score
    left_out: str = ""  # why this backend does not get this file
    cpu_ms: float = 0.0  # the same in the processor's time, all threads together: steady on a machine that others use

    def cells(self) -> tuple[str, ...]:
        low, high = self.score.interval
        accuracy = "" if self.score.accuracy is None else f"{self.score.accuracy:.3f}"
        return (
            *(self.file, self.precision, self.backend, f"{self.size_mb:.2f}", f"{self.latency_ms:.2f}"),
            f"{self.cpu_ms:.2f}",
            *(f"{self.score.flips} of {self.score.pictures}", f"{low:.1%} to {high:.1%}", f"{self.score.loss:.1%}"),
            *(accuracy, self.left_out),
        )


TITLES = {"onnx": "ONNX", "tflite": "TFLite"}
HEADS = ("file", "precision", "backend", "MB", "ms", "CPU ms", "flips", "95 %", "loss", "accuracy", "not used")
_RIGHT = {"MB", "ms", "CPU ms", "flips", "loss", "accuracy"}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a user needs to trust the bundle, or not."""

    model: str
    sha256: str
    calibration: int
    validation: int
    unreadable: Sequence[str]
    basis: str
    bounds: Bounds
    accepted: bool  # with --accept-flips although the bounds don't hold
    rows: Sequence[Row]
    found: dict[str, Found]  # of the searches, by format
    made_for: str  # --for
    proofs: Sequence[ProcessorProof]
    notes: Sequence[str]
    versions: dict[str, str]

    def table(self) -> str:
        """For a terminal: columns aligned."""
        rows = [row.cells() for row in self.rows]
        used = [at for at, head in enumerate(HEADS) if any(row[at] for row in rows)]
        widths = {at: max(len(HEADS[at]), *(len(row[at]) for row in rows)) for at in used}
        lines = []
        for row in (HEADS, *rows):
            words = [row[at].rjust(widths[at]) if HEADS[at] in _RIGHT else row[at].ljust(widths[at]) for at in used]
            lines.append("  ".join(words).rstrip())
        return "\n".join(lines)

    def proved(self) -> list[str]:
        """A line for each file and backend: on which processors it is right, and how that is known."""
        lines = []
        for file, backend in dict.fromkeys((proof.file, proof.backend) for proof in self.proofs):
            each = [one for one in self.proofs if (one.file, one.backend) == (file, backend)]
            lines.append(f"{file} on {backend}: " + "; ".join(f"{one.processor} {_known(one)}" for one in each))
        return lines

    def floats(self) -> list[str]:
        """The layers that stay in float because they break accuracy, with how far each alone moves the scores."""
        lines = []
        for found in self.found.values():
            drift = {each.block.name: each.drift for each in found.blamed}
            lines += [
                f"{block.name} ({block.op}), which alone moves the scores by {drift[block.name]:.1%}"
                for block in found.floats
            ]
        return lines

    def markdown(self) -> str:
        lines = [
            f"# How {self.model} was quantised",
            "",
            f"{self.calibration} pictures for calibration, {self.validation} others for accuracy. {self.basis} "
            f"Bounds: {self.bounds.max_flips:.1%} of decisions, {self.bounds.max_loss:.1%} loss"
            + (", exceeded and accepted by hand." if self.accepted else "."),
            "",
            *_table(HEADS, [row.cells() for row in self.rows]),
        ]
        lines += _processors(self.made_for, self.proofs)
        for format, found in self.found.items():
            lines += _searched(TITLES[format], found)
        lines += ["", *(f"- {note}" for note in (*self.notes, *self.unreadable))]
        return "\n".join(lines).rstrip() + "\n"

    def as_json(self) -> str:
        return json.dumps(self._plain(), indent=1) + "\n"

    def _plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "format": 1,
            "model": {"file": self.model, "sha256": self.sha256},
            "pictures": {"calibration": self.calibration, "validation": self.validation},
            "unreadable": list(self.unreadable),
            "basis": self.basis,
            "bounds": {"max_flips": self.bounds.max_flips, "max_loss": self.bounds.max_loss, "accepted": self.accepted},
            "artefacts": [_row(row) for row in self.rows],
            "for": self.made_for,
            "processors": [_proof(proof) for proof in self.proofs],
            "notes": list(self.notes),
            "versions": self.versions,
        }
        for format, found in self.found.items():
            plain[format] = {
                "chosen": found.best.what,
                "tried": [{"what": one.what, **_score(one.score), "fault": one.fault} for one in found.tried],
                "not_tried": list(found.untried),
                "layers_in_float": [block.name for block in found.floats],
                "nodes_in_float": sorted(found.best.in_float),
                "sensitivity": {each.block.name: round(each.drift, 5) for each in found.blamed},
            }
        return plain


def _known(proof: ProcessorProof) -> str:
    flips = "" if proof.score is None else f", {proof.score.flips} of {proof.score.pictures} flip"
    return f"{'' if proof.holds else 'BEYOND THE BOUNDS, '}{proof.how}{flips}"


def _processors(made_for: str, proofs: Sequence[ProcessorProof]) -> list[str]:
    """On which processors each file holds the bounds, as Markdown."""
    lines = ["", f"## Processors (--for {made_for})", ""]
    rows = [
        (
            *(one.file, one.backend, one.processor, one.how if one.holds else f"{one.how}: beyond the bounds"),
            "" if one.score is None else f"{one.score.flips} of {one.score.pictures}",
            "" if one.score is None else f"{one.score.loss:.1%}",
            one.why,
        )
        for one in proofs
    ]
    return lines + _table(("file", "backend", "processor", "proved", "flips", "loss", "by"), rows)


def _proof(proof: ProcessorProof) -> dict[str, Any]:
    return {
        "file": proof.file,
        "backend": proof.backend,
        "processor": proof.processor,
        "how": proof.how,
        "by": proof.why,
        "holds": proof.holds,
        **({} if proof.score is None else _score(proof.score)),
    }


def _searched(title: str, found: Found) -> list[str]:
    """What a search tried, and each layer's blame, as Markdown."""
    lines = ["", f"## INT8 {title} models that were tried", ""]
    rows = [
        (one.what, f"{one.score.flips}", f"{one.score.loss:.1%}", f"{one.score.drift:.1%}", one.fault or chosen)
        for one in found.tried
        for chosen in ("chosen" if one is found.best else "",)
    ]
    lines += _table(("what", "flips", "loss", "drift", ""), rows)
    if found.untried:
        lines += ["", "Not tried, for want of time (`--search-s`): " + "; ".join(found.untried) + "."]
    if not found.blamed:
        return lines
    lines += ["", f"## Layers of the {title} file, each quantised alone", ""]
    lines += ["Float or INT8 in the ONNX file; in a .xml that is mixed, too.", ""] if title == TITLES["onnx"] else []
    kept = {block.name for block in found.floats}
    blamed = [
        (each.block.name, each.block.op, f"{each.drift:.1%}", "float" if each.block.name in kept else "INT8")
        for each in found.blamed
        if each.block.name in kept or each in found.blamed[:_MOST_BLAMED]
    ]
    return lines + _table(("layer", "operator", "moves the scores by", "kept in"), blamed)


def _row(row: Row) -> dict[str, Any]:
    return {
        "file": row.file,
        "precision": row.precision,
        "backend": row.backend,
        "size_mb": round(row.size_mb, 3),
        "latency_ms": round(row.latency_ms, 3),
        "cpu_ms": round(row.cpu_ms, 3),
        **_score(row.score),
        **({"left_out": row.left_out} if row.left_out else {}),
    }


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {
        "pictures": score.pictures,
        "flips": score.flips,
        "flips_of_unsure": score.unsure,
        "flips_95": [round(low, 5), round(high, 5)],
        "loss": round(score.loss, 5),
        "drift": round(score.drift, 5),
        **({} if score.accuracy is None else {"accuracy": round(score.accuracy, 5)}),
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    used = [at for at in range(len(heads)) if heads[at] == "" or any(row[at] for row in rows)]
    every = [heads, ["---:" if head in _RIGHT else "---" for head in heads], *rows]
    return ["| " + " | ".join(row[at] for at in used) + " |" for row in every]
