"""What `board.read` makes of /proc and /sys, and which profile it matches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lineside.errors import ConfigError
from lineside.hal import board, profile

BOARDS = Path(__file__).parent / "recorded_boards"


def put(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def eight_cores(root: Path) -> None:
    put(root, "proc/cpuinfo", "".join(f"processor\t: {number}\nvendor_id\t: AuthenticAMD\n\n" for number in range(8)))


@pytest.mark.parametrize("name", sorted(path.name for path in BOARDS.iterdir() if path.is_dir()))
def test_each_recorded_board_matches_the_profile_of_its_name(name: str) -> None:
    assert profile.match(board.read(BOARDS / name)).name == name


def test_an_unplugged_coral_leaves_the_plain_raspberry_pi_profile() -> None:
    seen = board.read(BOARDS / "raspberry-pi-5-coral-usb")
    assert profile.match(replace(seen, usb=seen.usb - {"1a6e:089a"})).name == "raspberry-pi-5"
    assert profile.match(replace(seen, usb=seen.usb | {"18d1:9302"})).name == "raspberry-pi-5-coral-usb"


def test_an_unknown_machine_gets_the_generic_profile() -> None:
    seen = board.read(BOARDS / "x86-cpu")
    assert profile.match(replace(seen, arch="riscv64")).name == "generic"


@pytest.mark.parametrize(
    ("affinity", "group", "quota", "cores"),
    [
        ("0-7", "", "", 8),
        ("0,2-3", "", "", 3),
        ("0-7", "0::/system.slice/lineside.service", "250000 100000", 2),
        ("0-7", "0::/system.slice/lineside.service", "50000 100000", 1),
        ("0-7", "0::/system.slice/lineside.service", "max 100000", 8),
        ("1", "0::/system.slice/lineside.service", "400000 100000", 1),
    ],
)
def test_cores_are_those_that_affinity_and_cgroup_allow(
    affinity: str, group: str, quota: str, cores: int, tmp_path: Path
) -> None:
    eight_cores(tmp_path)
    put(tmp_path, "proc/self/status", f"Name:\tpython\nCpus_allowed_list:\t{affinity}\n")
    put(tmp_path, "proc/self/cgroup", group + "\n")
    put(tmp_path, "sys/fs/cgroup/system.slice/lineside.service/cpu.max", quota + "\n")
    assert board.allowed_cores(tmp_path) == cores
    assert board.read(tmp_path).cores == 8


def test_a_quota_of_a_group_above_ours_counts_too(tmp_path: Path) -> None:
    eight_cores(tmp_path)
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    put(tmp_path, "sys/fs/cgroup/a/cpu.max", "300000 100000\n")
    put(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    put(tmp_path, "proc/meminfo", "MemTotal:       8000000 kB\n")
    put(tmp_path, "sys/fs/cgroup/a/memory.max", str(512 << 20))
    seen = board.read(tmp_path)
    assert (seen.cores_allowed, seen.memory_allowed_mb) == (3, 512)


def test_a_quota_of_cgroup_version_1_counts(tmp_path: Path) -> None:
    eight_cores(tmp_path)
    put(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/box\n3:memory:/box\n")
    put(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "200000")
    put(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000")
    assert board.allowed_cores(tmp_path) == 2


def test_of_zones_with_one_name_the_hottest_counts_and_a_sleeping_one_not(tmp_path: Path) -> None:
    for number, (name, temp) in enumerate([("acpitz", "27800"), ("acpitz", "61000"), ("gpu-thermal", "")]):
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", name)
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", temp)
    assert board.temperatures(tmp_path) == {"acpitz": 61.0}


def test_thermal_limits_look_at_the_profiles_own_zones_only() -> None:
    thermal = profile.Thermal(zones=("cpu*",), warn_c=80, critical_c=90)
    assert thermal.state({"cpu-thermal": 85.0, "PMIC-Die": 100.0}) == ("warn", 85.0)
    assert thermal.state({"cpu-thermal": 90.0}) == ("critical", 90.0)
    assert thermal.state({"cpu-thermal": 79.9}) == ("ok", 79.9)
    assert thermal.state({"PMIC-Die": 100.0}) == ("unknown", None)


def test_a_profile_with_a_misspelt_key_or_crossed_limits_is_refused_by_its_path(tmp_path: Path) -> None:
    text = (profile.shipped("device_profiles") / "x86-cpu.toml").read_text()
    put(tmp_path, "mine.toml", text.replace("warn_c = 90", "warn_c = 99"))
    with pytest.raises(ConfigError, match="must be below critical_c"):
        profile.find(str(tmp_path / "mine.toml"))
    put(tmp_path, "mine.toml", text.replace("device =", "devise =", 1))
    with pytest.raises(ConfigError, match=r"mine.toml: backend.0.devise"):
        profile.find(str(tmp_path / "mine.toml"))
    with pytest.raises(ConfigError, match="known are arm-cpu"):
        profile.find("raspberry-pie")
