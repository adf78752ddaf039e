"""A secret that is made once and then kept in a file that only its owner may read."""

import fcntl
import os
import secrets
from pathlib import Path

SECRET_BYTES = 32


def kept_secret(path: Path) -> bytes:
    """The 32 random bytes in the file, made by whoever comes first. Blocks.

    Everybody reads under the file's lock, so two processes that start together agree, and what a
    crash left half written is made again before anybody has used it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        secret = file.read()
        if len(secret) != SECRET_BYTES:
            secret = secrets.token_bytes(SECRET_BYTES)
            file.seek(0)
            file.truncate()
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        return secret
