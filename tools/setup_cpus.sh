#!/usr/bin/env bash
# Sets up a Python for each processor that the shipped models are tried on: for `make test-cpus`. A Debian on x86-64.
#   .venv-cpus/Haswell/bin/python              this tree's .venv under qemu's user emulation of that processor
#   .venv-cpus/Haswell-onnxruntime/bin/python  the same where ONNX Runtime is the only runtime that is installed
#   .venv-arm/cortex-a53/bin/python            an ARM64 one; tools/setup_arm.sh, which this runs first
# A child that such a Python starts by sys.executable is emulated, too: the launcher passes its own name on.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
venv=$PWD/.venv-cpus
tools/setup_arm.sh

real=$(readlink -f "$PYTHON")
site=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$("$real" -c 'import sys; print("{}.{}".format(*sys.version_info))')

launchers() { # $1: folder; $2: its site-packages; $3...: what runs the real Python, or nothing for this machine itself
  local folder=$1 site=$2
  shift 2
  mkdir -p "$folder/bin" "$folder/lib/python$version"
  ln -sfn "$site" "$folder/lib/python$version/site-packages"
  printf '%s\n' "home = $(dirname "$real")" "include-system-site-packages = false" >"$folder/pyvenv.cfg"
  if (($# == 0)); then
    ln -sf "$real" "$folder/bin/python"
    return
  fi
  printf '#!/bin/sh\nexec %s -0 "%s" "%s" "$@"\n' "$*" "$folder/bin/python" "$real" >"$folder/bin/python"
  chmod +x "$folder/bin/python"
}

without_the_others() { # $1: site-packages; $2: where links to all of it but LiteRT and OpenVINO go
  mkdir -p "$2"
  local entry
  for entry in "$1"/*; do
    case ${entry##*/} in openvino* | ai_edge_litert* | tflite_runtime*) ;; *) ln -s "$entry" "$2/" ;; esac
  done
}

rm -rf "$venv"
mkdir -p "$venv"
ln "$PWD/.venv-arm/qemu-x86_64" "$venv/qemu-x86_64"
without_the_others "$site" "$venv/onnxruntime-only"
# what the emulator cannot do is left out by name, else it warns of it at every start
haswell=Haswell,-rtm,-hle,-pcid,-x2apic,-tsc-deadline,-invpcid
for only in "" -onnxruntime; do
  packages=$site
  [[ $only ]] && packages=$venv/onnxruntime-only
  launchers "$venv/host$only" "$packages"
  launchers "$venv/Nehalem$only" "$packages" "\"$venv/qemu-x86_64\" -cpu Nehalem"
  launchers "$venv/Haswell$only" "$packages" "\"$venv/qemu-x86_64\" -cpu $haswell"
done

arm=$PWD/.venv-arm
arm_site=$(echo "$arm"/lib/python3*/site-packages)
rm -rf "$arm/onnxruntime-only"
without_the_others "$arm_site" "$arm/onnxruntime-only"
for cpu in cortex-a53 cortex-a72 cortex-a76; do
  folder=$arm/$cpu-onnxruntime
  rm -rf "$folder"
  mkdir -p "$folder/bin" "$folder/lib/$(basename "$(dirname "$arm_site")")"
  ln -s "$arm/onnxruntime-only" "$folder/lib/$(basename "$(dirname "$arm_site")")/site-packages"
  cp "$arm/$cpu/pyvenv.cfg" "$folder/"
  sed "s|$arm/$cpu/bin/python|$folder/bin/python|" "$arm/$cpu/bin/python" >"$folder/bin/python"
  chmod +x "$folder/bin/python"
done
