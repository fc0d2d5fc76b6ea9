#!/usr/bin/env bash
# Run every test, then the loader's once more under the oldest DALI that is installable for CUDA 13.
# Arguments go to pytest: scripts/test.sh -k resample. The last line adds both runs up.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

oldest=1.53.0
side=$PWD/.venv/dali-$oldest
triton=$PWD/.venv/triton
bash scripts/environment.sh || exit 1

# Packages without their needs, in a folder that is put before .venv's own: beside FOLDER PACKAGE...
beside() {
    local folder=$1
    shift
    [[ -f $folder/installed && $(<"$folder/installed") == "$*" ]] && return
    echo "installing $1 into $folder"
    rm -rf "$folder"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" "$@" || exit 1
    echo "$*" >"$folder/installed"
}

beside "$side" "nvidia-dali-cuda130==$oldest" gast==0.6.0 dm-tree==0.1.9 absl-py==2.3.1 wrapt==2.0.1
# .venv's nvidia package would hide this one: it gets the same standing, and keeps the others in reach.
echo '__path__ = __import__("pkgutil").extend_path(__path__, __name__)' >"$side/nvidia/__init__.py"
# PyTorch for CUDA brings its Triton, the CPU's brings none: its interpreter and compiler test the GPU's kernels.
if .venv/bin/python -c 'import triton' 2>/dev/null; then triton=""; else beside "$triton" triton==3.7.0; fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # two workers share the cores already
export PYTHONUTF8=1  # PyTorch's compiler reads its own files in the locale's encoding, which was ASCII in one run
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
failed=0

# Each run's name, search path and pytest arguments. Status 5, no test collected, is what a selection
# by "$@" may leave of one run; the sum below still refuses an empty total.
run() {
    local name=$1 path=$2
    shift 2
    echo "== tests under DALI $name"
    PYTHONPATH=$path .venv/bin/python -m pytest -n 2 --dist loadfile --junitxml "$reports/$name.xml" "$@"
    local status=$?
    [[ $status == 0 || $status == 5 ]] || failed=1
}

found=$(PYTHONPATH=$side .venv/bin/python -c 'import nvidia.dali; print(nvidia.dali.__version__)')
[[ $found == "$oldest" ]] || { echo "error: $side holds DALI '$found' instead of $oldest; delete it" >&2; exit 1; }
run current "$triton" "$@"
run "$oldest" "$side" -m loader "$@"

.venv/bin/python - "$reports" <<'PYTHON' || failed=1
import sys
from pathlib import Path
from xml.etree import ElementTree

suites = [suite for report in Path(sys.argv[1]).glob("*.xml") for suite in ElementTree.parse(report).iter("testsuite")]
count = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
failed = count["failures"] + count["errors"]
passed = count["tests"] - failed - count["skipped"]
print(f"{passed} passed, {failed} failed, {count['skipped']} skipped")
sys.exit(failed > 0 or passed == 0)
PYTHON
exit "$failed"
