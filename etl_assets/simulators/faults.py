"""Faults on plan: a seeded schedule per call, and the middleware that carries it out.

A call's name is the first part of its path (`/site-info/x` → `site-info`); paths that begin with `/_` (controls) never
fail. What a fault does to the handler matters as much as what the client sees: a lost response has taken effect, a
time-out before the commit has not. The tables `INSTEAD` and `AFTERWARDS` say which.
"""

import asyncio
import fcntl
import math
import random
import struct
import termios
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from socket import SO_LINGER, SOL_SOCKET
from threading import Lock
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_assets.simulators.server import TRANSPORT

NONE = "none"
HTML = "<!doctype html><html><body><h1>We will be back soon</h1></body></html>"
# A reset overtakes what is still under way: so long it waits for the client to have what was sent.
DELIVERED_WITHIN_S, DELIVERED_S = 1.0, 0.02


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
        rng = self._randoms.setdefault(call, random.Random(f"{self._seed}/{call}"))
        rates = self._rates.get(call, {})
        return rng.choices([*rates, NONE], [*rates.values(), max(1 - sum(rates.values()), 0.0)])[0]

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


class Ended(Exception):
    """The answer is over, and with it the handler."""


@dataclass
class Exchange:
    """One request under a fault."""

    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send
    faults: Faults
    start: Message = field(default_factory=dict)
    streamed: bool = False

    async def handle(self, fault: "Callable[[Exchange, bytes], Awaitable[bool]]") -> None:
        """Lets the handler run; the fault gets its answer, of a streamed one the first chunk, before anything is sent.

        Raises:
            Ended: if the fault lets nothing follow.
        """
        met = False

        async def sending(message: Message) -> None:
            nonlocal met
            if message["type"] == "http.response.start":
                self.start = message
            elif met:
                await self.send(message)
            else:
                met, self.streamed = True, message.get("more_body", False)
                if not await fault(self, message.get("body", b"")):
                    raise Ended

        await self.app(self.scope, self.receive, sending)

    async def begin(self, *, length: int) -> None:
        """Begins the handler's answer, with this length unless it is streamed, when nobody knows it."""
        kept = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        if not self.streamed:
            kept.append((b"content-length", str(length).encode()))
        await self.send({**self.start, "headers": kept})

    async def write(self, body: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def halve(self, body: bytes) -> bytes:
        """Begins the handler's answer and sends it up to the middle; gives the rest."""
        await self.begin(length=len(body))
        await self.write(body[: _half(body)], more=True)
        return body[_half(body) :]

    async def answer(self, response: Response) -> None:
        """Answers in the place of the handler."""
        await response(self.scope, self.receive, self.send)

    async def stalled(self, seconds: float | None = None) -> bool:
        """Waits, as long as the plan has it; True as soon as the client, or the server as it stops, closed the connection."""
        try:
            async with asyncio.timeout(self.faults.stall_s if seconds is None else seconds):
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
            async with asyncio.timeout(DELIVERED_WITHIN_S):
                while transport.get_write_buffer_size() or _under_way(transport.get_extra_info("socket")):
                    await asyncio.sleep(DELIVERED_S / 10)
        await asyncio.sleep(DELIVERED_S)

    async def close(self) -> None:
        """Ends the connection with FIN when what was written is out."""
        self._transport().close()
        await self.stalled(1.0)

    def _transport(self) -> Any:
        transport = self.scope.get("state", {}).get(TRANSPORT)
        if transport is None:
            raise RuntimeError("this fault breaks connections: serve the app with etl_assets.simulators.server.serve")
        return transport


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
    status: int, message: str, retry_after: Callable[[float], str] | None = None
) -> Callable[[Exchange], Awaitable[None]]:
    async def refuse(exchange: Exchange) -> None:
        headers = {"Retry-After": retry_after(exchange.faults.retry_after_s)} if retry_after else None
        await exchange.answer(JSONResponse({"message": message}, status, headers))

    return refuse


