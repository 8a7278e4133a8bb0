"""What a bundle says of its model: the user's options over what the model file and its family tell.

`lineside bundle new` and `lineside quantize` share it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineside.commands.guess import Guess
    from lineside.commands.model_facts import ModelFacts
    from lineside.commands.readings import Reading
    from lineside.records import DecodeSettings, InputSpec, Task

SETTINGS = (  # options that are keys of [decode]
    *("min_score", "nms_iou", "max_findings", "boxes", "box_format", "scores", "threshold", "first_class"),
    *("extra_channels", "outputs"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=("detect", "classify", "anomaly"))
    parser.add_argument("--decode", metavar="NAME", help="the model's family: yolov8, classify, ... (docs/models.md)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line, in class order")
    parser.add_argument("--size", type=_size, metavar="WxH", help="of the input, where the model leaves it free")
    parser.add_argument("--color", choices=("rgb", "bgr", "gray"), help="channel order the model was trained with")
    parser.add_argument("--layout", choices=("nchw", "nhwc"))
    parser.add_argument("--mean", type=_numbers, metavar="R,G,B", help="value = (pixel - mean) / std, pixel 0 to 255")
    parser.add_argument("--std", type=_numbers, metavar="R,G,B")
    parser.add_argument("--resize", choices=("letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"))
    parser.add_argument(
        "--filter",
        choices=("linear", "area", "antialias", "bicubic"),
        help="by which pictures are scaled: linear and area as OpenCV; antialias and bicubic as Pillow and torchvision",
    )
    parser.add_argument("--pad-value", type=int, metavar="0..255")
    parser.add_argument("--crop-fraction", type=float, metavar="0..1", help="of the shorter side, for center_crop")
    parser.add_argument("--min-score", type=float, metavar="S")
    parser.add_argument("--nms-iou", type=float, metavar="IOU")
    parser.add_argument("--max-findings", type=int, metavar="N")
    parser.add_argument("--boxes", choices=("pixels", "unit"), help="what box outputs hold: canvas pixels, or 0 to 1")
    parser.add_argument("--box-format", choices=("xyxy", "cxcywh", "xywh", "yxyx"), help="how a box is written")
    parser.add_argument(
        "--scores",
        choices=("probability", "logit", "sigmoid", "softmax"),
        help="what the scores are, or what is still to be done with them (logit: what the family does)",
    )
    parser.add_argument(
        "--first-class", type=int, choices=(0, 1), help="the number of the first label; 1: 0 is no class"
    )
    parser.add_argument("--extra-channels", type=int, metavar="N", help="behind a candidate's classes, not read")
    parser.add_argument("--outputs", type=_names, metavar="NAME,...", help="those to read, of several")
    parser.add_argument(
        "--constant",
        type=_constant,
        action="append",
        default=[],
        metavar="NAME=V,...",
        help="value of an input beside the picture",
    )
    parser.add_argument("--threshold", type=float, metavar="S", help="of an anomaly model")
    parser.add_argument("--name", help="default: the folder's name")
    parser.add_argument("--version", default="1")
    parser.add_argument("--licence", default="not stated", help="of the weights")
    parser.add_argument("--source", default="", help="where the model came from")


@dataclass(frozen=True, slots=True)
class Described:
    """What model.toml will say, and each assumption in it."""

    task: Task
    labels: tuple[str, ...]
    input: InputSpec
    decode: str
    settings: DecodeSettings
    guesses: tuple[Guess, ...]

    def told(self) -> list[str]:
        """A line for each assumption."""
        return [f"guessed {what} ({why}); {option} overrides" for what, why, option in self.guesses]

    def for_pack(self, args: argparse.Namespace) -> dict[str, Any]:
        """The arguments of `pack`, but for the artefacts."""
        return {
            "name": args.name or args.output.resolve().name,
            "version": args.version,
            "task": self.task,
            "labels": self.labels,
            "input": self.input,
            "decode": self.decode,
            "settings": self.settings,
            "licence": args.licence,
            "source": args.source,
        }


def describe(facts: ModelFacts, others: list[ModelFacts], args: argparse.Namespace) -> Described:
    """Reads the labels, guesses what `args` leave open, and runs each model once to see that its outputs fit.

    Raises ConfigError.
    """
    from lineside.commands import guess
    from lineside.commands.choose_reading import check, choose
    from lineside.commands.model_notes import METADATA
    from lineside.commands.readings import readings
    from lineside.errors import ConfigError
    from lineside.records import AnomalyMap
    from lineside.registry import names

    if args.decode is not None and args.decode not in names("decoder"):
        raise ConfigError(f"--decode {args.decode}: unknown; known are {', '.join(names('decoder'))}")
    notes: list[Guess] = []
    labels: tuple[str, ...] = ()
    if args.labels is not None:
        labels, note = _labels(facts, args)
        notes += [note] if note else []
    if labels and args.decode in (None, "classify") and args.task in (None, "classify"):
        labels, note = guess.fit_labels(labels, facts.outputs)
        notes += [note] if note else []
    if labels and facts.labels and facts.notes["labels"].source == METADATA and len(facts.labels) != len(labels):
        raise ConfigError(
            f"--labels {args.labels}: {len(labels)} labels, but the model's own metadata names {len(facts.labels)} "
            f"classes ({', '.join(facts.labels[:4])}{', ...' if len(facts.labels) > 4 else ''}): correct the file, or "
            "leave --labels out to take the model's"
        )
    if args.decode and args.task not in (None, guess.task_of(args.decode)):
        raise ConfigError(f'--task {args.task}: the decoder {args.decode} gives "{guess.task_of(args.decode)}"')
    said = {key: value for key in SETTINGS if (value := getattr(args, key)) is not None}

    def prepared(reading: Reading) -> tuple[tuple[str, ...], InputSpec, list[Guess]]:
        found, more = (labels, None) if labels else guess.guess_labels(facts, reading.decode)
        input, others = _input(facts, reading.decode, args)
        return found, input, [*([more] if more else []), *others]

    candidates = readings(facts, labels, args.decode, args.task, _sized(facts, args), said)
    tried, more = choose(facts, candidates, prepared, said)
    decode = tried.reading.decode
    if args.decode is None:
        notes.append(guess.Guess(f"decode = {decode}", tried.reading.why, "--decode"))
    notes += more
    notes += guess.noted_settings(facts, tried.reading.settings, said)
    scores = [each.score for each in tried.verdict.seen if isinstance(each, AnomalyMap)]
    settings, threshold = guess.guess_threshold(facts, decode, tried.settings, scores)
    notes += [threshold] if threshold else []
    if tried.verdict == ((), ()):
        why = "no runtime here could run it once"
        notes.append(guess.Guess(f"that {facts.path.name} fits", why, "running it on its own device"))
    notes += [note for each in others if (note := check(each, tried, settings, tried.input))]
    return Described(guess.task_of(decode), tried.labels, tried.input, decode, settings, tuple(notes))


def _labels(facts: ModelFacts, args: argparse.Namespace) -> tuple[tuple[str, ...], Guess | None]:
    """The names in the --labels file. Raises ConfigError where its numbers can be read in two ways that both fit."""
    from lineside.commands.guess import Guess
    from lineside.errors import ConfigError
    from lineside.store.labels import read_labels

    try:
        text = args.labels.read_bytes()
    except OSError as error:
        raise ConfigError(f"--labels {args.labels}: cannot be read: {error.strerror}") from error
    found = read_labels(text, str(args.labels))
    names, how = found.names, f"{len(found.names)} classes"
    if found.closed:
        first = found.names.index(found.closed[0])
        fits = [each for each in (found.names, found.closed) if _fit(facts, each, args)]
        if len(fits) != 1:
            raise ConfigError(
                f"--labels {args.labels}: its class numbers begin at {first}, and {'both' if fits else 'neither'} "
                f"{len(found.closed)} classes from 0 and {len(found.names)} with class 0 unused fit the model: write "
                'the names alone, one a line, in class order ("n/a" for a class that is not used)'
            )
        names, how = fits[0], f"class 0 is {fits[0][0]!r}, as that fits the model"
    unused = sum(name == "n/a" for name in names)
    how += f", {unused} of them without a name" if unused and not found.closed else ""
    return names, Guess(f"labels {how}", f"{args.labels.name} is {found.form}", "--labels") if found.form else None


def _fit(facts: ModelFacts, labels: tuple[str, ...], args: argparse.Namespace) -> bool:
    from lineside.vision.decode import fitting

    if facts.labels:
        return len(facts.labels) == len(labels)
    fits = fitting(facts.outputs, labels, _sized(facts, args))
    return args.decode in fits if args.decode else bool(fits)


def _input(facts: ModelFacts, decode: str, args: argparse.Namespace) -> tuple[InputSpec, list[Guess]]:
    """The guessed input with the user's own word over it; only what was truly guessed is reported."""
    from lineside.commands.guess import guess_constants, guess_input, guess_size
    from lineside.commands.habits import guess_filter
    from lineside.errors import ConfigError

    if args.size is None:
        size, note = guess_size(facts, decode)
    else:
        size, note = args.size, None
        if facts.size_px not in (None, args.size):
            raise ConfigError("--size {}x{}: the model takes {}x{}".format(*args.size, *(facts.size_px or ())))
    spec, guesses = guess_input(facts, decode, size)
    if size is not None:
        chosen, how = guess_filter(facts, decode)
        spec, guesses = replace(spec, filter=chosen), [*guesses, how]
    said = {
        key: value
        for key in ("color", "mean", "std", "resize", "filter", "pad_value", "crop_fraction")
        if (value := getattr(args, key)) is not None
    }
    options = {f"--{key}".replace("_", "-") for key in said}
    kept = [each for each in (note, *guesses) if each and not options & set(each.option.split(", "))]
    spec, more = guess_constants(facts, replace(spec, **said), dict(args.constant))
    return spec, [*kept, *more]


def _sized(facts: ModelFacts, args: argparse.Namespace) -> InputSpec:
    from lineside.records import InputSpec

    width, height = args.size or facts.size_px or (None, None)
    return InputSpec(width, height, "rgb", facts.layout)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and (height or width).isdigit() and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as 640x480, or 640 for a square")
    return int(width), int(height or width)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _constant(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, values = text.partition("=")
    try:
        return name, tuple(float(value) for value in values.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as NAME=640,640") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as 123.7,116.3,103.5, or one number for all") from None
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r}: one number, or three")
    return values * (3 // len(values))
