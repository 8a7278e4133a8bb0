"""`lineside bench`: the model alone, the whole frame path, and a bare runtime loop, interleaved in one run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lineside.contracts import Committed
    from lineside.proof import Prover
    from lineside.records import Image, Record

_BLOCK = 20  # runs of one kind before the other kind has its turn: both see the same noise of the machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, help="folder of a model bundle, or the name of a shipped one")
    parser.add_argument("--backend", default="auto", help="NAME or NAME:DEVICE; default: what the profile prefers")
    parser.add_argument("--threads", type=int, help="threads of the runtime; default: the profile's")
    parser.add_argument("--frames", type=int, default=400, help="frames of each kind (default: 400)")
    parser.add_argument("--video", type=Path, help="pictures from this video; default: rendered ones, 640 x 360")
    parser.add_argument("--unproven", action="store_true", help="do not prove first that the answers are right here")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    from lineside.commands import measuring
    from lineside.errors import ConfigError

    if args.frames < 1:
        raise ConfigError(f"--frames {args.frames}: at least 1")
    if args.threads is not None and not 1 <= args.threads <= 256:
        raise ConfigError(f"--threads {args.threads}: 1 to 256")
    prover = None if args.unproven else measuring.prover()
    result = measure(args.bundle, args.backend, args.threads, args.frames, args.video, _progress, prover)
    if args.json:
        print(json.dumps(result))
        return 0
    if "unproven" in result:
        print(f"{result['file']} on {result['backend']} {result['unproven']}")
    print(f"{result['bundle']} on {result['backend']}, {result['threads']} threads, {result['frames']} frames a kind")
    print(f"{'ms':<14}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'max':>9}")
    for key, words in (("model_ms", "model alone"), ("frame_path_ms", "frame path"), ("bare_loop_ms", "bare loop")):
        row = result[key]
        assert isinstance(row, dict)
        print(f"{words:<14}" + "".join(f"{row[name]:>9.3f}" for name in ("p50", "p90", "p99", "p99_9", "max")))
    print(
        f"frame path / bare loop: {result['ratio_p50']} x at p50; {result['fps']} frames/s; {result['pss_mb']} MB PSS; "
        f"{result['cpu_ms_per_frame']} ms CPU a frame"
    )
    return 0


def measure(
    bundle_name: str,
    backend: str,
    threads: int | None,
    frames: int,
    video: Path | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    prover: Prover | None = None,
) -> dict[str, object]:
    """Open the bundle and measure `frames` of each kind. Times in ms, memory in MB (PSS before the bare loop opens)."""
    import time

    import cv2

    from lineside.clock import SystemClock
    from lineside.commands.bare import open_bare
    from lineside.config.stations import StationConfig
    from lineside.hal.board import read
    from lineside.hal.profile import match
    from lineside.pipeline import Station
    from lineside.recipe import open_model, recipe_for
    from lineside.records import Frame
    from lineside.store.bundle import open_bundle

    cv2.setNumThreads(1)
    bundle = open_bundle(bundle_name)
    name, _, device = backend.partition(":")
    config = StationConfig(camera="bench", bundle=bundle_name, backend=name, device=device or None, threads=threads)
    model = open_model(bundle, config, match(read()), prover=prover)
    clock = SystemClock()
    store = _LastRecord()
    station = Station("bench", _Nothing(), recipe_for("bench", config, model), store, clock)
    pictures = list(_pictures(video))
    path_ns: list[int] = []
    model_ns: list[int] = []
    bare_ns: list[int] = []

    def frame_path(number: int) -> None:
        image = pictures[number % len(pictures)]
        now_ns = clock.monotonic_ns()
        station.handle(Frame(image, "bench", number, now_ns, clock.wall_ns(), now_ns))
        path_ns.append(clock.monotonic_ns() - now_ns)

    canvas, _, _ = model.prepare.put(pictures[0], 0)

    def model_alone(number: int) -> None:
        began_ns = clock.monotonic_ns()
        model.executor.infer(canvas, 0)
        model_ns.append(clock.monotonic_ns() - began_ns)

    for number in range(_BLOCK):
        frame_path(number)
    cpu_s, wall_s, path_ns[:] = time.process_time(), time.perf_counter(), []
    for number in range(min(frames, 5 * _BLOCK)):
        frame_path(number)
    measured = len(path_ns)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    pss_mb = _pss_mb()
    path_ns.clear()

    once = open_bare(
        model.backend.partition(":")[0],
        model.artefact,
        model.executor.backend.device,
        model.threads,
        model.executor.backend.inputs[0],
        (canvas.shape[1], canvas.shape[0]),
        model.options,
    )

    def bare(number: int) -> None:
        began_ns = clock.monotonic_ns()
        once()
        bare_ns.append(clock.monotonic_ns() - began_ns)

    for kind in (bare, model_alone):
        for number in range(_BLOCK):
            kind(number)
    bare_ns.clear()
    model_ns.clear()
    for start in range(0, frames, _BLOCK):
        for kind in (frame_path, bare, model_alone):
            for number in range(start, min(start + _BLOCK, frames)):
                kind(number)
        progress(min(start + _BLOCK, frames), frames)
    path, loop = _quantiles(path_ns), _quantiles(bare_ns)
    return {
        "bundle": bundle.name,
        "digest": bundle.digest,
        "backend": model.backend,
        "file": Path(model.artefact.path).name,
        **({"unproven": model.proof.told} if model.proof.state == "unproven" else {}),
        "threads": model.threads,
        "frames": frames,
        "model_ms": _quantiles(model_ns),
        "frame_path_ms": path,
        "bare_loop_ms": loop,
        "ratio_p50": round(path["p50"] / loop["p50"], 3),
        "fps": round(measured / wall_s, 1),
        "cpu_ms_per_frame": round(cpu_s / measured * 1e3, 3),
        "pss_mb": pss_mb,
    }


class _LastRecord:
    """A RecordStore that keeps the newest record: what follows the frame path is not measured here."""

    def put(self, record: Record, committed: Committed | None = None) -> None:
        self.record = record


class _Nothing:
    """A frame source that nobody asks."""

    def take(self, timeout_s: float) -> None:
        return None


def _pictures(video: Path | None) -> Iterator[Image]:
    """Up to 60 pictures, so that neither decoding nor rendering is in the measured time."""
    from lineside.errors import ConfigError
    from lineside.registry import driver

    if video is None:
        camera = driver("camera", "synthetic")(seed=7, frames=60, pace="max_speed")
    else:
        camera = driver("camera", "clip")(path=video, pace="max_speed")
    camera.open()
    try:
        for _ in range(60):
            captured = camera.read()
            if captured is None:
                return
            yield captured.image
    except ConfigError as error:
        raise ConfigError(f"--video {error}") from error
    finally:
        camera.close()


def _quantiles(times_ns: list[int]) -> dict[str, float]:
    import numpy as np

    shares = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "max": 100}
    return {name: round(float(np.percentile(times_ns, share)) / 1e6, 4) for name, share in shares.items()}


def _pss_mb() -> float:
    """Proportional set size of this process in MB (10^6 bytes), from the kernel's roll-up."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} frames", end="\n" if done == total else "", file=sys.stderr, flush=True)
