"""Adds the reports of all rounds up, and puts the sum into docs/reliability.md between its two marks."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chaos.verdict import percentiles

BEGIN, END = "<!-- figures of tools/soak.py: begin -->", "<!-- end -->"
_COUNTS = (
    "made",
    "decisions",
    "received",
    "copies",
    "live",
    "backfill",
    "lost",
    "unexplained_gaps",
    "doubled",
    "contradictory",
    "unknown",
    "unsaid",
    "forgotten",
    "unwritten",
    "cut_short",
    "mixed_up",
)
_WORDS = {
    "made": "records in the journal",
    "decisions": "of them decisions",
    "received": "different records received",
    "copies": "further copies, dropped by (station, epoch, seq)",
    "live": "received live",
    "backfill": "received as backfill",
    "lost": "lost",
    "unexplained_gaps": "gaps in seq that nothing explains",
    "doubled": "duplicates after dedupe",
    "contradictory": "seqs with two contents",
    "unknown": "received, but not in the journal",
    "unsaid": "numbers that the daemon gave and a kill took back",
    "forgotten": "decisions left out of the journal",
    "unwritten": "decisions not in the journal after an orderly stop",
    "cut_short": "decisions that a kill caught before their commit (never published)",
    "mixed_up": "live and backfill mixed up",
}
_KIT = {
    "handled": "records handed to the handler",
    "lost": "lost",
    "doubled": "handed over twice",
    "duplicates": "copies dropped",
    "asked": "requests to send again",
}
_FAULTS = {
    "kill_daemon": "kill -9 of the daemon",
    "kill_broker": "kill -9 of the broker",
    "cut": "cut of the link",
    "black_hole": "black hole or stall of the link",
    "kill_receiver": "kill -9 of the receiver kit",
}


def total(done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One report of all rounds."""
    chaos = [report for name, report in done.items() if name.startswith("chaos")]
    forgetful = [report for name, report in done.items() if name.startswith("forgetful")]
    power = [report for name, report in done.items() if name.startswith("power")]
    faults: Counter[str] = Counter()
    backs_s: dict[str, list[float]] = {}
    for report in chaos:
        faults.update(report["faults"])
        for kind, values in report["backs_s"].items():
            backs_s.setdefault(kind, []).extend(values)
    wrong = [f"{name}: {words}" for name, report in done.items() for words in report["wrong"]]
    return {
        "ok": bool(done) and not wrong,
        "wrong": wrong,
        "rounds": len(chaos),
        "faults": dict(faults),
        **{name: sum(report[name] for report in chaos) for name in _COUNTS},
        "live_delay_ms": percentiles([ms for report in chaos for ms in report["delays_ms"]]),
        "back_s": {kind: percentiles(values, 2) for kind, values in backs_s.items()},
        "kit": _sum([report["kit"] for report in chaos]),
        "forgetful": {
            "kills": sum(report["faults"]["kill_broker"] for report in forgetful),
            "made": sum(report["made"] for report in forgetful),
            "lost_on_the_way": sum(report["lost"] for report in forgetful),
            "kit": _sum([report["kit"] for report in forgetful]),
        },
        "power_cuts": sum(report["cuts"] for report in power),
        "power_published": sum(report["published"] for report in power),
        "power_missing": sum(report["missing"] for report in power),
        "took_s": round(sum(report["took_s"] for report in done.values()), 1),
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def write(path: Path, report: Mapping[str, Any], command: str) -> None:
    """Replace what stands between the marks. Ends the program if they are not there."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise SystemExit(f"{path}: put the lines {BEGIN!r} and {END!r} where the figures are to stand")
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{figures(report, command)}\n{END}{rest.partition(END)[2]}")


def figures(report: Mapping[str, Any], command: str) -> str:
    """Markdown."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    verdict = "nothing lost, doubled or unexplained" if report["ok"] else "FAILED: " + "; ".join(report["wrong"])
    lines = [f"`{command}`:\n{verdict}. {report['took_s'] / 60:.0f} minutes on {machine}.", ""]
    if report["rounds"]:
        lines += ["| fault | times | back after, s: p50 | p99 | max |", "| --- | --- | --- | --- | --- |"]
        for kind, words in _FAULTS.items():
            back = report["back_s"].get(kind, {})
            cells = [str(back.get(place, "")) for place in ("p50", "p99", "max")]
            lines.append(f"| {words} | {report['faults'].get(kind, 0)} | {' | '.join(cells)} |")
        lines += ["", "| what | count |", "| --- | --- |"]
        lines += [f"| {words} | {report[name]} |" for name, words in _WORDS.items()]
        delay = report["live_delay_ms"]
        lines += ["", f"Decision to receiver, live ones, faults included: {json.dumps(delay)} ms.", ""]
        lines += ["| what `lineside.subscriber` told | count |", "| --- | --- |"]
        lines += [f"| {words} | {report['kit'][name]} |" for name, words in _KIT.items()] + [""]
    if report["forgetful"]["kills"]:
        of, kit = report["forgetful"], report["forgetful"]["kit"]
        lines += [
            f"A broker with its default settings, killed {of['kills']} times: of {of['made']} records a plain "
            f"subscriber missed {of['lost_on_the_way']}; the receiver kit asked {kit['asked']} times, missed "
            f"{kit['lost']} and handed {kit['doubled']} over twice.",
            "",
        ]
    if report["power_cuts"]:
        lines += [
            f"Power cuts: {report['power_cuts']}; published before them, checked one by one after each: "
            f"{report['power_published']}; missing: {report['power_missing']}.",
            "",
        ]
    return "\n".join(lines)
