"""Serves an ASGI app on a real port from a background thread, and lets the app break its connections.

An ASGI app cannot reset a connection: it does not see it. The protocol here puts the transport into the scope's state,
from where the faults take it.
"""

import asyncio
import signal
import socket
import threading
from asyncio import BaseTransport
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from etl_assets.errors import ConfigurationError

TRANSPORT = "transport"
_POLL_S = 0.002


class _BreakableProtocol(H11Protocol):
    """HTTP/1.1 with the connection's transport in `scope["state"]`."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.app_state = {**self.app_state, TRANSPORT: transport}


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drops open connections first: one that stalls on purpose would otherwise be waited for."""
        for listening in self.servers:
            listening.close()
        # A connection that was accepted a moment ago becomes one of them in the next iteration of the loop.
        await asyncio.sleep(0)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)
        await super().shutdown(sockets)


@contextmanager
def serve(app: Any, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves an app while the context is open and gives its base URL; port 0 means a free one.

    Raises:
        OSError: if the port is taken.
        RuntimeError: if the app fails to start.
    """
    # Only where the protocol is TCP by name does asyncio switch off Nagle's algorithm, which costs 40 ms per request.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot serve on {host}:{port} ({error.strerror}): choose another port") from None
    server = _Server(
        uvicorn.Config(
            app,
            http=_BreakableProtocol,
            loop="asyncio",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
        )
    )

    def run() -> None:
        # Not `server.run`: it chooses the event loop, and faults need the plain one. Off the main thread uvicorn leaves
        # the signal handlers alone.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the simulator did not start: its log says why")
            thread.join(timeout=_POLL_S)
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def serve_in_foreground(app: Any, name: str, *, host: str, port: int) -> None:
    """Serve an app until Ctrl-C or SIGTERM, and print its address.

    Raises:
        ConfigurationError: if the port is taken.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        try:
            url = stack.enter_context(serve(app, host=host, port=port))
        except OSError as error:
            raise ConfigurationError(f"{error.strerror} by --port") from None
        print(f"{name} on {url}", flush=True)
        ended.wait()
