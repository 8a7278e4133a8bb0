#!/usr/bin/env bash
# Sets up the venvs in which tests/test_exporters.py runs the projects that export models, each in one of its own under
# out/venvs: lineside never imports them (Ultralytics is AGPL). A stamp says with what a venv was made: the next time
# costs nothing. A project that cannot be installed leaves its reason in out/venvs/NAME.failed, and the others go on.
# About 10 GB and fifteen minutes.
#   tools/setup_exporters.sh [ultralytics|tensorflow|anomalib|torch|huggingface|rfdetr|super-gradients ...]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

# Without their dependencies: torchvision would bring the CUDA build of torch (tests/exporters/torchvision_cpu.py makes
# it run beside the CPU build), tf-keras and what needs it another TensorFlow, Model Garden text packages, and
# super-gradients pins packages of 2022 that have no wheels for this Python.
torch_cpu=("torch==2.13.0" -- "torchvision==0.28.0")
declare -A packages=(
  [ultralytics]="${torch_cpu[*]} -- ultralytics-opencv-headless==8.4.190 opencv-python-headless==5.0.0.93
    onnx==1.22.0 onnxruntime==1.31.1 onnxslim openvino==2026.4.1"
  [anomalib]="${torch_cpu[*]} -- anomalib==2.7.0 onnx==1.23.2 onnxscript openvino==2026.4.1"
  [tensorflow]="tensorflow-cpu==2.20.0 tensorflow-datasets gin-config pyyaml
    opencv-python-headless pycocotools scipy pandas psutil immutabledict matplotlib
    -- tf-keras==2.20.1 tensorflow-model-optimization==0.8.1 tensorflow-hub tf-slim tf-models-official==2.20.0"
  [torch]="torch==2.13.0 numpy pillow onnx==1.22.0 onnxruntime==1.31.1 onnxscript huggingface_hub safetensors pyyaml
    -- torchvision==0.28.0 timm==1.0.31"
  [huggingface]="torch==2.13.0 optimum-onnx[onnxruntime]==0.1.0 pillow -- torchvision==0.28.0"
  [rfdetr]="torch==2.13.0 transformers>=5.1,<6 onnx==1.22.0 onnxruntime==1.31.1 onnxscript requests tqdm pydantic
    pyDeprecate>=0.9,<0.10 scipy pillow matplotlib opencv-python-headless defusedxml pyyaml
    -- torchvision==0.28.0 rfdetr==1.11.2 supervision"
  [super-gradients]="torch==2.13.0 numpy==1.26.4 opencv-python-headless==4.10.0.84 pillow scipy matplotlib psutil tensorboard
    omegaconf hydra-core onnx==1.17.0 onnxruntime==1.20.1 jsonschema Deprecated boto3 termcolor einops rapidfuzz tqdm
    packaging setuptools<81 pygments json-tricks requests pandas seaborn
    -- torchvision==0.28.0 super-gradients==3.7.1 data-gradients torchmetrics==0.8.0 treelib albumentations==1.3.1
    qudida scikit-learn joblib threadpoolctl scikit-image imageio lazy_loader stringcase onnxsim"
)
order="ultralytics tensorflow anomalib torch huggingface rfdetr super-gradients"
optional="super-gradients"

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
      { say "pip failed; trying once more"; "$venv/bin/python" -m pip install "${options[@]}" "${group[@]}"; } || return 1
    group=()
    number=$((number + 1))
  done
}

failed=0
for name in ${*:-$order}; do
  [[ -v packages[$name] ]] || { say "unknown: $name; known are $order"; exit 64; }
  venv=out/venvs/$name
  read -ra wanted <<<"${packages[$name]//$'\n'/ }"
  if [[ $(cat "$venv/ready" 2>/dev/null) == "${wanted[*]}" ]]; then
    continue
  fi
  say "venv $venv (a minute or two)"
  rm -f "$venv.failed"
  "$PYTHON" -m venv --clear "$venv"
  if fill "$venv" "${wanted[@]}" 2> >(tee "$venv.pip" >&2); then
    printf '%s' "${wanted[*]}" >"$venv/ready"
  else
    grep -E '^ERROR' "$venv.pip" | tail -n 1 >"$venv.failed" || true
    say "venv $venv: not made: $(cat "$venv.failed")"
    [[ " $optional " == *" $name "* ]] || failed=1
  fi
  rm -f "$venv.pip"
done
exit $failed
