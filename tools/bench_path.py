"""The frame path, start, memory, CPU and throughput of lineside beside loops written by hand, in one run.

    python tools/bench_path.py --standard --write docs/performance.md      (about 12 minutes)
    python tools/bench_path.py                                             (every model, engine and video: 25)
    python tools/bench_path.py --quick --only 'yolo_320*/litert/*'         (half a minute: does it work?)

One side is tools/loops.py (`bare`: infer only; `tuned`: OpenCV capture, resize, infer, decode, NMS), which knows
nothing of lineside; the other is `lineside run` with its journal and a mosquitto on loopback, a decision a frame, and
its own latency histogram, asked over the control socket. Same engine, threads, video, score and NMS thresholds; each
side in a process of its own, lineside and loop in turn. Needs the data folder, out/bench_models
(tools/make_bench_models.py) and mosquitto. Exit status 0 also where a target is missed: the report says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine, page, sides
from bench.cases import Case, Material, all_cases
from bench.targets import targets_of, targets_of_rest

ROOT = Path(__file__).resolve().parents[1]
_THROUGHPUT_S = 3.0  # each measurement at full speed


def main() -> None:
    args = _arguments()
    wanted = [case for case in all_cases() if not args.standard or case.standard]
    wanted = [case for case in wanted if not args.only or any(fnmatch(str(case), pattern) for pattern in args.only)]
    if not wanted:
        sys.exit(f"--only {args.only}: no such case; cases are {', '.join(map(str, all_cases()))}")
    report: dict[str, Any] = {
        "machine": machine.machine(),
        "commit": _commit(),
        **{key: getattr(args, key) for key in ("threads", "frames", "repeats", "fps")},
        "cases": [],
    }
    folder = Path(tempfile.mkdtemp(prefix="lineside-bench-"))
    material = Material(args.data, args.out, folder)
    began_s = time.monotonic()
    try:
        report["rest"] = _measure_once(args)
        for number, case in enumerate(wanted, 1):
            _say(f"[{number}/{len(wanted)}, {time.monotonic() - began_s:.0f} s] {case}")
            report["cases"].append(_measure(case, material, args))
            _save(report, args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report["took_s"] = round(time.monotonic() - began_s)
    _save(report, args)
    print("\n".join(page.lines(report)))


def _measure(case: Case, material: Material, args: argparse.Namespace) -> dict[str, Any]:
    """Every repeat of one case: bare, lineside, tuned in turn, then both at full speed."""
    material.bundle(case)
    sides.warm_caches(case, material, args.threads)
    result: dict[str, Any] = {"case": str(case), "engine": case.engine, "bare": [], "pairs": [], "throughput": []}
    for _ in range(args.repeats):
        bare = sides.loops("bare", case, material, args.threads, args.bare_frames)["infer_ms"]
        product = sides.paced(case, material, args.threads, args.frames, args.fps)
        tuned = sides.loops("tuned", case, material, args.threads, args.frames, "--fps", str(args.fps))
        result["bare"].append(bare)
        result["pairs"].append({"product": product, "tuned": tuned})
        _say(
            f"    p50 bare {bare['p50']:.2f}, tuned {tuned['path_ms']['p50']:.2f}, "
            f"lineside {product['p50_ms']:.2f} ms; "
            f"first {tuned['first_result_s']:.2f} / {product['first_decision_s']:.2f} s; "
            f"CPU {tuned['cpu_ms_per_frame']:.1f} / {product['cpu_ms_per_frame']:.1f} ms; "
            f"PSS {tuned['pss_mb']:.0f} / {product['pss_mb']:.0f} MiB"
        )
    if not case.classifier:
        result["throughput"] = _throughput(case, material, args, median(run["p50"] for run in result["bare"]))
    result["targets"] = [target.row() for target in targets_of(result)]
    return result


def _throughput(case: Case, material: Material, args: argparse.Namespace, bare_ms: float) -> list[dict[str, Any]]:
    """The first time against every arrangement of loops, then against the best of them only."""
    cores = len(os.sched_getaffinity(0))
    frames = max(40, int(_THROUGHPUT_S * 1000 / bare_ms * 1.2))
    runs: list[dict[str, Any]] = []
    arrangement = "all"
    for _ in range(args.repeats):
        product_fps = sides.full_speed(case, material, _THROUGHPUT_S)
        best = sides.loops("throughput", case, material, cores, frames, "--arrangement", arrangement)
        arrangement = best["best"]
        runs.append({"product_fps": product_fps, "loops_best_fps": best["best_fps"], "loops_best": arrangement})
        _say(f"    full speed: {arrangement} {best['best_fps']}, lineside {product_fps} fps")
    return runs


def _measure_once(args: argparse.Namespace) -> dict[str, Any]:
    _say("lineside --help, decision -> subscriber")
    rest: dict[str, Any] = {"help_s": machine.help_s(3 if args.quick else 11)}
    rest["mqtt"] = machine.mqtt(100 if args.quick else 600)
    if args.install:
        _say("core install (pip install --target)")
        rest["core_install_mb"] = machine.core_install_mb(ROOT)
    rest["targets"] = [target.row() for target in targets_of_rest(rest)]
    return rest


def _save(report: dict[str, Any], args: argparse.Namespace) -> None:
    """After each case, so that an interrupted run leaves what it has."""
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.write:
        page.write(args.write, report)


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--standard", action="store_true", help="three models, each on every engine and one video")
    parser.add_argument("--quick", action="store_true", help="40 frames, one repeat")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="MODEL/ENGINE/VIDEO, * allowed; repeatable")
    parser.add_argument("--threads", type=int, default=2, help="of the engine, on both sides (default: 2)")
    parser.add_argument("--frames", type=int, default=160, help="paced frames a run (default: 160)")
    parser.add_argument("--repeats", type=int, default=2, help="pairs of runs a case (default: 2)")
    parser.add_argument("--fps", type=float, default=15.0, help="pace (default: 15)")
    parser.add_argument("--install", action="store_true", help="also measure the core install (a minute, downloads)")
    parser.add_argument("--data", type=Path, default=os.environ.get("LINESIDE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="made models and videos (default: out)")
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "bench_path.json", metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the marked section of this page")
    args = parser.parse_args()
    args.data, args.bare_frames = Path(args.data), args.frames
    if args.quick:
        args.frames, args.repeats, args.bare_frames = 40, 1, 40
    return args


if __name__ == "__main__":
    main()
