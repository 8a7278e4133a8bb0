"""The chaos suite in its short form: ten of each fault. `make soak` does all of them (docs/reliability.md)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker import mosquitto

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from chaos.plan import KINDS, draw  # noqa: E402
from chaos.verdict import Made, judge  # noqa: E402

pytestmark = pytest.mark.timeout(300)  # a minute here; a busy machine takes longer
ONLY = ("--forgetful", "0", "--power-cuts", "0")


def soak(report: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """tools/soak.py as a process: its exit status, its report and what it said."""
    mosquitto()
    command = [sys.executable, str(TOOLS / "soak.py"), *words, "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL)
    assert report.exists(), done.stderr
    return done.returncode, json.loads(report.read_text()), done.stderr


def test_ten_of_each_fault_lose_nothing_double_nothing_and_leave_no_gap(tmp_path: Path) -> None:
    seed = str(random.randrange(1 << 20))
    words = ("--kills", "10", "--cuts", "10", "--gap-s", "0.3", *ONLY, "--seed", seed, "--verbose")
    code, report, said = soak(tmp_path / "report.json", *words)
    assert (code, report["wrong"]) == (0, []), said
    assert report["faults"] == dict.fromkeys(KINDS, 10)
    assert report["lost"] == report["unexplained_gaps"] == report["doubled"] == report["contradictory"] == 0
    assert report["received"] == report["made"] > 200
    assert report["live"] > 0
    assert report["backfill"] > 0, "the link was never away for longer than a decision is live: the faults are too tame"
    assert report["copies"] > 0, "nothing was sent twice: the faults are too tame"
    kit = report["kit"]
    assert (kit["handled"], kit["lost"], kit["doubled"]) == (report["made"], 0, 0)


def test_what_a_broker_with_default_settings_forgets_is_found_and_sent_again(tmp_path: Path) -> None:
    words = ("--kills", "0", "--cuts", "0", "--forgetful", "5", "--power-cuts", "0", "--gap-s", "0.5", "--seed", "3")
    code, report, said = soak(tmp_path / "report.json", *words)
    assert (code, report["wrong"]) == (0, []), said
    told = report["forgetful"]
    assert told["kills"] == 5
    assert told["lost_on_the_way"] > 0, "the broker forgot nothing: the test proves nothing"
    assert told["kit"]["asked"] > 0
    assert (told["kit"]["handled"], told["kit"]["lost"], told["kit"]["doubled"]) == (told["made"], 0, 0)


@pytest.mark.parametrize(
    ("fault", "words", "finds"),
    [
        ("cursor-before-the-reason-code", ("--kills", "0", "--cuts", "3"), ["lost", "unexplained_gaps"]),
        (
            "publish-before-commit",
            ("--kills", "8", "--broker-kills", "0", "--cuts", "0", "--slow-ms", "10"),
            ["contradictory"],
        ),
    ],
)
def test_the_suite_is_red_when_the_delivery_is_broken_on_purpose(
    tmp_path: Path, fault: str, words: tuple[str, ...], finds: list[str]
) -> None:
    code, report, said = soak(tmp_path / "r.json", *words, *ONLY, "--seed", "4", "--broken", fault)
    assert code == 1, f"a broken build passed: {said}"
    assert not report["ok"]
    assert all(report[name] > 0 for name in finds), report


def test_a_seed_gives_the_same_faults_again_and_faults_of_one_kind_never_overlap() -> None:
    counts = dict.fromkeys(KINDS, 40)
    faults = draw(counts, 7)
    assert faults == draw(counts, 7)
    assert faults != draw(counts, 8)
    for kind in KINDS:
        of_kind = [fault for fault in faults if fault.kind == kind]
        assert len(of_kind) == 40
        assert all(one.at_s + one.lasts_s < two.at_s for one, two in pairwise(of_kind))


# --- the verdict itself ---------------------------------------------------------------------------------------------


def line(seq: int, **fields: Any) -> dict[str, Any]:
    decided = "2026-11-21T03:52:50.123456Z"
    usual = {"at_ns": 0, "kind": "decision", "new": True, "id": f"d{seq}", "digest": f"x{seq}", "backfill": False}
    more = {"key": ["gate", "e", seq], "says": [False, False, 3], "decided_at": decided, "gap": None}
    return {**usual, **more, **fields}


MADE = {("gate", "e", seq): Made("decision", f"d{seq}", f"x{seq}") for seq in range(1, 5)}
ALL = [line(seq) for seq in range(1, 5)]
LOG = [[(seq, f"d{seq}") for seq in range(1, 5)]]


def test_the_verdict_is_clean_when_all_arrived_and_copies_were_dropped() -> None:
    verdict = judge(MADE, [*ALL, line(2, new=False)], LOG, [("gate", "e", 4)], 1000)
    assert (verdict.ok, verdict.copies, verdict.received, verdict.live) == (True, 1, 4, 4)


@pytest.mark.parametrize(
    ("got", "runs", "said", "finds"),
    [
        ([*ALL[:1], *ALL[2:]], LOG, [], {"lost": 1, "unexplained_gaps": 1}),
        (ALL[:3], LOG, [], {"lost": 1, "unexplained_gaps": 1}),
        ([*ALL, line(2)], LOG, [], {"doubled": 1}),
        ([*ALL, line(5, id="d4")], LOG, [], {"doubled": 1, "unknown": 1}),
        ([*ALL, line(2, new=False, digest="y")], LOG, [], {"contradictory": 1}),
        ([*ALL[:3], line(4, digest="y")], LOG, [], {"contradictory": 1}),
        (ALL, [[(1, "d1"), (2, "absent"), (3, "d3")]], [], {"forgotten": 1}),
        (ALL, [[*LOG[0], (5, "absent")]], [], {"unwritten": 1}),
        (ALL, LOG, [("gate", "e", 5)], {"unsaid": 1}),
        ([*ALL[:3], line(4, backfill=True)], LOG, [], {"mixed_up": 1}),
        ([*ALL[:3], line(4, says=[False, False, 1001])], LOG, [], {"mixed_up": 1}),
    ],
)
def test_the_verdict_names_each_thing_that_is_wrong(
    got: list[Any], runs: list[Any], said: list[Any], finds: dict[str, int]
) -> None:
    verdict = judge(MADE, got, runs, said, 1000)
    assert not verdict.ok
    found = {name: getattr(verdict, name) for name in finds}
    assert found == finds
    assert len(verdict.wrong) == len(finds), verdict.wrong


def test_the_verdict_takes_a_declared_gap_and_a_decision_that_a_kill_caught_before_its_commit() -> None:
    made = {key: row for key, row in MADE.items() if key[2] != 2}
    made["gate", "e", 5] = Made("gap", None, "g")
    gap = line(5, kind="gap", id=None, digest="g", gap=[2, 2])
    verdict = judge(made, [ALL[0], *ALL[2:], gap], [[(1, "d1"), (2, "cut short")], [(1, "d3"), (2, "d4")]], [], 1000)
    assert (verdict.wrong, verdict.cut_short) == ([], 1)


def test_an_empty_journal_is_no_proof() -> None:
    assert not judge({}, [], [], [], 1000).ok
