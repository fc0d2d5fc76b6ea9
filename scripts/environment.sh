#!/usr/bin/env bash
# Make .venv with the pinned requirements; instant, and without a network, where it already has them.
#   scripts/environment.sh [requirements-cuda120.txt]     PYTHON=python3.12 scripts/environment.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

requirements=${1:-requirements-dev.txt}
python=${PYTHON:-python3.11}
stamp=.venv/installed.sha256

[[ -f $requirements ]] || { echo "error: $requirements does not exist" >&2; exit 1; }
wanted="$requirements $(cat requirements*.txt | sha256sum | cut -d ' ' -f 1)"
if [[ -x .venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi

command -v "$python" >/dev/null || {
    echo "error: $python is not installed; set PYTHON to a Python of version 3.11 or later" >&2
    exit 1
}
echo "installing $requirements into .venv"
rm -f "$stamp"  # an interrupted installation is not taken for a whole one
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
echo "$wanted" >"$stamp"
