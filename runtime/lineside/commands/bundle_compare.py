"""`lineside bundle compare`: a bundle's answers beside its exporter's own, and where the difference begins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineside.commands.answers import Answer, Gap
    from lineside.commands.variations import Reading, Views
    from lineside.store.bundle import Bundle

_MOST_SEARCHED = 8  # pictures, through each variation
_SHOWN = 5

_TEXT = (
    "FILE.json holds the exporter's own answers to some pictures, in the form of `lineside infer --jsonl` "
    "(docs/models.md). Exit status 0 where the bundle gives the same, else 1, with the options that make them agree."
)


def add_arguments(verbs: Any) -> None:
    parser = verbs.add_parser("compare", help="compare a bundle's answers with its exporter's own", description=_TEXT)
    parser.add_argument("bundle", metavar="DIR", help="folder of a model bundle, or the name of a shipped one")
    parser.add_argument("--against", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="default: the runtime of the file's format")
    parser.add_argument("--score", type=float, default=0.01, metavar="D", help="how far scores may differ (0.01)")
    parser.add_argument("--iou", type=float, default=0.98, metavar="IOU", help="how far boxes must overlap (0.98)")


def compare(args: argparse.Namespace) -> int:
    from lineside.commands.answers import gap, least_score, read_answers, together
    from lineside.commands.looking import open_artefact, runnable
    from lineside.commands.variations import Reading, Views
    from lineside.images import read_image
    from lineside.store.bundle import open_bundle

    bundle = open_bundle(args.bundle)
    answers = read_answers(args.against, bundle.labels)
    least = least_score(answers)
    settings = bundle.settings
    if least is not None:  # so that both list the same
        most = max(len(answer.said) for answer in answers)
        settings = replace(settings, min_score=max(0.0, least), max_findings=max(settings.max_findings, most))
    start = Reading(bundle.input, bundle.decode, settings)
    artefact = runnable(bundle) if args.backend == "auto" else _for(bundle, args.backend)
    views = Views(bundle, artefact, lambda file, spec: open_artefact(file, spec, args.backend)[0])
    try:
        gaps = []
        for answer in answers:
            (seen,) = views.see(start, [read_image(answer.file)])
            gaps.append(gap(answer, seen, least or 0.0))
            print(f"{answer.file}: {gaps[-1]}")
        whole = together(gaps)
        print(f"{Path(artefact.path).name}, {len(gaps)} pictures: {whole}")
        if whole.within(args.score, args.iou):
            print(f"agrees: scores within {args.score:g}, boxes overlap by {args.iou:g} or more")
            return 0
        chosen = _chosen(answers, gaps)
        _search(views, start, answers, chosen, least or 0.0, args)
    finally:
        views.close()
    return 1


def _chosen(answers: Sequence[Answer], gaps: Sequence[Gap]) -> list[Answer]:
    """The pictures to search with: those whose answers differ the most."""
    order = sorted(range(len(answers)), key=lambda at: -gaps[at].distance)
    return [answers[at] for at in sorted(order[:_MOST_SEARCHED])]


def _search(
    views: Views, start: Reading, answers: list[Answer], chosen: list[Answer], least: float, args: argparse.Namespace
) -> None:
    """Prints which options make the answers agree, or which come nearest. It searches with the `chosen` pictures."""
    from lineside.commands.answers import gap, together
    from lineside.commands.variations import search
    from lineside.images import read_image

    def agrees(gap: Gap) -> bool:
        return gap.within(args.score, args.iou)

    images = [read_image(each.file) for each in chosen]
    right, nearest, count = search(views, start, chosen, images, least, agrees)
    found = False
    for each in right[:_SHOWN]:
        gaps = [gap(answer, views.see(each.reading, [read_image(answer.file)])[0], least) for answer in answers]
        whole = together(gaps)
        if agrees(whole):
            found = True
            verb = "is" if len(each.reading.options) == 1 else "are"
            what = f"{each.reading.difference} {verb} the difference"
            print(f"agrees with {each.reading.words}: {what} ({len(gaps)} pictures: {whole})")
    if found:
        print("make the bundle again with these options")
        return
    print(f"differs: none of {count} variations of resize, colour, normalisation, filter and decoding agrees")
    if nearest.reading.options:
        print(f"nearest: {nearest.reading.words} ({len(chosen)} pictures: {nearest.gap})")
    print("what is left: another file or version of the model, other pictures, or steps of the exporter's own")


def _for(bundle: Bundle, backend: str) -> Any:
    """The first file that this backend takes."""
    from lineside.errors import ConfigError
    from lineside.registry import driver

    name, _, device = backend.partition(":")
    formats = driver("backend", name).formats(device or "cpu")
    for artefact in bundle.artefacts:
        if artefact.format in formats:
            return artefact
    raise ConfigError(f"--backend {backend}: runs no file of the bundle")
