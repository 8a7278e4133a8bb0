"""`make demo`, shortened: what a person sees at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_decides_each_part_and_counts_them_without_a_gap(tmp_path: Path) -> None:
    command = [sys.executable, "tools/demo.py", "--seconds", "6", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["parts"] > 3
    assert (summary["misses"], summary["seq"]) == (0, "gap-free")
    assert summary["agreement"].endswith("(100.0%)")
    assert done.stdout.count("no rule held") + done.stdout.count("defect ") == summary["parts"]
    assert "contact sheet         none: no disagreement" in done.stdout
