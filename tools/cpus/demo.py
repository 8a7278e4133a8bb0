"""`make demo`'s bundle, clip and rules on another processor: the decisions must be those of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpus.machines import ROOT, environment

SECONDS = 5.0  # of the clip: a handful of parts


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided of each part of the rendered clip, in order: `verdict`, `cause`, `backend`; and the truth."""

    decisions: Sequence[Mapping[str, Any]]
    parts: Sequence[str]  # good | defective


def decided(python: Path, out: Path, seconds: float = SECONDS) -> Decided:
    """The demo with the daemon under this Python, every frame looked at. Raises RuntimeError where it fails."""
    words = ("--python", python, "--pace", "max_speed", "--seconds", f"{seconds:g}", "--out", out)
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    if done.returncode:
        log = out / "daemon.log"
        raise RuntimeError(f"{done.stdout[-400:]}{done.stderr[-400:]}{log.read_text()[-800:] if log.exists() else ''}")
    return Decided(**json.loads((out / "decisions.json").read_text()))


def differ(here: Decided, there: Decided) -> str:
    """How the decisions there are wrong, or are not those made here; or nothing. Scores and counts of frames may differ
    a little: verdicts, and which rule held for which defect, may not."""
    if not here.decisions:
        return "no decision on this machine: nothing to compare with"
    wanted, found = ([plain(one) for one in told.decisions] for told in (here, there))
    if len(wanted) != len(found):
        return f"{len(found)} decisions, {len(wanted)} on this machine"
    wrong = [f"part {n}: {f}, not {w}" for n, (w, f) in enumerate(zip(wanted, found, strict=True), 1) if w != f]
    if len(there.parts) == len(found):  # none is left on the belt at the clip's end
        true = ["reject" if part == "defective" else "accept" for part in there.parts]
        said = [one["verdict"] for one in there.decisions]
        wrong += [
            f"part {n} is {p}" for n, (p, s, t) in enumerate(zip(there.parts, said, true, strict=True), 1) if s != t
        ]
    return "; ".join(wrong)


def plain(decision: Mapping[str, Any]) -> str:
    """The verdict and which rule held for which defect, without numbers."""
    return f"{decision['verdict']} ({re.sub(r'[0-9.]+', 'n', decision['cause'])})"
