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
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import exporters
import lineside
from exporters import CELLS, KEPT, PROJECTS, ROOT, Cell, Json, Outcome
from models_report import write_between

BEGIN, END = "<!-- exporters_report: begin -->", "<!-- exporters_report: end -->"
RUNTIMES = ("onnxruntime", "openvino", "ai-edge-litert", "numpy", "opencv-python-headless")


def lineside_digest() -> str:
    """Of all that decides a cell on lineside's side: its source and the runtimes' versions."""
    made = hashlib.sha256(repr([(name, version(name)) for name in RUNTIMES]).encode())
    for file in sorted(Path(lineside.__file__).parent.rglob("*.py")):
        made.update(file.read_bytes())
    made.update((ROOT / "tools" / "exporters.py").read_bytes())
    return made.hexdigest()[:16]


def kept(cell: Cell) -> Path:
    return KEPT / "cells" / f"{cell.name.replace('/', '--')}.json"


def keep(cell: Cell, key: str, found: Outcome) -> Outcome:
    kept(cell).parent.mkdir(parents=True, exist_ok=True)
    kept(cell).write_text(json.dumps({"key": key, "outcome": asdict(found)}, indent=1))
    print(line(cell, found), flush=True)
    return found


def last(cell: Cell) -> Outcome:
    """What was measured last, whatever with."""
    return Outcome(**json.loads(kept(cell).read_text())["outcome"]) if kept(cell).exists() else Outcome("not run")


def outcome(cell: Cell, row: Json, exported: Path, digest: str) -> Outcome:
    """Kept from the last time, or measured now."""
    key = f"{row['stamp']} {digest} {cell}"
    if kept(cell).exists() and json.loads(kept(cell).read_text())["key"] == key:
        return last(cell)
    with tempfile.TemporaryDirectory() as folder:
        return keep(cell, key, exporters.measure(cell, row, exported, Path(folder)))


def run(data: Path, projects: Sequence[str], export: bool) -> None:
    """Every cell of these projects."""
    digest = lineside_digest()
    for project in projects:
        cells = [cell for cell in CELLS if cell.project == project]
        try:
            exported, rows = exporters.exports(project, data) if export else exporters.exported(project)
        except (OSError, RuntimeError) as error:
            for cell in cells:
                keep(cell, "", Outcome("no export", why=str(error).replace(f"{ROOT}/", "")))
            continue
        for cell in cells:
            if (row := rows.get(cell.variant)) is None:
                print(f"{cell.name}: its script has not come to it", file=sys.stderr)
            else:
                outcome(cell, row, exported, digest)


def line(cell: Cell, found: Outcome) -> str:
    """A row of the table."""
    decided = "; ".join(each for each in found.decided if each.startswith(("decode", "boxes", "scores", "threshold")))
    told = " ".join(found.options)
    result = found.verdict if not found.why else f"{found.verdict}: {found.why}"
    cells = (
        *(cell.family, found.tool, cell.backend, f"`{told}`" if told else "", decided),
        *(found.sized, found.photos, result[:220].replace(f"{KEPT.parents[2]}/", "")),
    )
    return f"| {' | '.join(each.replace('|', '/') for each in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LINESIDE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with samples and aws_cookies")
    parser.add_argument("--no-export", action="store_true", help="take the exports as they stand")
    parser.add_argument("--table-only", action="store_true", help="measure nothing: write what is kept")
    parser.add_argument("projects", nargs="*", metavar="PROJECT", help=f"of {', '.join(PROJECTS)}; default: all")
    args = parser.parse_args(arguments)
    if unknown := set(args.projects) - set(PROJECTS):
        parser.error(f"unknown: {' '.join(sorted(unknown))}; known are {' '.join(PROJECTS)}")
    if not args.table_only:
        run(args.data, args.projects or list(PROJECTS), not args.no_export)
    done = {cell: last(cell) for cell in CELLS}
    head = [
        "| family | exported by | backend | said | decided | at the model's size | photos as they are | result |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    write_between(ROOT / "docs" / "models.md", BEGIN, END, [*head, *(line(*each) for each in done.items())])
    wrong = sum(not found.right for found in done.values())
    print(f"{wrong} of {len(done)} cells are not as their exporter, or have not been run", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
