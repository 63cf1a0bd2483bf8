"""The gateway as a server: its socket, its limits on clients, its start, its graceful end."""

import asyncio
import contextlib
import json
import logging
import signal
import socket

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from etl_assets.core.servers import platform_database
from etl_assets.errors import ConfigurationError
from etl_assets.gateway.access import TOKEN_VARIABLE, require_loopback, token_of
from etl_assets.gateway.app import REQUEST_ID, create_app, new_request_id
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.own_dagster import OwnDagster
from etl_assets.gateway.problems import MEDIA_TYPE, Problem, document_of
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings

# Within which a head has to be there, from the opening of the connection or the end of the answer before.
HEAD_DEADLINE_S = 10.0
# How long a client may leave its answer unread before the kernel gives the connection up.
UNREAD_S = 20
# What is left of the ten seconds that a supervisor gives is for the gateway's own Dagster.
GRACE_S = 3
BACKLOG = 512

log = logging.getLogger(__name__)


class Connection(H11Protocol):
    """HTTP/1.1 with a deadline for each head, and problems as answers.

    uvicorn by itself limits only an idle connection between two requests: it waits for ever for a first head, or for one
    that has begun, and answers what it cannot read as plain text. Here its timer runs until a head is complete.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Read on; it is a request that has begun, and not its first byte, which stops the timer."""
        self.conn.receive_data(data)
        self.handle_events()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, with an answer where a head has begun."""
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            detail = f"the head of the request was not there within {self.timeout_keep_alive:g} s: send it at once"
            self._refuse(Problem(408, "Request Timeout", detail))
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- the signature is given
        """Answer what cannot be read as HTTP."""
        detail = (
            "this is no HTTP/1.1 request that can be read: see its first line, its headers (64 KiB at most, one Host)"
            " and the length of its body"
        )
        self._refuse(Problem(400, "Bad Request", detail))

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless another answer has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = new_request_id()
            self.logger.warning("request %s: %s", request_id, problem.detail)
            body = json.dumps(document_of(problem, request_id), ensure_ascii=False).encode()
            headers = [
                ("Content-Type", MEDIA_TYPE),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
                (REQUEST_ID, request_id),
            ]
            head = h11.Response(status_code=problem.status, headers=headers, reason=STATUS_PHRASES[problem.status])
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Prepares the database in the background, and when it stops waits for no run on behalf of a client."""

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
                timeout_keep_alive=HEAD_DEADLINE_S,  # type: ignore[arg-type]  # seconds for call_later
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._app = app
        self._preparing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._preparing = asyncio.create_task(_prepare(self._app.state.store))

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
        if own_dagster is None:
            orchestrator = Orchestrator(settings.required("dagster_graphql_url"))
        else:
            orchestrator = Orchestrator(own_dagster.url, starting=own_dagster.starting)
        app = create_app(settings, orchestrator=orchestrator, store=Store(platform_database(settings)))
        if own_dagster is not None:
            stack.enter_context(own_dagster)
        if token_of(settings) is None:
            print(f"no {TOKEN_VARIABLE}: listening on loopback only")
        name = f"[{host}]" if ":" in host else host
        print(f"gateway: http://{name}:{listener.getsockname()[1]} (docs at /docs)", flush=True)
        # The server sends itself the signal that has ended it, to have the default handler end the process.
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        Server(app).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    # Only where the protocol is TCP by name does asyncio switch off Nagle's algorithm, which costs 40 ms per request.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by its connections. Where the kernel cannot (it is Linux's own), one that is never read lives on.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
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


async def _prepare(store: Store) -> None:
    """Have the database ready before the first request; where that fails, its log line says so and requests try again."""
    with contextlib.suppress(Problem):
        async with store.connection():
            pass
