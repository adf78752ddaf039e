#!/bin/sh
# Started as root it makes TEMP_DIR and DATA_DIR usable for 10001:10001 and becomes that; started as
# anybody else (`docker run --user`) it changes nothing. Then it becomes what it was told to run.
#
# OWNER, PILLOW_DIR and CPU_INFO are for tests.
set -eu

OWNER=${OWNER:-10001}
PILLOW_DIR=${PILLOW_DIR:-/opt}
CPU_INFO=${CPU_INFO:-/proc/cpuinfo}

main() {
    choose_pillow
    choose_birefnet
    export TEMP_DIR="${TEMP_DIR:-/tmp/img-proc}" UVICORN_PORT="${PORT:-8000}"
    # .env.example names it without a value; a volume is nevertheless meant to be used
    export HOME="$TEMP_DIR" TMPDIR="${TMPDIR:-$TEMP_DIR}" DATA_DIR="${DATA_DIR:-/data}"
    become=
    if [ "$(id -u)" = 0 ]; then
        become="setpriv --reuid $OWNER --regid $OWNER --clear-groups --no-new-privs"
        hand_over "$TEMP_DIR"
        hand_over "$DATA_DIR"
    fi
    require_temp_dir
    # shellcheck disable=SC2086 # words
    exec $become "$@"
}

# Pillow-SIMD's AVX2 code ends the process (SIGILL) on a CPU without AVX2.
choose_pillow() {
    [ -r "$PILLOW_DIR/pillow-isa" ] || return 0
    wanted=$(cat "$PILLOW_DIR/pillow-isa")
    if [ "$wanted" = none ] || { [ "$wanted" = avx2 ] && cpu_has avx2; }; then
        return 0
    elif ! cpu_has sse4_2; then
        fail "This CPU has no SSE4.2, which Pillow-SIMD, OpenVINO and onnxruntime need here."
    elif [ "$wanted" = avx2 ]; then
        export PYTHONPATH="$PILLOW_DIR/pillow-sse4${PYTHONPATH:+:$PYTHONPATH}"
        say pillow_without_avx2 WARNING "This CPU has no AVX2: the SSE4 build of Pillow-SIMD is used."
    fi
}

cpu_has() {
    grep -m 1 '^flags' "$CPU_INFO" 2>/dev/null | grep -qw "$1"
}

# An image made with BIREFNET=lite holds that one alone.
choose_birefnet() {
    if [ -z "${BIREFNET_SIZE:-}" ] && [ -d weights/models/birefnet-general-lite ]; then
        export BIREFNET_SIZE=lite
    fi
}

# Volumes arrive owned by root. What is owned rightly down to the second level is left alone, so
# that a start does not walk through everything.
hand_over() {
    [ "$1" != / ] || return 0
    mkdir -p "$1" 2>/dev/null || return 0 # who needs it says so
    foreign="-xdev ( ! -uid $OWNER -o ! -gid $OWNER )"
    # shellcheck disable=SC2086 # words
    if [ -n "$(find "$1" -maxdepth 2 $foreign -print -quit)" ]; then
        find "$1" $foreign -exec chown -h "$OWNER:$OWNER" {} + 2>/dev/null ||
            say not_handed_over WARNING "Not everything in $1 could be given to $OWNER."
    fi
}

# What cannot be kept in DATA_DIR goes elsewhere, and the service says so; without TEMP_DIR it
# cannot work.
require_temp_dir() {
    # shellcheck disable=SC2016,SC2086 # the inner shell's; words
    $become sh -c 'mkdir -p "$1" && [ -w "$1" ]' sh "$TEMP_DIR" 2>/dev/null ||
        fail "TEMP_DIR cannot be written by $($become id -u): mount a volume or a tmpfs there."
}

fail() {
    say cannot_start CRITICAL "$1"
    exit 1
}

# As the service logs (utils/logs.py).
say() {
    printf '{"time": "%s", "level": "%s", "logger": "entrypoint", "event": "%s", "reason": "%s"}\n' \
        "$(date -u '+%Y-%m-%d %H:%M:%S,000')" "$2" "$1" "$3"
}

main "$@"
