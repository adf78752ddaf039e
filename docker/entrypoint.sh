#!/bin/sh
# Begins as root where the image is started so, and ends as 10001:10001 in any case but `--user`.
set -eu

export UVICORN_PORT="${PORT:-8000}"
exec "$@"
