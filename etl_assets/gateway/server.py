"""The gateway as a server: its socket, its start, its graceful end."""

import asyncio
import contextlib
import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from etl_assets.core.servers import platform_database
from etl_assets.errors import ConfigurationError
from etl_assets.gateway.app import create_app
from etl_assets.gateway.connections import Connection
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.own_dagster import OwnDagster
from etl_assets.gateway.problems import Problem
from etl_assets.gateway.security import TOKEN_VARIABLE, require_loopback, token_of
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings

# What is left of the ten seconds that a supervisor gives is for the gateway's own Dagster.
GRACE_S = 3
BACKLOG = 512


class Server(uvicorn.Server):
    """Prepares the database in the background, and lets those go who wait for a run when it stops."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._app = app
        self._preparing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._preparing = asyncio.create_task(_prepared(self._app.state.store))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping = True
        await super().shutdown(sockets)


def run(settings: Settings, *, host: str, own_dagster: OwnDagster | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        settings: the port among them.
        host: address to listen on; another one than loopback needs a token.
        own_dagster: started and ended with the gateway; used where the settings name no other.

    Raises:
        ConfigurationError: if the gateway may not or cannot listen there, or a setting cannot be right.
    """
    require_loopback(host, settings)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listener(host, settings.etl_gateway_port))
        orchestrator = _orchestrator(settings, own_dagster)
        stack.callback(orchestrator.close)
        app = create_app(settings, orchestrator=orchestrator, store=Store(platform_database(settings)))
        if own_dagster is not None:
            stack.enter_context(own_dagster)
        _announce(settings, host=host, port=listener.getsockname()[1])
        # The server sends itself the signal that has ended it, to have the default handler end the process.
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        Server(app).run(sockets=[listener])


def _orchestrator(settings: Settings, own_dagster: OwnDagster | None) -> Orchestrator:
    if own_dagster is None:
        return Orchestrator(settings.required("dagster_graphql_url"))
    return Orchestrator(own_dagster.url, starting=own_dagster.starting)


def _listener(host: str, port: int) -> socket.socket:
    # Only where TCP is said does asyncio switch off Nagle's algorithm, which costs 40 ms per request.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Now, and not when all is up: two gateways that start at once must not both believe that the port is theirs.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"the gateway cannot listen on {host}:{port} ({error.strerror}): set ETL_GATEWAY_PORT to a port that is free,"
            " or end what uses this one"
        ) from None
    return listener


def _announce(settings: Settings, *, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    if token_of(settings) is None:
        print(f"no {TOKEN_VARIABLE}: listening on loopback only")
    print(f"gateway: http://{shown}:{port} (docs at /docs)", flush=True)


async def _prepared(store: Any) -> None:
    """Have the database ready before the first request; where that fails, its log line says so and requests try again."""
    with contextlib.suppress(Problem):
        async with store.connection():
            pass
