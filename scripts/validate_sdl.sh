#!/usr/bin/env bash
# Asks Akash's own validator about the deployment files. Installs it once into tools/sdl, from the
# lock file; where npm is missing or its registry cannot be reached, says so and lets the rest go on.
#
# `bash scripts/validate_sdl.sh [FILE…]`; without files: deploy.yaml and deploy-gpu.yaml
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
TOOLS=$ROOT/tools/sdl
STAMP=$TOOLS/node_modules/.sdl-stamp
LOG=$TOOLS/npm.log
UNREACHABLE='ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|UND_ERR'

main() {
    has node && has npm || skip "node and npm are missing"
    up_to_date || install
    [ $# -gt 0 ] || set -- "$ROOT/deploy.yaml" "$ROOT/deploy-gpu.yaml"
    node "$TOOLS/validate.mjs" "$@"
}

has() { command -v "$1" >/dev/null 2>&1; }

skip() {
    echo "[sdl] SKIPPED: $1; Akash's own validator was not asked"
    exit 0
}

up_to_date() {
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]
}

fingerprint() {
    cat "$TOOLS/package.json" "$TOOLS/package-lock.json" | sha256sum | cut -d' ' -f1
}

# npm keeps trying for minutes by default; what is wrong with a package is a failure, not a skip.
install() {
    echo "[sdl] installing Akash's validator into tools/sdl/node_modules (once, about 10 s)"
    if ! npm ci --prefix "$TOOLS" --ignore-scripts --no-audit --no-fund --fetch-retries=1 \
        --fetch-retry-mintimeout=1000 --fetch-timeout=30000 </dev/null >"$LOG" 2>&1; then
        grep -qE "$UNREACHABLE" "$LOG" && skip "npm's registry cannot be reached"
        tail -n 20 "$LOG" >&2
        exit 1
    fi
    fingerprint >"$STAMP"
}

main "$@"
