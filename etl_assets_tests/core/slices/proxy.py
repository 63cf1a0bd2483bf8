"""A TCP proxy before a Postgres that cuts a connection at a chosen moment, once."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

COMMIT = re.compile(rb"COMMIT(;|\x00)")


class Proxy:
    """Forwards every connection to a server.

    Attributes:
        cut: what to do at the next COMMIT: cut the connection instead of passing it on, or after the server has done it.
        cuts: how often that happened.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.cut: Literal["before", "after"] | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The server's address through the proxy."""
        secret = self._target.netloc.rsplit("@", 1)[0]
        return urlunsplit(self._target._replace(netloc=f"{secret}@127.0.0.1:{self._listener.getsockname()[1]}"))

    def close(self) -> None:
        for one in [self._listener, *self._sockets]:
            with suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._target.hostname, self._target.port))
                self._sockets += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.cut and COMMIT.search(data):
                    how, self.cut = self.cut, None
                    self.cuts += 1
                    if how == "after":
                        client.shutdown(socket.SHUT_RD)
                        self._drop(client)
                        server.sendall(data)
                        return
                    break
                server.sendall(data)
        self._drop(client)
        self._drop(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        self._drop(client)

    def _drop(self, one: socket.socket) -> None:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy for the length of a test."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
