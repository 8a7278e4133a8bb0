#!/usr/bin/env bash
# Builds the wheel and installs it, for whoever must see lineside as a user has it:
#   tools/wheel_venv.sh FOLDER   FOLDER/lineside-*.whl, and FOLDER/venv with that wheel
# The dependencies are borrowed from .venv by a .pth line, which runs no .pth file there: the editable install of this
# tree stays invisible.
set -euo pipefail
folder=$(realpath -m "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

mkdir -p "$folder"
rm -rf "$folder"/venv "$folder"/lineside-*.whl
"$python" -m build --wheel --no-isolation --outdir "$folder" . >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
"$python" -m venv --without-pip "$folder/venv"
site=$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/borrowed.pth"
"$python" -m pip --quiet --disable-pip-version-check --python "$folder/venv/bin/python" \
  install --no-deps --no-index "$folder"/lineside-*.whl
