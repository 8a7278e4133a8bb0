"""The broker is killed under a running line: tools/soak_broker.py in its short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from broker import mosquitto

TOOL = Path(__file__).resolve().parents[2] / "tools" / "soak_broker.py"


def test_no_decision_is_lost_when_the_broker_is_killed_under_a_running_line(tmp_path: Path, data: Path) -> None:
    mosquitto()
    report = tmp_path / "soak.json"
    words = ["--minutes", "0.3", "--kills", "2", "--seed", "7", "--live-max-age-ms", "1500", "--data", data]
    done = subprocess.run(
        [sys.executable, TOOL, *map(str, words), "--json", report], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(report.read_text())
    assert counts["lost"] == counts["holes_in_seq"] == counts["mixed_up"] == counts["gaps_told"] == 0
    assert counts["received_unique"] == counts["decisions_made"] > 50
    assert counts["live"] > 0
    assert counts["backfill"] > 0
    assert counts["daemon_connects"] >= 3
