"""What evidence costs the frame path: the same frames through two stations in turn, one with evidence and one without.

    python tools/bench_evidence.py [--frames 600] [--accept-share 0.05] [--bundle conveyor-parts] [--height-px 360]

Both share one model; the one with evidence writes to a temporary folder while the other's frames are timed as well, so
what the writing thread takes from the processor shows in both. On a busy machine believe the processor time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lineside.cameras.synthetic import SyntheticCamera
from lineside.checked import checked
from lineside.clock import SystemClock
from lineside.config import Config
from lineside.deliver.journal import Journal
from lineside.evidence import Evidence
from lineside.hal.board import read
from lineside.hal.profile import match
from lineside.pipeline import Station
from lineside.recipe import open_model, recipe_for
from lineside.records import Frame
from lineside.store.bundle import open_bundle


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="lineside-bench-") as folder:
        print(json.dumps(_measure(Path(folder), args), indent=2))


def _measure(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    bundle = open_bundle(args.bundle)
    config = checked(Config, _tree(args))
    station = config.stations["s"]
    recipe = recipe_for("s", station, open_model(bundle, station, match(read()), alone=True))
    clock = SystemClock()
    journal = Journal(folder / "journal.db", clock)
    journal.start()
    assert config.evidence is not None
    evidence = Evidence(config, config.evidence, journal, folder)
    witness = evidence.witness("s", station, recipe, {"s": bundle})
    plain = Station("s", _Nothing(), recipe, journal, clock)
    kept = Station("s", _Nothing(), recipe, witness, clock, witness=witness)
    evidence.worker.start()
    sides: dict[str, list[float]] = {"without": [], "with": []}
    used: dict[str, list[float]] = {"without": [], "with": []}  # processor time of the frame's thread
    camera = SyntheticCamera(seed=6, width_px=args.height_px * 16 // 9, height_px=args.height_px, fps=args.fps)
    camera.open()
    due_s = time.monotonic()
    for number in range(1, args.frames + 1):
        captured = camera.read()
        assert captured is not None
        frame = Frame(captured.image, "c", number, captured.captured_ns, captured.wall_ns, time.monotonic_ns())
        order = (("without", plain), ("with", kept))
        for name, one in order if number % 2 else order[::-1]:
            began_ns, used_ns = time.perf_counter_ns(), time.thread_time_ns()
            one.handle(frame)
            used[name].append((time.thread_time_ns() - used_ns) / 1e6)
            sides[name].append((time.perf_counter_ns() - began_ns) / 1e6)
        due_s += 1 / args.fps
        time.sleep(max(0.0, due_s - time.monotonic()))
    told = dict(evidence.worker.status())
    evidence.worker.stop(5.0)
    journal.stop()
    off, off_cpu = (np.array(each["with"]) - np.array(each["without"]) for each in (sides, used))
    return {
        "frames": args.frames,
        "without_ms": _summary(sides["without"]),
        "with_ms": _summary(sides["with"]),
        "median_of_differences_ms": round(float(np.median(off)), 4),
        "median_of_cpu_differences_ms": round(float(np.median(off_cpu)), 4),
        "written": told["written"],
        "lost": told["lost"],
    }


def _tree(args: argparse.Namespace) -> dict[str, object]:
    defects = {"kind": "defect", "labels": ["scratch", "stain", "chip", "missing_hole"], "min_score": 0.5}
    trigger = {"per": "object", "line": [[0.5, 0.0], [0.5, 1.0]], "track_labels": ["part"]}
    station = {"camera": "c", "bundle": args.bundle, "trigger": trigger, "rules": [defects]}
    evidence = {"accept_share": args.accept_share, "min_free_mb": 10, "min_free_percent": 0}
    return {"cameras": {"c": {"driver": "synthetic"}}, "stations": {"s": station}, "evidence": evidence}


class _Nothing:
    """A FrameSource that is not asked."""

    def take(self, timeout_s: float) -> None:
        return None


def _summary(times_ms: Sequence[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    return {"p50": round(float(p50), 3), "p90": round(float(p90), 3), "p99": round(float(p99), 3)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--height-px", type=int, default=360)
    parser.add_argument("--accept-share", type=float, default=0.05)
    parser.add_argument("--bundle", default="conveyor-parts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
