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
HEADERS="libjpeg:libjpeg-dev zlib:zlib1g-dev libwebp:libwebp-dev libtiff-4:libtiff-dev
    lcms2:liblcms2-dev libopenjp2:libopenjp2-7-dev freetype2:libfreetype-dev"

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

# Pillow-SIMD is x86 code; AVX2 code dies with SIGILL on a CPU without it.
chosen_isa() {
    if [ "$SKIP_SIMD" = 1 ] || [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
        echo none
    elif [ -n "${SIMD_ISA:-}" ]; then
        echo "$SIMD_ISA"
    elif grep -qw avx2 /proc/cpuinfo; then
        echo avx2
    else
        echo sse4
    fi
}

up_to_date() {
    [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]
}

# Everything whose change makes the environment stale, the missing packages among it: once the
# headers are there, the next run builds.
fingerprint() {
    {
        cat requirements-dev.txt requirements-simd.txt scripts/setup.sh
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

remove_pil() {
    SITE=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])')
    rm -rf "$SITE/PIL" "$SITE/pillow.libs"
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

# What a wheel depends on: its pins, how it is built, and the system whose libraries it links.
build_fingerprint() {
    {
        cat requirements-simd.txt /etc/os-release
        "$VENV/bin/python" -VV
        declare -f compile_wheel
    } 2>/dev/null | sha256sum | cut -c1-12
}

find_wheel() {
    [ ! -d "$1" ] || find "$1" -name 'pillow_simd-*.whl' -print -quit
}

build_wheel() {
    local log=wheels/build.log work
    mkdir -p wheels
    work=$(mktemp -d wheels/build.XXXXXX)
    say "building Pillow-SIMD for $SIMD_ISA (about half a minute; log: $log)"
    if compile_wheel "$work" >"$log" 2>&1; then
        mkdir -p "$1" && mv "$work"/pillow_simd-*.whl "$1/"
    else
        grep -E 'error: |could not be found' "$log" | grep -v 'error: subprocess' |
            head -n 1 | sed 's/^ */[setup]   /' || true
        rm -rf "$work"
        return 1
    fi
    rm -rf "$work"
}

# CFLAGS replaces Python's own, hence -O3; pip's cache ignores CC, hence no cache. The four -C make
# the build stop where a header is missing instead of leaving the format out.
compile_wheel() {
    awk -v RS= '!/pillow-simd/' requirements-simd.txt >"$1/tools.txt" &&
        awk -v RS= '/pillow-simd==/' requirements-simd.txt >"$1/simd.txt" &&
        "$VENV/bin/pip" --no-input install --require-hashes --target "$1/tools" -r "$1/tools.txt" &&
        PYTHONPATH=$PWD/$1/tools CC="cc -m${SIMD_ISA/sse4/sse4.2}" CFLAGS="-O3 -DNDEBUG -fwrapv" \
            "$VENV/bin/pip" --no-input wheel --no-build-isolation --no-binary pillow-simd \
            --no-deps --no-cache-dir --require-hashes -r "$1/simd.txt" -w "$1" \
            --config-settings=webp=enable --config-settings=tiff=enable \
            --config-settings=jpeg2000=enable --config-settings=lcms=enable
}

# Pillow's dist-info stays: rembg requires that name, and pip check is content.
put_over_pillow() {
    remove_pil
    "$VENV/bin/pip" --no-input -q install --no-deps --no-index --force-reinstall "$1" </dev/null
}

check_pil() {
    "$VENV/bin/python" -c "$PIL_CHECK" && say "Pillow-SIMD ($SIMD_ISA) works"
}

PIL_CHECK='
import io, PIL
from PIL import Image, ImageCms, features
assert PIL.__version__.endswith(".post0"), PIL.__version__
assert features.check("littlecms2") and features.check("jpg_2000"), features.get_supported()
picture = Image.linear_gradient("L").convert("RGB").resize((96, 64), Image.Resampling.LANCZOS)
for name in ("JPEG", "PNG", "WEBP", "TIFF"):
    file = io.BytesIO()
    picture.save(file, name)
    assert Image.open(file, formats=(name,)).convert("RGB").size == (96, 64), name
srgb = ImageCms.createProfile("sRGB")
assert ImageCms.profileToProfile(picture, srgb, srgb).size == (96, 64)'

main "$@"
