"""The table of processors in docs/hardware.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cpus.cells import ALONE, Cell
from cpus.judging import Judged
from cpus.machines import HOST, Machine

BEGIN, END = "<!-- prove_cpus: begin -->", "<!-- prove_cpus: end -->"
NOT_RUN = "not run"
_LONGEST = 200  # characters of a reason


def table(
    machines: Sequence[Machine],
    facts: Mapping[str, Mapping[str, str]],
    judged: Mapping[Cell, Judged | None],
) -> Iterator[str]:
    """Markdown: a line for each file on each backend, a column for each processor; then why some did not answer."""
    yield _versions(facts)
    yield ""
    yield f"| bundle | file | backend | {' | '.join(_head(one, facts) for one in machines)} |"
    yield f"| --- | --- | --- |{' --- |' * len(machines)}"
    reasons: list[str] = []
    for bundle, file, backend in dict.fromkeys((cell.bundle, cell.file, cell.backend) for cell in judged):
        texts = [_text(judged.get(Cell(one.name, bundle, backend, file)), file, reasons) for one in machines]
        shown = file.removeprefix(f"{bundle}_") if file else "the bundle"
        beside = "ONNX Runtime alone" if backend == ALONE else backend
        yield f"| {bundle} | {shown} | {beside} | {' | '.join(texts)} |"
    yield ""
    done = [one for one in judged.values() if one is not None]
    counts = {word: sum(one.outcome == word for one in done) for word in ("right", "refused", "died", "wrong")}
    told = ", ".join(f"{number} {word}" for word, number in counts.items())
    yield f"{len(done)} of {len(judged)} cells were run: {told}."
    if reasons:
        yield ""
        yield from (f"({number}) {reason}  " for number, reason in enumerate(reasons, 1))


def _head(machine: Machine, facts: Mapping[str, Mapping[str, str]]) -> str:
    if machine.name != HOST:
        return f"{machine.name}: {machine.title}"
    return f"{machine.title}: {facts[machine.name]['cpu']}"


def _text(one: Judged | None, file: str, reasons: list[str]) -> str:
    if one is None:
        return NOT_RUN
    measured = ""
    if one.float_ is not None and one.exact is not None:
        both = (one.float_, one.exact)
        measured = " · ".join(f"{each.flips}/{one.pictures} {each.drift:.2f}" for each in both)
    if one.outcome == "right":
        return measured
    reason = _reason(one, file)
    if reason not in reasons:
        reasons.append(reason)
    word = {"refused": "refused", "died": "cannot run", "wrong": "**wrong**"}[one.outcome]
    return f"{word} ({reasons.index(reason) + 1}){f': {measured}' if measured else ''}"


def _reason(one: Judged, file: str) -> str:
    """One sentence, the same for the same cause, without the path and the size of the file."""
    if one.golden:
        return "Its golden pictures fail there: the product refuses it, and goes on to another."
    if one.outcome == "wrong":
        return "Verdicts are not those of the file computed exactly, and its golden pictures do not show it."
    first = one.why.replace("|", "/").splitlines()[0] if one.why else "no word of it"
    said = first.rpartition(f"{file}: ")[2] if file else first
    return said[:_LONGEST].partition(": the file (")[0]


def _versions(facts: Mapping[str, Mapping[str, str]]) -> str:
    names = {name: version for one in facts.values() for name, version in one.items() if name not in ("machine", "cpu")}
    emulators = sorted({one["cpu"].partition(", ")[2] for name, one in facts.items() if name != HOST})
    return f"{', '.join(f'{name} {version}' for name, version in sorted(names.items()))}; {'; '.join(emulators)}."
