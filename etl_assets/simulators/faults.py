"""Faults on plan: a seeded schedule per call, and the middleware that carries it out.

A call's name is the first part of its path (`/site-info/x` → `site-info`); paths that begin with `/_` (controls) never
fail. What a fault does to the handler matters as much as what the client sees: a lost response has taken effect, a
time-out before the commit has not. The table `KINDS` says both.
"""

import asyncio
import fcntl
import math
import random
import struct
import termios
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from json import dumps
from socket import SO_LINGER, SOL_SOCKET
from threading import Lock
from typing import Any

from etl_assets.simulators.server import TRANSPORT

NONE = "none"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Faults:
    """Which call fails how, and what was done so far; safe to change while the server runs.

    Args:
        seed: the same seed and plan give each call the same sequence, however the calls interleave.
        retry_after_s: what `429-retry-after` and `429-retry-after-date` ask for.
        stall_s: how long the time-outs stall; choose it longer than the client waits.
        byte_interval_s: the pause after each byte of `slow`.
    """

    def __init__(
        self, *, seed: int = 0, retry_after_s: float = 1, stall_s: float = 5.0, byte_interval_s: float = 0.05
    ) -> None:
        self.retry_after_s = retry_after_s
        self.stall_s = stall_s
        self.byte_interval_s = byte_interval_s
        self._seed = seed
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Back to no faults, no counts and the beginning of the random sequences."""
        with self._lock:
            self._rates: dict[str, dict[str, float]] = {}
            self._scripts: dict[str, deque[str]] = {}
            self._randoms: dict[str, random.Random] = {}
            self._counts: Counter[tuple[str, str]] = Counter()

    def rates(self, call: str, probabilities: Mapping[str, float]) -> None:
        """Sets how often a call fails how, for each call by itself; the rest of the time it works.

        Raises:
            ValueError: for an unknown kind, or probabilities that are negative or exceed 1 together.
        """
        _check_kinds(probabilities)
        # A tenth ten times is a little more than one.
        if any(not p >= 0 for p in probabilities.values()) or sum(probabilities.values()) > 1 + 1e-9:
            raise ValueError(f"fault rates of {call} must be at least 0 and at most 1 together: {dict(probabilities)}")
        with self._lock:
            self._rates[call] = dict(probabilities)

    def script(self, call: str, kinds: Iterable[str]) -> None:
        """Appends faults that the next requests of a call get, one each, before the random ones; `none` lets one pass.

        Raises:
            ValueError: for an unknown kind.
        """
        kinds = list(kinds)
        _check_kinds(kinds)
        with self._lock:
            self._scripts.setdefault(call, deque()).extend(kinds)

    def take(self, call: str) -> str:
        """The fault of a call's next request, which is counted."""
        with self._lock:
            script = self._scripts.get(call)
            kind = script.popleft() if script else self._drawn(call)
            self._counts[call, kind] += 1
            return kind

    def _drawn(self, call: str) -> str:
        draw = self._randoms.setdefault(call, random.Random(f"{self._seed}/{call}")).random()
        for kind, probability in self._rates.get(call, {}).items():
            if draw < probability:
                return kind
            draw -= probability
        return NONE

    def count(self, call: str, kind: str) -> int:
        """How many requests of a call had this fault (`none`: how many passed)."""
        with self._lock:
            return self._counts[call, kind]

    def counts(self) -> dict[str, dict[str, int]]:
        """All counts so far, by call and kind."""
        with self._lock:
            result: dict[str, dict[str, int]] = {}
            for (call, kind), number in sorted(self._counts.items()):
                result.setdefault(call, {})[kind] = number
            return result


def _check_kinds(kinds: Iterable[str]) -> None:
    unknown = sorted(set(kinds) - set(KINDS) - {NONE})
    if unknown:
        raise ValueError(f"unknown faults {', '.join(unknown)}: known are {', '.join([NONE, *KINDS])}")


