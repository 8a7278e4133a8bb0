"""At the start of `run`: what a bundle's tuning plan says for a station, and the plan made anew where it is of another
runtime, driver or processor. A box that was never tuned pays one look into a folder."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lineside.config.stations import StationConfig
from lineside.errors import LinesideError
from lineside.hal.fingerprint import fingerprint
from lineside.hal.profile import Profile
from lineside.recipe import Model
from lineside.store.bundle import Bundle
from lineside.store.found import Found, everything
from lineside.tuning.plan import TuningPlan, box_facts, changes, parse

_log = logging.getLogger(__name__)

_GRACE_S = 300.0  # beyond what a plan was given: to try every way once, and on a box that is busy starting
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Box:
    """What this box's plans are kept under, and made with."""

    state_dir: Path
    cache_dir: Path
    profile: Profile
    profile_name: str | None  # as configured
    is_stopping: Callable[[], bool]


def open_pinned(
    bundle: Bundle,
    station: StationConfig,
    box: Box,
    open_: Callable[[Bundle, StationConfig], Model],
    *,
    one_slot: bool,
) -> Model:
    """The model as the plan pins it, else as `open_` chooses. Raises what `open_` raises.

    `one_slot`: one frame at a time has all cores, as when the plan was made; else its number of threads says nothing.
    """
    plan = _plan(bundle, box)
    if plan is None:
        return open_(bundle, station)
    name = f"{bundle.name} {bundle.version}"
    backend = None if station.backend == "auto" else station.backend
    best = plan.best(backend, station.device)
    only = tuple(one for one in bundle.artefacts if best is not None and one.sha256 == best.sha256)
    if best is None or not only:
        place = f"{station.backend}{f':{station.device}' if station.device else ''}"
        _log.warning("%s: its tuning plan of %s has nothing for %s: the ordinary choice", name, plan.made, place)
        return open_(bundle, station)
    why = f"tuning plan of {plan.made}: {best.why}"
    threads = station.threads or (best.threads if one_slot else None)
    pinned = replace(station, backend=best.backend, device=best.device, threads=threads, fallback=())
    try:
        model = replace(open_(replace(bundle, artefacts=only), pinned), why=why)
    except LinesideError as error:
        _log.error("%s: %s, which its tuning plan pins, does not open: %s: the ordinary choice", name, best, error)
        return open_(bundle, station)
    _log.info("%s: %s: %s", name, best, why)
    return model


def _plan(bundle: Bundle, box: Box) -> TuningPlan | None:
    """The plan for this box as it is; made now if there is one for what it was. None: the ordinary choice."""
    older = [kept for kept in everything(box.state_dir, bundle.digest) if kept.get("plan") is not None]
    if not older:
        return None
    now = box_facts(box.profile)
    found = Found(box.state_dir, bundle.digest, fingerprint(now))
    kept = found.read()
    if kept.get("plan") is None:
        before = next(((plan, one) for one in older if (plan := _parsed(one, found)) is not None), None)
        if before is None:
            return None
        told = changes(before[1].get("facts") or {}, now)
        _log.warning("%s: this box has changed since it was tuned (%s): tuning again", bundle.name, told)
        _tune_again(bundle, before[0], box, found)
        kept = found.read()
    if (failed := _failed(kept)) is not None:
        _log.error("%s: is not tuned (%s): the ordinary choice; `lineside tune` tries again", bundle.name, failed)
        return None
    return None if kept.get("plan") is None else _parsed(kept, found)


def _failed(kept: dict[str, Any]) -> str | None:
    plan = kept.get("plan")
    return str(plan["failed"]) if isinstance(plan, dict) and "failed" in plan else None


def _parsed(kept: dict[str, Any], found: Found) -> TuningPlan | None:
    if _failed(kept) is not None:
        return None
    try:
        return parse(kept["plan"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _log.warning("%s: a tuning plan in there is none (%r): `lineside tune` makes one", found.path.parent, error)
        return None


def _tune_again(bundle: Bundle, before: TuningPlan, box: Box, found: Found) -> None:
    """In a process of its own: the daemon does not keep every runtime, and does not die of one that crashes.

    First "failed" is kept, so that whatever happens the next start does not try once more; the new plan replaces it.
    """
    asked = before.asked
    words = ["--bundle", bundle.folder, "--state-dir", box.state_dir, "--max-flips", asked.max_flips]
    words += ["--seconds", asked.seconds]
    for option, value in (("--p99-ms", asked.p99_ms), ("--data", asked.data), ("--reference", asked.reference)):
        words += [] if value is None else [option, value]
    words += [word for backend in asked.backends for word in ("--backend", backend)]
    words += [] if box.profile_name is None else ["--profile", box.profile_name]
    try:
        found.put(plan={"failed": "it was interrupted"})
        why = _run([sys.executable, "-m", "lineside.cli", "tune", *map(str, words)], asked.seconds + _GRACE_S, box)
        if why is None:
            found.put(plan=None)  # the daemon stops: the next start tunes
        elif why:
            found.put(plan={"failed": why})
    except OSError as error:
        _log.warning("%s: cannot be written (%s)", found.path, error.strerror)


def _run(command: Sequence[str], within_s: float, box: Box) -> str | None:
    """Why it failed, empty where it did not; None where the daemon was stopped meanwhile."""
    environment = {**os.environ, "CACHE_DIRECTORY": str(box.cache_dir)}
    ends_s = time.monotonic() + within_s
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told, env=environment
        ) as child,
    ):
        while True:
            try:
                status = child.wait(_POLL_S)
                break
            except subprocess.TimeoutExpired:
                if box.is_stopping() or time.monotonic() > ends_s:
                    child.kill()
                    return None if box.is_stopping() else f"not done within {within_s:.0f} s"
        told.seek(0)
        last = told.read().decode(errors="replace").strip().splitlines()[-5:]
    return "" if status == 0 else "; ".join(last) or f"exit status {status}"
