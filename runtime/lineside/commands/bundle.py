"""`lineside bundle new | show | golden | verify`: makes a bundle of a user's model; shows and tries one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands import bundle_golden

if TYPE_CHECKING:
    from lineside.commands.guess import Guess
    from lineside.commands.model_facts import ModelFacts
    from lineside.records import DecodeSettings, InputSpec
    from lineside.store.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="new | show | golden | verify")
    new = verbs.add_parser("new", help="make a bundle out of a model file", description=_NEW)
    new.add_argument("model", type=Path, metavar="MODEL", help=".onnx, .tflite or OpenVINO's .xml")
    new.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to make")
    new.add_argument("--task", choices=("detect", "classify", "anomaly"))
    new.add_argument("--decode", metavar="NAME", help="the model's family: yolov8, classify, ... (docs/models.md)")
    new.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line, in class order")
    new.add_argument(
        "--artefact", type=Path, action="append", default=[], metavar="FILE", help="same model, other format"
    )
    new.add_argument("--size", type=_size, metavar="WxH", help="of the model's input, where the model leaves it free")
    new.add_argument("--color", choices=("rgb", "bgr", "gray"), help="channel order the model was trained with")
    new.add_argument("--layout", choices=("nchw", "nhwc"))
    new.add_argument("--mean", type=_numbers, metavar="R,G,B", help="value = (pixel - mean) / std, pixel 0 to 255")
    new.add_argument("--std", type=_numbers, metavar="R,G,B")
    new.add_argument("--resize", choices=("letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"))
    new.add_argument("--pad-value", type=int, metavar="0..255")
    new.add_argument("--crop-fraction", type=float, metavar="0..1", help="of the shorter side, for center_crop")
    new.add_argument("--min-score", type=float, metavar="S")
    new.add_argument("--nms-iou", type=float, metavar="IOU")
    new.add_argument("--max-findings", type=int, metavar="N")
    new.add_argument("--boxes", choices=("pixels", "unit"), help="what the box outputs hold (yolov5, yolov8, yolo_e2e)")
    new.add_argument("--scores", choices=("probability", "logit"), help="what a classifier's output holds")
    new.add_argument("--threshold", type=float, metavar="S", help="of an anomaly model")
    new.add_argument("--name", help="default: the folder's name")
    new.add_argument("--version", default="1")
    new.add_argument("--licence", default="not stated", help="of the weights")
    new.add_argument("--source", default="", help="where the model came from")
    show = verbs.add_parser("show", help="print what a bundle holds")
    show.add_argument("bundle", metavar="DIR", help="folder of a model bundle, or the name of a shipped one")
    bundle_golden.add_arguments(verbs)


_NEW = "Makes a bundle, a folder that lineside runs. What is not said is guessed from the model file, and printed."


def run(args: argparse.Namespace) -> int:
    verbs = {"new": new, "show": lambda args: show(args.bundle), **bundle_golden.VERBS}
    return verbs[args.verb](args)


def new(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from lineside.commands import guess
    from lineside.commands.model_facts import read_facts
    from lineside.errors import ConfigError
    from lineside.registry import names
    from lineside.store.bundle import parse_labels
    from lineside.store.pack import pack

    facts = replace(read_facts(args.model), said_layout=args.layout)
    others = [read_facts(path) for path in args.artefact]
    if args.decode is not None and args.decode not in names("decoder"):
        raise ConfigError(f"--decode {args.decode}: unknown; known are {', '.join(names('decoder'))}")
    notes: list[Guess] = []
    labels: tuple[str, ...] = ()
    if args.labels is not None:
        try:
            text = args.labels.read_bytes()
        except OSError as error:
            raise ConfigError(f"--labels {args.labels}: cannot be read: {error.strerror}") from error
        labels = parse_labels(text, str(args.labels))
    if labels and args.decode in (None, "classify") and args.task in (None, "classify"):
        labels, note = guess.fit_labels(labels, facts.outputs)
        notes += [note] if note else []
    decode = args.decode
    if decode is None:
        decode, note = guess.guess_decode(facts, labels, args.task, _sized(facts, args))
        notes.append(note)
    if args.task not in (None, guess.task_of(decode)):
        raise ConfigError(f'--task {args.task}: the decoder {decode} gives "{guess.task_of(decode)}"')
    if not labels:
        labels, note = guess.guess_labels(facts, decode)
        notes.append(note)
    input, more = _input(facts, decode, args)
    notes += more
    settings, more = _settings(facts, others, decode, labels, input, args)
    notes += more
    bundle = pack(
        args.output,
        name=args.name or args.output.resolve().name,
        version=args.version,
        task=guess.task_of(decode),
        labels=labels,
        input=input,
        decode=decode,
        settings=settings,
        artefacts=[each.artefact for each in (facts, *others)],
        licence=args.licence,
        source=args.source,
    )
    for what, why, option in notes:
        print(f"guessed {what} ({why}); {option} says otherwise")
    print(f"bundle {bundle.folder}: {bundle.name} {bundle.version}, {bundle.digest[:19]}...")
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
        ("input", f"{size}, {spec.color}, {spec.layout}, {spec.resize}, mean {list(spec.mean)}, std {list(spec.std)}"),
        ("decode", f"{bundle.decode}, score {settings.min_score:g}, NMS {settings.nms_iou:g}{threshold}"),
    ]
    if bundle.golden is not None:
        lines.append(("golden", f"{len(bundle.golden.cases)} pictures"))
    for artefact in bundle.artefacts:
        path = Path(artefact.path)
        size_mb = path.stat().st_size / 1e6
        lines.append(("artefact", f"{path.name}  {artefact.format} {artefact.precision}  {size_mb:.2f} MB"))
    return lines


def _input(facts: ModelFacts, decode: str, args: argparse.Namespace) -> tuple[InputSpec, list[Guess]]:
    """The guessed input with the user's own word over it; only what was truly guessed is reported."""
    from dataclasses import replace

    from lineside.commands.guess import guess_input, guess_size
    from lineside.errors import ConfigError

    if args.size is None:
        size, note = guess_size(facts, decode)
    else:
        size, note = args.size, None
        if facts.size_px not in (None, args.size):
            raise ConfigError("--size {}x{}: the model takes {}x{}".format(*args.size, *(facts.size_px or ())))
    spec, guesses = guess_input(facts, decode, size)
    said = {
        key: value
        for key in ("color", "mean", "std", "resize", "pad_value", "crop_fraction")
        if (value := getattr(args, key)) is not None
    }
    options = {f"--{key}" for key in said}
    kept = [each for each in (note, *guesses) if each and not options & set(each.option.split(", "))]
    return replace(spec, **said), kept


