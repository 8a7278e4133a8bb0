"""One journal, one daemon: the lock is held for as long as its process lives, and never keeps a line from starting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lineside.deliver.alone import Alone
from lineside.errors import ConfigError

HOLDER = """
import sys, time
from pathlib import Path
from lineside.deliver.alone import Alone
held = Alone(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holder(journal: Path) -> subprocess.Popen[str]:
    """Another process that has the journal."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(journal)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_journal_that_another_process_has_is_refused_until_that_one_is_gone_even_by_kill_9(tmp_path: Path) -> None:
    journal = tmp_path / "state" / "journal.db"
    other = holder(journal)
    with pytest.raises(ConfigError, match=r"journal\.path = .*another lineside daemon writes it: stop that one"):
        Alone(journal)
    other.kill()
    other.wait(10)
    assert Alone(journal)
    assert not journal.exists(), "the store itself is not touched"


def test_two_journals_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    other = holder(tmp_path / "one.db")
    try:
        assert Alone(tmp_path / "two.db")
    finally:
        other.kill()
        other.wait(10)


def test_a_lock_that_cannot_be_made_is_told_and_keeps_nobody_from_deciding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert Alone(tmp_path / "file" / "journal.db")
    assert "cannot be locked against a second daemon" in caplog.text
