#!/usr/bin/env bash
# Sets up an ARM64 Python with lineside's runtimes in .venv-arm, run by qemu's user emulation: for `make test-arm`.
# Debian's arm64 packages are unpacked, not installed: no chroot, no foreign dpkg, no root. About 600 MB, half a minute;
# a stamp says of what it was made: the next time costs nothing.
#   .venv-arm/bin/python     a Python like that of any other venv, its children included; a Cortex-A76 (Raspberry Pi 5)
#   .venv-arm/bin/lineside   this tree's lineside in it
#   .venv-arm/cortex-a53/bin/python   the same on another processor; also cortex-a72 (Raspberry Pi 4) and cortex-a76
# The package of the emulator holds that of x86-64, too, which tools/setup_cpus.sh uses: .venv-arm/qemu-x86_64.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
venv=$PWD/.venv-arm
root=$venv/root

say() { printf '==> %s\n' "$*" >&2; }

twice() { # a download that fails is tried once more
  "$@" && return
  say "that failed; trying once more in 5 s"
  sleep 5
  "$@"
}

# the same versions that the tests on this machine import: answers are compared
mapfile -t wheels < <("$PYTHON" -m pip --disable-pip-version-check list --format freeze |
  grep -E '^(numpy|opencv-python-headless|paho-mqtt|pydantic|PyNaCl|onnxruntime|ai-edge-litert|openvino|iotcore)==' -i)
debs=(python3-minimal libpython3-stdlib libgomp1 libstdc++6 "qemu-user-static:$(dpkg --print-architecture)")
made_of="$(cksum <tools/setup_arm.sh) ${wheels[*]}"
[[ $(cat "$venv/ready" 2>/dev/null) != "$made_of" ]] || exit 0
rm -rf "$venv"
mkdir -p "$venv"/{bin,apt/lists/partial,apt/archives/partial} "$root"

say "downloading Debian's arm64 Python and qemu"
: >"$venv/apt/status"
cat >"$venv/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; "$(dpkg --print-architecture)"; };
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "$venv/apt";
Dir::State::status "$venv/apt/status";
Dir::Cache "$venv/apt";
CONF
export APT_CONFIG=$venv/apt.conf
apt-get -qq update || say "not every package list could be had; trying with those that could"
twice apt-get -qq --yes --download-only install "${debs[@]}" >/dev/null

say "unpacking them"
emulators() { # $1: package; keeps the emulators in it that are no links: qemu-user-static's, from Debian 13 on qemu-user's
  local unpacked=$venv/qemu arch name
  mkdir -p "$unpacked"
  dpkg-deb --fsys-tarfile "$1" | tar -x -C "$unpacked" --wildcards './usr/bin/qemu-aarch64*' './usr/bin/qemu-x86_64*'
  for arch in aarch64 x86_64; do
    for name in "$unpacked/usr/bin/qemu-$arch-static" "$unpacked/usr/bin/qemu-$arch"; do
      [[ ! -f $name || -L $name ]] || mv "$name" "$venv/qemu-$arch"
    done
  done
  rm -rf "$unpacked"
}
for deb in "$venv"/apt/archives/*.deb; do
  case $deb in
    */qemu-user*) emulators "$deb" || true ;; # one that holds links only
    *) dpkg-deb -x "$deb" "$root" ;;
  esac
done
rm -rf "$venv/apt"

# What the runtimes read of a processor: without it they see the host's, and take kernels that give wrong INT8 answers.
identify() { # $1: root; $2: main ID register; $3: its part number; $4: variant; $5: revision; $6: features
  local core cpu
  mkdir -p "$1/proc"
  for ((core = 0; core < $(nproc); core++)); do
    cpu=$1/sys/devices/system/cpu/cpu$core/regs/identification
    mkdir -p "$cpu"
    echo "$2" >"$cpu/midr_el1"
    printf '%s\t: %s\n' processor "$core" BogoMIPS 108.00 Features "$6" "CPU implementer" 0x41 \
      "CPU architecture" 8 "CPU variant" "$4" "CPU part" "$3" "CPU revision" "$5"
    echo
  done >"$1/proc/cpuinfo"
}
old="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
identify "$root" 0x00000000414fd0b1 0xd0b 0x4 1 \
  "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
identify "$venv/roots/cortex-a53" 0x00000000410fd034 0xd03 0x0 4 "$old"
identify "$venv/roots/cortex-a72" 0x00000000410fd083 0xd08 0x0 3 "$old"
ln -sfn "$root" "$venv/roots/cortex-a76"
for cpu in cortex-a53 cortex-a72; do # all else is the same
  for entry in "$root"/*; do
    case ${entry##*/} in proc | sys) ;; *) ln -sfn "$entry" "$venv/roots/$cpu/${entry##*/}" ;; esac
  done
done

binary=$(readlink -f "$root/usr/bin/python3")
version=${binary##*/python}
board() { # $1: folder; $2: processor
  mkdir -p "$1/bin"
  cat >"$1/pyvenv.cfg" <<CFG
home = $root/usr/bin
include-system-site-packages = false
version = $version
CFG
  # a script, so that the host can start it again when the emulated Python starts a child by sys.executable
  cat >"$1/bin/python" <<RUN
#!/bin/sh
exec "$venv/qemu-aarch64" -cpu $2 -L "$venv/roots/$2" -0 "$1/bin/python" "$binary" "\$@"
RUN
  chmod +x "$1/bin/python"
}
board "$venv" cortex-a76
for cpu in cortex-a53 cortex-a72 cortex-a76; do
  board "$venv/$cpu" "$cpu"
  mkdir -p "$venv/$cpu/lib/python$version"
  ln -sfn "$venv/lib/python$version/site-packages" "$venv/$cpu/lib/python$version/site-packages"
done
cat >"$venv/bin/lineside" <<RUN
#!/bin/sh
PYTHONPATH="$PWD/runtime" exec "$venv/bin/python" -m lineside.cli "\$@"
RUN
chmod +x "$venv/bin/lineside"

say "installing ${wheels[*]} for arm64"
platforms=(--platform manylinux2014_aarch64)
for ((minor = 17; minor <= 36; minor++)); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
twice "$PYTHON" -m pip --disable-pip-version-check install --quiet --no-input --no-compile --upgrade \
  --target "$venv/lib/python$version/site-packages" "${platforms[@]}" --implementation cp --python-version "$version" \
  --only-binary :all: "${wheels[@]}"
say "Python $("$venv/bin/python" -c 'import platform; print(platform.python_version(), "on", platform.machine())')"
printf '%s' "$made_of" >"$venv/ready"
