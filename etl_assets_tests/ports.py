"""Ports for what a test starts."""

import contextlib
import secrets
import socket

FIRST, COUNT = 20_000, 12_000


def free_port() -> int:
    """A free port below those of outgoing connections, which take any of theirs before a server is there.

    Drawn by the system: of tests at the same time the seed is the same.
    """
    while True:
        port = FIRST + secrets.randbelow(COUNT)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
