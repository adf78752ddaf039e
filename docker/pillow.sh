#!/usr/bin/env bash
# In the build: Pillow-SIMD over /opt/venv's Pillow, and an SSE4 build in /opt/pillow-sse4 where the
# venv's wants AVX2: docker/entrypoint.sh puts it first on a CPU without. What the venv's own Pillow
# asks of a CPU is written to /opt/pillow-isa. SIMD_ISA: avx2, sse4 or none.
set -euo pipefail

VENV=/opt/venv
say() { printf '[pillow] %s\n' "$*"; }

# shellcheck source=scripts/simd.sh
source scripts/simd.sh

main() {
    SIMD_ISA=$(chosen_isa)
    echo "$SIMD_ISA" >/opt/pillow-isa
    case $SIMD_ISA in
        none) say "plain Pillow stays"; return ;;
        avx2) SIMD_ISA=sse4 build_beside /opt/pillow-sse4 ;;
        sse4) ;;
        *) say "SIMD_ISA is avx2, sse4 or none, not $SIMD_ISA" >&2; exit 1 ;;
    esac
    build_wheel "wheels/$SIMD_ISA"
    put_over_pillow "$(find_wheel "wheels/$SIMD_ISA")"
    check_pil
}

build_beside() {
    build_wheel wheels/sse4
    "$VENV/bin/pip" --no-input -q install --no-deps --no-index --target "$1" "$(find_wheel wheels/sse4)"
    PYTHONPATH=$1 check_pil
}

main
