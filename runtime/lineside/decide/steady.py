"""Debounce: many frames' rulings become one ruling of a part, or the start, change and end of an event. No clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lineside.contracts import Rule, Stateful
from lineside.decide.rules import build
from lineside.errors import ConfigError
from lineside.records import Change, Finding, Observation, Part, Ruling


@dataclass(frozen=True, slots=True)
class Steady:
    """How often a rule must hold for a part: in `min_frames` out of any `of_frames` in a row (None: of all)."""

    min_frames: int = 1
    of_frames: int | None = None

    def __post_init__(self) -> None:
        if self.min_frames < 1 or (self.of_frames is not None and self.of_frames < self.min_frames):
            raise ConfigError(
                f"steady: min_frames {self.min_frames} of of_frames {self.of_frames} can never be reached"
            )


def judge(rules: Sequence[Rule], steady: Steady) -> Callable[[Part], Ruling]:
    """`rule_part` with its rules: what a Recipe wants."""
    return lambda part: rule_part(rules, part, steady)


def rule_part(rules: Sequence[Rule], part: Part, steady: Steady = Steady()) -> Ruling:
    """The one ruling of a part: the worst of what its rules say steadily (reject, then unknown), else accept.

    A part that was seen in fewer than `min_frames` frames is unknown: too little to accept or to reject it.
    """
    frames = len(part.observations)
    if not frames:
        return Ruling("unknown", "no frame of the part was seen")
    if frames < steady.min_frames:
        return Ruling("unknown", f"seen in {frames} of the {steady.min_frames} frames that the rules need")
    rulings = [ruling for rule in rules if (ruling := _rule_one(rule, part.observations, steady))]
    for verdict in ("reject", "unknown"):
        worst = [ruling for ruling in rulings if ruling.verdict == verdict]
        if worst:
            return max(worst, key=lambda ruling: ruling.score)
    best = max(part.observations, key=lambda seen: max((f.score for f in seen.findings), default=0.0))
    score = max((f.score for f in best.findings), default=0.0)
    return Ruling("accept", f"no rule held{_in_frames(None, frames)}", score, best.findings)


def _rule_one(rule: Rule, observations: Sequence[Observation], steady: Steady) -> Ruling | None:
    rule.reset()
    rulings = [rule.look(seen) for seen in observations]
    rejects = [ruling is not None and ruling.verdict == "reject" for ruling in rulings]
    doubts = [ruling is not None for ruling in rulings]
    for held, verdict in ((rejects, "reject"), (doubts, "unknown")):
        if _most(held, steady.of_frames or len(held)) < steady.min_frames:
            continue
        counted = [r for r, holds in zip(rulings, held, strict=True) if r is not None and holds]
        # a reject that does not last counts towards unknown; the cause is then the best of what was unknown, if any
        of_verdict = [r for r in counted if r.verdict == verdict] or counted
        best = max(of_verdict, key=lambda ruling: ruling.score)
        cause = best.cause + _in_frames(len(counted), len(rulings))
        return replace(best, verdict="reject" if verdict == "reject" else "unknown", cause=cause)
    return None


def _most(held: Sequence[bool], window: int) -> int:
    """The greatest number of True in any `window` neighbours."""
    most = now = 0
    for i, holds in enumerate(held):
        now += holds - (held[i - window] if i >= window else 0)
        most = max(most, now)
    return most


def _in_frames(count: int | None, frames: int) -> str:
    if frames == 1:
        return ""
    return f" in {frames} frames" if count is None else f" in {count} of {frames} frames"


class SteadyEvent:
    """Says when a rule starts to hold, changes and ends, debounced: an EventRule.

    It starts after `on_frames` frames in a row and `on_s` in which `rule` holds, and ends after `off_frames` in a row
    and `off_s` in which `keep` (the same rule with a lower score; default: `rule`) does not. It changes when the number
    of things or their labels stay different from what was said for as long as a start needs. `started_ns` is the first
    frame in which the rule held.
    """

    def __init__(
        self,
        key: str,
        rule: Rule,
        *,
        keep: Rule | None = None,
        on_frames: int = 3,
        on_s: float = 0.0,
        off_frames: int = 3,
        off_s: float = 0.5,
    ) -> None:
        self.key = key
        self._rule, self._keep = rule, keep
        self._on, self._off = _Run(on_frames, on_s), _Run(off_frames, off_s)
        self._different = _Run(on_frames, on_s)
        self._rules = (rule,) if keep is None else (rule, keep)
        self._takes = tuple(getattr(each, "state", None) for each in self._rules)
        self._runs = (self._on, self._off, self._different)
        self._said: Counter[str] | None = None  # labels of the open event as last published; None: no event is open
        self._next: Counter[str] = Counter()
        self._last = Ruling("unknown", "")
        self._started_ns = 0
        self._peak = 0.0

    def step(self, seen: Observation) -> tuple[Change, ...]:
        started = self._rule.look(seen)
        kept = started if self._keep is None else self._keep.look(seen)
        if self._said is None:
            return self._closed(started, seen.captured_ns)
        return self._open(kept, self._said, seen.captured_ns)

    def finish(self) -> tuple[Change, ...]:
        """Ends an open event because nothing more will be seen."""
        if self._said is None:
            return ()
        return (self._end("no more frames"),)

    def state(self) -> Mapping[str, object]:
        """All that the next `step` depends on; later ones leave it as it is."""
        return {
            "rules": [take() if take else None for take in self._takes],
            "runs": [(run.count, run.since_ns) for run in self._runs],
            "said": self._said,
            "next": self._next,
            "last": self._last,
            "started_ns": self._started_ns,
            "peak": self._peak,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of an event with the same rule and options."""
        for rule, kept in zip(self._rules, state["rules"], strict=True):
            if isinstance(rule, Stateful):
                rule.restore(kept)
        for run, (count, since_ns) in zip(self._runs, state["runs"], strict=True):
            run.count, run.since_ns = count, since_ns
        self._said = None if state["said"] is None else Counter(state["said"])
        self._next, self._last = Counter(state["next"]), state["last"]
        self._started_ns, self._peak = state["started_ns"], state["peak"]

    def _closed(self, ruling: Ruling | None, now_ns: int) -> tuple[Change, ...]:
        lasting = self._on.add(ruling is not None, now_ns)
        if ruling is None or not lasting:
            return ()
        self._said, self._last = _labels(ruling.findings), ruling
        self._peak, self._started_ns = ruling.score, self._on.since_ns
        self._on.clear()
        return (self._change("start", ruling.cause, ruling),)

    def _open(self, ruling: Ruling | None, said: Counter[str], now_ns: int) -> tuple[Change, ...]:
        gone = self._off.add(ruling is None, now_ns)
        if ruling is None:
            return (self._end(f"{self._last.cause}: no longer"),) if gone else ()
        self._last, self._peak = ruling, max(self._peak, ruling.score)
        labels = _labels(ruling.findings)
        if labels != self._next:
            self._different.clear()
            self._next = labels
        if not self._different.add(labels != said, now_ns):
            return ()
        self._said = labels
        self._different.clear()
        return (self._change("change", ruling.cause, ruling),)

    def _end(self, cause: str) -> Change:
        change = Change("end", self.key, cause, 0, self._peak, self._started_ns, self._last.findings)
        self._said = None
        self._on.clear()
        self._off.clear()
        self._different.clear()
        return change

    def _change(self, phase: str, cause: str, ruling: Ruling) -> Change:
        return Change(
            "start" if phase == "start" else "change",
            self.key,
            cause,
            len(ruling.findings),
            ruling.score,
            self._started_ns,
            ruling.findings,
        )


