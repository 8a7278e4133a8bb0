"""What this box is: read from /proc, /sys and /dev below a root, so that a recorded tree can stand for a board."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Zone:
    """One temperature sensor of the kernel."""

    name: str  # "cpu-thermal", "x86_pkg_temp"
    path: str
    temp_c: float | None  # None: the sensor sleeps or refuses


@dataclass(frozen=True, slots=True)
class Board:
    """What profiles match and `probe` prints. Ids are "vendor:device", four lower-case hex digits each."""

    model: str  # device-tree model, or the mainboard's DMI name
    compatible: tuple[str, ...]  # device-tree, most specific first
    arch: str  # "x86_64", "aarch64", "armv7l"
    cpu: str
    cores: int  # of the machine
    cores_allowed: int  # by affinity and cgroup quota
    memory_mb: int
    memory_allowed_mb: int  # by the cgroup
    pci: frozenset[str]
    usb: frozenset[str]
    dev: frozenset[str]  # accelerator and GPU nodes below /dev
    zones: tuple[Zone, ...]


def read(root: Path = ROOT) -> Board:
    """Look at the box. What cannot be read is empty or 0, never an error: hardening hides some of it."""
    cpuinfo = _text(root / "proc/cpuinfo")
    tree = root / "proc/device-tree"
    memory_mb = _memory_mb(root)
    limits = [
        _number(folder / name) for folder, name in _cgroups(root, "memory", "memory.max", "memory.limit_in_bytes")
    ]
    allowed = [limit >> 20 for limit in limits if limit is not None]
    return Board(
        model=_string(tree / "model") or _dmi(root),
        compatible=tuple(name for name in _text(tree / "compatible").split("\0") if name),
        arch=_arch(cpuinfo),
        cpu=_cpu(cpuinfo),
        cores=max(1, _count(cpuinfo, "processor")),
        cores_allowed=allowed_cores(root),
        memory_mb=memory_mb,
        memory_allowed_mb=min([memory_mb, *allowed]),
        pci=_ids(root / "sys/bus/pci/devices", "vendor", "device"),
        usb=_ids(root / "sys/bus/usb/devices", "idVendor", "idProduct"),
        dev=_nodes(root / "dev"),
        zones=_zones(root),
    )


def allowed_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: its affinity, and no more than its cgroup's quota pays for.

    A quota of 1.5 cores gives 1: with two threads the group is throttled, and that is a hole in every period.
    """
    listed = _field(_text(root / "proc/self/status"), "Cpus_allowed_list")
    count = _listed(listed) if listed else _count(_text(root / "proc/cpuinfo"), "processor")
    quotas = [_quota(folder, name) for folder, name in _cgroups(root, "cpu", "cpu.max", "cpu.cfs_quota_us")]
    return max(1, int(min([count, *(quota for quota in quotas if quota is not None)])))


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Zone name to degrees Celsius; of zones with one name the hottest."""
    hottest: dict[str, float] = {}
    for zone in _zones(root):
        if zone.temp_c is not None:
            hottest[zone.name] = max(zone.temp_c, hottest.get(zone.name, zone.temp_c))
    return hottest


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _string(path: Path) -> str:
    return _text(path).strip("\0 \n")


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


def _count(text: str, name: str) -> int:
    return sum(line.partition(":")[0].strip() == name for line in text.splitlines())


def _arch(cpuinfo: str) -> str:
    if _field(cpuinfo, "vendor_id"):
        return "x86_64"
    arm = _field(cpuinfo, "CPU architecture")
    if arm:
        return "aarch64" if arm in ("8", "AArch64") else f"armv{arm}l"
    return platform.machine()


# CPU implementer and part of /proc/cpuinfo on Arm, from the kernel's arch/arm64/include/asm/cputype.h
_ARM_CPUS = {
    ("0x41", "0xd03"): "Arm Cortex-A53",
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x4e", "0x003"): "NVIDIA Denver 2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def _cpu(cpuinfo: str) -> str:
    name = _field(cpuinfo, "model name")
    if name:
        return name
    part = (_field(cpuinfo, "CPU implementer"), _field(cpuinfo, "CPU part"))
    return _ARM_CPUS.get(part, f"Arm {part[0]}:{part[1]}" if part[0] else "unknown")


def _dmi(root: Path) -> str:
    names = (_string(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(name for name in names if name)


def _memory_mb(root: Path) -> int:
    total = _field(_text(root / "proc/meminfo"), "MemTotal").split()
    return int(total[0]) // 1024 if total else 0


def _listed(text: str) -> int:
    """How many "0-3,6" are."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _cgroups(root: Path, controller: str, v2: str, v1: str) -> list[tuple[Path, str]]:
    """The limit files of this process's group and of every group above it, for cgroup v2 and v1."""
    found: list[tuple[Path, str]] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            top, name = root / "sys/fs/cgroup", v2
        elif controller in controllers.split(","):
            top, name = root / "sys/fs/cgroup" / controller, v1
        else:
            continue
        inner = top / path.lstrip("/")
        found += [(folder, name) for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return found


def _quota(folder: Path, name: str) -> float | None:
    if name == "cpu.max":
        quota, _, period = _string(folder / name).partition(" ")
    else:
        quota, period = _string(folder / name), _string(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _number(path: Path) -> int | None:
    text = _string(path)
    return int(text) if text.isdigit() else None


def _ids(folder: Path, vendor: str, device: str) -> frozenset[str]:
    found = set()
    for entry in _list(folder):
        ids = [_string(entry / name).removeprefix("0x").lower() for name in (vendor, device)]
        if all(ids):
            found.add(":".join(ids))
    return frozenset(found)


def _nodes(dev: Path) -> frozenset[str]:
    names = [
        entry.name for entry in _list(dev) if entry.name.startswith(("apex_", "nvidia", "nvhost-", "nvmap", "hailo"))
    ]
    names += [f"{folder}/{entry.name}" for folder in ("accel", "dri") for entry in _list(dev / folder)]
    return frozenset(name for name in names if not name.startswith("dri/by-"))


def _zones(root: Path) -> tuple[Zone, ...]:
    zones = []
    for entry in _list(root / "sys/class/thermal"):
        if entry.name.startswith("thermal_zone"):
            text = _string(entry / "temp")
            value = int(text) / 1000 if text.lstrip("-").isdigit() else None
            zones.append(Zone(_string(entry / "type") or entry.name, str(entry), value))
    return tuple(zones)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def disk(folder: Path) -> dict[str, object]:
    """Room on the disk that holds this folder, or the nearest one above it; empty where it cannot be told."""
    for place in (folder, *folder.parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return {}
        size_bytes = found.f_blocks * found.f_frsize
        return {"path": str(place), "free_bytes": found.f_bavail * found.f_frsize, "size_bytes": size_bytes}
    return {}
