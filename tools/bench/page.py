"""The section of docs/performance.md that bench_path.py writes: results in tables, each target met or missed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

_BEGIN, _END = "<!-- bench_path.py begins -->", "<!-- bench_path.py ends -->"


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Replace the marked section; a page without one gets it at its end."""
    section = "\n".join([_BEGIN, "", *lines(report), "", _END])
    text = path.read_text() if path.is_file() else "# Performance\n"
    before, mark, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    path.write_text(f"{before}{section}{after}" if mark else f"{text.rstrip()}\n\n{section}\n")


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield (
        f"{machine['date']}, commit {report['commit']}, on {machine['cores']} cores of {machine['cpu']}"
        f"{' with VNNI' if machine['vnni'] else ''}; {machine['system']}; "
        f"load at start {machine['load_1min_at_start']}. "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + "."
    )
    yield ""
    yield (
        f"{report['repeats']} interleaved pairs a line, {report['frames']} frames at {report['fps']:g} fps each, "
        f"{report['threads']} threads; medians, with the range over the pairs in brackets. Times in ms."
    )
    yield from ("", "### Frame path", "")
    yield "| model, engine, video | bare p50 | tuned p50 | lineside p50 | tuned p99 | lineside p99 | over tuned p50 |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for result in report["cases"]:
        bare = _middle([run["p50"] for run in result["bare"]], 2)
        columns = [bare]
        for key, side in (("p50", "tuned"), ("p50", "product"), ("p99", "tuned"), ("p99", "product")):
            columns.append(_middle([_path(pair[side], key) for pair in result["pairs"]], 2))
        columns.append(_middle([_path(p["product"], "p50") - _path(p["tuned"], "p50") for p in result["pairs"]], 2))
        yield f"| {_name(result)} | {' | '.join(columns)} |"
    yield from ("", "### Start, memory, CPU, throughput", "")
    yield (
        "| model, engine, video | first result tuned / lineside, s | PSS tuned / lineside, MiB "
        "| CPU a frame tuned / lineside, ms | best loops, fps | lineside, fps |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for result in report["cases"]:
        cells = [
            _both(result, "first_result_s", "first_decision_s", 2),
            _both(result, "pss_mb", "pss_mb", 0),
            _both(result, "cpu_ms_per_frame", "cpu_ms_per_frame", 1),
        ]
        runs = result["throughput"]
        cells.append(f"{_middle([r['loops_best_fps'] for r in runs], 1)} {runs[0]['loops_best']}" if runs else "")
        cells.append(_middle([r["product_fps"] for r in runs], 1) if runs else "")
        yield f"| {_name(result)} | {' | '.join(cells)} |"
    yield from _targets(report)


def _targets(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [(result["case"], target) for result in report["cases"] for target in result["targets"]]
    rows += [("", target) for target in report["rest"]["targets"]]
    missed = [(case, target) for case, target in rows if not target["met"]]
    yield from ("", f"### Targets: {len(rows) - len(missed)} of {len(rows)} met", "")
    yield "| target | limit | met | missed |"
    yield "| --- | ---: | ---: | --- |"
    for name in dict.fromkeys(target["name"] for _, target in rows):
        mine = [(case, target) for case, target in rows if target["name"] == name]
        limit = f"{'≥' if mine[0][1]['at_least'] else '≤'} {mine[0][1]['limit']:g}"
        met = [target["value"] for _, target in mine if target["met"]]
        shown = f"{len(met)} ({_span(met)})" if met else "0"
        words = [f"{case} {_number(target)}".strip() for case, target in mine if not target["met"]]
        yield f"| {name} | {limit} | {shown} | {'; '.join(words)} |"


def _path(side: Mapping[str, Any], key: str) -> float:
    return float(side["path_ms"][key] if "path_ms" in side else side[f"{key}_ms"])


def _both(result: Mapping[str, Any], tuned: str, product: str, digits: int) -> str:
    pairs = result["pairs"]
    ours, theirs = _middle([p["product"][product] for p in pairs], digits), [p["tuned"][tuned] for p in pairs]
    return f"{_middle(theirs, digits)} / {ours}"


def _name(result: Mapping[str, Any]) -> str:
    return str(result["case"]).replace("/", ", ")


def _middle(values: list[float], digits: int) -> str:
    shown = f"{median(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _span(values: list[float]) -> str:
    return f"{min(values):.3g}" if len(values) == 1 else f"{min(values):.3g} to {max(values):.3g}"


def _number(target: Mapping[str, Any]) -> str:
    return f"{target['value']:g} ({target['low']:g} to {target['high']:g})"