class _Run:
    """Frames in a row in which something holds: long enough after `frames` of them and `seconds`."""

    def __init__(self, frames: int, seconds: float) -> None:
        self._frames, self._ns = frames, round(seconds * 1e9)
        self.count, self.since_ns = 0, 0

    def add(self, holds: bool, now_ns: int) -> bool:
        if not holds:
            self.clear()
            return False
        if self.count == 0:
            self.since_ns = now_ns
        self.count += 1
        return self.count >= self._frames and now_ns - self.since_ns >= self._ns

    def clear(self) -> None:
        self.count = 0


def build_rules(options: Sequence[tuple[str, Mapping[str, object]]]) -> tuple[Rule, ...]:
    """The rules of a part pipeline, out of `StationConfig.rule_options`."""
    return tuple(build(kind, arguments) for kind, arguments in options)


def build_events(
    options: Sequence[tuple[str, Mapping[str, object], Mapping[str, object]]],
    *,
    on_frames: int = 3,
    on_s: float = 0.0,
    off_frames: int = 3,
    off_s: float = 0.5,
) -> tuple[SteadyEvent, ...]:
    """The rules of an event pipeline, out of `StationConfig.event_options`; the rule's name is the event's key."""
    return tuple(
        SteadyEvent(
            str(start["name"]),
            build(kind, start),
            keep=None if keep == start else build(kind, keep),
            on_frames=on_frames,
            on_s=on_s,
            off_frames=off_frames,
            off_s=off_s,
        )
        for kind, start, keep in options
    )


def _labels(findings: Sequence[Finding]) -> Counter[str]:
    return Counter(finding.label for finding in findings)