def _date(after_s: float) -> str:
    # An HTTP date has whole seconds: rounded up, so that it never asks for less.
    return formatdate(math.ceil(time.time() + after_s), usegmt=True)


async def _timeout_before_commit(exchange: Exchange) -> None:
    if not await exchange.stalled():
        await exchange.reset()


async def _response_lost(exchange: Exchange, body: bytes) -> bool:
    await exchange.reset()
    return False


async def _timeout(exchange: Exchange, body: bytes) -> bool:
    if await exchange.stalled():
        return False
    await exchange.begin(length=len(body))
    await exchange.write(body, more=exchange.streamed)
    return True


async def _timeout_mid_body(exchange: Exchange, body: bytes) -> bool:
    rest = await exchange.halve(body)
    if await exchange.stalled():
        return False
    await exchange.write(rest, more=exchange.streamed)
    return True


async def _reset_mid_body(exchange: Exchange, body: bytes) -> bool:
    await exchange.halve(body)
    await exchange.delivered()
    await exchange.reset()
    return False


async def _truncated_json(exchange: Exchange, body: bytes) -> bool:
    await exchange.begin(length=_half(body))
    await exchange.write(body[: _half(body)], more=False)
    return False


async def _short_body(exchange: Exchange, body: bytes) -> bool:
    await exchange.halve(body)
    await exchange.close()
    return False


async def _empty(exchange: Exchange, body: bytes) -> bool:
    await exchange.answer(Response(media_type="application/json"))
    return False


async def _html(exchange: Exchange, body: bytes) -> bool:
    await exchange.answer(HTMLResponse(HTML))
    return False


async def _slow(exchange: Exchange, body: bytes) -> bool:
    await exchange.begin(length=len(body))
    for i in range(len(body)):
        await exchange.write(body[i : i + 1], more=True)
        if await exchange.stalled(exchange.faults.byte_interval_s):
            return False
    await exchange.write(b"", more=exchange.streamed)
    return True


# The handler does not run.
INSTEAD: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    "500": _status(500, "internal error"),
    "502": _status(502, "bad gateway"),
    "503": _status(503, "down for maintenance"),
    "504": _status(504, "gateway time-out"),
    "408": _status(408, "request time-out"),
    "429": _status(429, "too many requests"),
    "429-retry-after": _status(429, "too many requests", "{:g}".format),
    "429-retry-after-date": _status(429, "too many requests", _date),
    "reset": Exchange.reset,
    "timeout-before-commit": _timeout_before_commit,
}
# The handler runs and what it does stays done; its answer does not arrive, or damaged or late.
AFTERWARDS: dict[str, Callable[[Exchange, bytes], Awaitable[bool]]] = {
    "response-lost": _response_lost,
    "timeout": _timeout,
    "timeout-mid-body": _timeout_mid_body,
    "reset-mid-body": _reset_mid_body,
    "truncated-json": _truncated_json,
    "short-body": _short_body,
    "empty": _empty,
    # After the handler: to a POST a success is its status line.
    "html": _html,
    "slow": _slow,
}
KINDS = (*INSTEAD, *AFTERWARDS)


class FaultMiddleware:
    """Gives each request its fault of the plan; add it to the app of a simulator.

    The server's own log stays silent: to it a broken connection looks like a client that went away.
    """

    def __init__(self, app: ASGIApp, *, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope["path"].strip("/").split("/")[0] if scope["type"] == "http" else ""
        kind = NONE if not call or call.startswith("_") else self._faults.take(call)
        exchange = Exchange(self._app, scope, receive, send, self._faults)
        if kind == NONE:
            await self._app(scope, receive, send)
        elif kind in INSTEAD:
            await INSTEAD[kind](exchange)
        else:
            with suppress(Ended):
                await exchange.handle(AFTERWARDS[kind])
