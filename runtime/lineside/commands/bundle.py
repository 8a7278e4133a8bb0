"""`lineside bundle new | show | compare | golden | verify`: makes a bundle of a user's model; shows and tries one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands import bundle_compare, bundle_golden, bundle_try, describe

if TYPE_CHECKING:
    from lineside.store.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="new | show | compare | golden | verify")
    new = verbs.add_parser("new", help="make a bundle out of a model file", description=_NEW)
    new.add_argument("model", type=Path, metavar="MODEL", help=".onnx, .tflite or OpenVINO's .xml")
    new.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to make")
    new.add_argument(
        "--artefact", type=Path, action="append", default=[], metavar="FILE", help="same model, other format"
    )
    describe.add_arguments(new)
    bundle_try.add_arguments(new)
    show = verbs.add_parser("show", help="print what a bundle holds")
    show.add_argument("bundle", metavar="DIR", help="folder of a model bundle, or the name of a shipped one")
    bundle_compare.add_arguments(verbs)
    bundle_golden.add_arguments(verbs)


_NEW = "Makes a bundle, a folder that lineside runs. What is not said is guessed from the model file, and printed."


def run(args: argparse.Namespace) -> int:
    verbs = {
        "new": new,
        "show": lambda args: show(args.bundle),
        "compare": bundle_compare.compare,
        **bundle_golden.VERBS,
    }
    return verbs[args.verb](args)


def new(args: argparse.Namespace) -> int:
    import shutil

    from lineside.commands.looking import open_once
    from lineside.commands.model_facts import read_facts
    from lineside.errors import LinesideError
    from lineside.store.pack import pack

    facts = replace(read_facts(args.model), said_layout=args.layout)
    others = [read_facts(path) for path in args.artefact]
    described = describe.describe(facts, others, args)
    trial = bundle_try.read_trial(args)
    if trial is not None:
        described = bundle_try.measure_filter(facts, described, trial, args)
    bundle = pack(args.output, **described.for_pack(args), artefacts=[each.artefact for each in (facts, *others)])
    for line in described.told():
        print(line)
    try:
        for line in open_once(bundle):
            print(line)
        if trial is not None:
            bundle_try.show(bundle, trial)
    except LinesideError:
        shutil.rmtree(bundle.folder, ignore_errors=True)  # what was just made is no bundle
        raise
    print(f"bundle {bundle.folder}: {bundle.name} {bundle.version}, {bundle.digest[:19]}...")
    if trial is None:
        print(f"try it: lineside infer --bundle {args.output} --draw out PICTURE.jpg")
    return 0


def show(path: str) -> int:
    from lineside.store.bundle import open_bundle

    bundle = open_bundle(path)
    for key, value in _facts(bundle):
        print(f"{key:<10} {value}")
    if bundle.parity_sha256 is not None:
        from lineside.commands.parity import lines
        from lineside.store import passport

        for number, line in enumerate(lines(passport.read(bundle.folder, bundle.parity_sha256))):
            print(f"{'' if number else 'parity':<10} {line}")
    return 0


def _facts(bundle: Bundle) -> list[tuple[str, str]]:
    from lineside.store.bundle import artefact_files

    spec, settings = bundle.input, bundle.settings
    size = f"{spec.width_px} x {spec.height_px}" if spec.width_px else f"any, padded to {spec.stride_px}"
    shown = ", ".join(bundle.labels[:5]) + (", ..." if len(bundle.labels) > 5 else "")
    threshold = "" if settings.threshold is None else f", threshold {settings.threshold:g}"
    lines = [
        ("bundle", str(bundle.folder)),
        ("name", f"{bundle.name} {bundle.version}"),
        ("digest", bundle.digest),
        ("licence", bundle.licence or "not stated"),
        ("task", bundle.task),
        ("labels", f"{len(bundle.labels)}: {shown}"),
        ("input", f"{size}, {spec.color}, {spec.layout}, mean {list(spec.mean)}, std {list(spec.std)}"),
        ("resize", f"{spec.resize}, filter {spec.filter}"),
        ("decode", f"{bundle.decode}, score {settings.min_score:g}, NMS {settings.nms_iou:g}{threshold}"),
    ]
    if bundle.golden is not None:
        lines.append(("golden", f"{len(bundle.golden.cases)} pictures"))
    for artefact in bundle.artefacts:
        path = Path(artefact.path)
        size_mb = sum(part.stat().st_size for part in artefact_files(path)) / 1e6
        lines.append(("artefact", f"{path.name}  {artefact.format} {artefact.precision}  {size_mb:.2f} MB"))
    return lines
