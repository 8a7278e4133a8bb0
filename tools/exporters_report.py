"""Exports models by the projects' own tools, compares lineside with each, and writes the table of docs/models.md.

    python tools/exporters_report.py [--data FOLDER] [PROJECT...]   # tools/setup_exporters.sh makes the venvs

An export is kept until its script or its venv changes, and a cell, as soon as it is done, until lineside, a runtime or
the export does: the command goes on where it was stopped. Projects that are not named keep their rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import exporters
from exporters import CELLS, KEPT, PROJECTS, ROOT, Cell, Json, Outcome
from models_report import write_between

BEGIN, END = "<!-- exporters_report: begin -->", "<!-- exporters_report: end -->"
RUNTIMES = ("onnxruntime", "openvino", "ai-edge-litert", "numpy", "opencv-python-headless")


def lineside_digest() -> str:
    """Of all that decides a cell on lineside's side: its source and the runtimes' versions."""
    made = hashlib.sha256(repr([(name, version(name)) for name in RUNTIMES]).encode())
    for file in sorted((ROOT / "runtime" / "lineside").rglob("*.py")):
        made.update(file.read_bytes())
    made.update((ROOT / "tools" / "exporters.py").read_bytes())
    return made.hexdigest()[:16]


def outcome(cell: Cell, row: Json, exported: Path, digest: str) -> Outcome:
    """Kept from the last time, or measured now."""
    key = f"{row['stamp']} {digest} {cell}"
    kept = KEPT / "cells" / f"{cell.name.replace('/', '--')}.json"
    if kept.exists() and (last := json.loads(kept.read_text()))["key"] == key:
        return Outcome(**last["outcome"])
    with tempfile.TemporaryDirectory() as folder:
        found = exporters.measure(cell, row, exported, Path(folder))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"key": key, "outcome": asdict(found)}, indent=1))
    return found


def outcomes(data: Path, projects: Sequence[str]) -> Iterator[tuple[Cell, Outcome]]:
    digest = lineside_digest()
    for project in projects:
        cells = [cell for cell in CELLS if cell.project == project]
        try:
            exported, rows = exporters.exports(project, data)
        except (OSError, RuntimeError) as error:
            yield from ((cell, Outcome("no export", why=str(error))) for cell in cells)
            continue
        for cell in cells:
            row = rows.get(cell.variant)
            if row is None:
                yield cell, Outcome("no export", why="its script did not come to it")
                continue
            yield cell, outcome(cell, row, exported, digest)


def line(cell: Cell, found: Outcome) -> str:
    """A row of the table."""
    decided = "; ".join(each for each in found.decided if each.startswith(("decode", "boxes", "scores", "threshold")))
    told = " ".join(found.options)
    result = found.verdict if not found.why else f"{found.verdict}: {found.why}"
    cells = (
        *(cell.family, found.tool, cell.backend, f"`{told}`" if told else "", decided),
        *(found.sized, found.photos, result[:220]),
    )
    return f"| {' | '.join(each.replace('|', '/') for each in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LINESIDE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with samples and aws_cookies")
    parser.add_argument("projects", nargs="*", metavar="PROJECT", help=f"of {', '.join(PROJECTS)}; default: all")
    args = parser.parse_args(arguments)
    if unknown := set(args.projects) - set(PROJECTS):
        parser.error(f"unknown: {' '.join(sorted(unknown))}; known are {' '.join(PROJECTS)}")
    table = KEPT / "table.json"
    lines: dict[str, str] = json.loads(table.read_text()) if table.exists() else {}
    wrong = 0
    for cell, found in outcomes(args.data, args.projects or list(PROJECTS)):
        lines[cell.name] = line(cell, found)
        wrong += not found.right
        print(lines[cell.name], flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        table.write_text(json.dumps(lines, indent=1))
    head = [
        "| family | exported by | backend | said | decided | at the model's size | photos as they are | result |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = [lines[cell.name] for cell in CELLS if cell.name in lines]
    write_between(ROOT / "docs" / "models.md", BEGIN, END, [*head, *rows])
    print(f"{wrong} cells are not as their exporter" if wrong else "every cell is as its exporter", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
