"""HTTP/1.1 as the gateway speaks it: nobody keeps a connection by doing nothing with it, and what is no HTTP gets a problem.

uvicorn by itself waits for ever for the head of a request, and answers what it cannot read as plain text.
"""

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from etl_assets.gateway.envelope import REQUEST_ID, new_request_id
from etl_assets.gateway.problems import MEDIA_TYPE, Problem, document_of

# Within which a head has to be there, from the opening of the connection or the end of the answer before.
HEAD_DEADLINE_S = 10.0
# How long a client may leave its answer unread before the kernel gives the connection up.
UNREAD_S = 20


class Connection(H11Protocol):
    """A connection that ends when its client does not send the head of a request in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        _end_when_unread(transport.get_extra_info("socket"))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on, and stop waiting when a head is complete."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        self._end_watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- the signature is given
        """Answer what cannot be read as HTTP."""
        self._refuse(
            Problem(
                400,
                "Bad Request",
                "this is no HTTP/1.1 request that can be read: see its first line, its headers (64 KiB at most, one Host)"
                " and the length of its body",
            )
        )

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_watch()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._give_up)

    def _end_watch(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        begun = self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]
        if not begun:
            self.transport.close()
            return
        detail = f"the head of the request was not there within {HEAD_DEADLINE_S:g} s: send it at once"
        self._refuse(Problem(408, "Request Timeout", detail))

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless another answer has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = new_request_id()
            self.logger.warning("request %s: %s", request_id, problem.detail)
            self.transport.write(_answer(self.conn, problem, request_id))
        self.transport.close()


def _answer(connection: h11.Connection, problem: Problem, request_id: str) -> bytes:
    body = json.dumps(document_of(problem, request_id), ensure_ascii=False).encode()
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        REQUEST_ID: request_id,
    }
    start = h11.Response(
        status_code=problem.status, headers=list(headers.items()), reason=STATUS_PHRASES[problem.status]
    )
    return b"".join(connection.send(event) or b"" for event in (start, h11.Data(data=body), h11.EndOfMessage()))


def _end_when_unread(connection: Any) -> None:
    # Where the kernel cannot (it is Linux's own), a client that never reads keeps its connection.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
