"""Who may ask: the bearer token, or without one only this machine; and how much may be sent.

Without a token the gateway listens on loopback only. A web page can still reach it there through the browser of somebody
on this machine: by a name of its own that it lets point to loopback (the Host header gives that away), or straight by a
link, a form or an image (the browser marks those as cross-site).
"""

import asyncio
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_assets.core.sources.http.address import checked_key
from etl_assets.errors import ConfigurationError
from etl_assets.gateway.problems import Problem, problem_response
from etl_assets.settings import Settings

# What anybody may ask: whether it lives, and how it is used. They hold no data.
OPEN_PATHS = frozenset(("/healthz", "/readyz", "/status", "/openapi.json", "/docs"))
MAX_BODY_BYTES = 64 * 1024
# A refused body is read up to here, so that its sender comes to read the answer.
DRAINED_BYTES = 16 * MAX_BODY_BYTES
# From the end of the head on; a sender that drips must not hold its connection for ever.
BODY_DEADLINE_S = 10.0
TOKEN_VARIABLE = "ETL_GATEWAY_TOKEN"


def token_of(settings: Settings) -> SecretStr | None:
    """The token of the gateway, if it can be sent in a header.

    Raises:
        ConfigurationError: if it cannot; names the variable.
    """
    if settings.etl_gateway_token is not None:
        checked_key(settings.etl_gateway_token, "gateway", TOKEN_VARIABLE)
    return settings.etl_gateway_token


def secrets_of(settings: Settings) -> list[str]:
    """What no answer may contain: the values of the settings that are secret."""
    return [value.get_secret_value() for value in vars(settings).values() if isinstance(value, SecretStr)]


def require_loopback(host: str, settings: Settings) -> None:
    """Let a gateway without a token listen on loopback only.

    Raises:
        ConfigurationError: if it would listen elsewhere; names the variable.
    """
    if token_of(settings) is None and not is_loopback(host):
        raise ConfigurationError(
            f"the gateway would listen on {host} for anybody: set {TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )


def is_loopback(name: str | None) -> bool:
    """Whether a host name or address means this machine, for whoever resolves it."""
    if name is None or name.lower() == "localhost":
        return name is not None
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that lets a request pass, or answers it with a problem: 401, 403, 408 or 413."""

    def __init__(self, app: ASGIApp, *, token: SecretStr | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request by its headers and the length of its body, then hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if self._token is None:
                _from_this_machine(headers)
            elif scope["path"] not in OPEN_PATHS:
                _with_token(headers, self._token)
            async with asyncio.timeout(BODY_DEADLINE_S):
                body = await _short_body(headers, receive)
        except TimeoutError:
            await problem_response(Request(scope), too_slow())(scope, receive, send)
            return
        except Problem as problem:
            await problem_response(Request(scope), problem)(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)


def unauthorized(what: str = "this call needs the token of the gateway", *, fault: str = "") -> Problem:
    """Of a call without the token; `fault` is what its challenge says beside the realm."""
    return Problem(
        401,
        "Unauthorized",
        f"{what}: send `Authorization: Bearer …` with the value of {TOKEN_VARIABLE}",
        {"WWW-Authenticate": f'Bearer realm="etl-assets"{fault}'},
    )


def foreign_name() -> Problem:
    """Of a call by another name than those of this machine."""
    return Problem(
        403,
        "Foreign name",
        "without a token the gateway answers only to the names of this machine: call it as http://127.0.0.1:…,"
        f" or set {TOKEN_VARIABLE}",
    )


def foreign_page() -> Problem:
    """Of a call that a browser marks as another site's."""
    return Problem(
        403,
        "Foreign page",
        "a page of another site made this request: call the gateway from a program or its own page,"
        f" or set {TOKEN_VARIABLE}",
    )


def too_long() -> Problem:
    """Of a body that is too long."""
    return Problem(
        413,
        "Content Too Large",
        f"the body is longer than {MAX_BODY_BYTES} bytes: send less",
        {"Connection": "close"},
    )


def too_slow() -> Problem:
    """Of a body that does not come to its end."""
    return Problem(
        408,
        "Request Timeout",
        f"the body was not there within {BODY_DEADLINE_S:g} s: send it faster, or the right Content-Length",
        {"Connection": "close"},
    )


def _with_token(headers: Headers, token: SecretStr) -> None:
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized()
    if not hmac.compare_digest(sent.strip().encode(), token.get_secret_value().encode()):
        raise unauthorized("this is not the token of the gateway", fault=', error="invalid_token"')


def _from_this_machine(headers: Headers) -> None:
    if not is_loopback(_host(f"//{headers.get('host', '')}")):
        raise foreign_name()
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "").lower() == "cross-site" or (origin and not is_loopback(_host(origin))):
        raise foreign_page()


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _short_body(headers: Headers, receive: Receive) -> list[Message]:
    """The messages of the body, all of them; none where no body is announced.

    Raises:
        Problem: if it is too long.
    """
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return []
    announced = headers.get("content-length", "")
    refused = announced.isdigit() and int(announced) > MAX_BODY_BYTES
    messages: list[Message] = []
    length, more = 0, not (refused and int(announced) > DRAINED_BYTES)
    while more and length <= DRAINED_BYTES:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
        refused = refused or length > MAX_BODY_BYTES
        messages = [] if refused else [*messages, message]
    if refused:
        raise too_long()
    return messages


def _replayed(messages: Iterable[Message], receive: Receive) -> Receive:
    """A `receive` that gives these messages first."""
    pending = iter(messages)

    async def replaying() -> Message:
        message = next(pending, None)
        return await receive() if message is None else message

    return replaying