def _settings(
    facts: ModelFacts,
    others: list[ModelFacts],
    decode: str,
    labels: tuple[str, ...],
    input: InputSpec,
    args: argparse.Namespace,
) -> tuple[DecodeSettings, list[Guess]]:
    """Settings of the family, the user's over them; each artefact is run once to see that its outputs fit."""
    from dataclasses import replace

    from lineside.commands.guess import FAMILIES, Guess
    from lineside.commands.try_model import kind_of_values, try_model

    said = {
        key: value
        for key in ("min_score", "nms_iou", "max_findings", "boxes", "scores", "threshold")
        if (value := getattr(args, key)) is not None
    }
    settings = replace(FAMILIES[decode].settings, **said)
    notes: list[Guess] = []
    for number, each in enumerate((facts, *others)):
        outputs = try_model(each, decode, labels, input, settings)
        if outputs is None:
            why = "no runtime here could run it once"
            notes.append(Guess(f"that {each.path.name} fits", why, "running it on its own device"))
            continue
        found = kind_of_values(decode, outputs) if number == 0 else {}
        for key, value in found.items():
            if key not in said:
                settings = replace(settings, **{key: value})  # type: ignore[arg-type]
                notes.append(Guess(f"{key} = {value}", "the model's answer to a grey picture", f"--{key}"))
    return settings, notes


def _sized(facts: ModelFacts, args: argparse.Namespace) -> InputSpec:
    from lineside.records import InputSpec

    width, height = args.size or facts.size_px or (None, None)
    return InputSpec(width, height, "rgb", facts.layout)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and (height or width).isdigit() and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as 640x480, or 640 for a square")
    return int(width), int(height or width)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as 123.7,116.3,103.5, or one number for all") from None
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r}: one number, or three")
    return values * (3 // len(values))
