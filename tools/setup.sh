#!/usr/bin/env bash
# Sets up what a make target needs, and leaves a stamp so that the next time costs nothing.
#   tools/setup.sh demo     .venv with the extra `demo`, in the versions of constraints.txt
#   tools/setup.sh dev      .venv with everything that the tests and checks import, in the same versions
#   tools/setup.sh legacy   .venv-legacy with the old tflite_runtime that Coral boxes have (where there is a Python 3.11)
#   tools/setup.sh arm      .venv-arm: an emulated ARM64 Python with lineside's runtimes (on Debian); see setup_arm.sh
#   tools/setup.sh cpus     .venv-cpus: this Python on emulated processors of other kinds; see setup_cpus.sh
#   tools/setup.sh js       tests/js/node_modules, the tests' peers in JavaScript (where there is npm)
#   tools/setup.sh system   Debian packages of the tests' real peers (broker, cameras, systemd); named if not installable
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=.venv
STAMPS=$VENV/.lineside
CONSTRAINTS=tools/constraints.txt

# The real peers of tests/: a broker, promtool, pseudo serial lines, an RTSP server, a booted systemd, a C compiler for a
# stand-in accelerator, Node for peers in JavaScript, an emulator of other processors. On a machine with systemd as
# PID 1, Debian starts the packaged mosquitto and prometheus; the tests start their own.
PACKAGES=(
  mosquitto prometheus socat openssl gcc libc6-dev e2fsprogs systemd systemd-container udev nodejs npm qemu-user
  python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
  gstreamer1.0-plugins-ugly
)

say() { printf '==> %s\n' "$*" >&2; }

find_python() { # the first Python that can make a virtual environment and fits $1, an expression; prints its path
  local name
  for name in "${PYTHON:-python3}" python3 /usr/bin/python3 python3.{14,13,12,11} /usr/bin/python3.11; do
    if "$name" -c "import sys, venv, ensurepip; sys.exit(not (sys.version_info[:2] $1))" 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

twice() { # a download that fails is tried once more
  "$@" && return
  say "that failed; trying once more in 5 s"
  sleep 5
  "$@"
}

make_venv() { # $1: extra
  if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    local python
    python=$(find_python '>= (3, 11)') || {
      say "no python3 >= 3.11 with venv found; on Debian and Ubuntu: apt install python3 python3-venv"
      return 1
    }
    say "virtual environment $VENV from $python ($("$python" --version))"
    "$python" -m venv --clear "$VENV"
  fi
  constrain
  say "installing lineside[$1] into $VENV (first time: a few minutes)"
  twice "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --editable ".[$1]"
}

constrain() { # pip installs the versions of constraints.txt, into its build environments too, where this Python has them
  local version
  version=$("$VENV/bin/python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
  if [[ " $(sed -n 's/^# for Python //p' "$CONSTRAINTS") " == *" $version "* ]]; then
    export PIP_CONSTRAINT=$CONSTRAINTS PIP_BUILD_CONSTRAINT=$CONSTRAINTS  # relative: pip splits at spaces
  else
    say "$CONSTRAINTS knows no Python $version: installing the newest versions, which nobody has tested together"
  fi
}

make_legacy() { # the last tflite_runtime is for Python 3.11 and numpy 1
  local python
  python=$(find_python '== (3, 11)') || {
    say "no Python 3.11: tests of the old tflite_runtime are skipped"
    return 0
  }
  say "installing the old tflite_runtime into .venv-legacy"
  "$python" -m venv --clear .venv-legacy
  twice .venv-legacy/bin/python -m pip install --disable-pip-version-check --no-input \
    'tflite-runtime>=2.14' 'numpy<2' 'opencv-python-headless<5' pydantic ||
    say "tests of the old tflite_runtime are skipped"
}

make_js() {
  if ! command -v npm >/dev/null; then
    say "no npm: tests with peers in JavaScript are skipped"
    return
  fi
  say "installing the packages of tests/js"
  twice npm ci --prefix tests/js --ignore-scripts --no-audit --no-fund
}

make_emulated() { # $1: what is skipped without; $2: the script that sets it up
  if ! command -v dpkg-deb apt-get >/dev/null || [[ $(dpkg --print-architecture) != amd64 ]]; then
    say "not a Debian on x86-64: $1 are skipped"
    return
  fi
  "$2"
}

install_packages() {
  local missing=() package apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q)
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian: tests that need one of these are skipped where it is absent: ${PACKAGES[*]}"
    return
  fi
  for package in "${PACKAGES[@]}"; do
    case $package in nodejs | npm) command -v "${package%js}" >/dev/null && continue ;; esac # often from elsewhere
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    if sudo -n true 2>/dev/null; then
      apt=(sudo "${apt[@]}")
    else
      say "tests that need one of these are skipped (no root, no sudo without password); apt install ${missing[*]}"
      return
    fi
  fi
  say "installing Debian packages: ${missing[*]}"
  local install=("${apt[@]}" install --yes --no-install-recommends) absent=()
  "${apt[@]}" update || true
  twice "${install[@]}" "${missing[@]}" && return
  say "not all of them can be installed together; trying one at a time"
  for package in "${missing[@]}"; do
    "${install[@]}" "$package" || absent+=("$package")
  done
  ((${#absent[@]})) || return 0
  say "tests that need one of these are skipped: ${absent[*]}"
}

case ${1:-} in
  demo | dev) make_venv "$1" ;;
  legacy) make_legacy ;;
  system) install_packages ;;
  js) make_js ;;
  arm) make_emulated "tests on an emulated ARM board" tools/setup_arm.sh ;;
  cpus) make_emulated "models on emulated processors" tools/setup_cpus.sh ;;
  *) say "usage: tools/setup.sh demo|dev|legacy|system|js|arm|cpus" && exit 64 ;;
esac
mkdir -p "$STAMPS"
touch "$STAMPS/$1"
