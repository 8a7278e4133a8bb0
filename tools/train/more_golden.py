"""Golden pictures that can fail: adds drawn ones to a shipped bundle until every file whose answers would be wrong on a
processor without VNNI fails at least one of them there.

    python tools/train/more_golden.py conveyor-parts -o build/conveyor-parts --version 1.3.1

Needs an x86-64 processor without VNNI: there `exact_int8 = false` gives the wrong answers to find pictures by. Of the
candidates those are taken that the exact ways agree on with room to spare.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import drawn
import drawn_boxes
import numpy as np
from numpy.typing import NDArray

from lineside.cameras.render import Scene
from lineside.cli import main as lineside
from lineside.commands.bundle_golden import _shaken
from lineside.config.stations import StationConfig
from lineside.errors import EXIT_CONFIG, ConfigError
from lineside.hal.choose import installed
from lineside.hal.processor import saturates_int8
from lineside.hal.profile import GENERIC, Candidate
from lineside.recipe import Model, findings_of, open_model
from lineside.records import Artefact, Finding
from lineside.registry import driver
from lineside.store.bundle import Bundle, open_bundle
from lineside.store.golden import Case, Golden, Said, Tolerance, differences

Image = NDArray[np.uint8]
MOST = 6  # pictures that are added
OWN = {"onnx": "onnxruntime", "tflite": "litert", "xml": "openvino"}  # whose format it is
ROOM = 0.6  # of the tolerance, within which exact ways must agree
CANDIDATES: Mapping[str, Callable[[int], Image]] = {
    "conveyor-parts": lambda seed: Scene(100 + seed, fps=15).frame(20 + 7 * (seed % 5)).image,
    "pcb-yolo": drawn_boxes.board,
    "face-yolo": drawn_boxes.faces,
    "tile-anomaly": lambda seed: drawn.tile(seed % 2 == 0, seed),
    "tile-mobilenet": lambda seed: drawn.tile(seed % 2 == 0, seed),
    "ballscrew-mobilenet": lambda seed: drawn.spindle(seed % 2 == 0, seed),
    "ballscrew-mobilevit": lambda seed: drawn.spindle(seed % 2 == 0, seed),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=sorted(CANDIDATES))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--tries", type=int, default=40, help="candidates (40)")
    asked = parser.parse_args()
    try:
        return add(open_bundle(asked.bundle), asked.output, asked.version, asked.tries)
    except ConfigError as error:
        print(f"more_golden.py: {error}", file=sys.stderr)
        return EXIT_CONFIG


def cloud(seed: int) -> Image:
    """Smooth patches from black to white with a cast of colour: what no trained surface is, and sums are large in."""
    random = np.random.default_rng(seed)
    cells = int(random.integers(3, 40))
    light, colour = random.integers(-256, 512, (cells, cells, 1)), random.integers(-60, 61, (cells, cells, 3))
    grid = (light + colour).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(grid, (480, 360), interpolation=cv2.INTER_CUBIC), np.uint8)


def add(bundle: Bundle, output: Path, version: str, tries: int) -> int:
    """Write the bundle with more golden pictures. Raises ConfigError on a processor that cannot show what fails."""
    if not saturates_int8():
        raise ConfigError("this processor has VNNI, or is no x86-64: its INT8 sums cannot be made to saturate")
    cv2.setNumThreads(1)
    assert bundle.golden is not None
    exact = dict(_models(bundle, {}))
    wrong = {way: model for way, model in _models(bundle, {"exact_int8": False}) if way[1] != "litert"}
    kept = [bundle.folder / case.image for case in bundle.golden.cases]
    open_ways = {way for way, model in wrong.items() if not _fails(bundle, way[0], model)}
    print(f"{bundle.name}: not found out by its {len(kept)} pictures: {_told(open_ways)}")
    with tempfile.TemporaryDirectory() as folder:
        added = 0
        for seed in range(tries):
            image = CANDIDATES[bundle.name](seed) if seed < tries // 2 else cloud(seed)
            answers = _agreed(bundle, exact, image)
            if answers is None or not _is_steady(bundle, exact, answers, image):
                continue
            found = {way for way in open_ways if _differs(bundle, answers[way[0]], wrong[way], image, 1.0)}
            if found:
                path = Path(folder) / f"{seed}.png"
                cv2.imwrite(str(path), image)
                kept.append(path)
                open_ways -= found
                added += 1
                print(f"picture {seed} finds out {_told(found)}")
            if not open_ways or added == MOST:
                break
        print(f"never found out: {_told(open_ways)}")
        words = ["bundle", "golden", str(bundle.folder), *map(str, kept), "-o", str(output), "--version", version]
        return lineside(words)


Way = tuple[str, str]  # file, backend


def _models(bundle: Bundle, options: Mapping[str, bool]) -> Iterator[tuple[Way, Model]]:
    for artefact in bundle.artefacts:
        for backend in installed():
            if artefact.format in driver("backend", backend).formats("cpu"):
                here: dict[str, bool | int | float | str] = {} if backend == "litert" else dict(options)
                try:
                    yield (Path(artefact.path).name, backend), _open(bundle, artefact, backend, here)
                except ConfigError:
                    continue  # OpenVINO does not take every TFLite file


def _open(bundle: Bundle, artefact: Artefact, backend: str, options: dict[str, bool | int | float | str]) -> Model:
    station = StationConfig(camera="none", bundle=str(bundle.folder), backend=backend, device="cpu")
    candidate = Candidate(name=backend, options=options)
    return open_model(replace(bundle, artefacts=(artefact,)), station, replace(GENERIC, backend=(candidate,)))


def _fails(bundle: Bundle, file: str, model: Model) -> bool:
    from lineside.golden import differences as differ

    return bool(differ(bundle, file, model.see, bundle.settings.min_score))


def _agreed(bundle: Bundle, exact: Mapping[Way, Model], image: Image) -> dict[str, tuple[Finding, ...]] | None:
    """What each file finds, by its own runtime; None where another exact runtime is too far from that."""
    answers = {
        file: findings_of(model.see(image), model.labels)
        for (file, backend), model in exact.items()
        if OWN[file.rpartition(".")[2]] == backend
    }
    far = any(_differs(bundle, answers[file], model, image, ROOM) for (file, _), model in exact.items())
    return None if far else answers


def _is_steady(
    bundle: Bundle, exact: Mapping[Way, Model], answers: Mapping[str, tuple[Finding, ...]], image: Image
) -> bool:
    """Whether the answers hold when each pixel changes by a grey level, as `lineside bundle golden` asks."""
    own = {file: model for (file, backend), model in exact.items() if OWN[file.rpartition(".")[2]] == backend}
    return not any(
        _differs(bundle, answers[file], model, other, ROOM) for file, model in own.items() for other in _shaken(image)
    )


def _differs(bundle: Bundle, wanted: tuple[Finding, ...], model: Model, image: Image, share: float) -> bool:
    said = tuple(Said(label=one.label, score=one.score, box=one.box) for one in wanted)
    case = Case(image="candidate", sha256="0" * 64, answers={"": said})
    allowed = bundle.golden.tolerance if bundle.golden else Tolerance()
    narrow = Tolerance(score=allowed.score * share, iou=1 - (1 - allowed.iou) * share)
    held = Golden(min_score=bundle.settings.min_score, tolerance=narrow, cases=(case,))
    found = findings_of(model.see(image), model.labels)
    return bool(differences(case, "", found, bundle.task, held, bundle.settings.min_score))


def _told(ways: set[Way]) -> str:
    return ", ".join(sorted(f"{file} on {backend}" for file, backend in ways)) or "nothing"


if __name__ == "__main__":
    sys.exit(main())
