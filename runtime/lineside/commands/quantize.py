"""`lineside quantize`: a float model and pictures become a bundle of INT8 artefacts, or a refusal that says why."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from lineside.commands.model_facts import ModelFacts
    from lineside.quantize.pictures import Pictures, Shot
    from lineside.quantize.report import Report
    from lineside.quantize.truth import Truth
    from lineside.quantize.work import Job
    from lineside.store.bundle import Bundle

_AS_SLOW = 0.95  # of the float model's time
_WHAT = (
    "Makes INT8 files of a float model, measures on pictures of the line how many decisions they change, keeps in "
    "float what would change too many, and packs them as a bundle. Exit status 1, and no bundle, where too many change."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _WHAT
    parser.add_argument("model", metavar="MODEL", help=".onnx, float .tflite, PyTorch's .pt2, or timm:NAME")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the bundle to make")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures of the line, 100 or more")
    parser.add_argument(
        "--labels-from",
        metavar="WHAT",
        help='what is truly on them: "folders" (their folder is their class), a COCO .json, or a folder of YOLO .txt',
    )
    parser.add_argument("--max-flips", type=float, default=0.02, metavar="F", help="of decisions, 0 to 1 (0.02)")
    parser.add_argument("--max-loss", type=float, default=0.02, metavar="L", help="of accuracy, 0 to 1 (0.02)")
    parser.add_argument("--accept-flips", action="store_true", help="write the bundle although a bound does not hold")
    parser.add_argument("--calibration", type=int, default=100, metavar="N", help="at most so many pictures (100)")
    parser.add_argument("--validation", type=int, default=300, metavar="N", help="at most so many others (300)")
    parser.add_argument(
        "--search-s", type=float, default=300.0, metavar="S", help="for trying ranges and layers, a format (300)"
    )
    parser.add_argument(
        "--for",
        dest="made_for",
        default="any",
        metavar="PROCESSOR",
        help="what it must be right on: x86-64-v2, x86-64-v3 (AVX2 without VNNI), vnni, arm64, arm64-dotprod, or any",
    )
    parser.add_argument(
        "--emulate-s",
        type=float,
        metavar="S",
        help="for trying the files on emulated processors, where qemu-user is installed, a format (as --search-s)",
    )
    parser.add_argument(
        "--arm-python",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an ARM64 Python that runs here, emulated, with its runtimes; one for each kind of ARM",
    )
    parser.add_argument("--backend", action="append", metavar="NAME", help="make it for these; default: all installed")
    parser.add_argument(
        "--golden", type=int, default=4, metavar="N", help="put N of the pictures into the bundle as golden ones (4)"
    )
    parser.add_argument("--keep-float", action="store_true", help="pack the float model, too")
    describe.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    with tempfile.TemporaryDirectory(prefix="lineside-quantize-") as scratch:
        return _run(args, Path(scratch))


def _check(args: argparse.Namespace) -> None:
    from lineside.errors import ConfigError

    for name in ("max_flips", "max_loss"):
        if not 0 <= getattr(args, name) <= 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name):g}: a share, 0 to 1")
    for name in ("calibration", "validation"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: at least 1")
    if args.golden < 0:
        raise ConfigError(f"--golden {args.golden}: 0 or more")
    for name in ("search_s", "emulate_s"):
        seconds = getattr(args, name)
        if seconds is not None and not seconds >= 0:
            raise ConfigError(f"--{name.replace('_', '-')} {seconds:g}: seconds, 0 or more")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ConfigError(f"{args.output}: exists and is not empty: a bundle is never changed; give another folder")


def _run(args: argparse.Namespace, scratch: Path) -> int:
    from lineside.quantize.emulated import emulators
    from lineside.quantize.measure import Judge, Reading, Runner
    from lineside.quantize.pictures import find_pictures, load
    from lineside.quantize.processors import used_by, wanted
    from lineside.quantize.search import Bounds
    from lineside.quantize.truth import read_truths
    from lineside.quantize.work import Job, from_onnx, from_tflite

    say = _teller()
    kinds = wanted(args.made_for)
    backends = used_by(_backends(args.backend), kinds)
    emulated = emulators(args.arm_python)
    found = find_pictures(args.images)
    sources = _sources(args, scratch)
    facts = sources[0]
    described = describe.describe(facts, sources[1:], args)
    for line in described.told():
        print(line)
    _check_size(facts, described.input.width_px)
    reading = Reading(described.input, described.decode, described.settings, described.labels)
    truth_of = read_truths(args.labels_from, described.task, described.labels) if args.labels_from else None
    pictures = load(found, described.input, args.calibration, args.validation)
    for line in pictures.unreadable:
        say(f"skipped: {line}")
    for line in pictures.notes:
        say(line)
    if truth_of is not None:
        pictures, truths = _labelled(pictures, truth_of, args.labels_from)
    else:
        truths = None
    reference = Runner(facts.artefact, reading, _reference_backend(facts))
    judge = Judge(reading, reference.see(pictures.validation), truths)
    job = Job(
        reading,
        pictures,
        judge,
        reference,
        Bounds(args.max_flips, args.max_loss),
        backends,
        scratch,
        re.sub("[_-](fp32|float32|float)$", "", Path(args.model.removeprefix("timm:")).stem),
        args.search_s,
        say,
        kinds,
        emulated,
        args.search_s if args.emulate_s is None else args.emulate_s,
    )
    for each in _for_backends(sources, backends):
        {"onnx": from_onnx, "tflite": from_tflite}[each.format](job, each.artefact)
    reference.close()
    report = _report(args, job, facts)
    print(report.table())
    for line in report.proved():
        print(line)
    for line in report.floats():
        print(f"stays in float: {line}")
    for note in job.notes:
        print(note)
    if not job.holds and not args.accept_flips:
        print(
            f"lineside quantize: refused: more than {args.max_flips:.1%} of the decisions flip or more than "
            f"{args.max_loss:.1%} of accuracy is lost{_on(job)}; nothing was written. More and other pictures, "
            "--labels-from, or other bounds may help; --accept-flips writes the bundle all the same",
            file=sys.stderr,
        )
        return 1
    return _pack(args, job, described, sources, report)


def _on(job: Job) -> str:
    names = list(dict.fromkeys(proof.processor for proof in job.proofs if not proof.holds))
    return f" (on {', '.join(names)})" if names else ""


def _sources(args: argparse.Namespace, scratch: Path) -> list[ModelFacts]:
    """The float models to start from: the file itself, or what PyTorch exports."""
    from dataclasses import replace

    from lineside.commands.model_facts import read_facts
    from lineside.errors import ConfigError
    from lineside.quantize import graph

    path = Path(args.model)
    if args.model.startswith("timm:") or path.suffix == ".pt2":
        from lineside.quantize.pytorch import export

        exported = export(args.model, args.size, scratch)
        for option, value in exported.options.items():
            if getattr(args, option) is None:
                setattr(args, option, value)
        return [read_facts(each) for each in exported.paths]
    if path.suffix.lower() == ".onnx" and path.is_file():
        graph.check_operators(path)
    facts = replace(read_facts(path), said_layout=args.layout)
    if facts.format not in ("onnx", "tflite"):
        raise ConfigError(f"{path}: a model of format {facts.format} cannot be quantised: give its .onnx")
    if facts.precision != "fp32":
        raise ConfigError(f"{path}: is {facts.precision} already: give the float model that it was made from")
    return [facts]


def _check_size(facts: ModelFacts, width_px: int | None) -> None:
    from lineside.errors import ConfigError

    if width_px is None:
        raise ConfigError(
            f"{facts.path}: takes pictures of any size, and an INT8 model needs one: give --size WIDTHxHEIGHT"
        )


def _labelled(pictures: Pictures, truth_of: Callable[[Shot], Truth], said: str) -> tuple[Pictures, list[Truth]]:
    """The validation pictures that have a label. Raises ConfigError when none has."""
    from dataclasses import replace

    from lineside.errors import ConfigError

    pairs = [(shot, truth) for shot in pictures.validation if (truth := truth_of(shot)) is not None]
    if not pairs:
        raise ConfigError(
            f"--labels-from {said}: none of the {len(pictures.validation)} validation pictures has a label there: "
            "file names and class names must be those of --images and --labels"
        )
    return replace(pictures, validation=tuple(shot for shot, _ in pairs)), [truth for _, truth in pairs]


def _backends(asked: list[str] | None) -> list[str]:
    from lineside.errors import ConfigError
    from lineside.hal.choose import installed

    here = [name for name in installed() if name in ("onnxruntime", "openvino", "litert")]
    for name in asked or ():
        if name not in here:
            raise ConfigError(f"--backend {name}: is not installed; here are {', '.join(here) or 'none'}")
    return list(dict.fromkeys(asked)) if asked else here


def _for_backends(sources: list[ModelFacts], backends: list[str]) -> list[ModelFacts]:
    """Those of which a file can be made that one of the backends runs. Raises ConfigError when none is."""
    from lineside.errors import ConfigError
    from lineside.quantize.work import BACKENDS

    wanted = [each for each in sources if set(BACKENDS[each.format]) & set(backends)]
    if not wanted:
        formats = ", ".join(each.format for each in sources)
        raise ConfigError(
            f"--backend {', '.join(backends)}: nothing that it runs can be made of {formats}: LiteRT wants a float "
            ".tflite or a PyTorch model, the others an .onnx"
        )
    return wanted


def _reference_backend(facts: ModelFacts) -> str:
    """The float model's answers come from the runtime whose own format it is."""
    return {"onnx": "onnxruntime", "tflite": "litert"}[facts.format]


