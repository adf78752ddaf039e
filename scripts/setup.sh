#!/usr/bin/env bash
# Makes .venv with the pinned requirements and Pillow-SIMD; a second run finds nothing to do.
#
# PYTHON     the interpreter to build on (python3)
# SKIP_SIMD  1 keeps plain Pillow
# SIMD_ISA   avx2 or sse4; else what /proc/cpuinfo has (set sse4 where the result travels)
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
SKIP_SIMD=${SKIP_SIMD:-0}
VENV=$PWD/.venv
STAMP=$VENV/.setup-stamp

# shellcheck source=scripts/simd.sh
source scripts/simd.sh

say() { printf '[setup] %s\n' "$*"; }
has() { command -v "$1" >/dev/null 2>&1; }

main() {
    SIMD_ISA=$(chosen_isa)
    up_to_date && { say "nothing to do (remove $STAMP to start over)"; return; }
    provide_system_packages
    require_python
    make_venv
    install_requirements
    [ "$SIMD_ISA" = none ] || install_simd
    fingerprint >"$STAMP"
    say "ready: .venv, $("$VENV/bin/python" -c 'import PIL; print("PIL", PIL.__version__)')"
}

up_to_date() {
    [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]
}

# Everything whose change makes the environment stale, the missing packages among it: once the
# headers are there, the next run builds.
fingerprint() {
    {
        cat requirements-dev.txt requirements-simd.txt scripts/setup.sh scripts/simd.sh
        "$PYTHON" -VV 2>&1 || true
        echo "$VENV $SIMD_ISA $(missing_packages)"
    } | sha256sum | cut -d' ' -f1
}

# Debian's names of what is missing, on one line.
missing_packages() {
    has "$PYTHON" || printf 'python3 '
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || printf 'python3-venv '
    has make || printf 'make '
    has npm || printf 'npm '
    [ "$SIMD_ISA" = none ] || missing_build_packages
}

missing_build_packages() {
    has cc || printf 'gcc libc6-dev '
    has pkg-config || printf 'pkg-config '
    "$PYTHON" -c "$PYTHON_HEADER" 2>/dev/null || printf 'python3-dev '
    for pair in $HEADERS; do
        pkg-config --exists "${pair%%:*}" 2>/dev/null || printf '%s ' "${pair##*:}"
    done
}

PYTHON_HEADER='
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())'

provide_system_packages() {
    local missing wanted
    missing=$(missing_packages)
    wanted=$(without_idle_npm "$missing")
    if [ -n "$wanted" ] && [ "$(id -u)" = 0 ] && has apt-get; then
        say "installing $wanted"
        apt_install "$wanted" || say "apt-get could not install them"
        missing=$(missing_packages)
    fi
    [ -z "$missing" ] || say "missing, by Debian's names: $missing"
}

# npm is the weights' second source: worth its hundreds of packages only without the first.
without_idle_npm() {
    if [[ " $1" == *" npm "* ]] && github_answers; then
        echo "${1/npm /}"
    else
        echo "$1"
    fi
}

github_answers() {
    timeout 5 bash -c ': >/dev/tcp/github.com/443' 2>/dev/null
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of names
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $1; } >/dev/null 2>&1
}

require_python() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$PYTHON 3.11 or newer is needed, this is: $("$PYTHON" -V 2>/dev/null || echo none)"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON lacks venv: apt-get install python3-venv"
}

fail() {
    say "$*" >&2
    exit 1
}

make_venv() {
    rm -f "$STAMP"
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || ! same_python; then
        say "creating .venv on $("$PYTHON" -V)"
        "$PYTHON" -m venv --clear "$VENV"
    fi
}

same_python() {
    [ "$("$VENV/bin/python" -VV)" = "$("$PYTHON" -VV)" ]
}

# Both Pillows live in the folder PIL: whatever is there goes, so that no two builds mix.
install_requirements() {
    say "installing the pinned requirements (a minute or two on a cold cache)"
    remove_pil
    rm -rf "$SITE"/pillow-*.dist-info "$SITE"/pillow_simd-*.dist-info
    pip_progress install --require-hashes -r requirements-dev.txt
}

# pip's own words, a line for each package; its complaints only where they ended in failure.
pip_progress() {
    local complaints=$VENV/pip-complaints.log
    PYTHONUNBUFFERED=1 "$VENV/bin/pip" --no-input "$@" </dev/null 2>"$complaints" |
        sed -n -u -e 's/^Collecting \([^ ]*\).*/[setup]   \1/p' \
            -e 's/^Installing collected.*/[setup]   unpacking/p' ||
        { tail -n 20 "$complaints" >&2 && fail "the requirements could not be installed"; }
}

install_simd() {
    local wheels wheel
    wheels=wheels/$SIMD_ISA-$(build_fingerprint)
    wheel=$(find_wheel "$wheels")
    if [ -z "$wheel" ]; then
        build_wheel "$wheels" || { say "Pillow-SIMD was not built; plain Pillow stays"; return; }
        wheel=$(find_wheel "$wheels")
    fi
    put_over_pillow "$wheel" && check_pil && return
    say "Pillow-SIMD does not work here; putting plain Pillow back"
    rm -rf "$wheels"
    install_requirements
}

main "$@"
