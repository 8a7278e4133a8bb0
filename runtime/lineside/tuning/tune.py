"""Measures every way to run a bundle here, refuses those that answer wrong, and picks the soonest at p99."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

from lineside.errors import ConfigError, LinesideError
from lineside.hal.board import Board, allowed_cores
from lineside.hal.profile import Profile
from lineside.proof import Prover
from lineside.recipe import Model, findings_of
from lineside.records import Artefact, Image
from lineside.store.bundle import Bundle
from lineside.tuning.compare import enough, rate
from lineside.tuning.parity import Compared, Progress, compare
from lineside.tuning.pictures import Pictures, pictures
from lineside.tuning.plan import Asked, State, Tried, TuningPlan
from lineside.tuning.rounds import SURE_FRAMES, Entrant, choose, race
from lineside.tuning.ways import Reference, Way, open_reference, open_way, ways

_ANSWERS_SHARE = 0.35  # of the time, until the last picture is compared; the rest is for the rounds
_FAR_BEHIND = 3.0  # times the best median: fewer threads do not make up for that
_KEPT_BYTES = 64 << 20  # of pictures, for the rounds
_KEPT = 8
_THREADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def tune(
    bundle: Bundle,
    profile: Profile,
    board: Board,
    asked: Asked,
    reference: Artefact | None,
    cache_dir: Path,
    progress: Progress,
    previous: Tried | None = None,
    *,
    prover: Prover,
) -> TuningPlan:
    """Takes about `asked.seconds`. `prover` tries each way in a process of its own before it is opened here. `previous`
    is the pick before on this very box: it stays while it is within noise.

    Raises ConfigError where there are no pictures or every way is refused, DeviceError where the reference fails.
    """
    if bundle.task == "anomaly" and bundle.settings.threshold is None:
        raise ConfigError(
            f"bundle {bundle.folder}: [decode] has no threshold, so nobody knows which decisions flip: "
            "pack it with `lineside bundle new --threshold S`"
        )
    shown = pictures(bundle, Path(asked.data) if asked.data else None)
    found, absent = ways(bundle, profile, board, asked.backends)
    first = open_reference(bundle, reference, profile, found)
    run = _Tuning(bundle, profile, asked, cache_dir, progress, prover)
    try:
        run.compare(found, first, shown)
    finally:
        first.model.executor.close()
    pick, ties, rest = run.race(list(_samples(shown)), found, previous)
    return TuningPlan(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        took_s=round(time.monotonic() - run.began_s, 1),
        asked=asked,
        reference=f"{first.way}{', FP32' if first.is_fp32 else ''}",
        pictures=run.pictures,
        notes=(
            *_notes(run, first, shown),
            *(
                [f"{pick.frames} frames are few for a p99: --seconds gives it more"]
                if pick.frames < SURE_FRAMES
                else []
            ),
            *(f"{one.backend}: not tried: {one.why}" for one in absent),
        ),
        tried=(pick, *ties, *rest, *run.refused),
    )


class _Tuning:
    """One run of `tune`: what was found out so far."""

    def __init__(
        self, bundle: Bundle, profile: Profile, asked: Asked, cache_dir: Path, progress: Progress, prover: Prover
    ) -> None:
        self.began_s = self._measures_s = time.monotonic()
        self.asked = asked
        self.pictures = 0
        self.refused: list[Tried] = []
        self._bundle, self._profile, self._cache_dir, self._progress = bundle, profile, cache_dir, progress
        self._prover = prover
        self._compared: Mapping[Way, Compared] = {}
        self._right: Mapping[Way, Compared] = {}  # of these, those that decide as the reference does

    def compare(self, found: Sequence[Way], first: Reference, shown: Pictures) -> None:
        """The golden pictures, then all others beside the reference."""
        models: dict[Way, Model] = {}
        try:
            for number, way in enumerate(found, 1):
                self._progress("ways to run it", number, len(found))
                model = self._open(way)
                if model is None:
                    continue
                models[way] = model
            self._measures_s = time.monotonic()  # trials come once, and take nothing of the time to measure in
            until_s = self._measures_s + _ANSWERS_SHARE * self.asked.seconds
            compared = compare(models, first, shown, self._progress, until_s)
        finally:
            for model in models.values():
                model.executor.close()
        self.pictures = max((one.tally.pictures for one in compared.values()), default=0)
        self._compared = compared
        self._right = {way: one for way, one in compared.items() if self._is_right(way, one)}

    def race(
        self, images: Sequence[Image], found: Sequence[Way], previous: Tried | None
    ) -> tuple[Tried, list[Tried], list[Tried]]:
        """The pick, those within noise of it, and the slower ones, the nearest first. Raises ConfigError."""
        models = {way: model for way in self._variants() if (model := self._open(way)) is not None}
        entrants = [Entrant(way, _frames(model, images)) for way, model in models.items()]
        slowest_ms = max((one.median_ms for one in self._right.values()), default=1.0)
        gc.collect()
        gc.freeze()  # as the daemon does
        try:
            until_s = self._measures_s + self.asked.seconds
            last = race(entrants, time.monotonic, until_s, slowest_ms, partial(self._progress, "seconds"))
        finally:
            gc.unfreeze()
            for model in models.values():
                model.executor.close()
        fit = [entrant for entrant in entrants if self._is_soon(entrant)]
        if not fit:
            lines = (f"{one}: {one.why}" for one in self.refused)
            raise ConfigError(f"bundle {self._bundle.folder}: no way to run it here keeps what was asked for:", *lines)
        order = {way: number for number, way in enumerate(found)}

        def cheaper(way: Way) -> tuple[bool, int, int]:
            return not _is(previous, way), way.threads or 0, order[replace(way, threads=None)]

        pick, ties = choose([entrant for entrant in fit if entrant in last] or fit, cheaper)
        rest = [entrant for entrant in fit if entrant is not pick and entrant not in ties]
        rest.sort(key=lambda entrant: (entrant not in last, entrant.at(99)))
        return (
            self._tried(pick, "picked", self._reason(pick, ties, previous)),
            [self._tried(one, "within noise", f"within noise of the pick, {_times(one)}") for one in ties],
            [self._tried(one, "slower", _slower(one, pick)) for one in rest],
        )

    def _open(self, way: Way) -> Model | None:
        try:
            self._prover.check(self._bundle, way.artefact, way.candidate(self._profile))
        except LinesideError as error:
            self._refuse(way, str(error).removeprefix(f"{way.file} "))
            return None
        try:
            return open_way(self._bundle, way, self._profile, self._cache_dir)
        except LinesideError as error:
            self._refuse(way, f"does not open: {error}")
            return None

    def _is_right(self, way: Way, compared: Compared) -> bool:
        """Whether it decides as the reference does; else it is refused."""
        tally = compared.tally
        if compared.fault:
            self._refuse(way, compared.fault)
            return False
        flips, of = sum(tally.flips), len(tally.flips)
        if flips <= self.asked.max_flips * of:
            return True
        self._refuse(
            way,
            f"decides otherwise than the reference about {flips} of {of} pictures ({_interval(flips, of)}); "
            f"--max-flips {self.asked.max_flips:g}",
        )
        return False

    def _variants(self) -> Iterator[Way]:
        """Those that answer right with each number of threads; who is far behind with all cores only."""
        best_ms = min((one.median_ms for one in self._right.values()), default=0.0)
        cores = allowed_cores()
        for way, compared in self._right.items():
            if way.device != "cpu":
                yield way
                continue
            if compared.median_ms <= _FAR_BEHIND * best_ms:
                yield from (replace(way, threads=count) for count in _THREADS if count < cores)
            yield replace(way, threads=cores)

    def _is_soon(self, entrant: Entrant[Way]) -> bool:
        most_ms = self.asked.p99_ms
        if entrant.fault:
            self._refuse(entrant.key, entrant.fault)
        elif most_ms is not None and entrant.at(99) > most_ms:
            self.refused.append(self._tried(entrant, "refused", f"{_times(entrant)}; --p99-ms {most_ms:g}"))
        else:
            return True
        return False

    def _reason(self, pick: Entrant[Way], ties: Sequence[Entrant[Way]], previous: Tried | None) -> str:
        told = f"the soonest that answers right, {_times(pick)}"
        if not ties:
            return told
        others = ", ".join(str(one.key) for one in ties)
        rule = "it was the pick before" if _is(previous, pick.key) else "fewer threads, then the order of backends"
        return f"{told}; within noise of {others}: decided by {rule}"

    def _refuse(self, way: Way, why: str) -> None:
        self.refused.append(self._row(way, "refused", why))

    def _tried(self, entrant: Entrant[Way], state: State, why: str) -> Tried:
        row = self._row(entrant.key, state, why)
        p50_ms, p99_ms = round(entrant.at(50), 3), round(entrant.at(99), 3)
        return replace(row, frames=entrant.frames, p50_ms=p50_ms, p99_ms=p99_ms)

    def _row(self, way: Way, state: State, why: str) -> Tried:
        row = Tried(way.backend, way.device, way.file, way.artefact.sha256, way.threads, state, why)
        compared = self._compared.get(replace(way, threads=None))
        if compared is None:
            return row
        return replace(row, flips=sum(compared.tally.flips), pictures=compared.tally.pictures)


def _frames(model: Model, images: Sequence[Image]) -> Callable[[int], list[float]]:
    """Takes so many frames through prepare, infer and decode, as a lane does; the time of each in ms."""
    shown = 0

    def run(count: int) -> list[float]:
        nonlocal shown
        times_ms = []
        with model.cores.taken() if model.cores else nullcontext():
            model.see(images[shown % len(images)])  # not timed: another's threads were just here
            for _ in range(count):
                image = images[shown % len(images)]
                shown += 1
                began_ns = time.monotonic_ns()
                findings_of(model.see(image), model.labels)
                times_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        return times_ms

    return run


def _samples(shown: Pictures) -> Iterator[Image]:
    left = _KEPT_BYTES
    for image in islice(Pictures(shown.source, shown.paths).read(), _KEPT):
        yield image
        left -= image.nbytes
        if left <= 0:
            return


def _notes(run: _Tuning, first: Reference, shown: Pictures) -> Iterator[str]:
    """What who reads the plan should know of it."""
    if not first.is_fp32:
        yield f"no fp32 reference: flips are against {first.way}; --reference FILE names one"
    if run.pictures + len(shown.skipped) < len(shown.paths):
        yield f"{run.pictures} of {len(shown.paths)} pictures, for time; --seconds gives it more"
    if shown.skipped:
        yield f"{len(shown.skipped)} pictures cannot be read: {'; '.join(shown.told())}"
    yield from shown.notes()
    wanted = enough(run.asked.max_flips)
    if run.pictures < wanted:
        yield (
            f"{run.pictures} pictures are few: that none flips would show {_interval(0, run.pictures)}; "
            f"{wanted} of them would show {100 * run.asked.max_flips:.3g} % or less: --data DIR"
        )


def _interval(flips: int, of: int) -> str:
    found = rate(flips, of)
    return f"a flip rate of {100 * (found.low or 0):.1f} to {100 * (found.high or 1):.1f} % at 95 % confidence"


def _is(previous: Tried | None, way: Way) -> bool:
    return previous is not None and (previous.backend, previous.device, previous.sha256, previous.threads) == (
        way.backend,
        way.device,
        way.artefact.sha256,
        way.threads,
    )


def _times(entrant: Entrant[Way]) -> str:
    return f"p99 {entrant.at(99):.2f} ms, median {entrant.at(50):.2f} ms of {entrant.frames} frames"


def _slower(entrant: Entrant[Way], pick: Entrant[Way]) -> str:
    return f"{_times(entrant)}; the pick's are {pick.at(99):.2f} and {pick.at(50):.2f} ms"