def _report(args: argparse.Namespace, job: Job, facts: ModelFacts) -> Report:
    from lineside.quantize.report import Report
    from lineside.store.bundle import sha256_of

    job.notes += [*_untried(job), *_doubts(job)]
    return Report(
        model=facts.path.name,
        sha256=sha256_of(facts.path),
        calibration=len(job.pictures.calibration),
        validation=len(job.pictures.validation),
        unreadable=job.pictures.unreadable,
        basis=_basis(job),
        bounds=job.bounds,
        accepted=not job.holds,
        rows=job.rows,
        found=job.found,
        made_for=args.made_for,
        proofs=job.proofs,
        notes=job.notes,
        versions=_versions(),
    )


def _basis(job: Job) -> str:
    """In one sentence what loss means here."""
    if job.judge.accuracy is not None:
        kind = "top-1 accuracy" if job.reading.decode == "classify" else "average precision at IoU 0.5"
        return f"Loss: of {kind} on the labels, where the float model has {job.judge.accuracy:.3f}."
    return {
        "classify": "Loss: the share of pictures that flip although the float model's class leads by 0.1 or more.",
        "anomaly": "Loss: how far the scores moved.",
    }.get(job.reading.decode, "Loss: the share of sure findings that only one of INT8 and float has.")


def _untried(job: Job) -> list[str]:
    from lineside.quantize.report import TITLES

    return [
        f"Not tried with the {TITLES[format]} file for want of time (--search-s {job.search_s:g}): "
        + "; ".join(found.untried)
        for format, found in job.found.items()
        if found.untried
    ]


