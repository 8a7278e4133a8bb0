"""Gives the bundle that `lineside quantize` packs golden pictures, so that every box can prove its answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lineside.quantize.work import Job
    from lineside.records import Artefact
    from lineside.store.bundle import Bundle
    from lineside.store.golden import Golden

_TRIED = 3  # times as many pictures as are wanted: some hang on a grey level
_FAULTS_OF = 60  # pictures, at most, on which saturating sums are looked at


def with_golden(bundle: Bundle, folder: Path, job: Job, count: int) -> Bundle | None:
    """A copy of the bundle in `folder` with `count` golden pictures, or fewer; None where no picture will do.

    A picture will do whose answers do not hang on one grey level and are alike on every backend that takes the file.
    """
    from dataclasses import replace

    from lineside.commands.bundle_golden import answered
    from lineside.quantize.golden_pictures import faults, in_order
    from lineside.store.golden import FOLDER, Tolerance
    from lineside.store.pack import pack_golden

    shots = job.pictures.validation
    here = replace(bundle, artefacts=tuple(replace(one, needs=()) for one in bundle.artefacts))  # right here, too
    used = [
        (one, row.backend)
        for one in here.artefacts
        for row in job.rows
        if row.file == Path(one.path).name and not row.left_out
    ]
    far = faults(used, job.reading, shots[:_FAULTS_OF])
    order = in_order(shots, job.judge.reference, job.reading, far + [0.0] * (len(shots) - len(far)))
    paths = [shot.path for shot in order[: _TRIED * count]]
    golden, unsteady = answered(here, paths, Tolerance(), job.say)
    unlike = _unlike(here, golden, used, paths)
    good = [number for number, path in enumerate(paths) if path not in unsteady and path not in unlike][:count]
    if not good:
        return None
    pictures = [paths[number] for number in good]
    named = [f"{FOLDER}/{number}{path.suffix.lower()}" for number, path in enumerate(pictures)]
    cases = tuple(replace(golden.cases[number], image=name) for number, name in zip(good, named, strict=True))
    return pack_golden(bundle, folder, replace(golden, cases=cases), pictures, bundle.version)


def _unlike(bundle: Bundle, golden: Golden, used: Sequence[tuple[Artefact, str]], paths: Sequence[Path]) -> set[Path]:
    """The pictures to which a file gives other answers on another backend that takes it."""
    from dataclasses import replace

    from lineside.commands.infer import Eye
    from lineside.images import read_image
    from lineside.recipe import findings_of
    from lineside.store.golden import differences

    found = set()
    for artefact, backend in used:
        eye = Eye(replace(bundle, artefacts=(artefact,)), backend, None)
        for case, path in zip(golden.cases, paths, strict=True):
            seen = findings_of(eye.look(read_image(path)), bundle.labels)
            if differences(case, eye.file, seen, bundle.task, golden, bundle.settings.min_score):
                found.add(path)
    return found
