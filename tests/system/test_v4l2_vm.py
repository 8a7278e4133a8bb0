"""Boots a kernel that has a camera (its own `vivid` driver) and runs the tests of the v4l2 driver there.

Needs qemu, busybox and a Debian kernel with modules; the cloud kernel has no vivid. LINESIDE_KERNEL_ROOT may name a
folder into which the kernel package was unpacked. The machine sees this one's files through 9p, read-only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "qemu-system-x86 busybox-static kmod cpio linux-image-amd64"
MODULES = ("vivid", "9p", "9pnet_virtio", "virtio_pci")
CAMERA = "n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0 multiplanar=1"
INIT = f"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for module in /modules/*; do
  case $module in *vivid*) $B insmod $module {CAMERA};; *) $B insmod $module;; esac
done
$B mount -t 9p -o trans=virtio,ro,version=9p2000.L,msize=1048576,cache=loose host /host
for kind in proc sysfs devtmpfs tmpfs; do
  case $kind in proc) at=proc;; sysfs) at=sys;; devtmpfs) at=dev;; tmpfs) at=run;; esac
  $B mount -t $kind $kind /host/$at
done
$B ip link set lo up
$B chroot /host /bin/sh -c "$($B cat /command)"
echo "EXIT=$?"
$B poweroff -f
"""


def kernel() -> tuple[Path, Path, str]:
    """(image, root of lib/modules, version) of a kernel with vivid; skips without."""
    root = Path(os.environ.get("LINESIDE_KERNEL_ROOT", "/"))
    for module in sorted(root.glob("lib/modules/*/kernel/drivers/media/test-drivers/vivid/vivid.ko*"), reverse=True):
        version = module.relative_to(root / "lib" / "modules").parts[0]
        image = root / "boot" / f"vmlinuz-{version}"
        if image.is_file() and module.suffix == ".ko":  # busybox loads no compressed modules
            return image, root, version
    pytest.skip(f"no kernel with the vivid driver: apt-get install {PACKAGES}, or set LINESIDE_KERNEL_ROOT")


def initramfs(folder: Path, root: Path, version: str, command: str) -> Path:
    """busybox, the modules in the order in which they load, and what to run."""
    tree = folder / "tree"
    for name in ("bin", "dev", "proc", "sys", "host", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin" / "busybox")
    if not (root / "lib" / "modules" / version / "modules.dep").is_file():
        subprocess.run(["depmod", "-b", str(root), version], check=True)
    wanted: list[str] = []
    for name in MODULES:
        listing = subprocess.run(
            ["modprobe", "-d", str(root), "-S", version, "--show-depends", name],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        wanted += [line.split()[1] for line in listing.splitlines() if line.startswith("insmod")]
    for position, module in enumerate(dict.fromkeys(wanted)):
        shutil.copy(module, tree / "modules" / f"{position:02}-{Path(module).name}")
    (tree / "command").write_text(command)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    packed = folder / "initramfs"
    with packed.open("wb") as file:
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        subprocess.run(
            ["cpio", "-o", "-H", "newc"],
            input=names.encode(),
            stdout=file,
            stderr=subprocess.DEVNULL,
            cwd=tree,
            check=True,
        )
    return packed


@pytest.mark.timeout(420)
def test_the_v4l2_driver_passes_its_tests_on_a_kernels_own_camera(tmp_path: Path) -> None:
    image, root, version = kernel()
    missing = [name for name in ("qemu-system-x86_64", "busybox", "modprobe", "cpio") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: apt-get install {PACKAGES}")
    tests = "tests/test_cameras_v4l2.py 'tests/contracts/test_camera.py'"
    command = (
        f"cd {ROOT} && export LINESIDE_VIDEO_DEVICE=/dev/video0 PYTHONDONTWRITEBYTECODE=1 HOME=/run TMPDIR=/run && "
        f"{sys.executable} -m pytest {tests} -k 'v4l2 and not rtsp' -p no:cacheprovider -p no:xdist "
        f"--basetemp=/run/pytest --timeout=300 --color=no --tb=short"
    )
    machine = subprocess.run(
        [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "768", "-smp", "2",
            "-display", "none", "-net", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", str(image), "-initrd", str(initramfs(tmp_path, root, version, command)),
            "-append", "console=ttyS0 quiet panic=-1",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=400,
    )  # fmt: skip
    assert "EXIT=0" in machine.stdout, machine.stdout[-6000:] + machine.stderr[-2000:]
    passed = re.search(r"(\d+) passed", machine.stdout)
    assert passed, machine.stdout[-2000:]
    assert int(passed[1]) >= 20, machine.stdout[-2000:]
