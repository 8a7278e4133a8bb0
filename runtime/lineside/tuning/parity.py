"""Shows the same pictures to the reference and to every way to run a bundle, one after the other, and compares."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

from lineside.errors import LinesideError
from lineside.recipe import Model
from lineside.records import Image, Seen
from lineside.store.passport import Row
from lineside.tuning.compare import Tally, mean, rate
from lineside.tuning.pictures import Pictures
from lineside.tuning.ways import Reference, Way

_AT_LEAST = 16  # pictures, whatever the time

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(slots=True)
class Compared:
    """What one way gave. `fault`: why it gave nothing more."""

    tally: Tally
    times_ms: list[float] = field(default_factory=list)
    fault: str = ""

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms)


def compare(
    models: Mapping[Way, Model],
    reference: Reference,
    shown: Pictures,
    progress: Progress,
    until_s: float | None = None,
) -> dict[Way, Compared]:
    """Until there are no more pictures, or time.monotonic() is `until_s`; a few pictures in any case.

    Raises ConfigError (no picture can be read) or DeviceError (the reference fails).
    """
    threshold = reference.model.settings.threshold
    results = {way: Compared(Tally(threshold)) for way in models}
    for number, image in enumerate(shown.read(), 1):
        wanted = reference.model.see(image)
        for way, model in models.items():
            if not results[way].fault:
                _look(results[way], model, image, number, wanted)
        progress("pictures", number, len(shown.paths))
        if until_s is not None and number >= _AT_LEAST and time.monotonic() > until_s:
            break
    return results


def _look(result: Compared, model: Model, image: Image, number: int, wanted: Seen) -> None:
    began_ns = time.monotonic_ns()
    try:
        with model.cores.taken() if model.cores else nullcontext():
            seen = model.see(image)
        result.times_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        result.tally.add(wanted, seen)
    except (LinesideError, ValueError) as error:
        result.fault = f"picture {number}: {error}"


def row(way: Way, compared: Compared) -> Row:
    """A way's line of the passport."""
    tally = compared.tally
    detects = bool(tally.any_flips)
    overlaps = tally.overlaps if any(tally.overlaps) else None
    return Row(
        backend=way.place,
        file=way.file,
        precision=way.artefact.precision,
        pictures=tally.pictures,
        flips=sum(tally.flips) if tally.flips else None,
        flip_rate=tally.flip_rate,
        any_flips=sum(tally.any_flips) if detects else None,
        any_flip_rate=rate(sum(tally.any_flips), len(tally.any_flips)) if detects else None,
        drift=tally.drift(),
        iou=mean(overlaps) if overlaps else None,
        matched=rate(tally.both, tally.either) if tally.either else None,
        median_ms=round(compared.median_ms, 3),
    )
