#!/usr/bin/env bash
# One verdict on this machine's GPU in ten minutes, on made-up data and without a network: see docs/gpu.md.
#   scripts/gpu_check.sh [--python PATH | --from-wheels DIR | both] [flags of python -m benchmarks.gpu_check --help]
#   scripts/gpu_check.sh --list-wheels [--cuda 13]
# --python: an environment that has what requirements.txt lists, such as a container's. --from-wheels: make one of local
# wheel files alone; with --python, on top of what that one has. Neither: .venv, made by scripts/environment.sh.
# Exit status: 0 all goals met, 1 one missed or something failed, 2 usage, 3 no GPU, 4 a part had no time.
set -euo pipefail

usage() { echo "error: $1" >&2; sed -n '3,4s/^# *//p' "$script" >&2; exit 2; }
script=$(readlink -f "${BASH_SOURCE[0]}")
here=$PWD
cd "$(dirname "$script")/.."

python="" wheels="" list=""
rest=()
while (($#)); do
    case $1 in
        --python | --from-wheels)
            [[ $# -gt 1 && -n $2 ]] || usage "$1 needs a path"
            if [[ $1 == --python ]]; then python=$2; else wheels=$(cd "$here" && realpath -m "$2"); fi
            shift 2 ;;
        --python=*) python=${1#*=}; shift ;;
        --from-wheels=*) wheels=$(cd "$here" && realpath -m "${1#*=}"); shift ;;
        --list-wheels) list=yes; shift ;;
        *) rest+=("$1"); shift ;;
    esac
done

base=${python:-${PYTHON:-python3.11}}
[[ $base != */* ]] || base=$(cd "$here" && realpath -s "$base")  # a venv's python stays the link that it is
if [[ -n $list ]]; then
    command -v "$base" >/dev/null || base=python3
    exec "$base" benchmarks/gpu_check/wheels.py "${rest[@]}"
fi
[[ -z $python ]] || command -v "$base" >/dev/null || usage "--python $python is no program"
[[ -z $wheels ]] || compgen -G "$wheels/*.whl" >/dev/null || usage "--from-wheels $wheels holds no wheels: see --list-wheels"

# An environment of these very wheels; instant where it is there already.
install_wheels() {
    local target=.venv/from-wheels stamp wanted
    stamp=$target/installed
    wanted=$(printf '%s\n' "$base" "$wheels"/*.whl)
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        command -v "$base" >/dev/null || usage "$base is not installed: set PYTHON or give --python"
        local packages=() lacking=()
        if [[ -z $python ]]; then
            mapfile -t packages < <("$base" benchmarks/gpu_check/wheels.py --plain)
            mapfile -t lacking < <("$base" benchmarks/gpu_check/wheels.py --plain --lacking "$wheels")
            [[ ${#lacking[@]} == 0 || -z ${lacking[0]} ]] || usage "--from-wheels $wheels lacks ${lacking[*]}"
        fi
        rm -rf "$target"
        local pip=("$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$wheels")
        if [[ -n $python ]]; then # what the environment below has stays, its PyTorch above all
            "$base" -m venv --system-site-packages "$target"
            "${pip[@]}" --no-deps "$wheels"/*.whl
        else
            "$base" -m venv "$target"
            "${pip[@]}" "${packages[@]}"
        fi
        echo "$wanted" >"$stamp"
    fi
    base=$PWD/$target/bin/python
}

if [[ -n $wheels ]]; then
    install_wheels
elif [[ -z $python ]]; then
    bash scripts/environment.sh
    base=$PWD/.venv/bin/python
    # PyTorch for the CPU brings no Triton: the tests' own, if it is there, compiles the kernels.
    if [[ -d .venv/triton ]] && ! "$base" -c 'import triton' 2>/dev/null; then
        export PYTHONPATH=$PWD/.venv/triton${PYTHONPATH:+:$PYTHONPATH}
    fi
fi
export PYTHONUTF8=1
exec "$base" -m benchmarks.gpu_check "${rest[@]}"
