"""Ports for servers that a test starts later in a process of their own."""

import random
import socket


def unused_port() -> int:
    """Below those that the system hands out: one of these may be somebody else's by then."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311  # not a secret
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
