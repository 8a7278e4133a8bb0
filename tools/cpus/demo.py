"""`make demo`'s bundle, clip and rules on another processor: the decisions must be those of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpus.machines import ROOT, environment

SECONDS = 5.0  # of the clip: a handful of parts


def decided(python: Path, out: Path, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Verdict, cause and backend of each part of the rendered clip, every frame of it looked at. Raises OSError,
    RuntimeError where the demo ends with an error."""
    words = ("--python", python, "--pace", "max_speed", "--seconds", f"{seconds:g}", "--out", out)
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    if done.returncode:
        log = out / "daemon.log"
        raise RuntimeError(f"{done.stdout[-400:]}{done.stderr[-400:]}{log.read_text()[-800:] if log.exists() else ''}")
    told: list[dict[str, Any]] = json.loads((out / "decisions.json").read_text())
    return told


def differ(here: Sequence[dict[str, Any]], there: Sequence[dict[str, Any]]) -> str:
    """How the decisions there are not those made here, or nothing. Scores and counts of frames may differ a little."""
    if not here:
        return "no decision on this machine: nothing to compare with"
    wanted, found = ([plain(one) for one in told] for told in (here, there))
    if len(wanted) != len(found):
        return f"{len(found)} decisions, {len(wanted)} on this machine"
    wrong = [f"part {n}: {f}, not {w}" for n, (w, f) in enumerate(zip(wanted, found, strict=True), 1) if w != f]
    return "; ".join(wrong)


def plain(decision: dict[str, Any]) -> str:
    """The verdict and which rule held for which defect, without numbers."""
    return f"{decision['verdict']} ({re.sub(r'[0-9.]+', 'n', decision['cause'])})"
