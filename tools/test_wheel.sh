#!/usr/bin/env bash
# Runs the tests against the installed wheel, from a folder outside the tree that holds no runtime/, models/ or
# device_profiles/: whatever a test finds there, the wheel brought.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$PWD
folder=$(mktemp -d -t lineside-wheel-XXXXXX)
trap 'rm -rf "$folder"' EXIT

echo "==> building and installing the wheel in $folder" >&2
tools/wheel_venv.sh "$folder"
mkdir "$folder/outside"
cp -r tests tools docs systemd pyproject.toml Makefile "$folder/outside"
cd "$folder/outside"
export LINESIDE_DATA=${LINESIDE_DATA:-$tree/../shared/data}
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys, lineside
assert lineside.__file__.startswith(sys.argv[1]), f"not the wheel: {lineside.__file__}"
PYTHON
# Not here: what looks at the tree itself, or makes a wheel or a container of its own.
"$folder/venv/bin/python" -m pytest -n 2 --dist loadfile -p no:cacheprovider -m "not exporter and not slow and not arm" \
  --ignore tests/test_architecture.py --ignore tests/test_wheel.py --ignore tests/test_prove_cpus.py \
  --ignore tests/system "$@"
