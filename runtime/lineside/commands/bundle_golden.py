"""`lineside bundle golden | verify`: gives a bundle golden pictures and answers; tries them on this device."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineside.records import Artefact, Finding, Image, Task
    from lineside.store.bundle import Bundle
    from lineside.store.golden import Golden, Tolerance

_SHAKES = 4


def add_arguments(verbs: Any) -> None:
    golden = verbs.add_parser("golden", help="copy a bundle and give it golden answers", description=_GOLDEN)
    golden.add_argument("bundle", metavar="DIR", help="folder of a model bundle, or the name of a shipped one")
    golden.add_argument("picture", nargs="+", type=Path, metavar="PICTURE", help="a few, free to ship with the bundle")
    golden.add_argument("-o", "--output", type=Path, required=True, metavar="NEW", help="the folder to make")
    golden.add_argument("--version", help="of the new bundle; default: the old one's")
    golden.add_argument("--score", type=float, default=0.15, metavar="D", help="how far scores may differ (0.15)")
    golden.add_argument("--iou", type=float, default=0.8, metavar="IOU", help="how far boxes must overlap (0.8)")
    verify = verbs.add_parser("verify", help="try a bundle's golden pictures on this device", description=_VERIFY)
    verify.add_argument("bundle", metavar="DIR", help="folder of a model bundle, or the name of a shipped one")
    verify.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="NAME or NAME:DEVICE; default: each here, on cpu",
    )


_GOLDEN = (
    "Runs each file of the bundle on this machine and keeps what it found as the answer that every box must give, "
    "before it decides with the model. Look at the answers first: `lineside infer --bundle DIR --draw OUT PICTURE...`"
)
_VERIFY = (
    "Tries each file on each backend, in a process of its own, whatever was found out before; the result is kept, and "
    "decides what `run` and the other commands use. Exit status 0 when all give the golden answers, else 1."
)


def golden(args: argparse.Namespace) -> int:
    from lineside.errors import ConfigError
    from lineside.store.bundle import open_bundle
    from lineside.store.golden import Tolerance
    from lineside.store.pack import pack_golden

    bundle = open_bundle(args.bundle)
    try:
        tolerance = Tolerance(score=args.score, iou=args.iou)
    except ValueError as error:
        raise ConfigError(f"--score {args.score}, --iou {args.iou}: {error}") from error
    answers, unsteady = answered(bundle, args.picture, tolerance)
    if unsteady:
        raise ConfigError(
            *(line for lines in unsteady.values() for line in lines),
            "a sound device that rounds otherwise would fail these: choose other pictures, or a wider --score",
        )
    made = pack_golden(bundle, args.output, answers, args.picture, args.version or bundle.version)
    print(f"bundle {made.folder}: {made.name} {made.version}, {made.digest[:19]}...")
    return 0


def answered(
    bundle: Bundle, paths: Sequence[Path], tolerance: Tolerance, tell: Callable[[str], None] = print
) -> tuple[Golden, dict[Path, list[str]]]:
    """What each file of the bundle answers to these pictures, and of each picture whose answers hang on one grey level
    a line for each file: a sound device that rounds otherwise would fail it."""
    from lineside.commands.infer import Eye
    from lineside.images import read_image
    from lineside.recipe import findings_of
    from lineside.store.golden import FOLDER, Case, Golden, Said

    names = [f"{FOLDER}/{number}{path.suffix.lower()}" for number, path in enumerate(paths)]
    pictures = [(read_image(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    answers: list[dict[str, tuple[Said, ...]]] = [{} for _ in pictures]
    shaken: list[dict[str, list[tuple[Finding, ...]]]] = [{} for _ in pictures]
    for artefact in bundle.artefacts:
        eye = Eye(_only(bundle, artefact), _first_backend(artefact), None)
        file = Path(artefact.path).name
        for (image, _), said, moved in zip(pictures, answers, shaken, strict=True):
            found = findings_of(eye.look(image), bundle.labels)
            said[file] = tuple(Said(label=f.label, score=round(f.score, 5), box=_rounded(f)) for f in found)
            moved[file] = [findings_of(eye.look(other), bundle.labels) for other in _shaken(image)]
        tell(f"{file}: {', '.join(str(len(said[file])) for said in answers)} findings on {eye.backend}")
    cases = [Case(image=n, sha256=sha, answers=a) for n, (_, sha), a in zip(names, pictures, answers, strict=True)]
    golden = Golden(min_score=bundle.settings.min_score, tolerance=tolerance, cases=tuple(cases))
    return golden, _unsteady(paths, shaken, golden, bundle.task)


def _shaken(image: Image) -> Iterator[Image]:
    """The picture a few times, each pixel up or down by one grey level or not at all: as far as the resize of one
    processor's OpenCV is from another's (docs/hardware.md)."""
    import numpy as np

    for seed in range(_SHAKES):
        step = np.random.default_rng(seed).integers(-1, 2, image.shape, np.int16)
        yield np.clip(image + step, 0, 255).astype(np.uint8)


def _unsteady(
    paths: Sequence[Path], shaken: list[dict[str, list[tuple[Finding, ...]]]], golden: Golden, task: Task
) -> dict[Path, list[str]]:
    from lineside.store.golden import differences

    lines: dict[Path, list[str]] = {}
    for path, case, seen in zip(paths, golden.cases, shaken, strict=True):
        for file, tries in seen.items():
            found = [line for each in tries for line in differences(case, file, each, task, golden, golden.min_score)]
            if found:
                line = f"{path}: {file}: {found[0].partition(': ')[2]}, once pixels change by one grey level"
                lines.setdefault(path, []).append(line)
    return lines


def verify(args: argparse.Namespace) -> int:
    from lineside.commands.measuring import prover
    from lineside.errors import ConfigError, DeviceError
    from lineside.hal import board, profile
    from lineside.hal.choose import installed
    from lineside.store.bundle import open_bundle
    from lineside.tuning.ways import ways

    bundle = open_bundle(args.bundle)
    if bundle.golden is None:
        raise ConfigError(f"bundle {bundle.folder}: has no golden answers: `lineside bundle golden` makes one that has")
    here, tries = profile.match(board.read()), prover()
    found, absent = ways(bundle, here, board.read(), args.backend or [f"{name}:cpu" for name in installed()])
    failed = tried = 0
    for one in absent:
        print(f"{one.backend}: not tried: {one.why}")
    for way in found:
        try:
            proof = tries.prove(bundle, way.artefact, way.candidate(here), again=True)
        except DeviceError as error:
            if args.backend:
                raise
            print(f"{way.place}, {way.file}: not tried: {error}")
            continue
        tried += proof.state != "broken"
        failed += proof.state == "wrong"
        passed = f"passed, {len(bundle.golden.cases)} pictures"
        told = {"wrong": f"FAILED: it {proof}", "broken": f"not run: it {proof}"}.get(proof.state, passed)
        print(f"{way.place}, {way.file}: {told}", flush=True)
    if not tried:
        raise ConfigError(f"bundle {bundle.folder}: no backend here runs it: `lineside probe` says what is missing")
    return 1 if failed else 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"golden": golden, "verify": verify}


def _only(bundle: Bundle, artefact: Artefact) -> Bundle:
    from dataclasses import replace

    return replace(bundle, artefacts=(artefact,))


def _first_backend(artefact: Artefact) -> str:
    """The runtime whose own format this is."""
    return {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert", "edgetpu": "litert:edgetpu"}[
        artefact.format
    ]


def _rounded(finding: Finding) -> tuple[float, float, float, float] | None:
    if finding.box is None:
        return None
    x1, y1, x2, y2 = (round(edge, 2) for edge in finding.box)
    return x1, y1, x2, y2
