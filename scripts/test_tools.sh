#!/usr/bin/env bash
# The programs that a few tests hand our files to: a browser, pngcheck, libtiff's tools. As root on
# Debian they are installed; elsewhere one line says what is missing, and those tests are skipped.
set -euo pipefail

TOOLS="chromium:chromium pngcheck:pngcheck tiffinfo:libtiff-tools"

missing() {
    for pair in $TOOLS; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s ' "${pair##*:}"
    done
}

wanted=$(missing)
if [ -n "$wanted" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "[setup] installing $wanted"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of names
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted; } \
        >/dev/null 2>&1 || echo "[setup] apt-get could not install them"
    wanted=$(missing)
fi
[ -z "$wanted" ] || echo "[setup] missing, by Debian's names, and some tests with it: $wanted"
