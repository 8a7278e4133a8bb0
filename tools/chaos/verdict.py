"""What was made, beside what arrived: is anything lost, doubled, or unexplained? Pure.

The truth is the stopped daemon's journal, and what the daemon said while it ran: the numbers it gave (status, last_seq)
and the decisions of its log. Nothing here knows how lineside works inside; the rules are those of docs/messages.md.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

Key: TypeAlias = tuple[str, str, int]  # station, epoch, seq
Run: TypeAlias = list[tuple[int, str]]  # (number of the part, decision id), of one run of the daemon
Line: TypeAlias = Mapping[str, Any]  # chaos.receiver.line_of


class Made(NamedTuple):
    """A row of the journal."""

    kind: str
    id: str | None
    digest: str


@dataclass
class Verdict:
    """Counts; `wrong` says in words what is wrong, and is empty when all is well."""

    made: int = 0
    decisions: int = 0
    received: int = 0  # different ones
    copies: int = 0  # further copies, dropped by the receiver
    live: int = 0
    backfill: int = 0
    lost: int = 0  # in the journal, never arrived
    lost_from: str = ""  # the first and the last of them
    unexplained_gaps: int = 0  # seqs missing between the first and the newest that the box gave, which no gap declares
    doubled: int = 0  # handed on twice after dedupe, or one decision under two seqs
    contradictory: int = 0  # a seq with two contents, or with another content than the journal's
    unknown: int = 0  # arrived, and the journal knows nothing of it
    unsaid: int = 0  # numbers that the daemon said it had given, absent from the journal
    forgotten: int = 0  # decisions of the log that the journal lacks although it has later ones of the same run
    unwritten: int = 0  # the same at the end of the last run, which was stopped in order
    cut_short: int = 0  # decisions of the log that a kill kept from being committed: not made, and never published
    mixed_up: int = 0  # topic and body disagree, or an old decision came as live
    wrong: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.wrong

    def report(self) -> dict[str, object]:
        return {"ok": self.ok, **asdict(self)}


_MUST_BE_ZERO = {
    "lost": "in the journal and never received",
    "unexplained_gaps": "seqs missing that nothing explains",
    "doubled": "handed on twice",
    "contradictory": "seqs with two contents",
    "unknown": "received, but not in the journal",
    "unsaid": "seqs that the daemon said it had given, not in the journal",
    "forgotten": "decisions left out of the journal",
    "unwritten": "decisions not in the journal after an orderly stop",
    "mixed_up": "live and backfill mixed up",
}


def judge(
    made: Mapping[Key, Made],
    got: Sequence[Line],
    runs: Iterable[Run],
    said: Iterable[Key],
    live_max_age_ms: int,
    tolerated: Collection[str] = (),
) -> Verdict:
    """`got` in order of arrival; `said` are newest seqs that the daemon told while it ran.

    `tolerated` are counts that need not be zero: a broker that forgets loses for a subscriber that does not ask again.
    """
    result = Verdict(made=len(made), decisions=sum(row.kind == "decision" for row in made.values()))
    _judge_arrivals(result, made, got, live_max_age_ms)
    _judge_numbers(result, made, got)
    _judge_log(result, made, runs)
    result.unsaid = sum(key not in made for key in set(said) if key[2] > 0)
    counts = asdict(result)
    must_be_zero = {name: words for name, words in _MUST_BE_ZERO.items() if name not in tolerated}
    if not made:
        result.wrong.append("the journal is empty: the run proves nothing")
    result.wrong += [f"{counts[name]} {words}" for name, words in must_be_zero.items() if counts[name]]
    return result


def _judge_arrivals(result: Verdict, made: Mapping[Key, Made], got: Sequence[Line], live_max_age_ms: int) -> None:
    digests: dict[Key, str] = {}
    handed_on: Counter[Key] = Counter()
    ids: dict[str, Key] = {}
    for line in got:
        station, epoch, seq = line["key"]
        key = (station, epoch, seq)
        backfill, (says_backfill, says_late, age_ms) = line["backfill"], line["says"]
        old = age_ms is None or age_ms > live_max_age_ms
        result.mixed_up += says_backfill != backfill or (backfill and not says_late) or (old and not backfill)
        result.contradictory += digests.setdefault(key, line["digest"]) != line["digest"]
        if not line["new"]:
            result.copies += 1
            continue
        handed_on[key] += 1
        result.backfill += backfill
        result.live += not backfill
        if line["kind"] == "decision":
            result.doubled += ids.setdefault(line["id"], key) != key
    result.received = len(handed_on)
    result.doubled += handed_on.total() - len(handed_on)
    lost = sorted(made.keys() - digests.keys())
    result.lost = len(lost)
    result.lost_from = f"{lost[0]} to {lost[-1]}" if lost else ""
    result.unknown = len(digests.keys() - made.keys())
    result.contradictory += sum(key in made and made[key].digest != text for key, text in digests.items())


def newest(made: Iterable[Key], epoch: str) -> dict[str, int]:
    """The newest seq of each station in an epoch."""
    seqs: dict[str, int] = {}
    for station, of, seq in made:
        if of == epoch:
            seqs[station] = max(seq, seqs.get(station, 0))
    return seqs


def _judge_numbers(result: Verdict, made: Mapping[Key, Made], got: Sequence[Line]) -> None:
    have: dict[tuple[str, str], set[int]] = {}
    for line in got:
        station, epoch, seq = line["key"]
        seqs = have.setdefault((station, epoch), set())
        seqs.add(seq)
        if line["gap"] and line["gap"][0] is not None:
            seqs.update(range(line["gap"][0], line["gap"][1] + 1))
    for epoch in {epoch for _, epoch, _ in made}:
        for station, last in newest(made, epoch).items():
            result.unexplained_gaps += len(set(range(1, last + 1)) - have.get((station, epoch), set()))


def _judge_log(result: Verdict, made: Mapping[Key, Made], runs: Iterable[Run]) -> None:
    """What a run decided is in the journal up to some part, and from there on it is not: a kill does not pick."""
    known = {row.id for row in made.values()}
    all_runs = list(runs)
    for run in all_runs:
        last = max((index for index, (_, id_) in enumerate(run) if id_ in known), default=-1)
        result.forgotten += sum(id_ not in known for _, id_ in run[: max(last, 0)])
        is_last = run is all_runs[-1]
        result.unwritten += is_last * (len(run) - 1 - last)
        result.cut_short += (not is_last) * (len(run) - 1 - last)


def delays_ms(got: Sequence[Line]) -> list[float]:
    """From decision to receiver, of what came live and first; both by the one wall clock of this machine."""
    return [(line["at_ns"] - _ns(line["decided_at"])) / 1e6 for line in got if line["new"] and not line["backfill"]]


def back_after_s(got: Sequence[Line], ended_ns: Sequence[int]) -> list[float]:
    """For each end of a fault: how long until something arrived that was decided after it."""
    order = sorted((_ns(line["decided_at"]), line["at_ns"]) for line in got if line["new"])
    soonest: list[int] = []  # soonest arrival of anything decided at this place of `order` or later
    for _, at_ns in reversed(order):
        soonest.append(min(at_ns, soonest[-1]) if soonest else at_ns)
    soonest.reverse()
    decided = [decided_ns for decided_ns, _ in order]
    places = [bisect.bisect_right(decided, at_ns) for at_ns in ended_ns]
    return [(soonest[place] - at_ns) / 1e9 for place, at_ns in zip(places, ended_ns, strict=True) if place < len(order)]


def percentiles(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """p50, p99 and the largest; nothing of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    places = {"p50": len(ordered) // 2, "p99": int(len(ordered) * 0.99), "max": len(ordered) - 1}
    return {name: round(ordered[place], digits) for name, place in places.items()}


def _ns(rfc3339: str) -> int:
    return round(datetime.fromisoformat(rfc3339).timestamp() * 1e6) * 1000
