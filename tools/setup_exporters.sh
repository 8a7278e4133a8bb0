#!/usr/bin/env bash
# Sets up the venvs in which tests/test_exporters.py runs the projects that export models, each in one of its own under
# out/venvs: lineside never imports them (Ultralytics is AGPL). A stamp says with what a venv was made: the next time
# costs nothing. About 5 GB and five minutes.
#   tools/setup_exporters.sh [ultralytics|tensorflow|anomalib ...]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

# Without their dependencies: torchvision would bring the CUDA build of torch (tests/exporters/torchvision_cpu.py makes
# it run beside the CPU build), tf-keras and what needs it another TensorFlow, Model Garden text packages.
torch=("torch==2.13.0" -- "torchvision==0.28.0")
ultralytics=("${torch[@]}" -- ultralytics-opencv-headless==8.4.190 opencv-python-headless==5.0.0.93
  onnx==1.22.0 onnxruntime==1.31.1 onnxslim openvino==2026.4.1)
anomalib=("${torch[@]}" -- anomalib==2.7.0 onnx==1.23.2 onnxscript openvino==2026.4.1)
tensorflow=(tensorflow-cpu==2.20.0 tensorflow-datasets gin-config pyyaml
  opencv-python-headless pycocotools scipy pandas psutil immutabledict matplotlib
  -- tf-keras==2.20.1 tensorflow-model-optimization==0.8.1 tensorflow-hub tf-slim tf-models-official==2.20.0)

say() { printf '==> %s\n' "$*" >&2; }

# groups of packages with a bare -- between: the second one is installed without its dependencies
fill() { # $1: venv, then its packages
  local venv=$1 group=() number=1 package
  shift
  for package in "$@" --; do
    if [[ $package != -- ]]; then
      group+=("$package")
      continue
    fi
    local options=(--disable-pip-version-check --no-input --quiet)
    ((number != 2)) || options+=(--no-deps)
    "$venv/bin/python" -m pip install "${options[@]}" "${group[@]}" ||
      { say "pip failed; trying once more"; "$venv/bin/python" -m pip install "${options[@]}" "${group[@]}"; }
    group=()
    number=$((number + 1))
  done
}

for name in "${@:-ultralytics tensorflow anomalib}"; do
  for each in $name; do
    [[ $each =~ ^(ultralytics|tensorflow|anomalib)$ ]] || { say "unknown: $each; known are ultralytics tensorflow anomalib"; exit 64; }
    declare -n packages=$each
    venv=out/venvs/$each
    if [[ $(cat "$venv/ready" 2>/dev/null) == "${packages[*]}" ]]; then
      continue
    fi
    say "venv $venv (a minute or two)"
    "$PYTHON" -m venv --clear "$venv"
    fill "$venv" "${packages[@]}"
    printf '%s' "${packages[*]}" >"$venv/ready"
  done
done