@dataclass
class _Exchange:
    """One request under a fault."""

    app: App
    scope: MutableMapping[str, Any]
    receive: Receive
    send: Send
    faults: Faults
    streamed: bool = False
    _passes: bool = False
    _handler: asyncio.Future[None] | None = None
    _resumed: asyncio.Event = field(default_factory=asyncio.Event)

    async def handled(self) -> tuple[Message, bytes]:
        """Lets the handler run and holds its answer back; of a streamed answer the first chunk, where it then waits."""
        start: Message = {}
        body = bytearray()
        first_chunk = asyncio.Event()

        async def keep(message: Message) -> None:
            if self._passes:
                await self.send(message)
            elif message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    self.streamed = True
                    first_chunk.set()
                    await self._resumed.wait()

        self._handler = asyncio.ensure_future(self.app(self.scope, self.receive, keep))
        waiting = asyncio.ensure_future(first_chunk.wait())
        try:
            await asyncio.wait({self._handler, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self.streamed:
            await self._handler
        return start, bytes(body)

    async def finish(self, body: bytes) -> None:
        """Sends the rest of what was held back, then what a streamed answer has after that."""
        await self.write(body, more=self.streamed)
        if self._handler and self.streamed:
            self._passes = True
            self._resumed.set()
            await self._handler

    async def end(self) -> None:
        """Ends the handler of a streamed answer, as a connection does that breaks."""
        if self._handler and not self._handler.done():
            self._handler.cancel()
            await asyncio.wait({self._handler})

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int) -> None:
        """Begins the answer, with its length unless it is streamed, when nobody knows it."""
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        if not self.streamed:
            kept.append((b"content-length", str(length).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": kept})

    async def write(self, body: bytes, *, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        await self.start(status, headers, length=len(body))
        await self.write(body)

    async def stalled(self, seconds: float) -> bool:
        """Waits; True as soon as the client, or the server as it stops, has closed the connection."""
        try:
            async with asyncio.timeout(seconds):
                while (await self.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True

    async def reset(self) -> None:
        """Ends the connection with RST: what the client gets is an error, not the end of a stream."""
        transport = self._transport()
        with suppress(OSError):  # the client may be gone already
            transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await self.stalled(1.0)

    async def delivered(self) -> None:
        """Waits until the client's machine has all that was written, as far as the system tells."""
        transport = self._transport()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DELIVERED_WITHIN_S):
                while transport.get_write_buffer_size() or _under_way(transport.get_extra_info("socket")):
                    await asyncio.sleep(_DELIVERED_S / 10)
        await asyncio.sleep(_DELIVERED_S)

    async def close(self) -> None:
        """Ends the connection with FIN when what was written is out."""
        self._transport().close()
        await self.stalled(1.0)

    def _transport(self) -> Any:
        transport = self.scope.get("state", {}).get(TRANSPORT)
        if transport is None:
            raise RuntimeError("this fault breaks connections: serve the app with etl_assets.simulators.server.serve")
        return transport


_JSON = [(b"content-type", b"application/json")]
_HTML = b"<!doctype html><html><body><h1>We will be back soon</h1></body></html>"
# A reset overtakes what is still under way: so long it waits for the client to have what was sent.
_DELIVERED_WITHIN_S, _DELIVERED_S = 1.0, 0.02


def _under_way(connection: Any) -> int:
    """Bytes that the other end has not acknowledged; 0 where the system does not tell."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def _half(body: bytes) -> int:
    """Where to cut an answer: in the middle, but never between two lines."""
    half = len(body) // 2
    return half - 1 if body[half - 1 : half] == b"\n" else half


def _status(
    status: int, message: str, retry_after: Callable[[Faults], str] | None = None
) -> Callable[[_Exchange], Awaitable[None]]:
    async def refuse(exchange: _Exchange) -> None:
        headers = [(b"retry-after", retry_after(exchange.faults).encode())] if retry_after else []
        await exchange.answer(status, [*_JSON, *headers], dumps({"message": message}).encode())

    return refuse


def _retry_after_seconds(faults: Faults) -> str:
    return f"{faults.retry_after_s:g}"


def _retry_after_date(faults: Faults) -> str:
    # An HTTP date has whole seconds: rounded up, so that it never asks for less.
    return formatdate(math.ceil(time.time() + faults.retry_after_s), usegmt=True)


async def _timeout(exchange: _Exchange) -> None:
    start, body = await exchange.handled()
    if not await exchange.stalled(exchange.faults.stall_s):
        await exchange.start(start["status"], start["headers"], length=len(body))
        await exchange.finish(body)


async def _timeout_mid_body(exchange: _Exchange) -> None:
    start, body = await exchange.handled()
    half = _half(body)
    await exchange.start(start["status"], start["headers"], length=len(body))
    await exchange.write(body[:half], more=True)
    if not await exchange.stalled(exchange.faults.stall_s):
        await exchange.finish(body[half:])


async def _timeout_before_commit(exchange: _Exchange) -> None:
    if not await exchange.stalled(exchange.faults.stall_s):
        await exchange.reset()


async def _response_lost(exchange: _Exchange) -> None:
    await exchange.handled()
    await exchange.reset()


async def _reset_mid_body(exchange: _Exchange) -> None:
    start, body = await exchange.handled()
    await exchange.start(start["status"], start["headers"], length=len(body))
    await exchange.write(body[: _half(body)], more=True)
    await exchange.delivered()
    await exchange.reset()


async def _truncated_json(exchange: _Exchange) -> None:
    start, body = await exchange.handled()
    await exchange.answer(start["status"], start["headers"], body[: _half(body)])


async def _short_body(exchange: _Exchange) -> None:
    start, body = await exchange.handled()
    await exchange.start(start["status"], start["headers"], length=len(body))
    await exchange.write(body[: _half(body)], more=True)
    await exchange.close()


async def _html(exchange: _Exchange) -> None:
    await exchange.answer(200, [(b"content-type", b"text/html; charset=utf-8")], _HTML)


async def _empty(exchange: _Exchange) -> None:
    await exchange.handled()
    await exchange.answer(200, _JSON, b"")


async def _slow(exchange: _Exchange) -> None:
    start, body = await exchange.handled()
    await exchange.start(start["status"], start["headers"], length=len(body))
    for i in range(len(body)):
        await exchange.write(body[i : i + 1], more=True)
        if await exchange.stalled(exchange.faults.byte_interval_s):
            return
    await exchange.finish(b"")


KINDS: dict[str, Callable[[_Exchange], Awaitable[None]]] = {
    # The handler does not run.
    "500": _status(500, "internal error"),
    "502": _status(502, "bad gateway"),
    "503": _status(503, "down for maintenance"),
    "504": _status(504, "gateway time-out"),
    "408": _status(408, "request time-out"),
    "429": _status(429, "too many requests"),
    "429-retry-after": _status(429, "too many requests", _retry_after_seconds),
    "429-retry-after-date": _status(429, "too many requests", _retry_after_date),
    "reset": _Exchange.reset,
    "timeout-before-commit": _timeout_before_commit,
    "html": _html,
    # The handler runs and what it does stays done; its answer does not arrive, or damaged or late.
    "response-lost": _response_lost,
    "timeout": _timeout,
    "timeout-mid-body": _timeout_mid_body,
    "reset-mid-body": _reset_mid_body,
    "truncated-json": _truncated_json,
    "short-body": _short_body,
    "empty": _empty,
    "slow": _slow,
}


class FaultMiddleware:
    """Gives each request its fault of the plan; add it to the app of a simulator.

    The server's own log stays silent: to it a broken connection looks like a client that went away.
    """

    def __init__(self, app: App, *, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        call = scope["path"].strip("/").split("/")[0] if scope["type"] == "http" else ""
        kind = NONE if not call or call.startswith("_") else self._faults.take(call)
        if kind == NONE:
            await self._app(scope, receive, send)
        else:
            exchange = _Exchange(self._app, scope, receive, send, self._faults)
            try:
                await KINDS[kind](exchange)
            finally:
                await exchange.end()
