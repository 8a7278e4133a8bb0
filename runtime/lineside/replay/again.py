"""One decision again: is the evidence what was written, and do its frames give the same decision as then?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineside import __version__, plain
from lineside.deliver.evidence.folder import Kept, faults
from lineside.deliver.evidence.sealed import Opener
from lineside.evidence import machine
from lineside.proof import Prover
from lineside.recipe import Recipe
from lineside.records import Decision, Event, Finding, Image, Observation, Part
from lineside.replay.compare import Bounds, Differences, Outcome, compare_findings, lowest_scores, overlap, same
from lineside.replay.find import note_of, record_of
from lineside.replay.rerun import Rerun, is_recipe_whole, pictures, recipe_of, rerun, station_of


@dataclass(slots=True)
class Report:
    """What replay says of one piece of evidence."""

    id: str
    folder: str
    outcome: Outcome
    then: str  # what was decided, and why
    now: str
    frames: int
    backend_then: str
    backend_now: str = ""
    bounds: Bounds | None = None  # None: every bit counts
    score_off: float = 0.0
    overlap: float = 1.0  # the least
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unproven: str = ""  # why nobody knows that the model's answers are right on this machine

    @property
    def good(self) -> bool:
        return self.outcome in ("identical", "within bounds")


def verify(kept: Kept, journal: Path | None) -> tuple[list[str], list[str]]:
    """(what is not as it was written, what could not be checked), a line each. Raises ConfigError."""
    note = note_of(kept, journal) if journal is not None else None
    found = faults(kept, note)
    if not is_recipe_whole(kept):
        found.append("evidence.json: the recipe in it is not the one whose digest the decision carries")
    if journal is None:
        return found, ["no journal was asked: whoever rewrites a whole folder, hashes and all, is not found out"]
    notes = [] if note else ["the journal has no record of this evidence: pruned, or not committed before a crash"]
    record = record_of(kept, journal)
    if record is not None:
        told = kept.told["record"]
        found += [
            f"evidence.json: {key} is {told.get(key)!r}, the journal has {record[key]!r}"
            for key in ("verdict", "phase", "cause")
            if key in record and record[key] != told.get(key)
        ]
    return found, notes


def again(
    kept: Kept,
    journal: Path | None,
    *,
    models: Sequence[Path] = (),
    backend: str | None = None,
    opener: Opener | None = None,
    opened: dict[str, Recipe] | None = None,
    bounds: Bounds | None = None,
    prover: Prover | None = None,
) -> Report:
    """Verify, then replay, then compare. `opened` keeps recipes from call to call. Raises ConfigError, DeviceError.

    Without `prover` nobody has proved that the model's answers are right on this machine.
    """
    told = kept.told
    then = str(told["described"]["backend"])
    report = Report(kept.id, str(kept.folder), "tampered", _said(told), "", len(kept.frames), then)
    report.differences, report.notes = verify(kept, journal)
    if report.differences:
        return report
    images, report.differences = pictures(kept, opener)
    if report.differences:
        return report
    recipe = _open(kept, models, backend, opened if opened is not None else {}, prover)
    report.backend_now = recipe.model.backend
    report.unproven = recipe.model.proof.told if recipe.model.proof.state == "unproven" else ""
    report.notes += _notes(kept)
    if report.backend_now != then or told["machine"] != machine():
        report.bounds = bounds or Bounds(lowest=lowest_scores(station_of(kept)))
    run = rerun(kept, images, recipe)
    differences = Differences()
    for known, seen in zip(kept.frames, run.seen, strict=True):
        if not isinstance(known.seen, str) and not isinstance(seen, str):
            compare_findings(f"frame {known.number}", known.seen, seen, report.bounds, differences)
    report.now = _compare_record(kept, run, report.bounds, differences)
    report.outcome, report.differences = differences.outcome, differences.beyond or differences.lines
    if report.bounds is not None:
        report.score_off, report.overlap = differences.score, differences.overlap
    elif differences.lines:
        report.outcome = "differs"
    return report


def _open(
    kept: Kept, models: Sequence[Path], backend: str | None, opened: dict[str, Recipe], prover: Prover | None
) -> Recipe:
    key = f"{kept.told['recipe']} {backend}"
    if key not in opened:
        opened[key] = recipe_of(kept, models, backend, prover)
    return opened[key]


def _notes(kept: Kept) -> list[str]:
    told, notes = kept.told, []
    if told["frames_missing"]:
        notes.append(
            f"{told['frames_missing']} older frames of the part were not kept (ring_mb, most_frames): "
            "what was seen in them is taken from the snapshot"
        )
    failed = [known.number for known in kept.frames if isinstance(known.seen, str)]
    if failed:
        notes.append(f"the device gave no answer to frame {', '.join(map(str, failed))}: nothing to compare there")
    if told["machine"] != machine():
        notes.append(f"decided on another machine ({told['machine']}): compared within bounds")
    if told["lineside"] != __version__:
        notes.append(f"decided by lineside {told['lineside']}, this is {__version__}")
    return notes


def _compare_record(kept: Kept, run: Rerun, bounds: Bounds | None, into: Differences) -> str:
    """Add how the decision differs; what it is now, in words."""
    told = kept.told["record"]
    if kept.told["kind"] == "missed":
        decided = run.decisions()
        return f"{len(decided)} parts in these frames: {', '.join(d.verdict for d in decided) or 'none'}"
    if kept.told["kind"] == "event":
        return _compare_event(told, run.events(kept.told["at_end"]), bounds, into)
    found = decision_about(plain.unpack(told["observations"]), run)
    if found is None:
        into.add(f"the part is not there: {told['verdict']} then, no decision about it now", allowed=False)
        return "no decision"
    verdict, cause, score, findings, place = found
    if place:
        into.add(place, allowed=bounds is not None)
    _compare_values({"verdict": verdict}, told, False, into)
    _compare_values({"cause": cause}, told, bounds is not None and verdict == told["verdict"], into)
    _compare_sums("the decision", score, findings, told, bounds, into)
    return f"{verdict}: {cause}"


def _compare_event(told: Mapping[str, Any], events: Sequence[Event], bounds: Bounds | None, into: Differences) -> str:
    event = next((e for e in events if (e.phase, e.cause) == (told["phase"], told["cause"])), None)
    event = event or next((e for e in events if e.phase == told["phase"]), None)
    if event is None:
        into.add(f"{told['phase']} of the event then, nothing at that frame now", allowed=False)
        return "no event"
    _compare_values({"cause": event.cause}, told, bounds is not None, into)
    _compare_values({"count": event.count}, told, False, into)
    _compare_sums("the event", event.score, event.findings, told, bounds, into)
    return f"{event.phase}: {event.cause}"


def _compare_values(now: Mapping[str, object], told: Mapping[str, Any], allowed: bool, into: Differences) -> None:
    for name, value in now.items():
        if value != told[name]:
            into.add(f"{name}: {told[name]!r} then, {value!r} now", allowed=allowed)


def _compare_sums(
    what: str,
    score: float,
    findings: Sequence[Finding],
    told: Mapping[str, Any],
    bounds: Bounds | None,
    into: Differences,
) -> None:
    if not same(score, told["score"]):
        allowed = bounds is not None and abs(score - told["score"]) <= bounds.score
        into.add(f"{what}: score {told['score']!r} then, {score!r} now", allowed=allowed)
    if bounds is None:  # the frames are compared already; which of them a rule names may be another's by a hair
        compare_findings(what, plain.unpack(told["findings"]), findings, None, into)


def decision_about(part: Sequence[Observation], run: Rerun) -> tuple[str, str, float, tuple[Finding, ...], str] | None:
    """(verdict, cause, score, findings, where else) of the same part in a rerun; `where else` is "" at the same frame.

    The same part is the one whose box overlaps in the newest frame that both were seen in.
    """
    at_last = run.at[-1] if run.at else []
    for decision in (record for record in at_last if isinstance(record, Decision)):
        if _is_same(part, decision.part):
            return decision.verdict, decision.cause, decision.score, decision.findings, ""
    for decision in run.decisions():
        if _is_same(part, decision.part):
            number = decision.part.observations[-1].frame_number
            place = f"the part is decided about at frame {number}, then at {part[-1].frame_number}"
            return decision.verdict, decision.cause, decision.score, decision.findings, place
    for waiting, ruling in run.waiting:
        if _is_same(part, waiting):
            place = (
                f"the part has not crossed the line at frame {part[-1].frame_number}: judged by what was seen so far"
            )
            return ruling.verdict, ruling.cause, ruling.score, ruling.findings, place
    return None


def _is_same(then: Sequence[Observation], now: Part) -> bool:
    places = {seen.frame_number: seen.box for seen in now.observations}
    for seen in reversed(then):
        if seen.frame_number in places:
            here = places[seen.frame_number]
            return seen.box == here if seen.box is None or here is None else overlap(seen.box, here) >= 0.5
    return False


def _said(told: Mapping[str, Any]) -> str:
    record = told["record"]
    word = record.get("verdict") or record.get("phase") or "missed defect"
    return f"{word}: {record['cause']}"


def last_picture(kept: Kept, images: Sequence[Image]) -> tuple[Image, Observation | None]:
    """The newest frame and what was seen of the part there, for a contact sheet."""
    seen = plain.unpack(kept.told["record"].get("observations", []))
    return images[-1], seen[-1] if seen else None
