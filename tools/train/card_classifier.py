"""Writes a classifier's card out of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def card(
    head: str, curve: Sequence[Mapping[str, float]], scores: Sequence[Mapping[str, Any]], validation: str, tail: str
) -> str:
    """card.md: what is said by hand in `head` and `tail`, and between them scores and the training curve."""
    return "\n".join(
        (
            head.strip(),
            "",
            "## Scores",
            "",
            validation.strip(),
            "",
            *table(scores),
            "",
            *curve_table(curve),
            "",
            tail.strip(),
            "",
        )
    )


def table(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row for each file on each backend; intervals of 95 %."""
    names = list(dict.fromkeys(name for row in scores for name in row["metrics"]))
    lines = [
        "| file | backend | " + " | ".join(names) + " | model ms | MB |",
        "| --- | --- |" + " --- |" * (len(names) + 2),
    ]
    for row in scores:
        if row["fault"]:
            lines.append(f"| {row['file']} | {row['backend']} | not taken |" + " |" * (len(names) + 1))
            continue
        values = " | ".join(_estimate(row["metrics"][name]) for name in names)
        lines.append(
            f"| {row['file']} | {row['backend']} | {values} | {row['model_ms']:.2f} | {row['megabytes']:.2f} |"
        )
    return lines


def _estimate(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low'] or 0:.3f} to {found['high'] or 0:.3f})"


def curve_table(curve: Sequence[Mapping[str, float]]) -> list[str]:
    lines = ["## Training curve", "", "| epoch | loss | AUROC | accuracy |", "| --- | --- | --- | --- |"]
    for point in curve:
        shown = " | ".join(f"{point[name]:.3f}" if name in point else "" for name in ("auroc", "accuracy"))
        lines.append(f"| {point['epoch']:.0f} | {point['loss']:.3f} | {shown} |")
    return lines
