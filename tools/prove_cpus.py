"""Runs every shipped model on every backend on processors of other kinds, emulated, and writes the table of
docs/hardware.md: golden pictures, verdicts that flip against the float model, the largest drift of a score.

    python tools/prove_cpus.py --write docs/hardware.md           # all of it: hours; each cell is kept, it goes on
    python tools/prove_cpus.py --short                            # what CI runs: within ten minutes on two cores
    python tools/prove_cpus.py --cpu Haswell --bundle pcb-yolo    # a part

tools/setup_cpus.sh makes the processors. What was found in a cell is kept in out/cpus by all that it depends on: the
bundle, the file, the runtime, numpy, OpenCV, the emulator, the code of backend and decoder, the pictures. Exit status 1
where an answer is wrong and its golden pictures do not show it, where a file that must be right is refused, where ONNX
Runtime alone does not decide, or where the demo decides otherwise than here.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "train"))
from cpus import demo, machines, page
from cpus.cells import ALONE, BACKENDS, FLOAT, Cell, Kept, cells_of, depends, exact_way, references
from cpus.float_model import write_float
from cpus.judging import Judged, judge
from cpus.known import unexpected
from cpus.machines import HOST, MACHINES
from cpus.pictures import pictures
from cpus.proving import Job, prove
from lineside.errors import EXIT_CONFIG, ConfigError, LinesideError
from lineside.resources import shipped
from lineside.store.bundle import Bundle, open_bundle
from models_report import write_between
from score_models import SCORED_ON

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("Haswell", "cortex-a53", "Nehalem")
SHORT_S = 540.0  # the whole short form
RUN_FIRST = ("onnxruntime", "litert", ALONE, "openvino")  # OpenVINO in float takes the longest to emulate
SMALLEST = "conveyor-parts"
SHOWS_IT = ("conveyor-parts", "tile-anomaly", "pcb-yolo")  # bundles whose golden pictures fail where INT8 sums clip
DEMO = "Haswell"
PICTURES, PICTURES_SHORT = 40, 5


class Proof:
    """What is to be run, what is kept of it, and what it is worth."""

    def __init__(self, asked: argparse.Namespace, count: int) -> None:
        self.machines = [one for one in MACHINES if not asked.cpu or one.name in asked.cpu]
        self.count = count
        self.limit_s: float = asked.limit_s
        self.alone = not asked.short  # there the demo shows it
        self.kept = Kept(asked.keep / "cells", asked.any_code)
        self._folder: Path = asked.keep
        found = [open_bundle(manifest.parent) for manifest in sorted(shipped("models").glob("*/model.toml"))]
        self.bundles = {one.name: one for one in found if not asked.bundle or one.name in asked.bundle}
        self.backends = asked.backend or BACKENDS
        self._pictures = {
            name: pictures(bundle, SCORED_ON[name], self.count, asked.data, asked.keep / "pictures")
            for name, bundle in self.bundles.items()
        }
        self._reference: dict[
            tuple[str, str], list[dict[str, Any]]
        ] = {}  # by bundle and file; no file: the float model

    def cells(self) -> list[Cell]:
        return [
            cell
            for machine in self.machines
            for bundle in self.bundles.values()
            for cell in cells_of(machine.name, bundle, self.backends)
            if self.alone or cell.backend != ALONE
        ]

    def _depends(self, cell: Cell) -> dict[str, Any]:
        machine = next(one for one in MACHINES if one.name == cell.machine)
        bundle = self.bundles[cell.bundle]
        facts = machines.facts(machine)
        return depends(cell, bundle, facts, machines.PACKAGES, self._pictures[cell.bundle][1])

    def _job(self, cell: Cell) -> Job:
        return Job(cell.name, self._folder_of(cell), cell.backend, cell.file, self._pictures[cell.bundle][0])

    def _folder_of(self, cell: Cell) -> str:
        return str(self.bundles[cell.bundle].folder)

    def refer(self, jobs: int) -> None:
        """What the float model of each bundle sees on this machine, and each of its files computed exactly."""
        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(self._refer, self.bundles.values()):
                pass

    def _refer(self, bundle: Bundle) -> None:
        host = next(one for one in MACHINES if one.name == HOST)
        cells = {cell.name: cell for cell in references(bundle)}
        missing = [cell for cell in cells.values() if self.kept.read(self._depends(cell)) is None]
        asked = [self._float(cell) if cell.backend == FLOAT else self._exact(cell) for cell in missing]
        for job, found in prove(host.python, asked, self.limit_s):
            if "seen" not in found:
                raise ConfigError(f"{job.name}: does not run on this machine, so nothing can be compared: {found}")
            self.kept.put(self._depends(cells[job.name]), found)
        self.recall(bundle)

    def recall(self, bundle: Bundle) -> None:
        """What is kept of a bundle's references."""
        for cell in references(bundle):
            if (kept := self.kept.read(self._depends(cell))) is not None:
                self._reference[cell.bundle, cell.file] = kept["seen"]

    def _float(self, cell: Cell) -> Job:
        bundle = self.bundles[cell.bundle]
        path = self._folder / "float" / f"{bundle.name}.onnx"
        write_float(Path(next(one.path for one in bundle.artefacts if one.format == "onnx")), path)
        pictures = self._pictures[cell.bundle][0]
        return Job(cell.name, self._folder_of(cell), "onnxruntime", str(path), pictures, golden=False)

    def _exact(self, cell: Cell) -> Job:
        backend, options = exact_way(cell.file)
        pictures = self._pictures[cell.bundle][0]
        return Job(cell.name, self._folder_of(cell), backend, cell.file, pictures, False, options)

    def run(self, jobs: int, until_s: float) -> None:
        """Every cell that is not kept yet, up to `until_s` of time.monotonic()."""
        waiting = [cell for cell in self.cells() if self.kept.read(self._depends(cell)) is None]
        groups: dict[tuple[bool, str, str], list[Cell]] = {}
        for cell in sorted(waiting, key=self._order):
            groups.setdefault((cell.bundle == SMALLEST, cell.machine, cell.backend), []).append(cell)
        print(f"{len(self.cells())} cells, {len(waiting)} to run", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(lambda cells: self._run(cells, until_s), groups.values()):
                pass

    def _order(self, cell: Cell) -> tuple[bool, int, int, bool, int]:
        """The smallest bundle on everything; then runtime by runtime, on the processors of the short form first, what
        shows clipped sums before what does not, small files before large ones."""
        machine = SHORT.index(cell.machine) if cell.machine in SHORT else len(SHORT)
        size = min(Path(one.path).stat().st_size for one in self.bundles[cell.bundle].artefacts)
        return cell.bundle != SMALLEST, RUN_FIRST.index(cell.backend), machine, cell.bundle not in SHOWS_IT, size

    def _run(self, cells: Sequence[Cell], until_s: float) -> None:
        machine = next(one for one in MACHINES if one.name == cells[0].machine)
        by_name = {cell.name: cell for cell in cells}
        python = machine.alone if cells[0].backend == ALONE else machine.python
        for job, found in prove(python, [self._job(cell) for cell in cells], self.limit_s, until_s=until_s):
            cell = by_name[job.name]
            if "stopped" in found:
                print(f"{'':8}  {cell.name}: {found['stopped']}: not kept", file=sys.stderr, flush=True)
                continue
            self.kept.put(self._depends(cell), found)
            judged = self.judged(cell)
            cost = f"{found['cpu_s']:6.0f} s" if "cpu_s" in found else " " * 8
            print(f"{cost}  {cell.name}: {judged and said(judged)}", file=sys.stderr, flush=True)

    def judged(self, cell: Cell) -> Judged | None:
        found = self.kept.read(self._depends(cell))
        if found is None or (cell.bundle, "") not in self._reference:
            return None
        bundle: Bundle = self.bundles[cell.bundle]
        exact = self._reference.get((cell.bundle, found.get("file", cell.file)))
        return judge(found, self._reference[cell.bundle, ""], exact, bundle.settings.threshold)

    def all_judged(self) -> Iterator[tuple[Cell, Judged | None]]:
        for cell in self.cells():
            yield cell, self.judged(cell)

    def facts(self) -> dict[str, dict[str, str]]:
        return {one.name: machines.facts(one) for one in self.machines}


def said(judged: Judged) -> str:
    told = []
    for words, one in (("float", judged.float_), ("exact", judged.exact)):
        if one is not None:
            told.append(f"{one.flips} of {judged.pictures} flip against {words}, drift {one.drift:.3f}")
    return "; ".join((judged.outcome, *told, *judged.why.splitlines()[:1]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LINESIDE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--short", action="store_true", help=f"{', '.join(SHORT)}; {PICTURES_SHORT} pictures")
    parser.add_argument("--cpu", action="append", choices=[one.name for one in MACHINES], help="default: all")
    parser.add_argument("--bundle", action="append", metavar="NAME", help="default: all that are shipped")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all")
    parser.add_argument("--count", type=int, default=None, metavar="N", help=f"test pictures; default: {PICTURES}")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="processes at a time; default: 1, short: 2")
    parser.add_argument("--limit-s", type=float, default=3600, metavar="S", help="a cell that takes longer is stopped")
    parser.add_argument("--budget-s", type=float, metavar="S", help=f"begin no more after; short: {SHORT_S:.0f}")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the data")
    parser.add_argument("--keep", type=Path, default=ROOT / "out" / "cpus", metavar="DIR", help="what was found so far")
    parser.add_argument("--any-code", action="store_true", help="take what was kept with another state of the code")
    parser.add_argument("--demo", action="store_true", help=f"the demo's clip and rules, too, on {DEMO} (with --short)")
    parser.add_argument("--no-run", action="store_true", help="only judge what is kept")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, also half-way")
    asked = parser.parse_args(arguments)
    if asked.short:
        asked.demo = asked.demo or not (asked.cpu or asked.bundle or asked.backend)
        asked.cpu = asked.cpu or list(SHORT)
    asked.budget_s = asked.budget_s or (SHORT_S if asked.short else math.inf)
    asked.count = asked.count or (PICTURES_SHORT if asked.short else PICTURES)
    try:
        return _run(asked)
    except LinesideError as error:
        print(f"prove_cpus: {error}", file=sys.stderr)
        return EXIT_CONFIG


def _run(asked: argparse.Namespace) -> int:
    proof = Proof(asked, asked.count)
    if absent := [one.name for one in proof.machines if machines.missing(one)]:
        raise ConfigError(f"{', '.join(absent)}: not set up: run tools/setup_cpus.sh on a Debian on x86-64")
    until_s = time.monotonic() + asked.budget_s
    jobs = asked.jobs or (2 if asked.short else 1)
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(_demo, asked.keep / "demo") if asked.demo else None
        proof.refer(1 if asked.demo else jobs)
    faults = [fault for fault in ([waiting.result()] if waiting else []) if fault]
    try:
        if not asked.no_run:
            proof.run(jobs, until_s)
    finally:
        judged = dict(proof.all_judged())
        if asked.write is not None:
            judged |= _fewer(asked, judged)
            lines = list(page.table(proof.machines, proof.facts(), judged))
            write_between(asked.write, page.BEGIN, page.END, lines)
    left = [cell for cell, one in judged.items() if one is None]
    if left:
        print(f"{len(left)} cells were not run: {', '.join(cell.name for cell in left)}", file=sys.stderr)
    if asked.short:
        must = [cell for cell in left if (cell.machine, cell.backend) == (DEMO, "onnxruntime")]
        faults += [f"{cell.name}: not run within {asked.budget_s:.0f} s" for cell in must if cell.bundle in SHOWS_IT]
    faults += [f"{cell.name}: {why}" for cell, one in judged.items() if one and (why := unexpected(cell, one))]
    print("\n".join(faults or ["every cell that was run is as it must be"]), file=sys.stderr)
    return 1 if faults else 0


def _fewer(asked: argparse.Namespace, judged: Mapping[Cell, Judged | None]) -> dict[Cell, Judged | None]:
    """For the page, cells that were run with as few pictures as the short form takes, and not with more yet."""
    proof = Proof(asked, PICTURES_SHORT)
    for bundle in proof.bundles.values():
        proof.recall(bundle)
    return {cell: proof.judged(cell) for cell, one in judged.items() if one is None}


def _demo(folder: Path) -> str:
    """The main job under Haswell, where ONNX Runtime is all that `make demo` installs; empty: it decides as here."""
    began = time.monotonic()
    host, there = (next(one for one in MACHINES if one.name == name) for name in (HOST, DEMO))
    try:
        here_, there_ = (demo.decided(one.alone, folder / one.name) for one in (host, there))
    except RuntimeError as error:
        return f"demo: {error}"
    wrong = demo.differ(here_, there_)
    told = f"{len(there_.decisions)} decisions, {wrong or 'right'}"
    print(f"{time.monotonic() - began:6.0f} s  demo on {DEMO}: {told}", file=sys.stderr, flush=True)
    return f"demo on {DEMO}: {wrong}" if wrong else ""


if __name__ == "__main__":
    sys.exit(main())
