# shellcheck shell=bash
# Pillow-SIMD compiled and laid over Pillow: sourced by scripts/setup.sh and docker/dependencies.sh
# from the project's folder. The caller sets VENV and SIMD_ISA (avx2, sse4 or none) and has `say`.

HEADERS="libjpeg:libjpeg-dev zlib:zlib1g-dev libwebp:libwebp-dev libtiff-4:libtiff-dev
    lcms2:liblcms2-dev libopenjp2:libopenjp2-7-dev freetype2:libfreetype-dev"

# Pillow-SIMD is x86 code; AVX2 code dies with SIGILL on a CPU without it.
chosen_isa() {
    if [ "${SKIP_SIMD:-0}" = 1 ] || [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
        echo none
    elif [ -n "${SIMD_ISA:-}" ]; then
        echo "$SIMD_ISA"
    elif grep -qw avx2 /proc/cpuinfo; then
        echo avx2
    else
        echo sse4
    fi
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

remove_pil() {
    SITE=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])')
    rm -rf "$SITE/PIL" "$SITE/pillow.libs"
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
