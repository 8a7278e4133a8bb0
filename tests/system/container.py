"""A real systemd to test the service in: this machine's own root, read-only below an overlay in memory, in nspawn.

It boots in under a second, has a network of its own (loopback only), and leaves nothing behind: the overlay lives in a
mount namespace that ends with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

BOOT_S = 60.0
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

# Below the overlay nothing of this machine's own services starts: what the tests need, they start.
BOOT = r"""
set -eu
box=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$box"
mkdir "$box/upper" "$box/work" "$box/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$box/upper,workdir=$box/work" "$box/root"
find "$box/root/etc/systemd/system" -name '*.wants' -prune -exec rm -rf {} +
: > "$box/root/etc/machine-id"
exec systemd-nspawn --quiet --directory="$box/root" --boot --keep-unit --register=no --private-network \
  --console=pipe "$@" systemd.unit=multi-user.target
"""


def obstacle() -> str | None:
    """Why no container can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("systemd-nspawn", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"no {program}: apt install systemd-container util-linux"
    script = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w /mnt/r && "
        "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"
    )
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"this kernel or sandbox refuses an overlay of /: {tried.stderr.strip()}"


class Container:
    """A booted systemd. `binds`: read-only folders of this machine, {inside: outside}; `environ` is for all in it."""

    def __init__(self, folder: Path, binds: dict[str, Path], environ: dict[str, str]) -> None:
        self._environ = [f"{name}={value}" for name, value in environ.items()]
        self._box = folder / "box"
        self._box.mkdir(parents=True)
        self._console = folder / "console.log"
        options = [f"--bind-ro={outside.resolve()}:{inside}" for inside, outside in binds.items()]
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", BOOT, "boot", str(self._box), *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            self._leader = self._wait_for_boot()
        except BaseException:
            self.close()
            raise

    def _wait_for_boot(self) -> str:
        deadline = time.monotonic() + BOOT_S
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        while time.monotonic() < deadline and self._nspawn.poll() is None:
            for leader in children.read_text().split():
                if Path(f"/proc/{leader}/comm").read_text().strip() == "systemd":
                    self._leader = leader
                    if self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"):
                        if self._environ:
                            self.run("systemctl", "set-environment", *self._environ)
                        return leader
            time.sleep(0.05)
        raise RuntimeError(f"the container did not boot:\n{self._console.read_text(errors='replace')}")

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start a command as root in the container, output on a pipe; to kill the process here kills it there."""
        enter = self._enter("setpriv", "--pdeathsig", "KILL", *command)
        return subprocess.Popen(enter, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def call(self, *command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the container, whatever its exit status."""
        return subprocess.run(self._enter(*command), capture_output=True, text=True, timeout=timeout_s)

    def run(self, *command: str, timeout_s: float = 60.0) -> str:
        """Run a command as root in the container; what it prints. Raises AssertionError with its words if it fails."""
        done = self.call(*command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file in the container, world-readable as in /etc."""
        subprocess.run(
            self._enter("sh", "-c", f"umask 022; mkdir -p $(dirname {path}); cat > {path}"),
            input=text,
            text=True,
            check=True,
        )

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", "--unit", unit)

    def close(self) -> None:
        if self._nspawn.poll() is None:
            self._nspawn.terminate()  # nspawn hands SIGTERM on as a clean shutdown
            try:
                self._nspawn.wait(20)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()

    def _enter(self, *command: str) -> list[str]:
        clean = [
            "env",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            *self._environ,
        ]
        return ["nsenter", "--target", self._leader, *NAMESPACES, "--", *clean, *command]