def _doubts(job: Job) -> list[str]:
    """Why the pictures may not tell enough."""
    from lineside.tuning.compare import enough

    found = []
    for row in job.rows:
        score = row.score
        if row.precision == "fp32" or row.left_out or not score.unsure:
            continue
        found.append(
            f"{row.file} on {row.backend}: {score.unsure} of the {score.flips} flips are of pictures about which the "
            "float model itself is undecided: a score of it is less than 0.1 from the other decision"
        )
    floats = {row.backend: row.latency_ms for row in job.rows if row.precision == "fp32"}
    for row in job.rows:
        if row.precision != "fp32" and not row.left_out and row.latency_ms >= _AS_SLOW * floats[row.backend]:
            found.append(f"{row.file} on {row.backend}: smaller than the float model, but not faster on this machine")
    count, bound = len(job.pictures.validation), job.bounds.max_flips
    if count < enough(bound):
        found.append(f"{count} validation pictures cannot show flips below {bound:.1%}: {enough(bound)} could")
    if job.judge.finds == 0:
        found.append(
            "the float model decides the same about every validation picture: flips say little; "
            "add pictures of everything that it should tell apart"
        )
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("lineside", "onnxruntime", "openvino", "nncf", "ai-edge-litert", "ai-edge-quantizer", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _pack(
    args: argparse.Namespace, job: Job, described: describe.Described, sources: list[ModelFacts], report: Report
) -> int:
    from dataclasses import replace
    from shutil import copyfile

    from lineside.commands.quantize_golden import with_golden
    from lineside.store.bundle import artefact_files
    from lineside.store.pack import pack

    artefacts = list(job.kept)
    for each in sources if args.keep_float else ():
        path = job.scratch / f"{job.stem}_fp32{each.path.suffix}"
        copyfile(each.path, path)
        for part in artefact_files(each.path)[1:]:  # weights in other files, which the model names
            beside = job.scratch / part.relative_to(each.path.parent)
            beside.parent.mkdir(parents=True, exist_ok=True)
            copyfile(part, beside)
        artefacts.append(replace(each.artefact, path=str(path)))
    packed = {
        **described.for_pack(args),
        "artefacts": artefacts,
        "papers": {"quantize.md": report.markdown(), "quantize.json": report.as_json()},
    }
    bundle = None
    if args.golden:
        bundle = with_golden(pack(job.scratch / "bundle", **packed), args.output, job, args.golden)
        print(_told_golden(bundle, args.golden))
    if bundle is None:
        bundle = pack(args.output, **packed)
    print(f"bundle {bundle.folder}: {bundle.name} {bundle.version}, {bundle.digest[:19]}...; how: quantize.md in it")
    return 0


def _told_golden(bundle: Bundle | None, asked: int) -> str:
    if bundle is None or bundle.golden is None:
        return "no golden pictures: the answers to all that were tried hang on one grey level, or on the backend"
    count = len(bundle.golden.cases)
    fewer = f" ({asked} were asked for; the others hang on one grey level)" if count < asked else ""
    return (
        f"golden pictures: {count} of the pictures are in the bundle{fewer}, for each box to prove its answers by; "
        "--golden 0 leaves them out"
    )


def _teller() -> Callable[[str], None]:
    began = time.monotonic()

    def tell(words: str) -> None:
        print(f"lineside quantize: {time.monotonic() - began:4.0f} s: {words}", file=sys.stderr, flush=True)

    return tell
