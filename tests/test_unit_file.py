"""systemd/: what systemd itself says of the unit, and that the unit, its groups and its udev rules fit each other."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
UNIT = SYSTEMD / "lineside.service"
RULES = SYSTEMD / "99-lineside.rules"
EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def unit_values(key: str) -> list[str]:
    """Every value of a key that may stand more than once, in order."""
    return re.findall(rf"(?m)^{key}=(.*)$", UNIT.read_text())


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/lineside/bin/lineside", "/bin/true"))  # absent on this machine
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    faults = [line for line in (done.stdout + done.stderr).splitlines() if "lineside" in line]
    assert (done.returncode, faults) == (0, [])


@needs_systemd
def test_the_unit_is_exposed_no_more_than_promised() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)], capture_output=True, text=True
    )
    found = re.search(r"Overall exposure level for lineside.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE, done.stdout


def test_a_wrong_configuration_is_not_tried_again_and_a_crash_is() -> None:
    assert unit_values("Restart") == ["on-failure"]
    assert unit_values("RestartPreventExitStatus") == ["78"]
    assert unit_values("StartLimitIntervalSec") == ["0"], "a crash loop must not end in a stopped line"


def test_what_openvino_and_probe_need_is_not_taken_away() -> None:
    text = UNIT.read_text()
    assert not re.search(r"(?m)^MemoryDenyWriteExecute=(yes|true)", text)
    assert not re.search(r"(?m)^ProcSubset=pid", text)
    assert not re.search(r"(?m)^PrivateDevices=(yes|true)", text)


def test_every_group_of_the_unit_is_created_by_sysusers() -> None:
    created = set(re.findall(r"(?m)^[ug] +(\S+)", (SYSTEMD / "lineside.sysusers").read_text()))
    wanted = {*unit_values("User"), *unit_values("Group"), *" ".join(unit_values("SupplementaryGroups")).split()}
    assert wanted <= created, "a group that does not exist keeps the unit from starting"


def test_every_group_of_the_udev_rules_is_one_of_the_unit() -> None:
    groups = set(re.findall(r'GROUP="([^"]+)"', RULES.read_text()))
    assert groups <= set(" ".join(unit_values("SupplementaryGroups")).split())


def test_the_unit_is_plain_enough_for_other_parsers() -> None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=False, delimiters=("=",))
    parser.read(UNIT)
    assert parser["Service"]["type"] == "notify"
    assert parser["Service"]["execstart"] == "/opt/lineside/bin/lineside run /etc/lineside/lineside.toml"


def test_udev_accepts_the_rules() -> None:
    udevadm = shutil.which("udevadm")
    verifies = udevadm and "verify" in subprocess.run([udevadm, "--help"], capture_output=True, text=True).stdout
    if verifies:
        done = subprocess.run([str(udevadm), "verify", str(RULES)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    text = re.sub(r"\\\n\s*", " ", RULES.read_text())
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(rules) == 5
    term = r'[A-Z]+(\{[\w/.]+\})?(==|!=|=|\+=|:=)"[^"]*"'  # udev(7); udevadm knows `verify` only from 254 on
    for rule in rules:
        assert re.fullmatch(rf"{term}(,\s+{term})*", rule), rule
        assert "==" in rule, f"matches every device: {rule}"
        assert re.search(r'(GROUP=|SYMLINK\+=)"', rule), f"does nothing: {rule}"
